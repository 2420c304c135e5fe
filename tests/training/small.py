"""Networks, data and a trainer for which a step takes milliseconds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from yolopose.data.augment import Augment, AugmentSettings
from yolopose.data.batch import Batch
from yolopose.data.loader import Order, batches
from yolopose.data.sample import Sample
from yolopose.data.sources import SyntheticSource
from yolopose.data.synthetic import SyntheticScenes
from yolopose.model.config import BGR_BYTES, RGB_UNIT, NetConfig
from yolopose.model.pose_net import PoseNet
from yolopose.model.sizes import COCO_P6_ANCHORS, build
from yolopose.runtime.console import Console
from yolopose.training.settings import TrainSettings
from yolopose.training.train_step import TrainStep
from yolopose.training.trainer import Interrupt, Trainer

from ..data.images import collate
from ..model.tables import small_config

SIZE = 64  # px
COUNT, BATCH = 8, 4
CONFIGS = {
    "yolox": NetConfig("tiny", "yolox-pose", 0.33, 0.0625, replace(BGR_BYTES, size=SIZE)),
    "yolov5": NetConfig(
        "tiny-p6", "yolov5-pose", 0.33, 0.0625, replace(RGB_UNIT, size=SIZE), head="anchor", anchors=COCO_P6_ANCHORS
    ),
    "yolov8": small_config("yolov8-pose", SIZE),
    "yolo26": small_config("yolo26-pose", SIZE),
}
AUGMENT = AugmentSettings(size=SIZE, mosaic=0.5)
SETTINGS = (
    TrainSettings(  # SGD: its checkpoints are the smallest, and most of the time goes into reading and writing them
        epochs=4, batch=BATCH, warmup=1, precision="fp32", close_epochs=1, augment=AUGMENT, optimizer="sgd"
    )
)


def small_net(family: str = "yolox", seed: int = 0) -> PoseNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(CONFIGS[family])


def small_source(count: int = COUNT) -> SyntheticSource:
    source = SyntheticSource(SyntheticScenes(count, (SIZE, SIZE), seed=3, people=(1, 2)))
    source._kept = [_drawn(count, index) for index in range(count)]  # in this process; preload() would start others
    return source


@cache
def _drawn(count: int, index: int) -> Sample:
    return SyntheticSource(SyntheticScenes(count, (SIZE, SIZE), seed=3, people=(1, 2)))[index]


def small_batch(source: SyntheticSource, count: int = BATCH) -> Batch:
    samples = [source[index] for index in range(count)]
    return Batch(*collate(samples), [])


class Record(Console):
    """Keeps the lines that it would print."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class StopAt(Interrupt):
    """Requests a stop, as Ctrl-C does, once ``step`` steps of the run are done."""

    def __init__(self, trainer: Trainer, step: int) -> None:
        super().__init__()
        self.train_step, self.step = trainer.train_step, step

    @property
    def requested(self) -> bool:
        if self.train_step.step >= self.step:
            self.reason = "SIGINT"
        return self.reason is not None


def small_trainer(
    folder: Path, settings: TrainSettings = SETTINGS, net: PoseNet | None = None, validator: Any = None
) -> tuple[Trainer, list[dict[str, float | None]], Record]:
    """A trainer, the rows that it reports and what it prints."""
    source = small_source()
    order = Order(len(source), settings.batch, settings.seed)
    step = TrainStep(net or small_net(), settings, order.steps_per_epoch)
    augment = Augment(source, settings.augment)

    def stream(first_step: int) -> Iterator[Batch]:
        return batches(order, lambda epoch: augment, first_step=first_step, last_step=step.total_steps, workers=0)

    rows: list[dict[str, float | None]] = []
    console = Record()
    folder.mkdir(exist_ok=True)
    return Trainer(step, stream, validator, folder, console, lambda row, _: rows.append(row)), rows, console


def save_scenes(folder: Path, count: int = COUNT, seed: int = 3) -> Path:
    """Write labels in COCO format and their images; the labels' path."""
    return SyntheticScenes(count, (SIZE, SIZE), seed=seed, people=(1, 2)).save_coco(folder)


def changed(labels: Path, **entries: Any) -> dict[str, Any]:
    """Rewrite a JSON file with other top-level entries; the new document."""
    document: dict[str, Any] = json.loads(labels.read_text(encoding="utf-8")) | entries
    labels.write_text(json.dumps(document), encoding="utf-8")
    return document
