"""``yolopose-train`` as a command: the run folder, resuming, wrong usage, damaged data, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.small import COUNT, SIZE, changed, save_scenes, small_net
from yolopose.checkpoints import load, read_extra, save
from yolopose.data.synthetic import SyntheticScenes
from yolopose.model.sizes import SIZES
from yolopose.runtime.images import read_image
from yolopose.training.command import main
from yolopose.training.options import train_parser
from yolopose.training.report import read_metrics

pytest.importorskip("pycocotools")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.training.small import CONFIGS

    monkeypatch.setitem(SIZES, "tiny", CONFIGS["yolox"])
    monkeypatch.setitem(SIZES, "tiny-p6", CONFIGS["yolov5"])


@pytest.fixture(scope="module")
def _scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture
def labels(_scenes: Path, tmp_path: Path) -> Path:
    """Labels of a data set that a test may damage."""
    shutil.copytree(_scenes.parent, tmp_path / "data")
    return tmp_path / "data" / _scenes.name


def words(labels: Path, output: Path, *more: object, model: str = "tiny") -> list[str]:
    given: tuple[object, ...] = (
        "--data", labels, "--model", model, "--output", output, "--epochs", 2, "--batch", 4, "--workers", 0,
        "--no-tensorboard", "--optimizer", "sgd", *more,
    )  # fmt: skip
    return [str(word) for word in given]


def refused(capsys: pytest.CaptureFixture[str], code: int, *given: object) -> str:
    """What the command prints on stderr when it ends with ``code``."""
    capsys.readouterr()
    assert main([str(word) for word in given]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    return said.err


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return found


def test_run_folder_of_a_new_run(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main([*words(labels, run, "--val", labels, "--json"), "--seed", "7"]) == 0
    said = capsys.readouterr()
    outcome = json.loads(said.out)
    assert outcome["finished"]
    assert outcome["epochs"] == 2
    assert outcome["stopped_by"] is None
    assert outcome["damaged_images"] == []
    assert {path.name for path in run.iterdir()} == {
        "best.pt", "curves.png", "last.pt", "metrics.csv", "run.json", "samples",
    }  # fmt: skip
    assert {path.name for path in (run / "samples").iterdir()} == {"augmented.jpg", "validation.jpg"}
    facts = document(run)
    assert facts["options"]["model"] == "tiny"
    assert facts["settings"]["seed"] == 7
    assert facts["network"]["name"] == "tiny"
    assert facts["outcome"] == outcome
    assert len(facts["data"][str(labels)]["sha256"]) == 64
    metrics = read_metrics(run / "metrics.csv")
    assert metrics["epoch"] == [1.0, 2.0]
    assert load(run / "best.pt").config == load(run / "last.pt").config
    lines = said.err.splitlines()
    assert len([line for line in lines if line.startswith("epoch ")]) == 2  # no progress bar without a terminal


def test_resumed_run_equals_an_uninterrupted_one(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by the time limit within an epoch: losses in metrics.csv and weights are equal."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    more = ("--epochs", 3, "--precision", "bf16")
    assert main(words(labels, whole, *more)) == 0
    assert main(words(labels, parts, *more, "--max-minutes", 1e-9)) == 0
    first = document(parts)["outcome"]
    assert (first["finished"], first["stopped_by"], first["epochs"]) == (False, "--max-minutes 1e-09", 0)
    assert read_extra(parts / "last.pt")["training"]["engine"]["step"] == 1
    assert main(["--resume", str(parts), "--workers", "1", "--no-tensorboard"]) == 0
    assert document(parts)["outcome"]["finished"]
    assert [session["first_epoch"] for session in document(parts)["sessions"]] == [1, 1]
    one, two = (read_metrics(folder / "metrics.csv") for folder in (whole, parts))
    for name in set(one) - {"images_per_second", "waiting", "minutes"}:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    one_net, two_net = (load(folder / "last.pt").state_dict() for folder in (whole, parts))
    assert all(torch.equal(one_net[name], two_net[name]) for name in one_net)
    # Resuming a finished run changes nothing.
    before = (parts / "last.pt").read_bytes()
    assert main(["--resume", str(parts), "--workers", "0", "--no-tensorboard"]) == 0
    assert (parts / "last.pt").read_bytes() == before


def test_rejects_what_cannot_be_resumed(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert "no run.json" in refused(capsys, 2, "--resume", run)
    assert main(words(labels, run, "--max-minutes", 1e-9)) == 0
    good = (run / "last.pt").read_bytes()
    error = refused(capsys, 2, "--resume", run, "--output", tmp_path / "other", "--epochs", 5, "--max-minutes", 1)
    assert "leave --output, --epochs out" in error

    extra = read_extra(run / "last.pt")
    save(small_net("yolov5"), run / "last.pt", **extra)
    error = refused(capsys, 2, "--resume", run)
    assert "last.pt holds tiny-p6, but this run trains tiny (they differ in: anchors, family," in error
    save(load("demo"), run / "last.pt")
    assert "this run trains tiny" in refused(capsys, 2, "--resume", run)
    (run / "last.pt").write_bytes(good[: len(good) // 2])
    assert "last.pt" in refused(capsys, 1, "--resume", run)
    (run / "last.pt").unlink()
    assert "has no last.pt, because its run ended before the first checkpoint; delete" in refused(
        capsys, 2, "--resume", run
    )
    (run / "last.pt").write_bytes(good)

    facts = document(run)
    for broken in ({"options": {"data": []}}, {"settings": {"epochs": 3}}, {"settings": facts["settings"] | {"x": 1}}):
        (run / "run.json").write_text(json.dumps(facts | broken), encoding="utf-8")
        assert "run.json is damaged or of another version" in refused(capsys, 1, "--resume", run)
    (run / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    changed(labels, info={"description": "others"})
    assert "sha256" in refused(capsys, 2, "--resume", run)


def test_resumes_without_the_initial_weights(labels: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    save(small_net(seed=5), weights)
    run = tmp_path / "run"
    given = [word for word in words(labels, run, "--weights", weights, "--max-minutes", 1e-9)]
    at = given.index("--model")
    assert main(given[:at] + given[at + 2 :]) == 0
    assert document(run)["weights"]["path"] == str(weights)
    weights.unlink()
    assert main(["--resume", str(run), "--workers", "0", "--no-tensorboard"]) == 0
    assert len(document(run)["weights"]["sha256"]) == 64


def test_trains_from_the_demo_weights(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    given = words(labels, run, "--weights", "demo", "--imgsz", SIZE, "--epochs", 1)
    at = given.index("--model")
    assert main(given[:at] + given[at + 2 :]) == 0
    assert " tensors from demo; " in capsys.readouterr().err
    assert len(document(run)["weights"]["sha256"]) == 64


@pytest.mark.parametrize("name", ["grid.jpg", "grid.png"])
def test_show_samples_draws_and_exits(
    labels: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(labels, tmp_path / "run", "--show-samples", tmp_path / name, "--json")) == 0
    assert json.loads(capsys.readouterr().out) == {"samples": str(tmp_path / name)}
    assert min(read_image(tmp_path / name).shape[:2]) > SIZE
    assert not (tmp_path / "run").exists()
    assert "--show-samples must be a .jpg or .png file" in refused(
        capsys, 2, *words(labels, tmp_path / "run", "--show-samples", "grid.gif")
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--model", "yolox-pose-xxl"), "--model 'yolox-pose-xxl' is unknown; choose one of yolox-pose-nano"),
        (("--imgsz", 80), "--imgsz must be a multiple of 32 for tiny, got 80"),
        (("--imgsz", 0), "--imgsz must be a multiple of 32 for tiny, got 0"),
        (("--model", "tiny-p6", "--imgsz", 96), "--imgsz must be a multiple of 64 for tiny-p6, got 96"),
        (("--window", 48), "--window must be a multiple of 32 for tiny, got 48"),
        (("--window", 96), "window must lie in"),
        (("--precision", "fp16"), "--precision fp16 needs a GPU"),
        (("--device", "tpu"), "--device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        (("--threads", 0), "--threads must be at least 1, got 0"),
        (("--workers", -1), "--workers must not be negative, got -1"),
        (("--max-minutes", 0), "--max-minutes must be more than 0, got 0"),
        (("--mosaic", 2), "mosaic is a probability, got 2"),
        (("--lr", "nan"), "lr must be a learning rate"),
        (("--epochs", 0), "epochs must be at least 1, got 0"),
        (("--keypoint-loss", "l2"), "invalid choice: 'l2'"),
        (("--frobnicate",), "unrecognized arguments: --frobnicate"),
        (("--data", "synthetic:some"), "synthetic:COUNT"),
    ],
)
def test_wrong_usage(
    more: tuple[object, ...], said: str, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, 2, *words(labels, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_rejects_an_absent_gpu(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "sees no GPU" in refused(capsys, 2, *words(labels, tmp_path / "run", "--device", "cuda"))


def test_rejects_missing_data_and_model(labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no data: give --data" in refused(capsys, 2, "--model", "tiny")
    assert "give --model (yolox-pose-nano," in refused(capsys, 2, "--data", labels)


def test_rejects_an_output_folder_with_files(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert "exists; give another --output or --resume" in refused(capsys, 2, *words(labels, tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def first_annotation(labels: Path, **entries: Any) -> None:
    annotations = json.loads(labels.read_text(encoding="utf-8"))["annotations"]
    changed(labels, annotations=[annotations[0] | entries, *annotations[1:]])


def nan_coordinates(labels: Path) -> None:
    points = json.loads(labels.read_text(encoding="utf-8"))["annotations"][0]["keypoints"]
    first_annotation(labels, keypoints=[float("nan"), *points[1:]])


def duplicate_id(labels: Path) -> None:
    annotations = json.loads(labels.read_text(encoding="utf-8"))["annotations"]
    changed(labels, annotations=[*annotations, annotations[0]])


def no_keypoints(labels: Path) -> None:
    read = json.loads(labels.read_text(encoding="utf-8"))
    for entry in [*read["annotations"], *read["categories"]]:
        entry.pop("keypoints")
        entry.pop("num_keypoints", None)
    changed(labels, **read)


def no_images(labels: Path) -> None:
    changed(labels, images=[], annotations=[])


def images_missing(labels: Path) -> None:
    shutil.rmtree(labels.parent / "images")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda labels: labels.unlink(), "no such file"),
        (lambda labels: labels.write_text("{"), "not JSON"),
        (no_images, "no images"),
        (no_keypoints, "no category with keypoints"),
        (nan_coordinates, "keypoints that are not finite"),
        (duplicate_id, "is used twice"),
        (images_missing, "8 of 8 images are missing"),
    ],
)
def test_rejects_damaged_labels(
    damage: Any, said: str, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(labels)
    assert said in refused(capsys, 1, *words(labels, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_rejects_labels_with_another_skeleton(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from yolopose.runtime.skeleton import LSP_14

    other = tmp_path / "lsp.json"
    other.write_text(json.dumps(LSP_14.to_dict()), encoding="utf-8")
    error = refused(capsys, 1, *words(labels, tmp_path / "run", "--skeleton", other))
    assert "17 keypoints a person, but skeleton 'lsp-14' has 14" in error.replace("lsp_14", "lsp-14")
    theirs = SyntheticScenes(2, (SIZE, SIZE), seed=1, skeleton=LSP_14).save_coco(tmp_path / "fourteen")
    error = refused(capsys, 1, *words(labels, tmp_path / "run", "--val", theirs))
    assert "14 keypoints a person" in error
    error = refused(capsys, 1, *words(labels, tmp_path / "run", "--data", labels, theirs))
    assert "train on data of one skeleton" in error


def test_mirroring_needs_left_and_right_keypoints(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    categories = json.loads(labels.read_text(encoding="utf-8"))["categories"]
    categories[0]["keypoints"] = [f"point {index}" for index in range(17)]
    changed(labels, categories=categories)
    said = refused(capsys, 2, *words(labels, tmp_path / "run"))
    assert "--mirror 0" in said
    assert main(words(labels, tmp_path / "run", "--mirror", 0)) == 0


def test_rejects_other_classes_in_validation(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.json"
    shutil.copy(labels, other)
    categories = json.loads(other.read_text(encoding="utf-8"))["categories"]
    categories[0]["name"] = "goalkeeper"
    changed(other, categories=categories)
    val = f"{other}:{labels.parent / 'images'}"
    assert "['goalkeeper']" in refused(capsys, 1, *words(labels, tmp_path / "run", "--val", val))


@pytest.mark.parametrize("flags", [("--epochs", "300"), ("--optimizer", "adamw"), ("--val", "x.json")])
def test_resume_rejects_flags_that_it_would_ignore(flags: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Default values too."""
    assert flags[0] in refused(capsys, 2, "--resume", "runs/x", *flags)


def test_boxes_outside_the_image_are_reported(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first_annotation(labels, bbox=[-20.0, 0.0, 60.0, 60.0])
    assert main(words(labels, tmp_path / "run", "--epochs", 1)) == 0
    said = capsys.readouterr().err
    assert "reaches beyond the image of 64 x 64; clipped" in said
    assert "1 problems in the labels; training continues" in said
    assert len(document(tmp_path / "run")["label_problems"]) == 1


def test_damaged_images_are_skipped_and_named(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = sorted((labels.parent / "images").iterdir())
    images[2].write_bytes(b"no image")
    assert main(words(labels, tmp_path / "run", "--val", labels)) == 0
    said = capsys.readouterr().err
    assert said.count("skipped ") == len(set(line for line in said.splitlines() if line.startswith("skipped ")))
    assert f"skipped {images[2]}" in said
    assert "could not be used; run.json names them" in said
    named = document(tmp_path / "run")["outcome"]["damaged_images"]
    assert named
    assert all(images[2].name in name for name in named)

    for image in images:
        image.write_bytes(b"no image")
    for workers in (0, 1):
        error = refused(capsys, 1, *words(labels, tmp_path / f"w{workers}", "--workers", workers))
        assert "none of 8 images" in error


def test_full_disk(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    assert main(words(labels, run, "--max-minutes", 1e-9)) == 0
    before = (run / "last.pt").read_bytes()
    written: list[int] = []
    usual = os.fsync

    def full(descriptor: int) -> None:
        written.append(os.fstat(descriptor).st_size)
        if written[-1] > 50_000:  # small files still fit
            raise OSError(28, "No space left on device")
        usual(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert main(["--resume", str(run), "--workers", "0", "--no-tensorboard"]) == 1
    assert (run / "last.pt").read_bytes() == before
    assert not [path for path in run.rglob("*") if path.suffix == ".tmp"]
    monkeypatch.undo()


def test_divergence_keeps_the_previous_checkpoint(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from yolopose.training.criterion import Criterion

    usual, calls = Criterion.forward, []

    def third_is_nan(self: Criterion, *given: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        terms = usual(self, *given)
        return terms if len(calls) < 3 else {**terms, "box": terms["box"] * torch.nan}

    monkeypatch.setattr(Criterion, "forward", third_is_nan)
    error = refused(capsys, 1, *words(labels, tmp_path / "run"))
    assert "not finite at epoch 2, step 1 of 2 (box nan" in error
    assert read_extra(tmp_path / "run" / "last.pt")["epoch"] == 1
    load(tmp_path / "run" / "last.pt")


def test_trains_without_matplotlib(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(words(labels, tmp_path / "run")) == 0
    assert capsys.readouterr().err.count("curves need matplotlib") == 1
    assert read_metrics(tmp_path / "run" / "metrics.csv")["epoch"] == [1.0, 2.0]


def test_help_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for flag in ("--epochs", "--keypoint-loss", "--mosaic", "--resume", "--show-samples", "--max-minutes"):
        assert flag in said
    assert "(default: 300)" in said
    assert "(default: None)" not in said
    unexplained = [action.dest for action in train_parser()._actions if not action.help]
    assert unexplained == []


class Process:
    """A real ``yolopose-train`` in its own process group, as a terminal starts it."""

    def __init__(self, labels: Path, output: Path, *more: object) -> None:
        code = "import sys; from yolopose.training.command import main; sys.exit(main())"
        given = words(labels, output, "--imgsz", SIZE, "--epochs", 50, "--workers", 2, *more, model="yolox-pose-nano")
        self.done = subprocess.Popen(
            [sys.executable, "-c", code, *given], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        limit = time.monotonic() + 120
        while not (output / "metrics.csv").exists():  # the first epoch is done
            assert self.done.poll() is None, self.done.communicate()
            assert time.monotonic() < limit
            time.sleep(0.05)

    def stop(self, number: int) -> tuple[int, str, str]:
        """Send signal ``number`` to all its processes; exit code, stdout and stderr."""
        os.killpg(self.done.pid, number)
        out, err = self.done.communicate(timeout=60)
        with pytest.raises(ProcessLookupError):  # no worker is left
            os.killpg(self.done.pid, 0)
        return self.done.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_signal_writes_a_checkpoint_that_resumes(number: signal.Signals, labels: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, err = Process(labels, run, "--json").stop(number)
    assert code == 130, err
    assert "Traceback" not in err
    outcome = json.loads(out)
    assert outcome["stopped_by"] == number.name
    assert not outcome["finished"]
    step = read_extra(run / "last.pt")["training"]["engine"]["step"]
    assert step // (COUNT // 4) == outcome["epochs"] >= 1
    assert main(["--resume", str(run), "--workers", "0", "--no-tensorboard", "--max-minutes", "1e-9"]) == 0
    assert read_extra(run / "last.pt")["training"]["engine"]["step"] == step + 1
    epochs = read_metrics(run / "metrics.csv")["epoch"]
    assert epochs == [float(epoch) for epoch in range(1, len(epochs) + 1)]
