"""What an export is asked to make, and where it goes.

``yolopose-export --explain``: what a file is, what would be made of it, what that takes and gives.

The ordered steps from weights to artifact; the only module of export/ that joins them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import onnx

import yolopose
from yolopose.data.image_set import ImageSet, open_image_set
from yolopose.deploy.reference import ReferenceEstimator
from yolopose.model.pose_net import PoseNet
from yolopose.runtime.artifact_file import read_onnx
from yolopose.runtime.backends.cuda import open_cuda
from yolopose.runtime.contract import (
    METADATA_KEY,
    Contract,
    InputInfo,
    ModelInfo,
    NmsInfo,
    ParityInfo,
    PrecisionInfo,
    read_contract,
)
from yolopose.runtime.errors import ArtifactError, GateRefused
from yolopose.runtime.images import evenly
from yolopose.runtime.output import atomic_write, output_folder
from yolopose.runtime.skeleton import Skeleton

from .graph import embed_contract, graph_sha256, letterboxed, simplify
from .int8.build import CALIBRATION, Shares, kept_layers, share_out, to_int8, write_sensitivity
from .int8.quantize import Int8Config
from .int8.search import shortfall
from .onnx_export import onnx_from_net
from .onnx_import.source import source_from_onnx
from .precision import out_of_range, rounded_to_float16, to_float16
from .source import ShapeConfig, Source, contract_of, input_info
from .tensorrt import build_engine, import_tensorrt
from .tensorrt_options import EngineConfig
from .verify import Progress, Verification, verify


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
    data: str | None = None  # labels, as yolopose.data.sources.open_labels takes them
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


def explained(source: Source, given: InputInfo, nms: NmsInfo, precision: str, target: Path) -> list[str]:
    """Ten lines."""
    spec, model, skeleton = source.input, source.model, source.skeleton
    values = "bytes" if spec.scale == 1 else f"bytes times {spec.scale:.4g}"
    classes = ", ".join(model.classes[:5]) + (f" and {len(model.classes) - 5} more" if len(model.classes) > 5 else "")
    nms_free = source.nms_free
    suppression = (
        f"none of ours: each person comes once, the {nms.max_people} best are kept"
        if nms_free
        else f"ours, in the graph: {nms.candidates} candidates, {nms.rounds} rounds, {nms.max_people} people"
        + (", each class by itself" if nms.class_aware else "")
    )
    rows, points = f"(batch, {nms.max_people}", skeleton.num_keypoints
    letterbox = f"letterboxed on grey {spec.pad_value}, padded {spec.pad_side}"
    thresholds = f"score and IoU threshold of each image, by default {nms.score_threshold:g} and {nms.iou_threshold:g}"
    return [
        f"is:        {source.description}",
        f"network:   {model.name} ({model.family}); classes: {classes}",
        f"keypoints: {points} ({skeleton.name}), each with x, y and a score",
        f"wants:     {spec.channel_order.upper()}, {values}, {letterbox}",
        f"NMS:       {suppression}",
        f"precision: {precision}, verified against {source.reference_name}",
        f"takes:     images uint8 (batch, height, width, 3) BGR; height {given.height}, width {given.width}",
        f"           batch {given.batch}; {thresholds}",
        f"gives:     boxes {rows}, 4), scores, labels, keypoints {rows}, {points}, 3), num_people, flags",
        f"writes:    {target}; licence of the weights: {source.weights_licence or 'the file does not say'}",
    ]


Say = Callable[[str], None]
RANGE_IMAGES = 16  # on which the range of float16 is measured
LIMIT = 64  # images that float32 and float16 are judged by
INT8_SCENES = 2 * CALIBRATION + 64  # synthetic, where no photographs are named
_USUAL = (NmsInfo().candidates, NmsInfo().iou_threshold)
NEVER_REDUCED = ("prediction convolutions", "decode", "nms")


@dataclass(frozen=True)
class Exported:
    """The artifact and what was found out about it."""

    path: Path
    contract: Contract
    verification: Verification | None  # None: this run compared nothing, the contract says what is known
    source: str  # which images it was verified on
    steps: tuple[str, ...]


def export_artifact(config: ExportConfig, say: Say, progress: Progress) -> Exported:
    """Run all steps. Raises GateRefused when the result is not the network's (kept as ``.rejected``)."""
    return _export(config, _open_source(config, say), say, progress)[0]


def export_engine(
    config: ExportConfig, plan: Path | None, engine: Callable[[InputInfo], EngineConfig], say: Say, progress: Progress
) -> Exported:
    """The artifact, and from it a TensorRT plan that is verified likewise before it gets its name.

    plan: where it goes, None: beside the artifact; engine: what is asked of it, for the shapes of the artifact.
    Raises as export_artifact and build_engine do; a missing TensorRT or GPU before anything is exported.
    """
    trt, gpu = import_tensorrt(), open_cuda().gpu
    source = _open_source(config, say)
    options = engine(input_info(source.input, config.size, source.shape_for(config.shape)))
    exported, images = _export(config, source, say, progress)
    target = plan or exported.path.with_suffix(".engine")
    results: list[Verification] = []

    def judge(draft: Path) -> ParityInfo:
        exact = not config.fp16 and config.int8 is None
        result = verify(draft, source, images, exact=exact, max_ap_drop=config.max_ap_drop, progress=progress)
        if refusal := _refusal(result, config):
            raise GateRefused(f"the plan: {refusal}")
        results.append(result)
        return result.info

    # A plan without weights cannot be run.
    fresh = build_engine(exported.path, target, options, trt, gpu, say, None if options.strip else judge)
    done = f"TensorRT {trt.__version__}, {gpu.name}: " + ("built" if fresh else "up to date")
    judged = results[0] if results else None
    return Exported(target, read_contract(target), judged, exported.source, (*exported.steps, done))


def explain(config: ExportConfig, say: Say) -> list[str]:
    """What would be done, in ten lines; nothing is written."""
    source = _open_source(config, say)
    given = input_info(source.input, config.size, source.shape_for(config.shape))
    precision = f"int8 for {config.int8.target}" if config.int8 else "float16" if config.fp16 else "float32"
    return explained(source, given, source.resolve_nms(config.nms), precision, output_path(config))


def source_from_net(net: PoseNet) -> Source:
    """A network of ours."""

    def reference(nms: NmsInfo, shape_hw: tuple[int, int]) -> ReferenceEstimator:
        thresholds = (nms.score_threshold, nms.iou_threshold)
        return ReferenceEstimator(net, *thresholds, nms.max_people, shape_hw, max_candidates=nms.candidates)

    return Source(
        description=f"{net.config.name} ({net.source_format}), {net.skeleton.num_keypoints} keypoints",
        model=ModelInfo(name=net.config.name, family=net.config.family, classes=tuple(net.classes)),
        skeleton=net.skeleton,
        input=net.input,
        weights_sha256=net.weights_sha256,
        weights_licence=net.weights_licence,
        build=partial(onnx_from_net, net),
        reference=reference,
        nms_free=net.one_to_one,
    )


def _open_source(config: ExportConfig, say: Say) -> Source:
    if Path(config.weights).suffix.lower() == ".onnx":
        return source_from_onnx(Path(config.weights), config.layout, config.skeleton, say)
    if config.layout is not None:
        raise ValueError(f"--layout is for .onnx files of others, and --weights is {config.weights}")
    return source_from_net(yolopose.load(config.weights, skeleton=config.skeleton))


def _export(config: ExportConfig, source: Source, say: Say, progress: Progress) -> tuple[Exported, ImageSet]:
    target = output_path(config)
    _spare_others(target)
    config = replace(config, shape=source.shape_for(config.shape))
    given = input_info(source.input, config.size, config.shape)
    shares, images = _images(config, source.skeleton)
    output_folder(target.parent)
    say(f"{config.weights}: {source.description}")
    nms = source.resolve_nms(config.nms)
    if source.nms_free and (config.nms.candidates, config.nms.iou_threshold) != _USUAL:
        say("--candidates and --iou decide nothing here: each person comes once, and --max-people limits them")
    steps: list[str] = []

    def step(text: str) -> None:
        steps.append(text)
        say(text)

    model = _build(source, config, nms, step)
    precision, missed, found = PrecisionInfo(), "", None
    judged = [model]
    if config.fp16:
        islands, witness = _to_float16(model, images, given, step)
        judged = [model, witness]
        precision = PrecisionInfo("float16", "float16", "any", (*NEVER_REDUCED, *islands))
    elif config.int8 is not None and shares is not None:
        step(f"int8 for {config.int8.target}: {_shares_told(shares)}")
        journal = target.with_name(f".{target.stem[:200]}.search.json")
        model, found = to_int8(
            model, shares, given, source.skeleton, config.int8, config.max_ap_drop, journal, say, progress
        )
        kept, layers = kept_layers(found.plan), len(found.plan.body.layers)
        step(f"{layers - len(kept)} of {layers} layers int8, {len(kept)} kept float32")
        placement = "unverified" if config.int8.target == "tensorrt" else None
        precision = PrecisionInfo("int8", "int8", config.int8.target, (*NEVER_REDUCED, *kept), placement)
        judged = [model]
        missed = shortfall(found, config.max_ap_drop)
    contract = contract_of(source, graph_sha256(model), given, nms, precision)
    for graph in judged:
        result = _verified(target, source, graph, contract, images, config, progress)
        if result.info.verdict == "failed":
            break
    contract = replace(contract, parity=result.info)
    content = embed_contract(model, contract)
    if refusal := missed or _refusal(result, config):
        rejected = atomic_write(target.with_name(target.name + ".rejected"), content)
        if found is not None:
            write_sensitivity(target.with_suffix(".rejected.sensitivity.json"), found)
        raise GateRefused(f"{refusal}; the artifact is kept as {rejected}")
    if found is not None:
        write_sensitivity(target.with_suffix(".sensitivity.json"), found)
    atomic_write(target, content)
    return Exported(target, contract, result, images.description, tuple(steps)), images


def _spare_others(target: Path) -> None:
    """ValueError where the name is taken by somebody else's ONNX file, as beside a ``best.pt`` of Ultralytics."""
    if not target.is_file():
        return
    try:
        metadata = read_onnx(target).metadata
    except ArtifactError:
        return  # no whole ONNX file: a cut or damaged one of ours may be made anew
    if METADATA_KEY not in metadata:
        raise ValueError(f"{target} is there and not an artifact of yolopose: name another file with --output")


def _images(config: ExportConfig, skeleton: Skeleton) -> tuple[Shares | None, ImageSet]:
    """For int8 what each image is for; and the images that the artifact is judged by."""
    if config.int8 is None:
        return None, open_image_set(
            config.data, config.images, skeleton, LIMIT if config.limit is None else config.limit
        )
    every = open_image_set(config.data, config.images, skeleton, 0, scenes=INT8_SCENES)
    calibration = None
    if config.calibration is not None:
        calibration = open_image_set(None, config.calibration, skeleton, CALIBRATION)
    shares = share_out(every, calibration, config.int8.seed)
    return shares, shares.report.part(evenly(len(shares.report), config.limit or 0))


def _shares_told(shares: Shares) -> str:
    calibration, search, report = shares.calibration, shares.search, shares.report
    return (
        f"calibrated on {len(calibration)} of {calibration.description}, searched with {len(search)} and judged by "
        f"up to {len(report)} others of {report.description}"
    )


def _verified(
    target: Path,
    source: Source,
    model: onnx.ModelProto,
    contract: Contract,
    images: ImageSet,
    config: ExportConfig,
    progress: Progress,
) -> Verification:
    """Run it as an application would. What TensorRT would run computes the same in ONNX Runtime, only slower.

    model: what the artifact holds, or a graph that stands for it where this machine computes otherwise.
    """
    contract = replace(contract, provenance=replace(contract.provenance, graph_sha256=graph_sha256(model)))
    if contract.precision.target == "tensorrt":
        contract = replace(contract, precision=replace(contract.precision, target="any"))
    # Under its own name only after it has been run and compared; the runtime reads .onnx, so the draft ends so.
    draft = target.with_name(f".{target.stem[:200]}.{secrets.token_hex(4)}.draft.onnx")
    exact = not config.fp16 and config.int8 is None
    try:
        atomic_write(draft, embed_contract(model, contract))
        return verify(draft, source, images, exact=exact, max_ap_drop=config.max_ap_drop, progress=progress)
    finally:
        draft.unlink(missing_ok=True)


def _refusal(result: Verification, config: ExportConfig) -> str:
    """Why the artifact must not have the name that was asked for; empty where it may."""
    if result.info.verdict == "failed":
        return result.reason
    if result.info.verdict == "unverified" and config.int8 is not None and not config.allow_unverified:
        return f"int8 is not accepted unverified: {result.reason}; or accept it with --allow-unverified"
    return ""


def _build(source: Source, config: ExportConfig, nms: NmsInfo, step: Say) -> onnx.ModelProto:
    model = source.build(nms, config.shape)
    step(f"exported {len(model.graph.node)} nodes, opset {model.opset_import[0].version}")
    model, simplified = simplify(model)
    step(simplified)
    onnx.checker.check_model(model, full_check=True)
    return model


def _to_float16(
    model: onnx.ModelProto, images: ImageSet, given: InputInfo, step: Say
) -> tuple[list[str], onnx.ModelProto]:
    """Change ``model``; returns the nodes that stay float32 because their values are too large, and the graph that
    rounds as float16 hardware does."""
    some = images.part(evenly(len(images), RANGE_IMAGES))
    large = out_of_range(model, (frame for frame, _ in letterboxed(some, given)), rows=given.batch.min)
    witness = rounded_to_float16(model, large)
    kept = to_float16(model, large)
    step(f"float16 up to {len(kept)} prediction convolutions, which stay float32 with all behind them")
    if large:
        step(f"{len(large)} nodes stay float32, whose values reach {max(large.values()):.3g}: {', '.join(large)}")
    step("float16 is for GPUs: a CPU computes it in float32 all the same, with conversions, and is slower than without")
    onnx.checker.check_model(model, full_check=True)
    return list(large), witness
