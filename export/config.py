"""What an export is asked to make, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from yolopose.runtime.contract import NmsInfo
from yolopose.runtime.skeleton import Skeleton

from .quantization.plan import Int8Config
from .shapes import ShapeConfig


@dataclass(frozen=True)
class ExportConfig:
    """What to make of ``weights``. ``size``: best square size of a dynamic file in pixels, None: the network's own."""

    weights: str
    skeleton: Skeleton | None = None
    layout: str | None = None  # of an .onnx of others; None: as it is recognised
    output: Path | None = None
    fp16: bool = False
    int8: Int8Config | None = None
    size: int | None = None
    shape: ShapeConfig = field(default_factory=ShapeConfig)
    nms: NmsInfo = field(default_factory=NmsInfo)
    data: Path | None = None
    images: Path | None = None
    calibration: Path | None = None
    limit: int | None = None
    max_ap_drop: float = 0.5
    allow_unverified: bool = False


def output_path(config: ExportConfig) -> Path:
    """Where the artifact goes: ``--output`` as a file or folder, else beside the weights (the demo's: here)."""
    weights = Path(config.weights)
    precision = f"-int8-{config.int8.target}" if config.int8 else "-fp16" if config.fp16 else ""
    # What others exported keeps its name, and its file.
    taken_up = "-yolopose" if weights.suffix.lower() == ".onnx" and not precision else ""
    name = f"{weights.stem}{precision}{taken_up}.onnx"
    if config.output is None:
        return weights.with_name(name)
    if config.output.suffix == ".onnx":
        if config.output.resolve() == weights.resolve():
            raise ValueError(f"--output {config.output} is the file of --weights: give another name")
        return config.output
    if config.output.suffix and not config.output.is_dir():
        raise ValueError(f"--output {config.output} must end in .onnx, or be a folder")
    return config.output / name
