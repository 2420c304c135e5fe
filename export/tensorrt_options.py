"""What a TensorRT plan is asked to be: shapes, limits, what it must run on; and what a new one depends on."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from yolopose.runtime.contract import InputInfo, Range

_SIZE = r"\d{1,5}(?:x\d{1,5})?"
_PROFILE = re.compile(
    rf"(?:([\w.-]{{1,40}})=)?(\d{{1,4}}(?::\d{{1,4}}:\d{{1,4}})?)(?:@({_SIZE}(?::{_SIZE}:{_SIZE})?))?"
)


@dataclass(frozen=True)
class Profile:
    """Shapes that a plan takes: least, best and largest batch, height and width. ``name`` is for those who read it."""

    batch: Range
    height: Range
    width: Range
    name: str = "usual"

    def shapes(self, last: tuple[int, ...], sizes: bool) -> list[tuple[int, ...]]:
        """Least, best and largest shape of an input: batch, height and width where ``sizes``, then ``last``."""
        return [
            (getattr(self.batch, at), *((getattr(self.height, at), getattr(self.width, at)) if sizes else ()), *last)
            for at in ("min", "opt", "max")
        ]

    def to_dict(self) -> dict[str, Any]:
        sizes = {name: getattr(self, name) for name in ("batch", "height", "width")}
        return {"name": self.name, **{name: [part.min, part.opt, part.max] for name, part in sizes.items()}}


@dataclass(frozen=True)
class EngineConfig:
    """``profiles``: at least one. Flags that a TensorRT does not have are refused, not dropped."""

    profiles: tuple[Profile, ...]
    workspace_mib: int | None = None  # None: all that the GPU has
    tactics: int | None = None  # at most so many are timed a layer; None: TensorRT's own
    level: int | None = None  # of optimisation, 0..5; None: TensorRT's own
    hardware_compatible: bool = False  # runs on every GPU from Ampere on, slower
    version_compatible: bool = False  # runs on later TensorRT too, by the lean runtime inside
    strip: bool = False  # without weights, to be refitted
    dla: int | None = None  # deep-learning accelerator of a Jetson, with the GPU for what it cannot do
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if not self.profiles:
            raise ValueError("a plan needs at least one profile of shapes")
        _check_no_gaps(self.profiles)
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise ValueError(f"the workspace must be at least 1 MiB, got {self.workspace_mib}")
        if self.tactics is not None and self.tactics < 1:
            raise ValueError(f"at least one tactic must be timed, got {self.tactics}")
        if self.level is not None and not 0 <= self.level <= 5:
            raise ValueError(f"the optimisation level must lie in 0..5, got {self.level}")
        if self.dla is not None and self.dla < 0:
            raise ValueError(f"DLA cores are numbered from 0, got {self.dla}")

    def flags(self) -> dict[str, Any]:
        """All that decides the plan, as plain values; where the timing cache lies does not."""
        fields = asdict(self)
        del fields["timing_cache"], fields["profiles"]
        return {**fields, "profiles": [profile.to_dict() for profile in self.profiles]}


def usual_profile(given: InputInfo, batch: int | None = None) -> Profile:
    """Batches from the artifact's least to ``batch``, by default that one alone, at its best size: pinned sizes are
    what CUDA graphs and tactics want. ValueError for a batch that it does not take.
    """
    batch = given.batch.min if batch is None else batch
    if batch not in given.batch:
        raise ValueError(f"batch {batch} is not one that the artifact takes: {given.batch}")
    height, width = (Range(size.opt, size.opt, size.opt) for size in (given.height, given.width))
    return Profile(Range(given.batch.min, given.batch.min, batch), height, width)


def profile_from_text(text: str, given: InputInfo) -> Profile:
    """``[NAME=]BATCH[@SIZE]``: one number or three, MIN:OPT:MAX; a size is N (square) or HxW, by default the best one.

    Raises ValueError for what cannot be read, and for what the artifact does not take.
    """
    match = _PROFILE.fullmatch(text)
    if match is None:
        raise ValueError(f"--profile must be as 8, 1:4:8@640 or live=1@320:640:960x1280, got {text!r}")
    name, batch, size = match[1], match[2], match[3]
    pairs = [tuple(map(int, part.split("x"))) * (1 if "x" in part else 2) for part in size.split(":")] if size else []
    height, width = ([pair[axis] for pair in pairs] for axis in (0, 1))
    try:
        profile = Profile(
            _range([int(part) for part in batch.split(":")]),
            _range(height or [given.height.opt]),
            _range(width or [given.width.opt]),
            name or text,
        )
    except ValueError as error:
        raise ValueError(f"--profile {text}: {error}") from error
    check_profile(profile, given)
    return profile


def _range(sizes: list[int]) -> Range:
    return Range(sizes[0], sizes[len(sizes) // 2], sizes[-1])


def check_profile(profile: Profile, given: InputInfo) -> None:
    """ValueError where a profile reaches beyond what the artifact takes."""
    for name in ("batch", "height", "width"):
        asked, allowed = getattr(profile, name), getattr(given, name)
        for size in (asked.min, asked.opt, asked.max):
            if size not in allowed:
                raise ValueError(f"profile {profile.name}: {name} {size} is not one that the artifact takes: {allowed}")


def _check_no_gaps(profiles: Sequence[Profile]) -> None:
    """ValueError where profiles of one size leave out batches between them: applications send any number of images."""
    by_size: dict[tuple[Range, Range], list[Range]] = {}
    for profile in profiles:
        by_size.setdefault((profile.height, profile.width), []).append(profile.batch)
    for batches in by_size.values():
        ordered = sorted(batches, key=lambda batch: batch.min)
        end = ordered[0].max
        for batch in ordered:
            if batch.min > end + 1:
                raise ValueError(f"--profile: no profile takes a batch of {end + 1}, between {end} and {batch.min}")
            end = max(end, batch.max)


def narrowed(given: InputInfo, profiles: Sequence[Profile]) -> InputInfo:
    """What the plan takes of what its artifact takes: from the least to the largest of its profiles."""

    def hull(name: str) -> Range:
        parts: list[Range] = [getattr(profile, name) for profile in profiles]
        least, most = min(part.min for part in parts), max(part.max for part in parts)
        return Range(least, parts[0].opt, most, getattr(given, name).multiple if most > least else 1)

    return replace(given, batch=hull("batch"), height=hull("height"), width=hull("width"))


def fingerprint(tensorrt: str, gpu: dict[str, str], artifact: bytes, config: EngineConfig) -> dict[str, Any]:
    """What a plan depends on: it is built again when any of this changes."""
    return {
        "machine": platform.machine(),
        "tensorrt": tensorrt,
        "gpu": gpu,
        "onnx_sha256": hashlib.sha256(artifact).hexdigest(),
        **config.flags(),
    }
