"""Every network family overfits eight images: network, losses, loop and validation work together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from yolopose import load, save
from yolopose.model import blocks
from yolopose.model.sizes import SIZES, build
from yolopose.training.command import main
from yolopose.training.trainer import Trainer

from ..ultralytics_files import unpacked

pytest.importorskip("pycocotools")

SIZE, STEPS = 192, 240  # an epoch is one step


@pytest.fixture
def labels(data_dir: Path, tmp_path: Path) -> str:
    """Eight images of coco-mini with one large person each: at 192 px small people are a few pixels."""
    source = data_dir / "coco-mini"
    document = json.loads((source / "person_keypoints.json").read_text(encoding="utf-8"))
    people: dict[int, list[dict[str, float]]] = {}
    for entry in document["annotations"]:
        people.setdefault(entry["image_id"], []).append(entry)

    def size(image: dict[str, int]) -> float:
        some = people.get(image["id"], [])
        alone = len(some) == 1 and some[0]["num_keypoints"] > 0 and not some[0]["iscrowd"]
        return some[0]["area"] / max(image["width"], image["height"]) ** 2 if alone else 0.0

    images = sorted(document["images"], key=size)[-8:]
    assert size(images[0]) > 0.05
    document["images"] = images
    document["annotations"] = [people[image["id"]][0] for image in images]
    path = tmp_path / "eight.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return f"{path}:{source / 'images'}"


def four_times_as_wide(weights: Path) -> Path:
    """New weights for the network in the file, whose layers of eight channels are too small to overfit."""
    config = load(weights).config
    table = config.table
    assert table is not None
    layers = tuple(
        replace(row, channels=4 * row.channels, hidden=4 * row.hidden, width=4 * row.width) for row in table.layers
    )
    table = replace(table, layers=layers, head=replace(table.head, class_width=32))
    torch.manual_seed(0)
    save(build(replace(config, table=table)), weights.with_name("wide.pt"))
    return weights.with_name("wide.pt")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "rate"),
    # A one-to-one head learns from one anchor a person: at 4e-3, one of the eight ends with an OKS of 0.5.
    [("yolox-pose-nano", 4e-3), ("yolov5s6-pose", 4e-3), ("yolov8n-pose.pt", 4e-3), ("yolo26n-pose.pt", 2e-3)],
)
def test_overfits_eight_images(
    family: str,
    rate: float,
    labels: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = ["--model", family]
    if family.endswith(".pt"):
        start = ["--weights", str(four_times_as_wide(unpacked(family, tmp_path)))]
    if family == "yolov5s6-pose":
        monkeypatch.setitem(SIZES, family, replace(SIZES[family], width=0.25))
    # By default batch norm averages over 33 steps, too many for so short a run.
    monkeypatch.setattr(blocks, "BN_MOMENTUM", 0.1)
    # 240 checkpoints would take as long as the training.
    save = Trainer.save
    monkeypatch.setattr(Trainer, "save", lambda self, name: save(self, name) if self.epoch == STEPS else None)
    given = [
        "--data", labels, "--val", labels, *start, "--imgsz", SIZE, "--output", tmp_path / "run",
        "--epochs", STEPS, "--batch", 8, "--validate-every", STEPS, "--workers", 0, "--optimizer", "muon",
        "--lr", rate, "--warmup", 10, "--weight-decay", 0, "--precision", "fp32", "--no-tensorboard", "--json",
        "--mosaic", 0, "--scale", 1, 1, "--degrees", 0, "--translate", 0, "--mirror", 0, "--hsv", 0, 0, 0,
    ]  # fmt: skip
    assert main([str(word) for word in given]) == 0
    outcome = json.loads(capsys.readouterr().out)
    print({name: outcome[name] for name in ("best_ap", "minutes")})
    assert outcome["best_ap"] >= 0.9
