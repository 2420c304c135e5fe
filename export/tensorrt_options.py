"""Options of a TensorRT plan: the shapes that it accepts, limits of the builder, and where it must run.

Also what a plan depends on, so that it is built again when that changes.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from yolopose.runtime.console import usage_errors
from yolopose.runtime.contract import InputInfo, Range
from yolopose.runtime.errors import UsageError

_SIZE = r"\d{1,5}(?:x\d{1,5})?"
_PROFILE = re.compile(
    rf"(?:([\w.-]{{1,40}})=)?(\d{{1,4}}(?::\d{{1,4}}:\d{{1,4}})?)(?:@({_SIZE}(?::{_SIZE}:{_SIZE})?))?"
)


@dataclass(frozen=True)
class ShapeProfile:
    """Shapes that a plan must accept: min, opt and max of batch, height and width.

    name: for people who read the contract of the plan
    """

    batch: Range
    height: Range
    width: Range
    name: str = "usual"

    def shapes(self, last: tuple[int, ...], sizes: bool) -> list[tuple[int, ...]]:
        """Min, opt and max shape of an input: the batch, with `sizes` the height and width, then `last`."""
        return [
            (getattr(self.batch, at), *((getattr(self.height, at), getattr(self.width, at)) if sizes else ()), *last)
            for at in ("min", "opt", "max")
        ]

    def to_dict(self) -> dict[str, Any]:
        sizes = {"batch": self.batch, "height": self.height, "width": self.width}
        return {"name": self.name, **{name: [part.min, part.opt, part.max] for name, part in sizes.items()}}


def usual_profile(given: InputInfo, batch: int | None = None) -> ShapeProfile:
    """The default profile: one size, the optimal one of the artifact, which suits CUDA graphs and tactics best.

    given: what the artifact accepts
    batch: largest batch, from the artifact's smallest on; by default the smallest is the only one
    Raises ValueError for a batch that the artifact does not accept.
    """
    batch = given.batch.min if batch is None else batch
    if batch not in given.batch:
        raise ValueError(f"batch {batch} is not accepted by the artifact: {given.batch}")
    height, width = (Range(size.opt, size.opt, size.opt) for size in (given.height, given.width))
    return ShapeProfile(Range(given.batch.min, given.batch.min, batch), height, width)


def profile_from_text(text: str, given: InputInfo) -> ShapeProfile:
    """A value of --profile: ``[NAME=]BATCH[@SIZE]``, each one number or MIN:OPT:MAX.

    A size is N (square) or HxW, by default the optimal one of the artifact. given: what the artifact accepts
    Raises UsageError for what cannot be read, and for what the artifact does not accept.
    """
    match = _PROFILE.fullmatch(text)
    if match is None:
        raise UsageError(f"--profile must be like 8, 1:4:8@640 or live=1@320:640:960x1280, got {text!r}")
    name, batch, size = match[1], match[2], match[3]
    pairs = [tuple(map(int, part.split("x"))) * (1 if "x" in part else 2) for part in size.split(":")] if size else []
    height, width = ([pair[axis] for pair in pairs] for axis in (0, 1))
    try:
        profile = ShapeProfile(
            _range([int(part) for part in batch.split(":")]),
            _range(height or [given.height.opt]),
            _range(width or [given.width.opt]),
            name or text,
        )
    except ValueError as error:
        raise UsageError(f"--profile {text}: {error}") from error
    with usage_errors():
        check_profile(profile, given)
    return profile


def _range(sizes: list[int]) -> Range:
    """Of one number, or of min, opt and max."""
    return Range(sizes[0], sizes[len(sizes) // 2], sizes[-1])


def check_profile(profile: ShapeProfile, given: InputInfo) -> None:
    """Raises ValueError where a profile exceeds what the artifact accepts."""
    pairs = {
        "batch": (profile.batch, given.batch),
        "height": (profile.height, given.height),
        "width": (profile.width, given.width),
    }
    for name, (wanted, accepted) in pairs.items():
        for size in (wanted.min, wanted.opt, wanted.max):
            if size not in accepted:
                raise ValueError(f"profile {profile.name}: {name} {size} is not accepted by the artifact: {accepted}")


def _check_no_gaps(profiles: Sequence[ShapeProfile]) -> None:
    """Raises UsageError where the profiles of a size leave out a batch between them: any number of images may come."""
    by_size: dict[tuple[Range, Range], list[Range]] = {}
    for profile in profiles:
        by_size.setdefault((profile.height, profile.width), []).append(profile.batch)
    for batches in by_size.values():
        ordered = sorted(batches, key=lambda batch: batch.min)
        end = ordered[0].max
        for batch in ordered:
            if batch.min > end + 1:
                raise UsageError(f"--profile: no profile takes a batch of {end + 1}, between {end} and {batch.min}")
            end = max(end, batch.max)


@dataclass(frozen=True)
class EngineConfig:
    """Options of the builder, one field for each flag of yolopose-export. At least one profile is needed.

    An option that the installed TensorRT does not have is an error when the plan is built.
    Raises UsageError for values that the flags do not accept, ValueError without a profile.
    """

    profiles: tuple[ShapeProfile, ...]
    workspace_mib: int | None = None  # GPU memory for tactics; None: all
    tactics: int | None = None  # max tactics timed per layer; None: TensorRT's default
    level: int | None = None  # optimization level 0-5; None: TensorRT's default
    hardware_compatible: bool = False  # runs on every GPU from Ampere on, slower
    version_compatible: bool = False  # runs on later versions of TensorRT too, through tensorrt_lean, slower
    strip: bool = False  # without weights, to be refitted
    dla: int | None = None  # deep learning accelerator of a Jetson; the GPU runs what it cannot
    timing_cache: Path | None = None  # measurements of earlier builds, read and written

    def __post_init__(self) -> None:
        if not self.profiles:
            raise ValueError("a plan needs at least one profile")
        _check_no_gaps(self.profiles)
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"--workspace must be 1 MiB or more, got {self.workspace_mib}")
        if self.tactics is not None and self.tactics < 1:
            raise UsageError(f"--tactics must be 1 or more, got {self.tactics}")
        if self.level is not None and not 0 <= self.level <= 5:
            raise UsageError(f"--level must lie in 0..5, got {self.level}")
        if self.dla is not None and self.dla < 0:
            raise UsageError(f"--dla must be 0 or more, got {self.dla}")

    def flags(self) -> dict[str, Any]:
        """All options that decide the plan, as JSON values. The path of the timing cache does not."""
        fields = asdict(self)
        del fields["timing_cache"], fields["profiles"]
        return {**fields, "profiles": [profile.to_dict() for profile in self.profiles]}


def narrowed_input(given: InputInfo, profiles: Sequence[ShapeProfile]) -> InputInfo:
    """What the plan accepts of what its artifact accepts: from the smallest to the largest of its profiles."""

    def hull(parts: Sequence[Range], accepted: Range) -> Range:
        least, most = min(part.min for part in parts), max(part.max for part in parts)
        return Range(least, parts[0].opt, most, accepted.multiple if most > least else 1)

    return replace(
        given,
        batch=hull([profile.batch for profile in profiles], given.batch),
        height=hull([profile.height for profile in profiles], given.height),
        width=hull([profile.width for profile in profiles], given.width),
    )


def fingerprint(tensorrt: str, gpu: dict[str, str], artifact: bytes, config: EngineConfig) -> dict[str, Any]:
    """What a plan depends on. It is built again when any of this changes.

    tensorrt: version; gpu: Gpu.to_dict(); artifact: content of the .onnx
    """
    return {
        "machine": platform.machine(),
        "tensorrt": tensorrt,
        "gpu": gpu,
        "onnx_sha256": hashlib.sha256(artifact).hexdigest(),
        **config.flags(),
    }
