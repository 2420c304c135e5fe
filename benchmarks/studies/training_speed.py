"""Training speed compared with its bare forward and backward step: how much do data, losses and optimizer cost?

``python -m yolopose.benchmarks.studies.training_speed`` takes the flags of ``yolopose-train``. Both alternate in one
process, on the same data and settings: `bare` is the network's forward and backward on a batch in memory, without
losses; `whole` is the complete training step, from waiting for the batch to the averaged weights.
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
from yolopose.runtime.console import Console, run, usage_errors
from yolopose.runtime.errors import UsageError
from yolopose.training.command import train_parser
from yolopose.training.processes import device_for, keep_memory, use_threads, workers_for
from yolopose.training.run import fits_in_memory, new_net, open_session, preload, stream_of
from yolopose.training.train_step import Engine

ROUNDS, STEPS = 7, 12
READY = 6  # at most so many batches are loaded during a bare turn: used up before the clock starts


def measure(engine: Engine, stream: Iterator[Batch], console: Console) -> dict[str, Any]:
    """Images per second, medians of ``ROUNDS`` turns of ``STEPS`` steps of each kind, after one turn of warm-up."""
    batch = next(stream)
    bare, whole, waiting = [], [], []
    for _ in console.progress(range(ROUNDS + 1), ROUNDS + 1, "turns"):
        bare.append(STEPS * len(batch.images) / _bare_steps(engine, batch))
        for _ in range(READY):
            engine.train_step(next(stream))
        started, waited = time.perf_counter(), 0.0
        for _ in range(STEPS):
            requested = time.perf_counter()
            batch = next(stream)
            waited += time.perf_counter() - requested
            engine.train_step(batch)
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


def _bare_steps(engine: Engine, batch: Batch) -> float:
    images = engine.images(batch)
    started = time.perf_counter()
    for _ in range(STEPS):
        with torch.autocast(engine.device.type, engine.autocast, enabled=engine.autocast is not None):
            raw = engine.net.head(engine.net.features(images))
        torch.stack([part.float().mean() for part in raw[:4]]).sum().backward()
        engine.net.zero_grad(set_to_none=True)
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)
    return time.perf_counter() - started


def _main(arguments: argparse.Namespace, console: Console) -> None:
    if arguments.resume:
        raise UsageError("speed is measured on a new run; leave --resume out")
    with usage_errors():
        use_threads(arguments.threads)
        session = open_session(arguments, console)
    settings = session.settings
    order = Order(len(session.source), settings.batch, settings.seed)
    needed = (ROUNDS + 1) * (READY + STEPS) + 1
    if settings.epochs * order.steps_per_epoch < needed:
        raise UsageError(
            f"{needed} steps are needed, and --epochs {settings.epochs} of this data has fewer: give more --epochs"
        )
    net = new_net(session, console)
    side = settings.augment.side
    with usage_errors():
        device = device_for(arguments.device)
    keep_memory(device)
    engine = Engine(net, settings, order.steps_per_epoch, device)
    in_memory = fits_in_memory(session.source, settings)
    workers = workers_for(arguments.workers, device, in_memory)
    preload(session.source, settings, in_memory, console)
    stream = stream_of(session.source, settings, order, workers, pin_memory=device.type == "cuda")(0)
    figures = measure(engine, stream, console)
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
