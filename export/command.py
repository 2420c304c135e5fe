"""``yolopose-export``: weights in, verified artifact out.

Defaults come from the dataclasses in config.py, ``NmsInfo`` and ``EngineConfig``. What needs torch or onnx is imported
only to export, so that ``--help`` is fast and a plan is built from an artifact where neither is installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolopose.runtime.backends.cuda import open_cuda
from yolopose.runtime.console import Console, parser, run, usage_errors
from yolopose.runtime.contract import KEYPOINTS, PLAN_SUFFIXES, InputInfo, NmsInfo, read_contract, skeleton_from_json
from yolopose.runtime.errors import ArtifactError, BackendUnavailable, ContractMissing, UsageError
from yolopose.runtime.output import output_folder

from .config import LIMIT, TARGETS, ExportConfig, Int8Config, Limits, ShapeConfig, Target, plan_path
from .tensorrt import build_engine, import_tensorrt, refit_engine
from .tensorrt_options import EngineConfig, profile_from_text, usual_profile

if TYPE_CHECKING:
    from .pipeline import Exported

PROG = "yolopose-export"
_NOT_COMPARED = "the plan was not compared with its network; yolopose-bench {} --reference CHECKPOINT does"

# Flag -> keyword arguments of add_argument, for options that belong to --int8 or --format engine alone.
_INT8_OPTIONS: dict[str, dict[str, Any]] = {
    "--target": {
        "choices": TARGETS,
        "help": "backend that --int8 is for (default: cpu, ONNX Runtime on x86; with --format engine tensorrt)",
    },
    "--calibration": {
        "type": Path,
        "metavar": "DIR",
        "help": "images to calibrate --int8 on; default: some of --images",
    },
    "--search-minutes": {
        "type": float,
        "metavar": "N",
        "help": f"time to rank layers and search which stay float32 (default: {Int8Config.search_minutes:g})",
    },
    "--allow-unverified": {
        "action": "store_true",
        "help": "accept int8 although the images are too few to tell what it loses",
    },
}
_PLAN_OPTIONS: dict[str, dict[str, Any]] = {
    "--profile": {
        "action": "append",
        "metavar": "[NAME=]BATCH[@SIZE]",
        "help": "shapes that the plan accepts, such as 1:4:8@640 (min:opt:max); repeatable; default: the smallest "
        "batch at the default size",
    },
    "--workspace": {
        "dest": "workspace_mib",
        "type": int,
        "metavar": "MIB",
        "help": "GPU memory that tactics may use (default: all)",
    },
    "--tactics": {"type": int, "metavar": "N", "help": "max tactics timed per layer (default: TensorRT's)"},
    "--level": {"type": int, "metavar": "0-5", "help": "optimization level (default: TensorRT's)"},
    "--hardware-compatible": {"action": "store_true", "help": "one plan for all GPUs from Ampere on; slower"},
    "--version-compatible": {
        "action": "store_true",
        "help": "plan for later TensorRT versions too, through tensorrt_lean; slower",
    },
    "--strip": {"action": "store_true", "help": "plan without weights, to be filled by --refit"},
    "--refit": {"type": Path, "metavar": "PLAN", "help": "fill this plan with the weights of an .onnx; builds nothing"},
    "--dla": {
        "type": int,
        "metavar": "CORE",
        "help": "deep-learning accelerator of a Jetson; the GPU runs what it does not support",
    },
    "--timing-cache": {"type": Path, "metavar": "FILE", "help": "timings of earlier builds; read and updated"},
}


def build_parser() -> argparse.ArgumentParser:
    made = parser(
        PROG,
        "Convert weights to one ONNX file with pre-processing, decode and NMS inside, verified against PyTorch.",
    )
    add = made.add_argument
    add(
        "--weights",
        required=True,
        metavar="FILE|demo",
        help="a checkpoint (docs/weights.md), the demo network, or a third-party .onnx of a pose network "
        "(docs/import.md); with --format engine also an .onnx exported by yolopose",
    )
    add("--output", type=Path, metavar="PATH", help="file, or folder; default: beside the weights")
    add("--explain", action="store_true", help="describe the weights and what would be exported; write nothing")
    add("--layout", metavar="NAME", help="meaning of the outputs of a third-party .onnx, where it is not recognized")
    add("--skeleton", type=Path, metavar="JSON", help="meaning of the keypoints, where the file does not say")
    add("--format", choices=("onnx", "engine"), default="onnx", help="engine: a TensorRT plan for this GPU")
    add("--fp16", action="store_true", help="float16 up to the prediction convolutions, float32 behind them")
    add("--int8", action="store_true", help="8-bit integers up to the prediction convolutions, for one backend")

    add = made.add_argument_group("shape").add_argument
    add(
        "--imgsz",
        type=int,
        nargs="+",
        metavar="N",
        help="one number: default square size of a dynamic file; two (H W): fixed size",
    )
    add("--batch", type=_batch, default="dynamic", metavar="dynamic|N", help="batch size: chosen at run time, or fixed")

    add = made.add_argument_group("verification (docs/export.md)").add_argument
    add(
        "--data",
        metavar="LABELS",
        help="COCO keypoint JSON, LABELS.json:FOLDER or data.yaml: adds keypoint AP before and after",
    )
    add(
        "--images",
        type=Path,
        metavar="DIR",
        help="images to verify on, or those of --data; default: those beside the labels, else synthetic scenes",
    )
    add(
        "--limit",
        type=int,
        metavar="N",
        help="verify on at most N images, evenly spread; 0: all (default: "
        f"{LIMIT}; with --int8 all that it does not use itself)",
    )
    add(
        "--max-ap-drop",
        type=float,
        default=Limits.max_ap_drop,
        metavar="POINTS",
        help="fp16, int8: allowed loss of keypoint AP, in points of 100",
    )
    add(
        "--max-changed",
        type=float,
        default=Limits.max_changed,
        metavar="PERCENT",
        help="fp16, int8: allowed share of lost and invented people",
    )
    add("--min-oks", type=float, metavar="OKS", help="mean OKS that people must keep (default: fp16 0.99, int8 0.96)")

    add = made.add_argument_group("people (docs/deploy.md)").add_argument
    add("--score", type=float, default=NmsInfo.score_threshold, help="default score threshold in the file")
    add("--iou", type=float, default=NmsInfo.iou_threshold, help="default IoU threshold in the file")
    add("--max-people", type=int, default=NmsInfo.max_people, metavar="M", help="rows of the output")
    add("--keypoints", choices=KEYPOINTS, help="consensus: mean of all candidates of a person (default: by network)")
    add("--keypoint-spread", action="store_true", help="also write how far these candidates disagree, in pixels")
    add("--candidates", type=int, default=NmsInfo.candidates, metavar="C", help="anchors that enter suppression")
    add("--rounds", type=int, default=NmsInfo.rounds, metavar="R", help="rounds of suppression")

    for title, options in (("--int8 (docs/int8.md)", _INT8_OPTIONS), ("--format engine", _PLAN_OPTIONS)):
        group = made.add_argument_group(f"only with {title}")
        for flag, keywords in options.items():
            group.add_argument(flag, **keywords)
    return made


def _batch(text: str) -> int | None:
    """None for "dynamic"."""
    if text == "dynamic":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 'dynamic' or a number from 1, got {text!r}")
    return int(text)


def _refuse(arguments: argparse.Namespace, options: Mapping[str, Mapping[str, Any]], needed: str) -> None:
    """Raise UsageError if one of ``options`` is given without the flag that it belongs to."""
    for flag, keywords in options.items():
        if getattr(arguments, keywords.get("dest", _dest(flag))) not in (None, False):
            raise UsageError(f"{flag} belongs to {needed}")


def _dest(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def export_config(arguments: argparse.Namespace) -> ExportConfig:
    """Raises ValueError naming the flag, DataError for a damaged skeleton."""
    if not arguments.int8:
        _refuse(arguments, _INT8_OPTIONS, "--int8")
    for_plan = arguments.format == "engine"
    target: Target = arguments.target or ("tensorrt" if for_plan else "cpu")
    if for_plan and target != "tensorrt":
        raise UsageError(f"--format engine is TensorRT, and --target {target} is not")
    int8 = None
    if arguments.int8:
        minutes = arguments.search_minutes
        int8 = Int8Config(target) if minutes is None else Int8Config(target, minutes)
    imgsz: Sequence[int] = arguments.imgsz or ()
    if len(imgsz) > 2:
        raise UsageError(f"--imgsz takes one number or two (H W), got {len(imgsz)}")
    output = arguments.output
    if for_plan and _is_plan(output):  # the .onnx that it is built from lies beside it, under its usual name
        output = output.parent
    return ExportConfig(
        weights=arguments.weights,
        skeleton=None if arguments.skeleton is None else skeleton_from_json(arguments.skeleton),
        layout=arguments.layout,
        output=output,
        fp16=arguments.fp16,
        int8=int8,
        size=imgsz[0] if len(imgsz) == 1 else None,
        shape=ShapeConfig((imgsz[0], imgsz[1]) if len(imgsz) == 2 else None, arguments.batch),
        nms=NmsInfo(
            candidates=arguments.candidates,
            rounds=arguments.rounds,
            max_people=arguments.max_people,
            score_threshold=arguments.score,
            iou_threshold=arguments.iou,
        ),
        keypoints=arguments.keypoints,
        keypoint_spread=arguments.keypoint_spread,
        data=arguments.data,
        images=arguments.images,
        calibration=arguments.calibration,
        limit=arguments.limit,
        limits=_limits(arguments),
        allow_unverified=arguments.allow_unverified,
    )


def _limits(arguments: argparse.Namespace) -> Limits:
    usual = Limits.usual(arguments.fp16)
    min_oks = usual.min_oks if arguments.min_oks is None else arguments.min_oks
    return Limits(arguments.max_ap_drop, arguments.max_changed, min_oks)


def plan_config(arguments: argparse.Namespace, given: InputInfo) -> EngineConfig:
    """Options of the plan for an artifact that accepts ``given``. Raises UsageError."""
    options = {each.name: getattr(arguments, each.name) for each in fields(EngineConfig) if each.name != "profiles"}
    with usage_errors():
        profiles = tuple(profile_from_text(text, given) for text in arguments.profile or ())
        return EngineConfig(profiles or (usual_profile(given),), **options)


def _is_plan(path: Path | None) -> bool:
    return path is not None and path.suffix in PLAN_SUFFIXES


def _main(arguments: argparse.Namespace, console: Console) -> None:
    for_plan = arguments.format == "engine"
    if not for_plan:
        _refuse(arguments, _PLAN_OPTIONS, "--format engine")
    elif _is_artifact(arguments.weights):
        return _plan_of_artifact(arguments, console)
    elif arguments.refit is not None:
        raise UsageError(
            f"--refit takes the weights of an .onnx exported by yolopose, and --weights is {arguments.weights}"
        )
    for module in ("torch", "onnx", "onnxscript", "onnxruntime"):
        if find_spec(module) is None:
            raise BackendUnavailable(f'exporting needs {module}: pip install "yolopose[export,cpu]"')
    if arguments.target == "openvino" and find_spec("openvino") is None:
        raise BackendUnavailable('int8 for OpenVINO is verified by running it: pip install "yolopose[openvino]"')
    with usage_errors():
        config = export_config(arguments)
    from .pipeline import explain, export_artifact, export_plan

    if arguments.explain:
        document = explain(config, console.say)
        return console.result(document, _explanation(document))
    if for_plan:
        plan = arguments.output if _is_plan(arguments.output) else None
        exported = export_plan(config, plan, partial(plan_config, arguments), console.say, console.progress)
    else:
        exported = export_artifact(config, console.say, console.progress)
    console.result(_document(exported), _text(exported))


def _is_artifact(weights: str) -> bool:
    """Whether ``weights`` is an .onnx exported by yolopose, damaged or not."""
    if Path(weights).suffix.lower() != ".onnx":
        return False
    try:
        read_contract(weights)
    except ContractMissing:
        return False
    except ArtifactError:  # reported when the file is read again
        return True
    return True


def _plan_of_artifact(arguments: argparse.Namespace, console: Console) -> None:
    """Build a plan from an .onnx exported by yolopose, without PyTorch and onnx, as on a Jetson."""
    artifact = Path(arguments.weights)
    for flag in ("--explain", "--fp16", "--int8", "--layout", "--imgsz", "--data", "--images"):
        if getattr(arguments, _dest(flag)) not in (None, False):
            raise UsageError(f"{flag} is for weights: {artifact} is an artifact already, and its plan is the same")
    contract = read_contract(artifact)
    config = plan_config(arguments, contract.input)
    plan = plan_path(artifact, arguments.output)
    trt, cuda = import_tensorrt(), open_cuda()
    output_folder(plan.parent)
    if arguments.refit is None:
        built = build_engine(artifact, plan, config, trt, cuda.gpu, console.say)
    else:
        refit_engine(arguments.refit, artifact, plan, trt, cuda)
        built = True
    contract = read_contract(plan)
    verdict = contract.parity.verdict if contract.parity else None
    document = {"artifact": str(plan), "built": built, "verdict": verdict, "contract": contract.to_dict()}
    text = _size(plan)
    if verdict == "unverified":
        text += f"\n{verdict}: {_NOT_COMPARED.format(plan)}"
    console.result(document, text)


def _size(path: Path) -> str:
    return f"{path} ({path.stat().st_size / 2**20:.1f} MiB)"


def _document(exported: Exported) -> dict[str, Any]:
    """The result for --json."""
    document: dict[str, Any] = {
        "artifact": str(exported.path),
        "verdict": exported.contract.parity.verdict if exported.contract.parity else None,
        "steps": list(exported.steps),
        "contract": exported.contract.to_dict(),
    }
    verification = exported.verification
    if verification is not None:
        document |= {
            "reason": verification.reason,
            "verified_on": exported.verified_on,
            "score_threshold": verification.score_threshold,
            "comparison": verification.report.to_dict(),
            "change": None if verification.change is None else asdict(verification.change),
            "consensus": None if verification.consensus is None else verification.consensus.to_dict(),
        }
    return document


def _text(exported: Exported) -> str:
    """The result for people."""
    lines = [_size(exported.path)]
    verification = exported.verification
    if verification is None:
        verdict = exported.contract.parity.verdict if exported.contract.parity else "unverified"
        reason = _NOT_COMPARED.format(exported.path) if verdict == "unverified" else "as before"
        return "\n".join([*lines, f"{verdict}: {reason}"])
    report, info = verification.report, verification.info
    lines.append(f"{info.verdict}: {verification.reason}")
    if report.max_px is not None:
        lines.append(
            f"{report.images} images ({exported.verified_on}): {report.matched} of {report.people} people matched, "
            f"{report.missing} missing, {report.extra} extra, {report.borderline} at a threshold; "
            f"largest deviation {report.max_px:.2g} px, mean {report.mean_px:.2g} px, "
            f"score {report.max_score_deviation:.2g}, mean OKS {report.mean_oks:.5f}"
        )
    if verification.score_threshold < exported.contract.nms.score_threshold:
        lines.append(f"compared at score {verification.score_threshold:.3g}, where this network finds candidates")
    if verification.ap is not None:
        if verification.ap.in_points() not in verification.reason:
            lines.append(f"keypoint AP {verification.ap.in_points()}")
        if verification.consensus is not None:
            lines.append(
                f"keypoints are {exported.contract.pose.keypoints}; AP of the network with best, people by score, and "
                f"with consensus, people by pose score: {verification.consensus.in_points()}"
            )
        lines.append(f"image that loses most against the labels: {info.worst_image or 'none'}")
    if license_ := exported.contract.provenance.weights_licence:
        lines.append(f"license of the weights: {license_}")
    return "\n".join(lines)


def _explanation(document: dict[str, Any]) -> str:
    """The document of --explain for people, a line for each subject."""
    network, nms = document["network_input"], document["nms"]
    scale = "0..255" if network["scale"] == 1 else f"0..255 times {network['scale']:.4g}"
    classes = ", ".join(document["classes"][:5])
    if len(document["classes"]) > 5:
        classes += f" and {len(document['classes']) - 5} more"
    suppression = {
        "added": f"added: {nms['candidates']} candidates, {nms['rounds']} rounds, {nms['max_people']} people"
        + (", each class by itself" if nms["class_aware"] else ""),
        "in the source file": f"in the source file; the best {nms['max_people']} people are kept",
        "not needed": f"not needed, the head gives each person once; the best {nms['max_people']} people are kept",
    }
    height, width, batch = (document["input"][name] for name in ("height", "width", "batch"))
    frame = f"{height['opt']}x{width['opt']}"
    if height["min"] == height["max"]:
        frame += " only"
    else:
        frame += f" by default, sides {height['min']} to {height['max']} in steps of {height['multiple']}"
    people, points = f"(batch, {nms['max_people']}", document["keypoints"]
    lines = {
        "weights": f"{document['weights']}: {document['format']}",
        "network": f"{document['name']} ({document['family']}); classes: {classes}",
        "keypoints": f"{points} ({document['skeleton']}), each with x, y and a score",
        "takes": f"{network['channel_order'].upper()}, {scale}, letterboxed on gray {network['pad_value']}, "
        f"padding {network['pad_side']}",
        "input": f"images uint8 (batch, height, width, 3) BGR, {frame}",
        "batch": f"{batch['min']} only" if batch["min"] == batch["max"] else f"{batch['min']} to {batch['max']}",
        "NMS": suppression[nms["suppression"]],
        "thresholds": f"score {nms['score_threshold']:g} and IoU {nms['iou_threshold']:g} by default; inputs per image",
        "source": _keypoint_source(document["keypoint_source"]),
        "output": f"boxes {people}, 4), scores, labels, keypoints {people}, {points}, 3), num_people, flags",
        "precision": f"{document['precision']}, verified against {document['reference']}",
        "writes": document["output"],
        "license": document["weights_license"] or "the weights do not say",
    }
    return "\n".join(f"{name + ':':12} {value}" for name, value in lines.items())


def _keypoint_source(pose: Mapping[str, Any]) -> str:
    if pose["keypoints"] == "best":
        return "keypoints of each person's best candidate"
    return (
        f"keypoints are the mean of up to {pose['supporters']} candidates with an IoU above {pose['support_iou']:g}; "
        "also pose_scores" + (", keypoint_spread" if pose["spread"] else "")
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, build_parser(), argv)
