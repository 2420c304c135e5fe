"""Settings and options of a training. Each field holds its name, default and command-line help; ``options`` derives the
flags of yolopose-train from them, run.json and checkpoints store them.

TrainSettings (with LossSettings and AugmentSettings) and RunOptions decide the result and belong to the run.
SessionOptions are given anew each time a run is started or resumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..data.augment import AugmentSettings

KEYPOINT_LOSSES = ("oks", "l1", "scaled-l1")
OPTIMIZERS = ("muon", "adamw", "sgd")
PRECISIONS = ("fp32", "bf16", "fp16")
# For 64 images per step; for other batches multiplied by batch / 64 (sgd) or its square root (others).
LEARNING_RATES = {"muon": 2e-3, "adamw": 2e-3, "sgd": 1e-2}

# Groups of flags in --help, in this order.
DATA, RUN, SESSION, OPTIMIZER, LOSSES, AUGMENTATION = GROUPS = (
    "data and network", "run", "training session", "optimizer", "losses", "augmentation",
)  # fmt: skip


class Flag(NamedTuple):
    """Command-line flag of a field, which has the field's name and default unless given here."""

    group: str
    help: str
    name: str | None = None
    default: Any = MISSING
    choices: tuple[str, ...] | None = None
    metavar: str | tuple[str, ...] | None = None


def _flag(group: str, help: str, **more: Any) -> dict[str, Flag]:
    """Metadata of a field."""
    return {"flag": Flag(group=group, help=help, **more)}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Which network is trained on which data; stored in run.json. Paths are absolute."""

    data: list[str] = field(
        metadata=_flag(
            DATA,
            "labels.json[:folder], data.yaml (YOLO-pose) or synthetic:COUNT[:SEED]; several are trained on together",
            metavar="DATA",
        )
    )
    images: str | None = field(
        metadata=_flag(DATA, "images of .json labels; default: images/ beside them", metavar="DIR")
    )
    val: str | None = field(
        metadata=_flag(DATA, "labels for validation; default: the val split of a data.yaml", metavar="DATA")
    )
    val_images: str | None = field(metadata=_flag(DATA, "images of --val; default: images/ beside it", metavar="DIR"))
    with_people: bool = field(metadata=_flag(DATA, "validate only on images with labeled people, as some papers do"))
    model: str | None = field(
        metadata=_flag(
            DATA,
            "yolox-pose-{nano,tiny,s,m,l}, yolov5{s6,m6,l6}-pose[-ti-lite], yolov7-w6-pose",
            metavar="NAME",
        )
    )
    weights: str | None = field(
        metadata=_flag(
            DATA, "start from any checkpoint that yolopose reads; it may have other keypoints", metavar="FILE"
        )
    )
    skeleton: str | None = field(
        metadata=_flag(
            DATA, "meaning of the keypoints, where it does not follow from their names or number", metavar="JSON"
        )
    )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Where and how long to train this time. They do not decide the result and may change when a run is resumed."""

    output: Path | None = field(
        default=None, metadata=_flag(RUN, "the run folder; default: runs/<model>", metavar="DIR")
    )
    resume: Path | None = field(
        default=None,
        metadata=_flag(
            SESSION, "continue an interrupted run exactly; its other options come from its folder", metavar="DIR"
        ),
    )
    show_samples: Path | None = field(
        default=None,
        metadata=_flag(SESSION, "write an image of augmented samples (.jpg, .png) and exit", metavar="FILE"),
    )
    max_minutes: float | None = field(
        default=None, metadata=_flag(SESSION, "stop after this time; --resume continues", metavar="N")
    )
    device: str = field(default="auto", metadata=_flag(SESSION, "cpu, cuda, cuda:N; auto: a GPU if there is one"))
    threads: int | None = field(
        default=None, metadata=_flag(SESSION, "of the network on a CPU; default: PyTorch's", metavar="N")
    )
    workers: int | None = field(
        default=None,
        metadata=_flag(
            SESSION,
            "processes that make batches; default: all cores but one, at most 8; none on a CPU of at most two cores",
            metavar="N",
        ),
    )
    no_tensorboard: bool = field(default=False, metadata=_flag(SESSION, "write only metrics.csv and curves.png"))


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Keypoint loss and auxiliary losses."""

    keypoint_loss: str = field(
        default="oks", metadata=_flag(LOSSES, "one of the paper's ablation", choices=KEYPOINT_LOSSES)
    )
    keypoint_weight: float | None = field(
        default=None,
        metadata=_flag(LOSSES, "of the keypoint loss; default: depends on loss and network family", metavar="W"),
    )
    robust: float = field(
        default=0.3, metadata=_flag(LOSSES, "weight of the robust (Charbonnier) term beside the OKS loss")
    )
    heatmaps: float = field(
        default=1.0, metadata=_flag(LOSSES, "weight of the auxiliary heatmaps, which exist in training only")
    )

    def __post_init__(self) -> None:
        if self.keypoint_loss not in KEYPOINT_LOSSES:
            raise ValueError(f"keypoint_loss must be one of {KEYPOINT_LOSSES}, got {self.keypoint_loss!r}")
        for name in ("keypoint_weight", "robust", "heatmaps"):
            weight = getattr(self, name)
            if weight is not None and not 0 <= weight < 1e6:
                raise ValueError(f"{name} must be a weight of 0 or more, got {weight}")

    def weight_among(self, defaults: Mapping[str, float]) -> float:
        """``keypoint_weight``, or the default of the chosen loss."""
        return defaults[self.keypoint_loss] if self.keypoint_weight is None else self.keypoint_weight


# Flags of AugmentSettings, a class of yolopose.data; ``pad`` comes from the network.
AUGMENT_FLAGS = {
    "size": Flag(
        group=RUN, name="imgsz", default=None, metavar="PX", help="square input; default: the network's own size"
    ),
    "window": Flag(
        group=AUGMENTATION, metavar="PX", help="train on windows of the image, mostly around a person: faster"
    ),
    "mosaic": Flag(group=AUGMENTATION, help="probability of four images in one"),
    "mosaic_scale": Flag(group=AUGMENTATION, help="scale of images in a mosaic"),
    "mixup": Flag(group=AUGMENTATION, help="probability of blending two images"),
    "scale": Flag(group=AUGMENTATION, metavar=("MIN", "MAX"), help="scale of the image"),
    "degrees": Flag(group=AUGMENTATION, help="largest rotation"),
    "translate": Flag(group=AUGMENTATION, help="largest shift, relative to the side"),
    "mirror": Flag(group=AUGMENTATION, help="probability of a horizontal flip"),
    "hsv": Flag(group=AUGMENTATION, metavar=("H", "S", "V"), help="largest changes of hue, saturation and value"),
}


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """All settings that decide the weights of a run.

    Equal settings, data, initial weights and versions give equal weights on one kind of machine.
    """

    epochs: int = field(default=300, metadata=_flag(RUN, "passes over the data"))
    batch: int = field(default=64, metadata=_flag(RUN, "images per step, over all processes"))
    seed: int = field(default=0, metadata=_flag(RUN, "of weights, order and augmentation"))
    validate_every: int = field(default=1, metadata=_flag(RUN, "epochs between validations", metavar="N"))

    optimizer: str = field(
        default="adamw", metadata=_flag(OPTIMIZER, "SGD has Nesterov momentum 0.937", choices=OPTIMIZERS)
    )
    lr: float | None = field(
        default=None,
        metadata=_flag(OPTIMIZER, "learning rate; default: 2e-3 (muon, adamw), 1e-2 (sgd) at 64 images per step"),
    )
    final_lr: float = field(
        default=0.02, metadata=_flag(OPTIMIZER, "factor of the learning rate at the end of the cosine")
    )
    warmup: float = field(
        default=3.0, metadata=_flag(OPTIMIZER, "linear warm-up, at most a third of the run", metavar="EPOCHS")
    )
    weight_decay: float = field(
        default=0.05, metadata=_flag(OPTIMIZER, "of convolution weights only; sgd: 5e-4 is usual")
    )
    clip: float = field(default=10.0, metadata=_flag(OPTIMIZER, "largest norm of the gradients; 0: no limit"))
    precision: str = field(
        default="bf16",
        metadata=_flag(
            OPTIMIZER,
            "of convolutions; auto: bf16 where the hardware has it, else fp16 on a GPU and fp32 on a CPU",
            choices=("auto", *PRECISIONS),
            default="auto",
        ),
    )
    ema: float = field(
        default=0.9998,
        metadata=_flag(OPTIMIZER, "largest decay of the averaged weights, lower in short runs; 0: no average"),
    )
    freeze_bn: bool = field(
        default=False,
        metadata=_flag(OPTIMIZER, "batch norm keeps its statistics (fine-tuning with small batches)"),
    )

    close_epochs: int = field(default=10, metadata=_flag(AUGMENTATION, "last epochs without mosaic, mixup and window"))
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    loss: LossSettings = field(default_factory=LossSettings)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "validate_every"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "warmup", "weight_decay", "clip", "close_epochs"):
            if not 0 <= getattr(self, name) < math.inf:  # nor NaN
                raise ValueError(f"{name} must be a number of 0 or more, got {getattr(self, name)}")
        for name, known in (("optimizer", OPTIMIZERS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.lr is not None and not 0 < self.lr < 10:
            raise ValueError(f"lr must be a learning rate in 0..10, got {self.lr}")
        if not (0 <= self.ema < 1 and 0 <= self.final_lr <= 1):
            raise ValueError(f"ema and final_lr must lie in 0..1, got {self.ema} and {self.final_lr}")

    @property
    def learning_rate(self) -> float:
        """``lr``, or the default for optimizer and batch."""
        if self.lr is not None:
            return self.lr
        share = self.batch / 64
        return LEARNING_RATES[self.optimizer] * (share if self.optimizer == "sgd" else share**0.5)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        document = asdict(self)
        for name, value in document["augment"].items():
            document["augment"][name] = list(value) if isinstance(value, tuple) else value
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> TrainSettings:
        """Inverse of ``to_dict``. Raises KeyError, TypeError or ValueError for another document."""
        fields = dict(document)
        augment: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in fields.pop("augment").items()
        }
        loss = LossSettings(**fields.pop("loss"))
        return cls(**fields, augment=AugmentSettings(**augment), loss=loss)
