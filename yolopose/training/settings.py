"""What decides a training beside data and network: plain values that a checkpoint and a run folder store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..data.augment import AugmentSettings

KEYPOINT_LOSSES = ("oks", "l1", "scaled-l1")
OPTIMIZERS = ("muon", "adamw", "sgd")
PRECISIONS = ("fp32", "bf16", "fp16")
# Learning rates for 64 images a step; with other batches they grow with the batch (sgd) or its square root (others).
LEARNING_RATES = {"muon": 2e-3, "adamw": 2e-3, "sgd": 1e-2}


@dataclass(frozen=True)
class LossSettings:
    """Which keypoint loss, and what is added to it."""

    keypoint_loss: str = "oks"  # one of KEYPOINT_LOSSES
    keypoint_weight: float | None = None  # None: what suits loss and family
    robust: float = 0.3  # weight of the term that never goes flat, beside 1 for OKS; see keypoint_loss.py
    heatmaps: float = 1.0  # weight of the auxiliary heat maps, which exist in training only; see heatmaps.py

    def __post_init__(self) -> None:
        if self.keypoint_loss not in KEYPOINT_LOSSES:
            raise ValueError(f"keypoint_loss must be one of {KEYPOINT_LOSSES}, got {self.keypoint_loss!r}")
        for name in ("keypoint_weight", "robust", "heatmaps"):
            weight = getattr(self, name)
            if weight is not None and not 0 <= weight < 1e6:
                raise ValueError(f"{name} must be a weight of 0 or more, got {weight}")

    def weight_among(self, usual: Mapping[str, float]) -> float:
        """``keypoint_weight``, or the usual one of the loss."""
        return usual[self.keypoint_loss] if self.keypoint_weight is None else self.keypoint_weight


@dataclass(frozen=True)
class TrainSettings:
    """One training run. Equal settings, data, start and versions give equal weights, on one kind of machine."""

    epochs: int = 300
    batch: int = 64  # images a step, over all processes
    seed: int = 0
    optimizer: str = "adamw"
    lr: float | None = None  # None: LEARNING_RATES for this batch
    final_lr: float = 0.02  # of lr, at the end of the cosine
    warmup: float = 3.0  # epochs of linear warm-up
    weight_decay: float = 0.05  # of convolution weights alone; sgd: 5e-4 is usual
    clip: float = 10.0  # largest norm of all gradients; 0: no limit
    precision: str = "bf16"
    ema: float = 0.9998  # largest decay of the averaged weights
    freeze_bn: bool = False  # batch norm with its stored statistics, not those of the batch
    close_epochs: int = 10  # at the end: whole pictures, no mosaic, no mixing
    validate_every: int = 1  # epochs
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
        """``lr``, or what suits optimizer and batch."""
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
        """Inverse of ``to_dict``. Raises ValueError or TypeError for a document of another make."""
        fields = dict(document)
        ranges: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in fields.pop("augment").items()
        }
        loss = LossSettings(**fields.pop("loss"))
        return cls(**fields, augment=AugmentSettings(**ranges), loss=loss)
