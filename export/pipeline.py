"""An export from weights to a verified artifact: load, build, reduce precision, verify, write.

``export_artifact`` is the whole of it; the steps follow in order. ``export_plan`` adds a TensorRT plan, ``explain``
describes an export without making it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

import yolopose
from yolopose.data.image_set import ImageSet, open_image_set
from yolopose.runtime.artifact_file import read_onnx
from yolopose.runtime.backends.cuda import open_cuda
from yolopose.runtime.console import usage_errors
from yolopose.runtime.contract import (
    METADATA_KEY,
    Contract,
    InputInfo,
    NmsInfo,
    ParityInfo,
    PoseInfo,
    PrecisionInfo,
    Provenance,
    read_contract,
)
from yolopose.runtime.errors import ArtifactError, GateRefused, UsageError
from yolopose.runtime.images import evenly
from yolopose.runtime.machine import installed_versions
from yolopose.runtime.output import atomic_write, output_folder
from yolopose.runtime.skeleton import Skeleton

from .config import LIMIT, ExportConfig, Limits, ShapeConfig, output_path
from .graph import embed_contract, graph_sha256, letterboxed, simplify
from .int8.build import CALIBRATION, Shares, kept_layers, share_out, to_int8, write_sensitivity
from .int8.search import SearchResult, shortfall
from .onnx_import.source import source_from_onnx
from .precision import float16_emulation, out_of_range, to_float16
from .source import Source, input_info, source_from_net
from .tensorrt import build_engine, import_tensorrt
from .tensorrt_options import EngineConfig
from .verify import Progress, Verification, verify

RANGE_IMAGES = 16  # to measure which values exceed the range of float16
INT8_SCENES = 2 * CALIBRATION + 64  # synthetic scenes for int8, where no photographs are given
ALWAYS_FLOAT32 = ("prediction convolutions", "decode", "nms")
TOOLS = ("yolopose", "torch", "onnx", "onnxscript", "onnxsim")  # versions that the contract records

Say = Callable[[str], None]


@dataclass
class Export:
    """One export in progress: ``load`` makes it, each later step adds its result.

    target           path of the artifact
    shape, input     fixed dimensions, and the sizes that the artifact accepts
    images           images to verify the artifact on
    shares           with int8: images to calibrate on, to search with and to report on
    model            from ``build`` on: the graph of the artifact
    precision        from ``reduce_precision`` on, with the two next ones
    fp16_emulation   with fp16: a graph that rounds as float16 hardware does, see ``precision.float16_emulation``
    search           with int8: the layers that stay float32, and how they were chosen
    steps            one sentence per step, for the report
    """

    config: ExportConfig
    say: Say
    progress: Progress
    source: Source
    target: Path
    shape: ShapeConfig
    input: InputInfo
    nms: NmsInfo
    pose: PoseInfo
    images: ImageSet
    shares: Shares | None
    model: onnx.ModelProto = field(default_factory=onnx.ModelProto)
    precision: PrecisionInfo = field(default_factory=PrecisionInfo)
    fp16_emulation: onnx.ModelProto | None = None
    search: SearchResult | None = None
    steps: list[str] = field(default_factory=list)

    def step(self, sentence: str) -> None:
        """Report what was done."""
        self.steps.append(sentence)
        self.say(sentence)

    def contract(self, graph: onnx.ModelProto) -> Contract:
        """The contract of ``graph``, without parity."""
        versions = installed_versions()
        return Contract(
            model=self.source.model,
            skeleton=self.source.skeleton,
            input=self.input,
            nms=self.nms,
            pose=self.pose,
            precision=self.precision,
            provenance=Provenance(
                graph_sha256=graph_sha256(graph),
                weights_sha256=self.source.weights_sha256,
                versions={name: versions[name] for name in TOOLS if name in versions},
                weights_licence=self.source.weights_license,
            ),
        )


@dataclass(frozen=True)
class Exported:
    """A written artifact or plan.

    verification   None: this run compared nothing, and the contract says what is known
    verified_on    description of the images
    """

    path: Path
    contract: Contract
    verification: Verification | None
    verified_on: str
    steps: tuple[str, ...]


def export_artifact(config: ExportConfig, say: Say, progress: Progress) -> Exported:
    """Export ``config.weights``. Raises GateRefused if the artifact fails verification; it is kept as ``.rejected``."""
    export = load(config, say, progress)
    build(export)
    reduce_precision(export)
    verification = verify_export(export)
    return write(export, verification)


# load: the source of the weights, the target, the images


def load(config: ExportConfig, say: Say, progress: Progress) -> Export:
    """Open the weights and the images, and resolve what the configuration leaves open. Writes nothing.

    Raises UsageError for options that do not fit the weights or each other, CheckpointError, DataError, SourceError.
    """
    target = output_path(config)
    source = open_source(config, say)
    _check_overwrite(target)
    shape = source.resolve_shape(config.shape)
    given = input_info(source.input, config.size, shape)
    pose = source.resolve_pose(config.keypoints, config.keypoint_spread)
    shares, images = _open_images(config, source.skeleton)
    say(f"{config.weights}: {source.description}")
    defaults = (NmsInfo.candidates, NmsInfo.iou_threshold)
    if source.nms_free and (config.nms.candidates, config.nms.iou_threshold) != defaults:
        say("--candidates and --iou have no effect: this network gives each person once, --max-people limits them")
    return Export(
        config=config,
        say=say,
        progress=progress,
        source=source,
        target=target,
        shape=shape,
        input=given,
        nms=source.resolve_nms(config.nms),
        pose=pose,
        images=images,
        shares=shares,
    )


def open_source(config: ExportConfig, say: Say) -> Source:
    """A third-party ONNX file, or any checkpoint that ``yolopose.load`` reads."""
    if config.weights_are_onnx:
        return source_from_onnx(Path(config.weights), config.layout, config.skeleton, say)
    if config.layout is not None:
        raise UsageError(f"--layout is for third-party .onnx files, and --weights is {config.weights}")
    if config.skeleton is None:
        return source_from_net(yolopose.load(config.weights))
    with usage_errors():  # a skeleton with another number of keypoints
        return source_from_net(yolopose.load(config.weights, skeleton=config.skeleton))


def _check_overwrite(target: Path) -> None:
    """Raise UsageError if ``target`` is a third-party ONNX file, as Ultralytics writes ``best.onnx`` beside best.pt."""
    if not target.is_file():
        return
    try:
        metadata = read_onnx(target).metadata
    except ArtifactError:
        return  # a truncated or damaged file may be replaced
    if METADATA_KEY not in metadata:
        raise UsageError(f"{target} exists and was not exported by yolopose: choose another file with --output")


def _open_images(config: ExportConfig, skeleton: Skeleton) -> tuple[Shares | None, ImageSet]:
    """For int8 the images for each purpose; and the images to verify on."""
    if config.int8 is None:
        limit = LIMIT if config.limit is None else config.limit
        return None, open_image_set(config.data, config.images, skeleton, limit)
    every = open_image_set(config.data, config.images, skeleton, 0, scenes=INT8_SCENES)
    calibration = None
    if config.calibration is not None:
        calibration = open_image_set(None, config.calibration, skeleton, CALIBRATION)
    with usage_errors():  # too few images, or the same for two purposes
        shares = share_out(every, calibration, config.int8.seed)
    return shares, shares.report.part(evenly(len(shares.report), config.limit or 0))


# build: the float32 graph


def build(export: Export) -> None:
    """The deployed float32 graph, simplified and checked. Raises OutputError before minutes of work."""
    output_folder(export.target.parent)
    model = export.source.build(export.nms, export.shape, export.pose)
    export.step(f"exported {len(model.graph.node)} nodes, opset {model.opset_import[0].version}")
    export.model, sentence = simplify(model)
    export.step(sentence)
    onnx.checker.check_model(export.model, full_check=True)


# reduce precision: float16 or int8 up to the prediction convolutions


def reduce_precision(export: Export) -> None:
    """Apply ``--fp16`` or ``--int8`` to the graph."""
    if export.config.fp16:
        _to_float16(export)
    elif export.config.int8 is not None:
        _to_int8(export)


def _to_float16(export: Export) -> None:
    some = export.images.part(evenly(len(export.images), RANGE_IMAGES))
    frames = (frame for frame, _ in letterboxed(some, export.input))
    float32_nodes = out_of_range(export.model, frames, rows=export.input.batch.min)
    export.fp16_emulation = float16_emulation(export.model, float32_nodes)
    predictions = to_float16(export.model, float32_nodes)
    export.precision = PrecisionInfo("float16", "float16", "any", (*ALWAYS_FLOAT32, *float32_nodes))
    export.step(f"float16 up to {len(predictions)} prediction convolutions, which stay float32 with all behind them")
    if float32_nodes:
        largest = max(float32_nodes.values())
        export.step(
            f"{len(float32_nodes)} nodes stay float32, their values reach {largest:.3g}: {', '.join(float32_nodes)}"
        )
    export.step("float16 is for GPUs: a CPU computes it in float32 with conversions, slower than the float32 file")
    onnx.checker.check_model(export.model, full_check=True)


def _to_int8(export: Export) -> None:
    config, shares = export.config.int8, export.shares
    assert config is not None
    assert shares is not None
    export.step(
        f"int8 for {config.target}: calibrated on {len(shares.calibration)} of {shares.calibration.description}, "
        f"searched with {len(shares.search)} and judged by up to {len(shares.report)} others of "
        f"{shares.report.description}"
    )
    export.model, export.search = to_int8(
        export.model,
        shares,
        export.input,
        export.source.skeleton,
        config,
        _limits(export.config).max_ap_drop,
        export.target.with_name(f".{export.target.stem[:200]}.search.json"),
        export.say,
        export.progress,
    )
    kept, layers = kept_layers(export.search.plan), len(export.search.plan.body.layers)
    placement = "unverified" if config.target == "tensorrt" else None
    export.precision = PrecisionInfo("int8", "int8", config.target, (*ALWAYS_FLOAT32, *kept), placement)
    export.step(f"{layers - len(kept)} of {layers} layers int8, {len(kept)} kept float32")


# verify: the same people as the reference


def verify_export(export: Export) -> Verification:
    """Compare the artifact with the reference. fp16 must also pass as emulated, as GPUs compute it."""
    verification = _verify_graph(export, export.model)
    if export.fp16_emulation is not None and verification.info.verdict != "failed":
        verification = _verify_graph(export, export.fp16_emulation)
    return verification


def _verify_graph(export: Export, graph: onnx.ModelProto) -> Verification:
    """Run ``graph`` from a temporary file, as an application would. The file gets its name only after verification."""
    contract = export.contract(graph)
    if contract.precision.target == "tensorrt":  # ONNX Runtime computes the same, only slower
        contract = replace(contract, precision=replace(contract.precision, target="any"))
    draft = export.target.with_name(f".{export.target.stem[:200]}.{secrets.token_hex(4)}.draft.onnx")
    try:
        atomic_write(draft, embed_contract(graph, contract))
        return _verify_file(export, draft)
    finally:
        draft.unlink(missing_ok=True)


def _verify_file(export: Export, file: Path) -> Verification:
    config = export.config
    return verify(
        file,
        export.source,
        export.images,
        limits=config.gate,
        progress=export.progress,
    )


def _limits(config: ExportConfig) -> Limits:
    limits = config.gate
    assert limits is not None  # only float32 has none
    return limits


def _refusal(verification: Verification, config: ExportConfig) -> str:
    """Why the gate refuses the artifact; empty if it accepts it."""
    if verification.info.verdict == "failed":
        return verification.reason
    if verification.info.verdict == "unverified" and config.int8 is not None and not config.allow_unverified:
        return f"int8 is not accepted unverified: {verification.reason}; accept it with --allow-unverified"
    return ""


# write: the artifact with its contract, or the rejected file


def write(export: Export, verification: Verification) -> Exported:
    """Write the artifact. Raises GateRefused after writing it as ``<name>.rejected``; an older artifact stays."""
    config, target, search = export.config, export.target, export.search
    contract = replace(export.contract(export.model), parity=verification.info)
    refusal = (shortfall(search, _limits(config).max_ap_drop) if search else "") or _refusal(verification, config)
    suffix = ".rejected" if refusal else ""
    if search is not None:
        write_sensitivity(target.with_suffix(f"{suffix}.sensitivity.json"), search)
    path = atomic_write(target.with_name(target.name + suffix), embed_contract(export.model, contract))
    if refusal:
        raise GateRefused(f"{refusal}; the artifact is kept as {path}")
    return Exported(path, contract, verification, export.images.description, tuple(export.steps))


# A TensorRT plan from the artifact, and the explanation of an export


def export_plan(
    config: ExportConfig,
    plan: Path | None,
    plan_config: Callable[[InputInfo], EngineConfig],
    say: Say,
    progress: Progress,
) -> Exported:
    """Export the artifact, build a TensorRT plan from it, and verify the plan like an artifact.

    plan          path of the plan; None: beside the artifact
    plan_config   options of the plan for the sizes that the artifact accepts

    Raises what ``export_artifact`` and ``build_engine`` raise, and BackendUnavailable without TensorRT or GPU before
    anything is exported.
    """
    trt, gpu = import_tensorrt(), open_cuda().gpu
    export = load(config, say, progress)
    options = plan_config(export.input)
    build(export)
    reduce_precision(export)
    artifact = write(export, verify_export(export))
    target = plan or artifact.path.with_suffix(".engine")
    results: list[Verification] = []

    def judge(draft: Path) -> ParityInfo:
        verification = _verify_file(export, draft)
        if refusal := _refusal(verification, config):
            raise GateRefused(f"the plan: {refusal}")
        results.append(verification)
        return verification.info

    # A plan without weights cannot be run, so it is not verified.
    built = build_engine(artifact.path, target, options, trt, gpu, say, None if options.strip else judge)
    done = f"TensorRT {trt.__version__}, {gpu.name}: " + ("built" if built else "up to date")
    verification = results[0] if results else None
    return Exported(target, read_contract(target), verification, artifact.verified_on, (*artifact.steps, done))


def explain(config: ExportConfig, say: Say) -> dict[str, Any]:
    """What the weights are and what an export would make of them, as JSON values. Writes nothing."""
    source = open_source(config, say)
    given = input_info(source.input, config.size, source.resolve_shape(config.shape))
    nms, spec = source.resolve_nms(config.nms), source.input
    pose = source.resolve_pose(config.keypoints, config.keypoint_spread)
    return {
        "weights": config.weights,
        "format": source.format,
        "third_party": source.third_party,
        "name": source.model.name,
        "family": source.model.family,
        "classes": list(source.model.classes),
        "keypoints": source.skeleton.num_keypoints,
        "skeleton": source.skeleton.name,
        "network_input": {
            "channel_order": spec.channel_order,
            "scale": spec.scale,
            "pad_value": spec.pad_value,
            "pad_side": spec.pad_side,
        },
        "input": {"height": asdict(given.height), "width": asdict(given.width), "batch": asdict(given.batch)},
        "nms": {
            "suppression": source.suppression,
            "candidates": nms.candidates,
            "rounds": None if source.nms_free else nms.rounds,
            "max_people": nms.max_people,
            "class_aware": nms.class_aware,
            "score_threshold": nms.score_threshold,
            "iou_threshold": nms.iou_threshold,
        },
        "keypoint_source": asdict(pose),
        "precision": config.precision,
        "reference": source.reference_name,
        "output": str(output_path(config)),
        "weights_license": source.weights_license,
    }
