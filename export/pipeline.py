"""The ordered steps from weights to artifact; the only module of export/ that joins them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

import yolopose
from yolopose.model.pose_net import PoseNet
from yolopose.runtime.contract import Contract, InputInfo, ModelInfo, NmsInfo, PrecisionInfo, Provenance, Range
from yolopose.runtime.errors import GateRefused
from yolopose.runtime.machine import installed_versions
from yolopose.runtime.output import atomic_write, output_folder
from yolopose.runtime.skeleton import Skeleton

from .onnx_export import MAX_SIZE, ShapeConfig, onnx_from_net
from .passes import embed_contract, graph_sha256, simplify
from .precision import to_float16
from .verify import Progress, Verification, verification_images, verify

MAX_BATCH = 64  # of a file with dynamic batch; longer lists are run in parts
_TOOLS = ("yolopose", "torch", "onnx", "onnxscript", "onnxsim")


@dataclass(frozen=True)
class ExportConfig:
    """What to make of ``weights``. ``size``: best square size of a dynamic file in pixels, None: the network's own."""

    weights: str
    skeleton: Skeleton | None = None
    output: Path | None = None
    fp16: bool = False
    size: int | None = None
    shape: ShapeConfig = field(default_factory=ShapeConfig)
    nms: NmsInfo = field(default_factory=NmsInfo)
    data: Path | None = None
    images: Path | None = None
    limit: int = 64
    max_ap_drop: float = 0.5


@dataclass(frozen=True)
class Exported:
    """The artifact and what was found out about it."""

    path: Path
    contract: Contract
    verification: Verification
    source: str  # which images it was verified on
    steps: tuple[str, ...]


def output_path(config: ExportConfig) -> Path:
    """Where the artifact goes: ``--output`` as a file or folder, else beside the weights (the demo's: here)."""
    weights = Path(config.weights)
    name = f"{weights.stem}{'-fp16' if config.fp16 else ''}.onnx"
    if config.output is None:
        return weights.with_name(name)
    if config.output.suffix == ".onnx":
        return config.output
    if config.output.suffix and not config.output.is_dir():
        raise ValueError(f"--output {config.output} must end in .onnx, or be a folder")
    return config.output / name


def export_artifact(config: ExportConfig, say: Callable[[str], None], progress: Progress) -> Exported:
    """Run all steps. Raises GateRefused when the result is not the network's (kept as ``.rejected``)."""
    target = output_path(config)
    net = yolopose.load(config.weights, skeleton=config.skeleton)
    given = input_info(net, config)
    images = verification_images(config.data, config.images, net.skeleton, config.limit)
    output_folder(target.parent)
    say(f"{config.weights}: {net.config.name} ({net.source_format}), {net.skeleton.num_keypoints} keypoints")
    nms = replace(config.nms, class_aware=len(net.classes) > 1)
    model, steps = _build(net, config, nms)
    for step in steps:
        say(step)
    contract = _contract(net, model, config, given, nms)
    # Under its own name only after it has been run and compared; the runtime reads .onnx, so the draft ends so.
    draft = target.with_name(f".{target.stem[:200]}.{secrets.token_hex(4)}.draft.onnx")
    try:
        atomic_write(draft, embed_contract(model, contract))
        result = verify(draft, net, images, exact=not config.fp16, max_ap_drop=config.max_ap_drop, progress=progress)
    finally:
        draft.unlink(missing_ok=True)
    contract = replace(contract, parity=result.info)
    content = embed_contract(model, contract)
    if result.info.verdict == "failed":
        rejected = atomic_write(target.with_name(target.name + ".rejected"), content)
        raise GateRefused(f"{result.reason}; the artifact is kept as {rejected}")
    atomic_write(target, content)
    return Exported(target, contract, result, images.source, tuple(steps))


def _build(net: PoseNet, config: ExportConfig, nms: NmsInfo) -> tuple[onnx.ModelProto, list[str]]:
    model = onnx_from_net(net, nms, config.shape)
    steps = [f"exported {len(model.graph.node)} nodes, opset {model.opset_import[0].version}"]
    model, simplified = simplify(model)
    steps.append(simplified)
    if config.fp16:
        kept = to_float16(model)
        steps.append(f"float16 up to {len(kept)} prediction convolutions, which stay float32 with all behind them")
    onnx.checker.check_model(model, full_check=True)
    return model, steps


def input_info(net: PoseNet, config: ExportConfig) -> InputInfo:
    """Legal sizes of the artifact. Raises ValueError for those that the network cannot take."""
    multiple, shape_hw, batch = net.input.multiple, config.shape.shape_hw, config.shape.batch
    for size in shape_hw or (net.input.size if config.size is None else config.size,):
        if size % multiple or not multiple <= size <= MAX_SIZE:
            raise ValueError(f"--imgsz {size}: sizes must be multiples of {multiple} from {multiple} to {MAX_SIZE}")
    if shape_hw is None:
        height = width = Range(multiple, config.size or net.input.size, MAX_SIZE, multiple)
    else:
        height, width = (Range(size, size, size) for size in shape_hw)
    return InputInfo(
        height=height,
        width=width,
        batch=Range(1, 1, MAX_BATCH) if batch is None else Range(batch, batch, batch),
        pad_value=net.input.pad_value,
        pad_side=net.input.pad_side,
    )


def _contract(net: PoseNet, model: onnx.ModelProto, config: ExportConfig, given: InputInfo, nms: NmsInfo) -> Contract:
    precision = PrecisionInfo()
    if config.fp16:
        precision = PrecisionInfo("float16", "float16", "any", ("prediction convolutions", "decode", "nms"))
    versions = installed_versions()
    return Contract(
        model=ModelInfo(name=net.config.name, family=net.config.family, classes=tuple(net.classes)),
        skeleton=net.skeleton,
        input=given,
        nms=nms,
        precision=precision,
        provenance=Provenance(
            graph_sha256=graph_sha256(model),
            weights_sha256=net.weights_sha256,
            versions={name: versions[name] for name in _TOOLS if name in versions},
            weights_licence=net.weights_licence,
        ),
    )
