"""What decides a training, as plain values: for run.json, and to tell one training from another.

The folder that a training leaves behind, and run.json in it: which data, seed, settings, weights and versions.

run.json: what the trainer passed as facts ("settings", "seed", "data", "weights", ...), whatever was recorded later,
and "sittings": one entry each time the training was started or resumed, with its first epoch, time, command, machine.
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

from yolopose.runtime.errors import CheckpointError, DataError
from yolopose.runtime.machine import machine_now
from yolopose.runtime.output import atomic_write, output_folder

from ..data.coco import CocoKeypoints

_ABSENT = "nothing"


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
    """What a data set is: its file, how many images and people with labelled keypoints it has, a digest of the labels.

    The digest is of names and labels as read: a YAML file says little about the text files beside the pictures.
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


def differences(stored: Mapping[str, Any], given: Mapping[str, Any], leave_out: Collection[str]) -> list[str]:
    """ "key: value then, value now" of each plain value that differs; dotted keys of JSON values.

    Keys in ``leave_out``, at any depth, are not compared, nor what is below them.
    """
    then, now = dict(_leaves(dict(stored), leave_out)), dict(_leaves(dict(given), leave_out))
    return [
        f"{key}: {then.get(key, _ABSENT)} then, {now.get(key, _ABSENT)} now"
        for key in {**then, **now}
        if then.get(key, _ABSENT) != now.get(key, _ABSENT)
    ]


def _leaves(value: Any, leave_out: Collection[str], where: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and JSON text of every plain value."""
    if isinstance(value, dict | list) and value:
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in leave_out:
                yield from _leaves(part, leave_out, f"{where}.{key}" if where else str(key))
    else:
        yield where, json.dumps(value)


_SHOWN = 6  # differences a message lists before it only counts


@dataclass(frozen=True)
class RunFolder:
    """Where the files of one training lie; making the object touches no file."""

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
        """A folder of pictures."""
        return self.path / "samples"

    @classmethod
    def create(
        cls,
        path: str | Path,
        facts: Mapping[str, Any],
        *,
        resume: bool,
        start_epoch: int = 0,
        may_differ: Collection[str] = (),
        argv: Sequence[str] | None = None,
    ) -> RunFolder:
        """Begin a run in a new or empty folder, or (``resume``) continue the one that is there.

        facts: JSON values and paths. On resume they must equal the stored ones, except under a key named "path"
        (files may move, their sha256 may not differ) or in ``may_differ`` (what does not decide the result: workers).

        ValueError when the folder holds something, has nothing to resume, or its run was another one (says how);
        CheckpointError for a damaged run.json; OutputError when nothing can be written.
        """
        run = cls(Path(path))
        plain = json.loads(json.dumps(dict(facts), default=_plain, allow_nan=False))
        if {"sittings", "schema"} & plain.keys():
            raise ValueError("facts may not be called 'sittings' or 'schema'")
        if resume:
            document = run.read()
            stored = {key: document[key] for key in plain if key in document}
            if changed := differences(stored, plain, {"path", *may_differ}):
                more = [f"and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
                raise ValueError(
                    f"cannot resume {run.path} as another training; repeat its settings or give another --output:\n  "
                    + "\n  ".join(changed[:_SHOWN] + more)
                )
        else:
            cls.check(run.path, resume=False)
            output_folder(run.path)
            document = {"schema": 1, **plain, "sittings": []}
        output_folder(run.samples)
        sitting = {
            "first_epoch": start_epoch,
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "argv": list(sys.argv if argv is None else argv),
            "machine": asdict(machine_now()),
        }
        run._write({**document, "sittings": [*document["sittings"], sitting]})
        return run

    @staticmethod
    def check(path: Path, *, resume: bool) -> None:
        """ValueError when a new run would mix with what is in the folder."""
        if not resume and path.is_dir() and any(path.iterdir()):
            raise ValueError(f"{path} exists; give another --output or --resume")

    def read(self) -> dict[str, Any]:
        """run.json. Raises ValueError where there is none, CheckpointError for a damaged one."""
        try:
            document = json.loads(self.run_json.read_bytes())
        except FileNotFoundError:
            raise ValueError(f"nothing to resume: {self.path} has no run.json; leave out --resume") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.run_json} cannot be read: {error}") from error
        if not isinstance(document, dict) or not isinstance(document.get("sittings"), list):
            raise CheckpointError(f"{self.run_json} was not written by yolopose-train")
        return document

    def record(self, **entries: Any) -> None:
        """Add (or replace) entries of run.json, such as pictures that were skipped or the best AP."""
        self._write({**self.read(), **entries})

    def _write(self, document: dict[str, Any]) -> None:
        atomic_write(self.run_json, json.dumps(document, default=_plain, allow_nan=False, indent=2) + "\n")


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not a JSON value: {value!r}")
