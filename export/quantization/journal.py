"""What a search has measured so far, on disk, so that an interrupted one goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yolopose.runtime.output import atomic_write


class Journal:
    """Answers by name, written after each one. Those of another ``key`` (other weights, images or options) are
    left out."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.answers: dict[str, Any] = {}
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none yet, or not one of ours: it is made anew
            return
        if isinstance(stored, dict) and stored.get("key") == key and isinstance(stored.get("answers"), dict):
            self.answers = stored["answers"]

    def ask(self, name: str, measure: Callable[[], Any]) -> Any:
        """The answer of an earlier run, or ``measure()``."""
        if name not in self.answers:
            self.answers[name] = measure()
            text = json.dumps({"key": self.key, "answers": self.answers}, ensure_ascii=False, allow_nan=False)
            atomic_write(self.path, text + "\n")
        return self.answers[name]

    def knows(self, name: str) -> bool:
        return name in self.answers

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
