"""The command line of yolopose-train: which flags there are, and what they mean as plain values.

``yolopose-train``: labels in, a network and a run folder out.
"""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, overload

from yolopose.runtime.console import EXIT_DONE, EXIT_INTERRUPTED, ArgumentParser, Console, parser, run

from ..data.augment import AugmentSettings
from .settings import KEYPOINT_LOSSES, OPTIMIZERS, PRECISIONS, LossSettings, TrainSettings

PROG = "yolopose-train"
# What a resumed run may be given anew; everything else is the run's own.
PER_SITTING = ("json", "resume", "show_samples", "max_minutes", "device", "threads", "workers", "no_tensorboard")


@dataclass(frozen=True)
class Options:
    """What is trained on what: decides the result, and is stored in the run folder."""

    data: list[str]
    images: str | None
    val: str | None
    val_images: str | None
    model: str | None
    weights: str | None
    skeleton: str | None
    with_people: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def train_parser() -> ArgumentParser:
    """Flags in groups; those of augmentation and losses show the defaults of their settings."""
    made = parser(PROG, "Train a pose network; torchrun starts it on several GPUs or machines.")
    _add_data(made.add_argument_group("data and network").add_argument)
    _add_run(made.add_argument_group("run").add_argument)
    _add_settings(made.add_argument_group("optimizer").add_argument)
    _add_augment(made.add_argument_group("augmentation").add_argument)
    return made


def _add_data(add: Any) -> None:
    add(
        "--data", nargs="+", metavar="DATA",
        help="labels.json[:images], data.yaml (YOLO-pose) or synthetic:COUNT[:SEED]; several are trained on together",
    )  # fmt: skip
    add("--images", metavar="DIR", help="pictures of .json labels; default: images/ beside them")
    add("--val", metavar="DATA", help="labels to validate on; default: the val split of a data.yaml")
    add("--val-images", metavar="DIR", help="pictures of --val; default: images/ beside it")
    add("--with-people", action="store_true", help="validate on images with labelled people alone, as some papers do")
    add("--model", metavar="NAME", help="yolox-pose-{nano,tiny,s,m,l}, yolov5{s6,m6,l6}-pose[-ti-lite], yolov7-w6-pose")
    add("--weights", metavar="FILE", help="begin from any checkpoint that yolopose reads; other keypoints are welcome")
    add("--skeleton", metavar="JSON", help="what the keypoints mean, where names and number do not say")


def _add_run(add: Any) -> None:
    defaults = TrainSettings()
    add("--output", type=Path, metavar="DIR", help="the run folder; default: runs/<model>")
    add("--resume", type=Path, metavar="DIR", help="go on with an interrupted run, exactly; other flags come from it")
    add("--show-samples", type=Path, metavar="FILE", help="write a picture of augmented samples (.jpg, .png) and stop")
    add("--max-minutes", type=float, metavar="N", help="stop after so long; --resume goes on")
    add("--device", default="auto", help="cpu, cuda, cuda:N; auto: a GPU if there is one")
    add("--threads", type=int, metavar="N", help="of the network on a CPU; default: PyTorch's")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes that make batches; default: all processors but one, at most 8; none on a CPU of at most two",
    )
    add("--epochs", type=int, default=defaults.epochs, help="passes over the data")
    add("--batch", type=int, default=defaults.batch, help="images a step, over all processes")
    add("--imgsz", type=int, metavar="PX", help="square input; default: the network's own")
    add("--seed", type=int, default=defaults.seed, help="of weights, order and augmentation")
    add("--validate-every", type=int, default=defaults.validate_every, metavar="N", help="epochs between validations")
    add("--no-tensorboard", action="store_true", help="metrics.csv and curves.png alone")


def _add_settings(add: Any) -> None:
    defaults = TrainSettings()
    add("--optimizer", choices=OPTIMIZERS, default=defaults.optimizer, help="SGD is Nesterov's, momentum 0.937")
    add("--lr", type=float, help="learning rate; default: 2e-3 (muon, adamw), 1e-2 (sgd) at 64 images a step")
    add("--final-lr", type=float, default=defaults.final_lr, help="share of it at the end of the cosine")
    add("--warmup", type=float, default=defaults.warmup, metavar="EPOCHS", help="linear, at most a third of the run")
    add("--weight-decay", type=float, default=defaults.weight_decay, help="of convolution weights; sgd: 5e-4 is usual")
    add("--clip", type=float, default=defaults.clip, help="largest norm of the gradients; 0: no limit")
    add(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="of convolutions; auto: bf16 where the hardware has it, else fp16 on a GPU and fp32 on a CPU",
    )
    add("--ema", type=float, default=defaults.ema, help="decay of averaged weights, less in short runs; 0: none")
    add("--freeze-bn", action="store_true", help="batch norm keeps its statistics (fine-tuning with small batches)")
    loss = defaults.loss
    add("--keypoint-loss", choices=KEYPOINT_LOSSES, default=loss.keypoint_loss, help="the paper's three")
    add("--keypoint-weight", type=float, metavar="W", help="of the keypoint loss; default: what suits loss and family")
    add("--robust", type=float, default=loss.robust, help="weight of the term beside OKS that never goes flat")
    add("--heatmaps", type=float, default=loss.heatmaps, help="weight of auxiliary heat maps, gone after training")


def _add_augment(add: Any) -> None:
    d = AugmentSettings()
    add(
        "--close-epochs",
        type=int,
        default=TrainSettings().close_epochs,
        help="last epochs without mosaic, mixup, window",
    )
    add("--window", type=int, metavar="PX", help="train on windows of the picture, mostly around a person: cheaper")
    add("--mosaic", type=float, default=d.mosaic, help="probability of four pictures in one")
    add("--mosaic-scale", type=float, default=d.mosaic_scale, help="size of pictures in a mosaic")
    add("--mixup", type=float, default=d.mixup, help="probability of blending two pictures")
    add("--scale", type=float, nargs=2, default=d.scale, metavar=("LEAST", "MOST"), help="size of the picture")
    add("--degrees", type=float, default=d.degrees, help="largest rotation")
    add("--translate", type=float, default=d.translate, help="largest shift, share of the side")
    add("--mirror", type=float, default=d.mirror, help="probability of left and right exchanged")
    add("--hsv", type=float, nargs=3, default=d.hsv, metavar=("H", "S", "V"), help="largest changes of colour")


def check_resume(words: Sequence[str]) -> None:
    """ValueError for flags beside --resume that would not be obeyed, even if they say what is the default."""
    bare = train_parser()
    for action in bare._actions:  # argparse has no other way to leave out what was not given
        action.default = argparse.SUPPRESS
    names = vars(bare.parse_args(words))
    given = [name for name in names if name not in PER_SITTING]
    if "resume" in names and given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"--resume goes on in its own folder with its own data and settings; leave {flags} out")


def options_of(arguments: argparse.Namespace) -> Options:
    """ValueError without --data."""
    if not arguments.data:
        raise ValueError("no data: give --data, or --resume a run")
    a = arguments
    return Options(
        [_absolute(spec) for spec in a.data], _absolute(a.images), _absolute(a.val), _absolute(a.val_images), a.model,
        a.weights, _absolute(a.skeleton), a.with_people,
    )  # fmt: skip


@overload
def _absolute(spec: str) -> str: ...
@overload
def _absolute(spec: None) -> None: ...
def _absolute(spec: str | None) -> str | None:
    """Paths of a spec that hold from any working directory, where a run may be resumed."""
    if spec is None or spec.startswith("synthetic:"):
        return spec
    labels, json, folder = spec.partition(".json:")
    return f"{os.path.abspath(labels)}.json:{os.path.abspath(folder)}" if json else os.path.abspath(spec)


def settings_of(arguments: argparse.Namespace, size: int, pad: int, precision: str) -> TrainSettings:
    """size: the network's input; pad: its padding value; precision: where it is left to us.

    ValueError for values that make no sense.
    """
    a = arguments
    augment = AugmentSettings(
        size=size, window=a.window, mosaic=a.mosaic, mosaic_scale=a.mosaic_scale, mixup=a.mixup,
        scale=tuple(a.scale), degrees=a.degrees, translate=a.translate, mirror=a.mirror, hsv=tuple(a.hsv), pad=pad,
    )  # fmt: skip
    loss = LossSettings(a.keypoint_loss, a.keypoint_weight, a.robust, a.heatmaps)
    return TrainSettings(
        a.epochs, a.batch, a.seed, a.optimizer, a.lr, a.final_lr, a.warmup, a.weight_decay, a.clip,
        precision if a.precision == "auto" else a.precision, a.ema,
        a.freeze_bn, a.close_epochs, a.validate_every, augment, loss,
    )  # fmt: skip


LONGEST_WAIT_HOURS = 4

T = TypeVar("T")


def _main(words: Sequence[str], arguments: argparse.Namespace, console: Console) -> int:
    import torch.distributed as dist

    from .processes import rank
    from .run import open_session, show_samples, train

    check_resume(words)
    if several := int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _join(arguments)
    try:
        if rank():
            console = _Silent()
        session = open_session(arguments, console)
        if arguments.show_samples:
            path = show_samples(session, arguments.show_samples)
            console.result({"samples": str(path)}, f"augmented samples: {path}")
            return EXIT_DONE
        outcome = train(session, arguments, console)
        console.result(outcome, _summary(outcome))
        return EXIT_INTERRUPTED if outcome["stopped_by"] in ("SIGINT", "SIGTERM") else EXIT_DONE
    finally:
        if several:
            dist.destroy_process_group()


def _join(arguments: argparse.Namespace) -> None:
    """Become one of the processes that torchrun started."""
    import torch
    import torch.distributed as dist

    gpu = arguments.device != "cpu" and torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # While the first process validates, the others wait: longer than the usual ten minutes, if need be.
    dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(hours=LONGEST_WAIT_HOURS))


class _Silent(Console):
    """Of all processes but the first; errors are told by every one."""

    def say(self, text: str) -> None:
        pass

    def result(self, document: dict[str, Any], text: str) -> None:
        pass

    def progress(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        return iter(items)


def _summary(outcome: dict[str, Any]) -> str:
    best = "" if outcome["best_ap"] is None else f", best AP {outcome['best_ap']:.4f} at epoch {outcome['best_epoch']}"
    if outcome["finished"]:
        return f"{outcome['run']}: {outcome['epochs']} epochs, {outcome['minutes']:.1f} min of training{best}"
    return (
        f"{outcome['run']}: stopped by {outcome['stopped_by']} in epoch {outcome['epochs'] + 1}{best}; "
        f"go on with yolopose-train --resume {outcome['run']}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    code = run(partial(_main, words), train_parser(), words)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End one of several processes without tearing C++ down: all that Python has to finish is finished before.

    DistributedDataParallel keeps gloo's threads running after destroy_process_group (PyTorch 2.13), and a process that
    ends while they run is aborted now and then ("terminate called without an active exception").
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
