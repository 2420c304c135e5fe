"""``python -m yolopose.benchmarks.studies.training_speed``: how fast a training is, beside the forward and
backward step inside it.

Both take turns in one process, on the same data and settings: `bare` is network forward and backward on a batch that
is there, without losses; `whole` is all that a training does, from waiting for the batch to the averaged weights.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from yolopose.data.batch import Batch
from yolopose.data.loader import Order
from yolopose.model.pose_net import gmacs
from yolopose.runtime.console import Console, run
from yolopose.runtime.errors import UsageError
from yolopose.training.options import read_session_options, train_parser
from yolopose.training.resources import device_for, images_fit, keep_memory, use_threads, workers_for
from yolopose.training.run import new_net, open_inputs, preload, source_bytes, stream_of
from yolopose.training.train_step import TrainStep

ROUNDS, STEPS = 7, 12
READY = 6  # batches that wait after a bare turn, at most: taken before the clock starts


def measure(step: TrainStep, stream: Iterator[Batch], console: Console) -> dict[str, Any]:
    """Images a second of ``ROUNDS`` turns of ``STEPS`` steps each way, the first turn left out as warm-up."""
    batch = next(stream)
    bare, whole, waiting = [], [], []
    for _ in console.progress(range(ROUNDS + 1), ROUNDS + 1, "turns"):
        bare.append(STEPS * len(batch.images) / _bare_steps(step, batch))
        for _ in range(READY):
            step(next(stream))
        started, waited = time.perf_counter(), 0.0
        for _ in range(STEPS):
            requested = time.perf_counter()
            batch = next(stream)
            waited += time.perf_counter() - requested
            step(batch)
        spent = time.perf_counter() - started
        whole.append(STEPS * len(batch.images) / spent)
        waiting.append(waited / spent)
    shares = [w / b for w, b in zip(whole[1:], bare[1:], strict=True)]
    return {
        "bare_images_per_second": statistics.median(bare[1:]),
        "images_per_second": statistics.median(whole[1:]),
        "share_of_bare": statistics.median(shares),
        "share_of_bare_range": [min(shares), max(shares)],
        "waiting": statistics.median(waiting[1:]),
    }


def _bare_steps(step: TrainStep, batch: Batch) -> float:
    images = step.images(batch)
    started = time.perf_counter()
    for _ in range(STEPS):
        with torch.autocast(step.device.type, step.autocast, enabled=step.autocast is not None):
            raw = step.net.head(step.net.features(images))
        torch.stack([part.float().mean() for part in raw[:4]]).sum().backward()
        step.net.zero_grad(set_to_none=True)
    if step.device.type == "cuda":
        torch.cuda.synchronize(step.device)
    return time.perf_counter() - started


def _main(arguments: argparse.Namespace, console: Console) -> None:
    if arguments.resume:
        raise UsageError("speed is measured on a new run; leave --resume out")
    session = read_session_options(arguments)
    use_threads(session.threads)
    inputs = open_inputs(arguments, session, console)
    settings = inputs.settings
    order = Order(len(inputs.source), settings.batch, settings.seed)
    needed = (ROUNDS + 1) * (READY + STEPS) + 1
    if settings.epochs * order.steps_per_epoch < needed:
        raise UsageError(f"{needed} steps are measured; --epochs {settings.epochs} of this data has fewer: give more")
    net = new_net(inputs, console)
    side = settings.augment.side
    device = device_for(session.device)
    keep_memory(device)
    step = TrainStep(net, settings, order.steps_per_epoch, device)
    in_memory = images_fit(source_bytes(inputs.source, settings))
    workers = workers_for(session.workers, device, in_memory)
    preload(inputs.source, settings, in_memory, console)
    stream = stream_of(inputs.source, settings, order, workers, pin_memory=device.type == "cuda")(0)
    figures = measure(step, stream, console)
    document = {
        "network": net.config.name, "side": side, "gmacs": gmacs(net, (side, side)), "batch": settings.batch,
        "precision": settings.precision, "optimizer": settings.optimizer,
        "threads": torch.get_num_threads(), "workers": workers, **figures,
    }  # fmt: skip
    console.result(document, "\n".join(f"{name}: {value}" for name, value in document.items()))


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, train_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
