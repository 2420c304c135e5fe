"""One of several processes that train together, for test_distributed.py: ``python -m ... FOLDER RANK WORLD_SIZE``.

Writes its results to FOLDER/RANK-of-WORLD_SIZE.pt.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.training.small import SETTINGS, small_batch, small_net, small_source, small_trainer
from yolopose.data.batch import Batch, People
from yolopose.training.distributed import gathered
from yolopose.training.train_step import Diverged, TrainStep
from yolopose.training.trainer import Interrupt

CASES = [(family, people) for family in ("yolox", "yolov5", "yolov8", "yolo26") for people in ("all", "half", "none")]
FROZEN = replace(SETTINGS, freeze_bn=True)


def global_batch(people: str) -> Batch:
    """Four images; "half": only the images of the first process have people."""
    batch = small_batch(small_source(4))
    if people == "all":
        return batch
    gone = torch.tensor([False, True, False, True] if people == "half" else [True] * 4)
    parts = [part.clone() for part in batch.people]
    for part in parts:
        part[gone] = 0
    return Batch(batch.images, People(*parts), [])


def share(batch: Batch, rank: int, world_size: int) -> Batch:
    return Batch(batch.images[rank::world_size], People(*(p[rank::world_size] for p in batch.people)), [])


def measured(family: str, people: str, rank: int, world_size: int) -> dict[str, Any]:
    """Losses and gradients of one step, and the weights after three."""
    step = TrainStep(small_net(family), FROZEN, steps_per_epoch=2)
    batch = share(global_batch(people), rank, world_size)
    terms = step.losses(batch)
    torch.stack(list(terms.values())).sum().backward()
    gradients = {name: p.grad for name, p in step.trainable.named_parameters()}
    assert not [name for name, gradient in gradients.items() if gradient is None]
    found = {"losses": {n: float(t.detach()) for n, t in terms.items()}, "gradients": dict(gradients)}
    step.optimizer.zero_grad(set_to_none=True)
    for _ in range(3):
        step(batch)
    return {**found, "weights": dict(step.trainable.named_parameters())}


def diverges(rank: int) -> str:
    """The loss of the last process is not finite."""
    step = TrainStep(small_net(), FROZEN, steps_per_epoch=2)
    batch = share(global_batch("all"), rank, 2)
    usual = step.criterion.forward
    if rank == 1:
        step.criterion.forward = lambda *given: {  # type: ignore[method-assign]
            name: term * torch.nan for name, term in usual(*given).items()
        }
    try:
        step(batch)
    except Diverged as error:
        return str(error)
    return ""


def stops(folder: Path, rank: int) -> dict[str, Any]:
    """Only the last process is interrupted."""
    trainer, rows, console = small_trainer(folder / "run", FROZEN)
    interrupt = Interrupt()
    if rank == 1:
        interrupt.reason = "SIGTERM"
        trainer.progress.damaged["seen-by-one.jpg"] = "seen-by-one.jpg: cut short"
    finished = trainer.run(interrupt)
    return {
        "finished": finished, "reason": interrupt.reason, "step": trainer.train_step.step, "rows": len(rows),
        "lines": console.lines, "damaged": list(trainer.progress.damaged), "sums": trainer.progress.sums,
    }  # fmt: skip


def main(folder: Path, rank: int, world_size: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    found: dict[str, Any] = {case: measured(*case, rank, world_size) for case in CASES}
    found["gathered"] = gathered(f"of {rank}")
    found["diverges"] = diverges(rank)
    found["stops"] = stops(folder, rank)
    torch.save(found, folder / f"{rank}-of-{world_size}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
