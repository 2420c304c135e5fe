"""Which TensorRT builds plans that can be trusted."""

from __future__ import annotations

from typing import NamedTuple

from yolopose.runtime.errors import BackendUnavailable

OLDEST = (10, 3)  # JetPack 6


class Known(NamedTuple):
    """Trouble with the TensorRT of ``first`` to before ``good``, in files of ``precision`` (None: all)."""

    first: tuple[int, int]
    good: tuple[int, int]
    precision: str | None
    reason: str
    refused: bool  # it builds wrong plans; False: it fails aloud, and the message then gives the reason

    def applies(self, version: tuple[int, int], precision: str) -> bool:
        return self.first <= version < self.good and self.precision in (None, precision)

    def told(self) -> str:
        other = ", or --fp16" if self.precision == "int8" else ""
        return f"{self.reason}; use {self.good[0]}.{self.good[1]} or later{other}"


# The one place for them; each with where it was reported.
KNOWN_BAD: tuple[Known, ...] = (
    Known(
        (10, 3), (10, 4), "int8", "int8 graphs with TopK end in 'checkLinks' on JetPack 6 (ultralytics#23841)", False
    ),
)


def check_version(text: str, precision: str = "") -> None:
    """Raises BackendUnavailable for a TensorRT that is too old, or builds wrong plans of files of that precision."""
    version = _version_of(text)
    if version < OLDEST:
        raise BackendUnavailable(f"TensorRT {text} is too old: {OLDEST[0]}.{OLDEST[1]} or later is needed")
    for known in KNOWN_BAD:
        if known.refused and known.applies(version, precision):
            raise BackendUnavailable(f"TensorRT {text} builds wrong plans: {known.told()}")


def explained(text: str, precision: str) -> str:
    """What is known of failures of that TensorRT, as the end of a message; mostly empty."""
    version = _version_of(text)
    return "".join(f"; {known.told()}" for known in KNOWN_BAD if known.applies(version, precision))


def _version_of(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)
