"""``yolopose-export`` as a user meets it: what it writes, what it says, and what it answers to bad input."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

import yolopose
from yolopose.export import verify as verify_module
from yolopose.export.command import main
from yolopose.export.source import ShapeConfig, input_info
from yolopose.runtime import PoseEstimator, read_contract


def arguments(*words: object) -> list[str]:
    return [str(word) for word in words]


FIXED = ("--imgsz", 64, 96, "--batch", 2)  # exported in a quarter of the time that a dynamic file takes


def test_artifact_carries_its_contract(trained_artifact: Path) -> None:
    assert trained_artifact.name == "mmpose_yoloxpose_nano_lspet.onnx"
    contract = read_contract(trained_artifact)
    assert contract.skeleton.num_keypoints == 14
    assert contract.input.pad_side == "center"
    assert contract.input.height.opt == 256
    assert contract.input.height.multiple == 32
    assert contract.precision.weights == "float32"
    assert contract.parity is not None
    assert contract.parity.images == 8
    assert contract.parity.verdict in ("passed", "unverified")
    assert contract.parity.max_px is not None
    assert contract.parity.max_px <= 0.05
    assert contract.provenance.weights_sha256 is not None
    metadata = onnx.load(trained_artifact).metadata_props
    assert [entry.key for entry in metadata] == ["yolopose"]
    assert not list(trained_artifact.parent.glob(".*"))  # the draft is gone


def test_fp16_is_half_the_size_and_keeps_the_people(
    trained_artifact: Path, trained_artifact_fp16: Path, photographs: list[Path]
) -> None:
    assert trained_artifact_fp16.name == "mmpose_yoloxpose_nano_lspet-fp16.onnx"
    assert trained_artifact_fp16.stat().st_size < 0.6 * trained_artifact.stat().st_size
    contract = read_contract(trained_artifact_fp16)
    assert contract.precision.weights == contract.precision.activations == "float16"
    assert "prediction convolutions" in contract.precision.kept_higher
    images = [cv2.imread(str(path)) for path in photographs]
    with PoseEstimator(trained_artifact) as full, PoseEstimator(trained_artifact_fp16) as half:
        for a, b in zip(full(images), half(images), strict=True):
            sure = a[np.abs(a.scores - 0.25) > 0.01]
            assert len(sure) <= len(b)
            assert len(b) <= len(a) + int((np.abs(b.scores - 0.25) <= 0.01).sum())


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_batches_give_what_single_images_give(trained_artifact: Path, photographs: list[Path], batch: int) -> None:
    """Empty and crowded pictures mixed, any order of sizes."""
    images = [cv2.imread(str(path)) for path in photographs]
    images[2] = np.full((480, 640, 3), 114, np.uint8)  # nobody
    images[5] = np.concatenate([images[0], images[0]], axis=1)[:150]  # everybody twice
    with PoseEstimator(trained_artifact, threads=2) as estimate:
        singly = [estimate(image) for image in images]
        assert len(singly[2]) == 0
        assert sum(len(people) for people in singly) >= 10
        for start in range(0, len(images), batch):
            for one, many in zip(singly[start:], estimate(images[start : start + batch]), strict=False):
                assert len(one) == len(many)
                np.testing.assert_allclose(one.keypoints, many.keypoints, atol=0.05)
                np.testing.assert_allclose(one.scores, many.scores, atol=1e-4)
                assert one.flags == many.flags


def test_json_is_one_document_on_stdout(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = arguments("--weights", tiny_weights, "--output", tmp_path / "here.onnx", "--limit", 2, "--json", *FIXED)
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["artifact"] == str(tmp_path / "here.onnx")
    assert document["verdict"] == "unverified"  # it has never seen a person
    assert "too few to judge by" in document["reason"]
    assert document["comparison"]["matched"] > 0  # its arithmetic was compared all the same, at a lower threshold
    assert document["comparison"]["max_px"] <= 0.05
    contract = document["contract"]
    assert contract["model"]["name"] == "yolox-pose-nano"
    assert (contract["input"]["height"], contract["input"]["width"], contract["input"]["batch"]) == (64, 96, 2)
    assert {"torch", "onnx", "onnxscript", "onnxsim", "yolopose"} <= set(contract["provenance"]["versions"])


def test_input_of_the_source_reaches_the_contract(checkpoints: Path, tmp_path: Path) -> None:
    """Sources differ in padding; whatever they are, the artifact takes BGR bytes."""
    wanted = {
        "edgeai_yolox_s_pose_ti_lite_narrow.pth": ("bottom-right", 114, 32),
        "mmpose_yoloxpose_s_narrow.pth": ("center", 114, 32),
        "edgeai_yolov5_s6_pose_narrow.pt": ("center", 114, 64),
    }
    for name, (side, value, multiple) in wanted.items():
        net = yolopose.load(checkpoints / name)
        given = input_info(net.input, None, ShapeConfig())
        assert (given.pad_side, given.pad_value, given.height.multiple) == (side, value, multiple)
        assert given.channel_order == "bgr"
    odd = yolopose.build(replace(yolopose.SIZES["yolox-pose-nano"], input=replace(net.input, pad_value=7)))
    assert input_info(odd.input, None, ShapeConfig()).pad_value == 7


def test_what_fails_the_gate_is_kept_aside(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_module, "FLOAT32_PX", -1.0)  # nothing is good enough
    (tmp_path / "tiny.onnx").write_bytes(b"the good one of yesterday")
    assert main(arguments("--weights", tiny_weights, "--output", tmp_path, "--limit", 2, *FIXED)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.onnx", "tiny.onnx.rejected"]
    assert (tmp_path / "tiny.onnx").read_bytes() == b"the good one of yesterday"
    assert "tiny.onnx.rejected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--weights", "{tiny}", "--int8", "--fp16"], 2, "--int8 and --fp16 exclude each other"),
        (["--weights", "{tiny}", "--target", "cpu"], 2, "--target belongs to --int8"),
        (["--weights", "{tiny}", "--int8", "--search-minutes", "nan"], 2, "--search-minutes must be 0 or more"),
        (["--weights", "{tiny}", "--int8", "--images", "{folder}/few"], 2, "at least 16 images to calibrate on"),
        (["--weights", "{tiny}", "--format", "coreml"], 2, "invalid choice"),
        (["--weights", "{tiny}", "--frobnicate"], 2, "--frobnicate"),
        ([], 2, "--weights"),
        (["--weights", "{tiny}", "--imgsz", "600"], 2, "32"),
        (["--weights", "{tiny}", "--imgsz", "64", "65"], 2, "32"),
        (["--weights", "{tiny}", "--imgsz", "1", "2", "3"], 2, "--imgsz takes one number or two"),
        (["--weights", "{tiny}", "--imgsz", "99968"], 2, "4096"),
        (["--weights", "{tiny}", "--batch", "0"], 2, "--batch"),
        (["--weights", "{tiny}", "--batch", "many"], 2, "--batch"),
        (["--weights", "{tiny}", "--score", "nan"], 2, "score_threshold"),
        (["--weights", "{tiny}", "--iou", "7"], 2, "iou_threshold"),
        (["--weights", "{tiny}", "--candidates", "4000"], 2, "candidates"),
        (["--weights", "{tiny}", "--max-people", "301"], 2, "max_people"),
        (["--weights", "{tiny}", "--max-ap-drop", "nan"], 2, "--max-ap-drop"),
        (["--weights", "{tiny}", "--limit", "-1"], 2, "--limit"),
        (["--weights", "{tiny}", "--output", "{folder}/plan.engine"], 2, ".onnx"),
        (["--weights", "{tiny}", "--data", "{folder}/labels.json"], 2, "--images"),
        (["--weights", "{tiny}", "--images", "{folder}/none"], 1, "none"),
        (["--weights", "{tiny}", "--images", "{folder}"], 1, "no images"),
        (["--weights", "{folder}/absent.pt"], 1, "absent.pt"),
        (["--weights", "{folder}/empty.pt"], 1, "empty.pt"),
        (["--weights", "{folder}/text.pt"], 1, "text.pt"),
    ],
)
def test_bad_input(
    words: list[str], code: int, message: str, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("these are no weights\n")
    (tmp_path / "few").mkdir()
    for i in range(5):
        cv2.imwrite(str(tmp_path / "few" / f"{i}.png"), np.zeros((8, 8, 3), np.uint8))
    filled = [word.format(tiny=tiny_weights, folder=tmp_path) for word in words]
    if "--output" not in filled:
        filled += ["--output", str(tmp_path / "out")]
    before = {path.name for path in tiny_weights.parent.iterdir()}
    assert main(filled) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert {path.name for path in tiny_weights.parent.iterdir()} == before
    assert not list(tmp_path.rglob("*.onnx*"))


def test_hostile_checkpoint_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pickle

    trace = tmp_path / "it_ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            import os

            return os.system, (f"touch {trace}",)

    weights = tmp_path / "evil.pt"
    weights.write_bytes(pickle.dumps({"model": Evil()}))
    assert main(arguments("--weights", weights)) == 1
    assert "system" in capsys.readouterr().err
    assert not trace.exists()


def test_unwritable_output_leaves_nothing(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    assert main(arguments("--weights", tiny_weights, "--output", file / "sub" / "a.onnx", "--limit", 1)) == 1
    assert "cannot" in capsys.readouterr().err
    assert file.read_text() == "not a folder"


@pytest.mark.slow
def test_full_disk_leaves_no_half_file(tiny_weights: Path, tmp_path: Path) -> None:
    """A limit on file size stands in for a full disk: the write fails in its middle."""
    script = (
        "import resource, signal, sys\n"
        "from yolopose.export.command import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        f"sys.exit(main(['--weights', {str(tiny_weights)!r}, '--output', {str(tmp_path)!r}, '--limit', '1']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "cannot write" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_same_weights_same_file(trained_checkpoint: Path, trained_artifact: Path, tmp_path: Path) -> None:
    """Byte for byte, from a process of its own."""
    images = trained_checkpoint.parent.parent / "coco-mini" / "images"
    words = arguments(
        "-m",
        "yolopose.export",
        "--weights",
        trained_checkpoint,
        "--output",
        tmp_path,
        "--images",
        images,
        "--limit",
        8,
        "--imgsz",
        256,
    )
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    assert (tmp_path / trained_artifact.name).read_bytes() == trained_artifact.read_bytes()
    assert stat.S_IMODE((tmp_path / trained_artifact.name).stat().st_mode) & stat.S_IRUSR
