"""What ``yolopose-export --format engine`` takes besides, and where the plan goes."""

from __future__ import annotations

import argparse
from pathlib import Path

from yolopose.runtime.contract import PLAN_SUFFIXES, InputInfo

from .engine_options import EngineConfig, profile_from_text, usual_profile

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
