"""What a network wants to be fed: the facts that a letterbox and a normalisation need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from yolopose.runtime.contract_parts import PAD_SIDES

CHANNEL_ORDERS = ("bgr", "rgb")


@dataclass(frozen=True)
class InputSpec:
    """Input of a network: ``images`` are (B, 3, H, W) float32, channels in ``channel_order``, bytes times ``scale``."""

    channel_order: str = "bgr"  # "bgr" | "rgb"
    scale: float = 1.0  # 1.0: values 0..255; 1/255: values 0..1
    pad_value: int = 114  # grey level of the letterbox border, 0..255
    pad_side: str = "center"  # "center" | "bottom-right"
    multiple: int = 32  # height and width must be multiples of this many pixels
    size: int = 640  # square size in pixels that the weights were made for

    def __post_init__(self) -> None:
        if self.channel_order not in CHANNEL_ORDERS:
            raise ValueError(f"channel_order must be one of {CHANNEL_ORDERS}, got {self.channel_order!r}")
        if self.pad_side not in PAD_SIDES:
            raise ValueError(f"pad_side must be one of {PAD_SIDES}, got {self.pad_side!r}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be a positive number, got {self.scale}")
        if not 0 <= self.pad_value <= 255:
            raise ValueError(f"pad_value must lie in 0..255, got {self.pad_value}")
        if self.multiple < 1 or self.size < self.multiple or self.size % self.multiple:
            raise ValueError(f"size must be a multiple of {self.multiple} pixels, got {self.size}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> InputSpec:
        return cls(**document)


# The two conventions that published networks follow.
RGB_UNIT = InputSpec(channel_order="rgb", scale=1 / 255, multiple=64, size=640)
BGR_BYTES = InputSpec(channel_order="bgr", scale=1.0, multiple=32, size=640)
