"""Layer tables like those of YOLOv8, YOLO11 and YOLO26, with few channels."""

from __future__ import annotations

from dataclasses import replace

from yolopose.model.config import RGB_UNIT, NetConfig
from yolopose.model.layer_table import DistanceSettings, Layer, LayerTable


def conv(source: int, channels: int) -> Layer:
    return Layer("conv", (source,), channels, kernel=3, stride=2)


def gather(source: int, channels: int, block: str, *, shortcut: bool = False) -> Layer:
    hidden = channels // 2
    return Layer("gather", (source,), channels, hidden=hidden, block=block, shortcut=shortcut, width=hidden)


def small_table(head: DistanceSettings, block: str = "bottleneck", *, attention: bool = False) -> LayerTable:
    """Two levels, strides 8 and 16."""
    layers = [
        conv(-1, 4), conv(0, 8), gather(1, 8, block, shortcut=True), conv(2, 8), gather(3, 8, block, shortcut=True),
        conv(4, 16), gather(5, 16, block, shortcut=True),
        Layer("pool", (6,), 16, kernel=5, linear=attention, shortcut=attention),
    ]  # fmt: skip
    if attention:
        layers.append(Layer("join-second", (7,), 16, hidden=8, block="attention"))
    last = len(layers) - 1
    layers += [Layer("upsample", (last,)), Layer("concat", (last + 1, 4)), gather(last + 2, 8, block)]
    layers += [conv(last + 3, 8), Layer("concat", (last + 4, last))]
    layers.append(gather(last + 5, 16, "bottleneck-attention" if attention else block))
    return LayerTable(tuple(layers), (last + 3, last + 6), head)


V8 = small_table(DistanceSettings(8, 8, 8))
V11 = small_table(DistanceSettings(8, 8, 8, depthwise_classes=True), "csp")
V26 = small_table(
    DistanceSettings(8, 8, 8, bins=1, depthwise_classes=True, half_cell=True, one_to_one=True), "csp", attention=True
)
TABLES = {"yolov8-pose": V8, "yolo11-pose": V11, "yolo26-pose": V26}


def small_config(family: str, size: int = 64) -> NetConfig:
    spec = replace(RGB_UNIT, size=size, multiple=32)
    return NetConfig(f"tiny-{family}", family, 1.0, 1.0, spec, head="distance", table=TABLES[family])
