"""The run folder of a training, and run.json in it: data, seed, settings, weights, versions and outcome.

run.json holds what the training passed as facts ("options", "settings", "data", "weights", ...), what was recorded
later ("outcome"), and "sessions": one entry for each time the training was started or resumed, with its first epoch,
time, command and machine. Schema 1 called them "sittings"; it is still read.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from yolopose.runtime.errors import CheckpointError, DataError, UsageError
from yolopose.runtime.machine import machine_now
from yolopose.runtime.output import atomic_write, output_folder

from ..data.coco import CocoKeypoints

SCHEMA = 2
_RESERVED = {"schema", "sessions", "sittings"}
_ABSENT = "absent"
_MAX_SHOWN = 6  # differences that a message lists


@dataclass(frozen=True)
class RunFolder:
    """Paths of the files of one training. Making the object touches no file."""

    path: Path

    @property
    def run_json(self) -> Path:
        return self.path / "run.json"

    @property
    def last(self) -> Path:
        """The checkpoint that --resume continues."""
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        """The network with the highest AP."""
        return self.path / "best.pt"

    @property
    def metrics_csv(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def samples(self) -> Path:
        """A folder of images."""
        return self.path / "samples"

    def check_new(self) -> None:
        """UsageError if the folder holds files that a new run would mix with."""
        if self.path.is_dir() and any(self.path.iterdir()):
            raise UsageError(f"{self.path} exists; give another --output or --resume")

    def create(self, facts: Mapping[str, Any], *, first_epoch: int = 1, argv: Sequence[str] | None = None) -> None:
        """Begin a run in a new or empty folder.

        facts: JSON values and paths. Raises UsageError if the folder holds files, OutputError if it cannot be written.
        """
        plain = _plain_facts(facts)
        self.check_new()
        output_folder(self.path)
        self._add_session({"schema": SCHEMA, **plain, "sessions": []}, first_epoch, argv)

    def resume(self, facts: Mapping[str, Any], *, first_epoch: int, argv: Sequence[str] | None = None) -> None:
        """Continue the run in this folder; run.json keeps its facts.

        facts: must equal the stored ones, except under keys named "path": files may move, their sha256 may not differ.
        Raises UsageError if there is nothing to resume or facts differ (lists them), CheckpointError for a damaged
        run.json, OutputError.
        """
        document, plain = self.read(), _plain_facts(facts)
        stored = {key: document[key] for key in plain if key in document}
        if changed := differences(stored, plain, {"path"}):
            more = [f"and {len(changed) - _MAX_SHOWN} more"] if len(changed) > _MAX_SHOWN else []
            raise UsageError(
                f"cannot resume {self.path}: its data or settings have changed; restore them, or begin another run "
                "with another --output:\n  " + "\n  ".join(changed[:_MAX_SHOWN] + more)
            )
        self._add_session(document, first_epoch, argv)

    def _add_session(self, document: Mapping[str, Any], first_epoch: int, argv: Sequence[str] | None) -> None:
        output_folder(self.samples)
        session = {
            "first_epoch": first_epoch,
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "argv": list(sys.argv if argv is None else argv),
            "machine": asdict(machine_now()),
        }
        self._write({**document, "sessions": [*document["sessions"], session]})

    def read(self) -> dict[str, Any]:
        """run.json. Raises UsageError if there is none, CheckpointError if it is damaged."""
        try:
            document = json.loads(self.run_json.read_bytes())
        except FileNotFoundError:
            raise UsageError(f"nothing to resume: {self.path} has no run.json; leave out --resume") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.run_json} cannot be read: {error}") from error
        if isinstance(document, dict) and document.get("schema") == 1 and "sittings" in document:
            document |= {"schema": SCHEMA, "sessions": document.pop("sittings")}
        if not isinstance(document, dict) or not isinstance(document.get("sessions"), list):
            raise CheckpointError(f"{self.run_json} was not written by yolopose-train")
        return document

    def record(self, **entries: Any) -> None:
        """Add or replace entries of run.json, such as the outcome."""
        self._write({**self.read(), **entries})

    def _write(self, document: Mapping[str, Any]) -> None:
        atomic_write(self.run_json, json.dumps(document, default=_plain, allow_nan=False, indent=2) + "\n")


def file_facts(path: str | Path) -> dict[str, str]:
    """Path and sha256 of a file of weights or labels. Raises DataError."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return {"path": str(path), "sha256": digest.hexdigest()}


def label_facts(dataset: CocoKeypoints) -> dict[str, Any]:
    """A data set's file, numbers of images and of people with labeled keypoints, and a digest of its labels.

    The digest covers names and labels as read, because a YAML file does not contain the labels themselves.
    """
    digest = hashlib.sha256()
    for image in dataset.images.values():
        digest.update(f"{image.path.name} {image.size_wh}".encode())
        for person in dataset.people[image.id]:
            digest.update(f"{person.category_id} {person.bbox_xywh} {person.area} {person.is_crowd}".encode())
            digest.update(person.keypoints.tobytes())
    people = sum(person.is_labeled for some in dataset.people.values() for person in some)
    return {
        **file_facts(dataset.path), "images": len(dataset.images), "people": people, "labels": digest.hexdigest()
    }  # fmt: skip


def differences(stored: Mapping[str, Any], current: Mapping[str, Any], ignored: Collection[str]) -> list[str]:
    """ "key: was value, now value" for each plain value that differs, with dotted keys.

    Keys in ``ignored``, at any depth, are not compared, nor is what is below them.
    """
    before, now = dict(_leaves(dict(stored), ignored)), dict(_leaves(dict(current), ignored))
    return [
        f"{key}: was {before.get(key, _ABSENT)}, now {now.get(key, _ABSENT)}"
        for key in {**before, **now}
        if before.get(key, _ABSENT) != now.get(key, _ABSENT)
    ]


def _leaves(value: Any, ignored: Collection[str], where: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and JSON of every plain value."""
    if isinstance(value, dict | list) and value:
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in ignored:
                yield from _leaves(part, ignored, f"{where}.{key}" if where else str(key))
    else:
        yield where, json.dumps(value)


def _plain_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """``facts`` as JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(facts), default=_plain, allow_nan=False))
    if reserved := _RESERVED & plain.keys():
        raise ValueError(f"facts may not be called {', '.join(sorted(reserved))}")
    return plain


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not a JSON value: {value!r}")
