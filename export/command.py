"""What ``yolopose-export --format engine`` takes besides, and where the plan goes.

``yolopose-export``: weights in, verified artifact out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolopose.runtime.backends.cuda import open_cuda
from yolopose.runtime.console import Console, parser, run
from yolopose.runtime.contract import (
    PLAN_SUFFIXES,
    TARGETS,
    InputInfo,
    NmsInfo,
    read_contract,
    skeleton_from_json,
)
from yolopose.runtime.errors import ArtifactError, BackendUnavailable, ContractMissing
from yolopose.runtime.output import output_folder

from .tensorrt_options import EngineConfig, profile_from_text, usual_profile

_FLAGS = (
    "profile",
    "workspace",
    "tactics",
    "level",
    "hardware_compatible",
    "version_compatible",
    "strip",
    "refit",
    "dla",
    "timing_cache",
)


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("for --format engine (docs/tensorrt.md)").add_argument
    add(
        "--profile",
        action="append",
        metavar="[NAME=]BATCH[@SIZE]",
        help="shapes that the plan takes, as 1:4:8@640 (least:best:largest); repeatable; default: the least batch at "
        "the best size",
    )
    add("--workspace", type=int, metavar="MIB", help="GPU memory that tactics may use (default: all)")
    add("--tactics", type=int, metavar="N", help="to time a layer at most (default: TensorRT's)")
    add("--level", type=int, metavar="0-5", help="of optimisation: higher builds longer (default: TensorRT's)")
    add("--hardware-compatible", action="store_true", help="one plan for all GPUs from Ampere on; slower")
    add("--version-compatible", action="store_true", help="for later TensorRT too, through tensorrt_lean; slower")
    add("--strip", action="store_true", help="a plan without weights, to be filled by --refit")
    add("--refit", type=Path, metavar="PLAN", help="fill this plan with the weights of an .onnx, build none")
    add("--dla", type=int, metavar="CORE", help="deep-learning accelerator of a Jetson; the GPU does what it cannot")
    add("--timing-cache", type=Path, metavar="FILE", help="what earlier builds measured; read, and written again")


def refuse_engine_flags(arguments: argparse.Namespace) -> None:
    """Raises ValueError where one of them is given without --format engine."""
    for name in _FLAGS:
        if getattr(arguments, name) not in (None, False):
            raise ValueError(f"--{name.replace('_', '-')} belongs to --format engine")


def engine_config(arguments: argparse.Namespace, given: InputInfo) -> EngineConfig:
    """What the flags ask, for an artifact that takes ``given``. Raises ValueError."""
    profiles = tuple(profile_from_text(text, given) for text in arguments.profile or ())
    return EngineConfig(
        profiles or (usual_profile(given),),
        workspace_mib=arguments.workspace,
        tactics=arguments.tactics,
        level=arguments.level,
        hardware_compatible=arguments.hardware_compatible,
        version_compatible=arguments.version_compatible,
        strip=arguments.strip,
        dla=arguments.dla,
        timing_cache=arguments.timing_cache,
    )


def plan_path(artifact: Path, output: Path | None) -> Path:
    """``--output`` as a file or folder, else beside the artifact. Raises ValueError for a file of another kind."""
    name = f"{artifact.stem}.engine"
    if output is None:
        return artifact.with_name(name)
    if output.suffix in PLAN_SUFFIXES:
        return output
    if output.suffix and not output.is_dir():
        raise ValueError(f"--output {output} must end in {' or '.join(PLAN_SUFFIXES)}, or be a folder")
    return output / name


def artifact_path(output: Path | None) -> Path | None:
    """``--output`` of the .onnx that a plan at ``output`` is built from: under its usual name, in the same folder."""
    return output.parent if output is not None and output.suffix in PLAN_SUFFIXES else output


if TYPE_CHECKING:
    from .int8.quantize import Target
    from .pipeline import ExportConfig, Exported

PROG = "yolopose-export"
_COMPARE = "the plan was not compared with its network; yolopose-bench {} --reference CHECKPOINT does"


def _parser() -> argparse.ArgumentParser:
    made = parser(
        PROG, "Turn weights into one ONNX file with pre-processing, decode and NMS inside, verified against PyTorch."
    )
    add = made.add_argument
    add(
        "--weights",
        required=True,
        metavar="FILE|demo",
        help="a checkpoint (docs/weights.md), the demo network, or a pose network that others exported as .onnx; "
        "for engines also an .onnx of ours",
    )
    add("--explain", action="store_true", help="say what the file is and what would be made of it, and make nothing")
    add("--layout", metavar="NAME", help="what the outputs of an .onnx of others mean, where it is not recognised")
    add(
        "--skeleton",
        type=Path,
        metavar="JSON",
        help="what the keypoints mean, where the file does not say",
    )
    add("--output", type=Path, metavar="PATH", help="file, or folder; default: beside the weights")
    add("--format", choices=("onnx", "engine"), default="onnx", help="engine: a TensorRT plan for the GPU here")
    add("--fp16", action="store_true", help="float16 up to the prediction convolutions, float32 from there on")
    add("--int8", action="store_true", help="8-bit integers up to the prediction convolutions, for one engine")
    add(
        "--target",
        choices=[target for target in TARGETS if target != "any"],
        help="engine that --int8 is for (default: cpu, ONNX Runtime on x86; with --format engine tensorrt)",
    )
    add(
        "--imgsz",
        type=int,
        nargs="+",
        metavar="N",
        help="one number: best square size of a dynamic file; two (H W): fixed",
    )
    add("--batch", default="dynamic", metavar="dynamic|N", help="batch size: decided at run time, or fixed")
    add(
        "--data",
        metavar="LABELS",
        help="COCO keypoint JSON, LABELS.json:FOLDER or data.yaml: keypoint AP before and after",
    )
    add(
        "--images",
        type=Path,
        metavar="DIR",
        help="photographs to verify on, or those of --data; default: synthetic scenes",
    )
    add(
        "--limit",
        type=int,
        metavar="N",
        help="verify on at most N images, evenly spread; 0: all (default: 64; all that --int8 does not use otherwise)",
    )
    add("--max-ap-drop", type=float, default=0.5, metavar="POINTS", help="keypoint AP that may be lost, of 100")
    add("--calibration", type=Path, metavar="DIR", help="photographs to calibrate --int8 on; default: some of --images")
    add("--search-minutes", type=float, metavar="N", help="to rank layers and search which stay float32 (default: 10)")
    add("--allow-unverified", action="store_true", help="accept int8 though the images cannot tell what it loses")
    defaults = NmsInfo()
    add("--score", type=float, default=defaults.score_threshold, help="default score threshold inside the file")
    add("--iou", type=float, default=defaults.iou_threshold, help="default IoU threshold inside the file")
    add("--max-people", type=int, default=defaults.max_people, metavar="M", help="rows of the output")
    add("--candidates", type=int, default=defaults.candidates, metavar="C", help="anchors that enter suppression")
    add("--rounds", type=int, default=defaults.rounds, metavar="R", help="rounds of suppression")
    add_engine_flags(made)
    return made


def _config(arguments: argparse.Namespace) -> ExportConfig:
    from .int8.quantize import Int8Config
    from .onnx_export import ShapeConfig
    from .pipeline import ExportConfig

    if arguments.int8 and arguments.fp16:
        raise ValueError("--int8 and --fp16 exclude each other: a file has one precision")
    if not arguments.int8:
        for flag in ("target", "calibration", "allow_unverified", "search_minutes"):
            if getattr(arguments, flag) not in (None, False):
                raise ValueError(f"--{flag.replace('_', '-')} belongs to --int8")
    target: Target = arguments.target or ("tensorrt" if arguments.format == "engine" else "cpu")
    if arguments.format == "engine" and target != "tensorrt":
        raise ValueError(f"--format engine is TensorRT, and --target {target} is not")
    if arguments.limit is not None and arguments.limit < 0:
        raise ValueError(f"--limit must be 0 (all) or more, got {arguments.limit}")
    if not arguments.max_ap_drop >= 0:
        raise ValueError(f"--max-ap-drop must be 0 or more points, got {arguments.max_ap_drop}")
    minutes = 10.0 if arguments.search_minutes is None else arguments.search_minutes
    if not minutes >= 0:
        raise ValueError(f"--search-minutes must be 0 or more, got {minutes}")
    int8 = None
    if arguments.int8:
        int8 = Int8Config(target, minutes)
    size, shape_hw = _size(arguments.imgsz)
    batch = None
    if arguments.batch != "dynamic":
        if not arguments.batch.isdecimal() or int(arguments.batch) < 1:
            raise ValueError(f"--batch must be 'dynamic' or a number from 1, got {arguments.batch!r}")
        batch = int(arguments.batch)
    return ExportConfig(
        weights=arguments.weights,
        layout=arguments.layout,
        skeleton=None if arguments.skeleton is None else skeleton_from_json(arguments.skeleton),
        output=artifact_path(arguments.output) if arguments.format == "engine" else arguments.output,
        fp16=arguments.fp16,
        int8=int8,
        size=size,
        shape=ShapeConfig(shape_hw, batch),
        nms=NmsInfo(
            candidates=arguments.candidates,
            rounds=arguments.rounds,
            max_people=arguments.max_people,
            score_threshold=arguments.score,
            iou_threshold=arguments.iou,
        ),
        data=arguments.data,
        images=arguments.images,
        calibration=arguments.calibration,
        limit=arguments.limit,
        max_ap_drop=arguments.max_ap_drop,
        allow_unverified=arguments.allow_unverified,
    )


def _size(imgsz: Sequence[int] | None) -> tuple[int | None, tuple[int, int] | None]:
    if imgsz is None:
        return None, None
    if len(imgsz) == 1:
        return imgsz[0], None
    if len(imgsz) == 2:
        return None, (imgsz[0], imgsz[1])
    raise ValueError(f"--imgsz takes one number or two (H W), got {len(imgsz)}")


def _document(exported: Exported) -> dict[str, Any]:
    result = exported.verification
    whole = {
        "artifact": str(exported.path),
        "verdict": exported.contract.parity.verdict if exported.contract.parity else None,
        "steps": list(exported.steps),
        "contract": exported.contract.to_dict(),
    }
    if result is None:
        return whole
    return whole | {
        "reason": result.reason,
        "verified_on": exported.source,
        "score_threshold": result.score_threshold,
        "comparison": result.report.to_dict(),
    }


def _text(exported: Exported) -> str:
    first = f"{exported.path} ({exported.path.stat().st_size / 2**20:.1f} MiB)"
    if exported.verification is None:
        known = exported.contract.parity
        verdict = known.verdict if known else "unverified"
        return f"{first}\n{verdict}: {_COMPARE.format(exported.path) if verdict == 'unverified' else 'as it was'}"
    report, info = exported.verification.report, exported.verification.info
    lines = [first, f"{info.verdict}: {exported.verification.reason}"]
    if report.max_px is not None:
        lines.append(
            f"{report.images} images ({exported.source}): {report.matched} of {report.people} people matched, "
            f"{report.missing} missing, {report.extra} extra, {report.borderline} at a threshold; "
            f"largest deviation {report.max_px:.2g} px, mean {report.mean_px:.2g} px, "
            f"score {report.max_score_deviation:.2g}, mean OKS {report.mean_oks:.5f}"
        )
    if exported.verification.score_threshold < exported.contract.nms.score_threshold:
        lines.append(
            f"compared at score {exported.verification.score_threshold:.3g}, where this network finds candidates"
        )
    if (ap := exported.verification.ap) is not None:
        if ap.in_points() not in exported.verification.reason:
            lines.append(f"keypoint AP {ap.in_points()}")
        lines.append(f"image that loses most to the labels: {info.worst_image or 'none'}")
    if exported.contract.provenance.weights_licence:
        lines.append(f"licence of the weights: {exported.contract.provenance.weights_licence}")
    return "\n".join(lines)


def _main(arguments: argparse.Namespace, console: Console) -> None:
    if arguments.format != "engine":
        refuse_engine_flags(arguments)
    elif _is_artifact(arguments.weights):
        return _engine_of_artifact(arguments, console)
    elif arguments.refit is not None:
        raise ValueError(f"--refit takes the weights of an .onnx of ours, and --weights is {arguments.weights}")
    for module in ("torch", "onnx", "onnxscript", "onnxruntime"):
        if find_spec(module) is None:
            raise BackendUnavailable(f'exporting needs {module}: pip install "yolopose[export,cpu]"')
    if arguments.target == "openvino" and find_spec("openvino") is None:
        raise BackendUnavailable('int8 for OpenVINO is judged by running it: pip install "yolopose[openvino]"')
    config = _config(arguments)
    from .pipeline import explain, export_artifact, export_engine

    if arguments.explain:
        lines = explain(config, console.say)
        return console.result({"explanation": lines}, "\n".join(lines))
    if arguments.format == "engine":
        plan = None if arguments.output is None or config.output == arguments.output else arguments.output
        engine = partial(engine_config, arguments)
        exported = export_engine(config, plan, engine, console.say, console.progress)
    else:
        exported = export_artifact(config, console.say, console.progress)
    console.result(_document(exported), _text(exported))


def _is_artifact(weights: str) -> bool:
    """An .onnx of ours, by what it carries; one that cannot be read is said to be so by whoever reads it next."""
    if Path(weights).suffix.lower() != ".onnx":
        return False
    try:
        read_contract(weights)
    except ContractMissing:
        return False
    except ArtifactError:
        return True
    return True


def _engine_of_artifact(arguments: argparse.Namespace, console: Console) -> None:
    """From an .onnx of ours, where there is neither PyTorch nor onnx: on a Jetson."""
    from .tensorrt import build_engine, import_tensorrt, refit_engine

    artifact = Path(arguments.weights)
    for flag in ("explain", "fp16", "int8", "layout", "imgsz", "data", "images"):
        if getattr(arguments, flag) not in (None, False):
            raise ValueError(f"--{flag} is for weights: {artifact} is an artifact already, and a plan is what it is")
    contract = read_contract(artifact)
    config = engine_config(arguments, contract.input)
    plan = plan_path(artifact, arguments.output)
    trt, cuda = import_tensorrt(), open_cuda()
    output_folder(plan.parent)
    if arguments.refit is None:
        fresh = build_engine(artifact, plan, config, trt, cuda.gpu, console.say)
    else:
        refit_engine(arguments.refit, artifact, plan, trt, cuda)
        fresh = True
    contract = read_contract(plan)
    document = {"artifact": str(plan), "built": fresh, "verdict": None, "contract": contract.to_dict()}
    if contract.parity is not None:
        document["verdict"] = contract.parity.verdict
    text = f"{plan} ({plan.stat().st_size / 2**20:.1f} MiB)\n{document['verdict']}: {_COMPARE.format(plan)}"
    console.result(document, text if document["verdict"] == "unverified" else text.splitlines()[0])


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, _parser(), argv)
