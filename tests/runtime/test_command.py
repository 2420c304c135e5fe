"""yolopose-run on the dot artifact: a table of arguments and outcomes, and the files it writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import yolopose
from yolopose.runtime.command import main
from yolopose.runtime.images import read_image

Dots = Callable[..., np.ndarray]


@pytest.fixture
def photos(tmp_path: Path, draw_dots: Dots) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, points in {"a.jpg": [(0, 60, 50)], "b.png": [(1, 100, 90), (2, 20, 30)], "c.bmp": []}.items():
        cv2.imwrite(str(folder / name), draw_dots((120, 160), *points, radius=8))
    return folder


def test_folder(artifact: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "new" / "out"
    assert main([str(artifact), "--source", str(photos), "--output", str(output), "--threads", "1"]) == 0
    assert sorted(path.name for path in output.iterdir()) == ["a.jpg", "b.png", "c.bmp", "people.json"]
    document = json.loads((output / "people.json").read_text())
    assert [(image["file"], len(image["people"])) for image in document["images"]] == [
        ("a.jpg", 1),
        ("b.png", 2),
        ("c.bmp", 0),
    ]
    assert list(document["images"][0]) == [
        *("file", "height", "width", "latency_ms", "people", "num_candidates", "flags", "notes")
    ]
    assert document["failed"] == []
    assert document["images"][1]["people"][0]["keypoints"][0][:2] == pytest.approx([100, 90], abs=2)
    assert (read_image(output / "b.png") != read_image(photos / "b.png")).any()
    assert np.array_equal(read_image(output / "c.bmp"), read_image(photos / "c.bmp"))
    out, err = capsys.readouterr()
    assert re.match(r"3 people in 3 images, median [\d.]+ ms an image \(", out)
    assert "images: 3/3" in err


def test_single_image_as_json_without_output(
    artifact: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert (
        main([str(artifact), "--source", str(photos / "b.png"), "--json", "--score", "0.5", "--imgsz", "128", "160"])
        == 0
    )
    document = json.loads(capsys.readouterr().out)
    assert document["shape_hw"] == [128, 160]
    assert document["score_threshold"] == 0.5
    assert document["backend"]["name"] == "onnxruntime"
    assert [len(image["people"]) for image in document["images"]] == [2]
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_images_are_named_and_the_others_are_done(
    artifact: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (photos / "aa.jpg").write_bytes((photos / "a.jpg").read_bytes()[:400])
    (photos / "zero.png").write_bytes(b"")
    output = tmp_path / "out"
    assert main([str(artifact), "--source", str(photos), "--output", str(output), "--json"]) == 1
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert [image["file"] for image in document["images"]] == ["a.jpg", "b.png", "c.bmp"]
    assert [entry["file"] for entry in document["failed"]] == ["aa.jpg", "zero.png"]
    assert "aa.jpg" in err
    assert "zero.png is empty" in err
    assert json.loads((output / "people.json").read_text()) == document
    assert sorted(path.name for path in output.iterdir()) == ["a.jpg", "b.png", "c.bmp", "people.json"]
    assert main([str(artifact), "--source", str(photos), "--output", str(output)]) == 1
    assert "2 images could not be read: aa.jpg, zero.png" in capsys.readouterr().out


def test_image_without_a_known_suffix(artifact: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "b.png").rename(photos / "upload")
    assert main([str(artifact), "--source", str(photos / "upload"), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "upload.jpg").is_file()


def test_folder_and_image_named_by_a_number(artifact: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    photos.rename("2024")
    assert main([str(artifact), "--source", "2024", "--output", "out"]) == 0
    Path("2024/b.png").rename("7")
    assert main([str(artifact), "--source", "7", "--output", "seven"]) == 0
    assert Path("seven/7.jpg").is_file()


def test_names_that_are_not_utf8(artifact: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    strange, broken = os.fsdecode(b"b\xff.png"), os.fsdecode(b"broken\xfe.png")
    try:
        (photos / "b.png").rename(photos / strange)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (photos / broken).write_bytes(b"")
    output = tmp_path / "out"
    assert main([str(artifact), "--source", str(photos), "--output", str(output), "--json"]) == 1
    document = json.loads((output / "people.json").read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == document
    assert [image["file"] for image in document["images"]] == ["a.jpg", "b\ufffd.png", "c.bmp"]
    assert document["failed"][0]["file"] == "broken\ufffd.png"
    assert "broken\ufffd.png is empty" in document["failed"][0]["error"]
    assert (output / strange).is_file()


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("photos", "photos"),
        ("photos", "photos/../photos"),
        ("photos", "alias"),  # a link to the source
        ("alias", "photos"),
        ("photos", "elsewhere"),  # where a link of the source leads
        ("photos/a.jpg", "photos"),
        ("photos/0.jpg", "photos"),  # a link, whose own folder is not that of its target
        ("photos/0.jpg", "elsewhere"),
        ("photos/a.jpg", "links"),  # where a link of that name leads back to the source
    ],
)
def test_rejects_output_over_an_image_of_the_source(
    source: str,
    output: str,
    artifact: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(photos.parent)
    Path("elsewhere").mkdir()
    Path("links").mkdir()
    (photos / "a.jpg").rename("elsewhere/0.jpg")
    (photos / "0.jpg").symlink_to("../elsewhere/0.jpg")  # the first of the folder
    (photos / "b.png").rename(photos / "a.jpg")
    Path("alias").symlink_to("photos")
    Path("links/a.jpg").symlink_to("../photos/a.jpg")
    before = tree(photos.parent)
    assert main([str(artifact), "--source", source, "--output", output]) == 2
    assert "images would be overwritten" in capsys.readouterr().err
    assert tree(photos.parent) == before
    assert Path("links/a.jpg").is_symlink()


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--source": "video.mp4"}, 2, "are not supported yet"),
        ({"--source": "0"}, 2, "are not supported yet"),
        ({"--source": "rtsp://camera/1"}, 2, "are not supported yet"),
        ({"--source": ""}, 2, "--source is empty"),
        ({"--source": "absent"}, 1, "no such file or folder"),
        ({"--source": "empty"}, 1, "no images in"),
        ({"--source": None}, 2, "--source"),
        ({"--output": "photos"}, 2, "images would be overwritten"),
        ({"--output": "photos/a.jpg/out"}, 1, "cannot make the folder"),
        ({"--score": "nan"}, 2, "score_threshold must be a number in 0..1"),
        ({"--score": "many"}, 2, "--score"),
        ({"--iou": "1.5"}, 2, "iou_threshold must be a number in 0..1"),
        ({"--keypoint-score": "2"}, 2, "--keypoint-score must lie in 0..1"),
        ({"--imgsz": "100"}, 2, "legal are 32 to 256 in steps of 32"),
        ({"--threads": "0"}, 2, "threads must be a whole number"),
        ({"--backend": "caffe"}, 2, "invalid choice"),
        ({"--backend": "openvino:f16"}, 2, "openvino:bf16"),
        ({"--backend": "tensorrt"}, 1, "TensorRT loads .engine"),
        ({"--device": "tpu"}, 2, "device must be cpu"),
        ({"--unknown": "1"}, 2, "unrecognized arguments"),
        ({"artifact": "absent.onnx"}, 1, "cannot read the artifact"),
        ({"artifact": "photos/a.jpg"}, 2, "is not an artifact"),
        ({"artifact": "truncated.onnx"}, 1, "is truncated"),
        ({"artifact": "empty.onnx"}, 1, "is empty"),
    ],
)
def test_outcomes(
    changes: dict[str, str | None],
    code: int,
    message: str,
    artifact: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(photos.parent)
    Path("empty").mkdir()
    Path("truncated.onnx").write_bytes(artifact.read_bytes()[:500])
    Path("empty.onnx").write_bytes(b"")
    options: dict[str, str | None] = {"--source": "photos", "--output": "out"} | changes
    argv = [options.pop("artifact", None) or str(artifact)]
    for flag, value in options.items():
        argv += [] if value is None else [flag, value]
    assert main(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("yolopose-run: error: ")
    assert message in err
    assert not Path("out").exists()


def test_unwritable_output_leaves_no_half_file(
    artifact: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main([str(artifact), "--source", str(photos), "--output", str(tmp_path / "out")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_help(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: auto)" in text
    assert "(default: 0.3)" in text


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"yolopose-run {yolopose.__version__}\n", "")


def test_bug_keeps_its_traceback(artifact: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ValueError while images are processed is not a usage error."""

    def fail(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("yolopose.runtime.letterbox.place", fail)
    with pytest.raises(ValueError, match="a bug"):
        main([str(artifact), "--source", str(photos)])


def test_demo_on_one_image_without_torch(photos: Path, tmp_path: Path) -> None:
    """Few lines in all: the result, and where the files are."""
    arguments = ["demo", "--source", str(photos / "a.jpg"), "--output", "out"]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert re.fullmatch(r"0 people in 1 image, [\d.]+ ms \(onnxruntime [\w.+]+ on cpu\)", first)
    assert second == "annotated images and people.json are in out"
    assert done.stderr == ""
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "people.json"]


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "torchvision", "onnxscript", "onnxsim"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import yolopose
from yolopose.runtime.command import main
sys.exit(main(sys.argv[1:]))
"""


def test_works_where_torch_and_onnx_cannot_be_imported(artifact: Path, photos: Path, tmp_path: Path) -> None:
    arguments = [str(artifact), "--source", str(photos), "--output", str(tmp_path / "out"), "--json", "--threads", "1"]
    done = subprocess.run([sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["images"]) == 3
