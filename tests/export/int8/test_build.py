"""The split of the images, and ``yolopose-export --int8`` as a whole: verdicts, files, budgets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolopose.data.image_set import ImageSet
from yolopose.export import pipeline
from yolopose.export.command import main
from yolopose.export.int8 import search
from yolopose.export.int8.build import share_out
from yolopose.export.int8.trials import Trials
from yolopose.runtime import PoseEstimator, read_contract
from yolopose.runtime.errors import EngineMismatch, UsageError

FIXED = ("--imgsz", 64, 96, "--batch", 2)  # exported in a quarter of the time that a dynamic file takes


def image_set(count: int, description: str = "photographs") -> ImageSet:
    return ImageSet(description, tuple(str(i) for i in range(count)), lambda i: np.full((2, 2, 3), i % 256, np.uint8))


@pytest.mark.parametrize("count", [48, 100, 493, 2000])
def test_no_image_serves_two_purposes(count: int) -> None:
    shares = share_out(image_set(count), None, seed=0)
    parts = [shares.calibration, shares.search, shares.report]
    names = [name for part in parts for name in part.names]
    assert len(set(names)) == len(names) == count
    assert min(map(len, parts)) >= 16
    assert [part.read(3)[0, 0, 0] for part in parts] == [int(part.names[3]) % 256 for part in parts]
    assert share_out(image_set(count), None, seed=0).search.names == shares.search.names


def test_rejects_too_few_images_with_the_number_needed() -> None:
    with pytest.raises(UsageError, match=r"at least 16 images for calibration.*48 in all.*photographs has 40"):
        share_out(image_set(40), None, seed=0)
    with pytest.raises(UsageError, match=r"for calibration.*few 5"):
        share_out(image_set(100), image_set(5, "few"), seed=0)
    shares = share_out(image_set(40), image_set(20, "others"), seed=0)
    assert [len(part) for part in (shares.calibration, shares.search, shares.report)] == [20, 20, 20]


def test_rejects_an_image_for_calibration_and_judgment(tmp_path: Path) -> None:
    paths = tuple(tmp_path / f"{i}.jpg" for i in range(60))
    images = replace(image_set(60), paths=paths)
    others = (*(tmp_path / f"o{i}.jpg" for i in range(19)), tmp_path / "x/../7.jpg")
    with pytest.raises(UsageError, match=r"7\.jpg \(1 in all\) is in --calibration and in the images that judge int8"):
        share_out(images, replace(image_set(20, "others"), paths=others), seed=0)


def export(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "INT8_SCENES", 48)
    monkeypatch.setattr(search, "RANKING_IMAGES", 2)


@pytest.mark.usefixtures("few_scenes")
def test_unverified_int8_is_refused_unless_allowed(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An untrained network finds nobody, so its int8 graph cannot be judged."""
    words = ("--weights", tiny_weights, "--int8", "--output", tmp_path, *FIXED)
    assert export(*words, "--search-minutes", 0) == 3
    assert "not accepted unverified" in capsys.readouterr().err
    assert not (tmp_path / "tiny-int8-cpu.onnx").exists()
    assert (tmp_path / "tiny-int8-cpu.onnx.rejected").exists()
    assert export(*words, "--allow-unverified") == 0
    contract = read_contract(tmp_path / "tiny-int8-cpu.onnx")
    assert (contract.precision.weights, contract.precision.activations, contract.precision.target) == (
        "int8",
        "int8",
        "cpu",
    )
    assert contract.precision.kept_higher[:3] == ("prediction convolutions", "decode", "nms")
    assert contract.parity is not None
    assert contract.parity.verdict == "unverified"
    assert contract.parity.isa is not None
    ranking = json.loads((tmp_path / "tiny-int8-cpu.sensitivity.json").read_text(encoding="utf-8"))
    losses = [layer["pose_loss_alone"] for layer in ranking["layers"]]
    assert losses == sorted(losses, reverse=True)
    assert (tmp_path / "tiny-int8-cpu.sensitivity.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(tmp_path.glob(".*"))  # neither draft nor cache is left


@pytest.mark.usefixtures("few_scenes")
def test_equal_inputs_give_equal_bytes_also_after_an_interruption(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--weights", tiny_weights, "--int8", "--target", "tensorrt", "--allow-unverified", *FIXED)
    assert export(*words, "--output", tmp_path / "one.onnx") == 0
    measured = Trials.loss
    left = iter(range(9))

    def interrupted(self: Trials, *given: object) -> float:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return measured(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Trials, "loss", interrupted)
    assert export(*words, "--output", tmp_path / "other.onnx") == 130
    assert [path.name for path in tmp_path.glob("*other*")] == [".other.search.json"]
    monkeypatch.setattr(Trials, "loss", measured)
    assert export(*words, "--output", tmp_path / "other.onnx") == 0
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()
    with pytest.raises(EngineMismatch, match="tensorrt"):
        PoseEstimator(tmp_path / "one.onnx")


@pytest.mark.slow
def test_smaller_budget_keeps_more_layers_and_impossible_budget_is_refused(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole command with the demo network and labeled photographs, budgets of 0.5, 0.05 and 0 points."""
    monkeypatch.setattr(search, "RANKING_IMAGES", 8)  # the ranking takes a third of the time, still minutes
    folder = data_dir / "lspet"
    labeled = ("--data", folder / "val.json", "--images", folder / "images")
    kept = {}
    for budget in (0.5, 0.05):
        words = ("--weights", "demo", "--int8", "--max-ap-drop", budget, *labeled)
        code = export(*words, "--output", tmp_path / f"demo-{budget}.onnx")
        (report,) = tmp_path.glob(f"demo-{budget}*.sensitivity.json")  # .rejected.sensitivity.json where it is refused
        ranking = json.loads(report.read_text(encoding="utf-8"))
        kept[budget] = sum(layer["kept_float32"] for layer in ranking["layers"])
        # The search meets its budget on its own images; on the report images the gate may want more evidence.
        printed = capsys.readouterr().err
        assert budget < 0.5 or "the search found no int8 graph" not in printed
        assert code in (0, 3), printed
    assert kept[0.5] < kept[0.05] < 86
    words = ("--weights", "demo", "--int8", "--max-ap-drop", 0, *labeled, "--search-minutes", 0)
    assert export(*words, "--output", tmp_path / "none.onnx") == 3
    assert (tmp_path / "none.onnx.rejected").exists()
    assert not (tmp_path / "none.onnx").exists()


def test_errors_name_labels_of_another_skeleton_and_unreadable_images(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network has 17 keypoints, the labels have 5; then one of 48 photographs is not an image."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(48):
        cv2.imwrite(str(folder / f"{i:02}.png"), rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 50, "keypoints": [5, 5, 2] * 5}
    labels = {
        "images": [{"id": i + 1, "file_name": f"{i:02}.png", "width": 40, "height": 40} for i in range(48)],
        "annotations": [{**person, "num_keypoints": 5}],
        "categories": [{"id": 1, "name": "person", "keypoints": [f"point {i}" for i in range(5)]}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    words = ("--weights", tiny_weights, "--int8", "--output", tmp_path / "out", *FIXED, "--images", folder)
    assert export(*words, "--data", tmp_path / "labels.json") == 1
    message = capsys.readouterr().err
    assert "labels.json" in message
    assert "5" in message
    assert "17" in message
    assert export(*words, "--calibration", folder) == 2
    assert "is in --calibration and in the images that judge int8" in capsys.readouterr().err
    (folder / "07.png").write_bytes(b"not an image")
    assert export(*words) == 1
    assert "07.png" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
