"""What every engine checks before it takes an artifact: that the file was made for it, and keeps its contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..contract import INPUT_NAMES, OUTPUT_NAMES, Contract
from ..errors import ArtifactError, EngineMismatch

_INTS = ("num_people", "labels", "num_candidates", "flags")


def check_target(path: str | Path, contract: Contract, engine: str, target: str) -> None:
    """`engine` runs files for "any" target and for its own, `target`. Raises EngineMismatch."""
    made_for = contract.precision.target
    if made_for not in ("any", target):
        raise EngineMismatch(
            f"{path} was quantized for {made_for} and {engine} would run it slowly or wrongly; "
            f"export it again with --target {target}"
        )


def check_inputs(path: str | Path, given: Mapping[str, str]) -> None:
    """`given` (name -> numpy dtype) are the inputs of contract version 1. Raises ArtifactError."""
    if given != dict(zip(INPUT_NAMES, ("uint8", "float32", "float32"), strict=True)):
        raise ArtifactError(f"{path} does not keep its contract: its inputs are {dict(given)}; export it again")


def check_outputs(path: str | Path, contract: Contract, found: Mapping[str, tuple[Sequence[int | str], str]]) -> None:
    """`found` (name -> shape without batch, numpy dtype) are the outputs, with this contract's M and K.

    Raises ArtifactError.
    """
    people, keypoints = contract.nms.max_people, contract.skeleton.num_keypoints
    shapes = {"boxes": [people, 4], "scores": [people], "labels": [people], "keypoints": [people, keypoints, 3]}
    for name in OUTPUT_NAMES:
        shape, dtype = shapes.get(name, []), "int32" if name in _INTS else "float32"
        if name not in found or (list(found[name][0]), found[name][1]) != (shape, dtype):
            raise ArtifactError(
                f"{path} does not keep its contract: output {name} should be (batch, *{shape}) {dtype}, "
                f"is {found.get(name, 'absent')}; export it again"
            )
