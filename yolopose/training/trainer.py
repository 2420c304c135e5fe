"""Ctrl-C, SIGTERM and a limit of time as a question asked between steps: a step is never torn in half.

The loop: batches in, epochs out; each epoch is validated, logged and saved, and can be gone on from exactly.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from yolopose.runtime.console import Console

from ..checkpoints import load, read_extra, save
from ..data.batch import Batch
from .processes import any_process, gathered, rank
from .train_step import Engine
from .validate import Validation, Validator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Within ``with``, the first signal only sets ``reason``; a second Ctrl-C raises KeyboardInterrupt at once.

    minutes: from the beginning of ``with``, more than 0; None: no limit.
    """

    def __init__(self, minutes: float | None = None) -> None:
        if minutes is not None and not minutes > 0:
            raise ValueError(f"--max-minutes must be more than 0, got {minutes:g}")
        self.reason: str | None = None
        self._minutes, self._deadline = minutes, float("inf")
        self._signalled = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if self._minutes is not None:
            self._deadline = time.monotonic() + 60 * self._minutes
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signalled = True
        self.reason = signal.Signals(number).name

    @property
    def wanted(self) -> bool:
        """Whether to stop before the next step; ``reason`` then says why."""
        if self.reason is None and time.monotonic() > self._deadline:
            self.reason = f"--max-minutes {self._minutes:g}"
        return self.reason is not None


FIGURES = ("ap", "ap50", "ap75", "ap_m", "ap_l", "ar")
SILENCE = 60.0  # seconds between lines about an epoch under way, where there is no terminal
SAVE_PAUSE = 10.0  # seconds between checkpoints to resume from: one takes half a second, a short epoch on a GPU two
Stream = Callable[[int], Iterator[Batch]]  # first step -> the batches from there to the end of the run


@dataclass
class Progress:
    """How far a run has come, beside the state of the engine; plain values that travel in the checkpoint."""

    best_ap: float = -1.0  # -1: not validated yet
    best_epoch: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # of the losses of the epoch that is under way
    seconds: float = 0.0  # spent training (not validating), all sittings
    damaged: dict[str, str] = field(default_factory=dict)  # pictures that could not be used, and why


class Trainer:
    """Runs an engine to the end of its epochs, or until interrupted.

    folder: gets last.pt after each epoch (short ones: every few seconds) and whenever the run stops, best.pt when
    keypoint AP rises; report: is handed one row of figures per epoch and the validation, if there was one, before
    last.pt: a run that ends between the two does the epoch again, and Logs drops the row. With several processes only
    the first writes, speaks and validates.
    """

    def __init__(
        self,
        engine: Engine,
        stream: Stream,
        validator: Validator | None,
        folder: Path,
        console: Console,
        report: Callable[[dict[str, float | None], Validation | None], None],
    ) -> None:
        self.engine, self.stream, self.validator = engine, stream, validator
        self.folder, self.console, self.report = folder, console, report
        self.progress = Progress()
        self.waited = 0.0  # seconds without a batch, this epoch
        self.started = 0.0
        self._saved = -math.inf  # when last.pt was written

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.engine.step // self.engine.steps_per_epoch

    def resume(self, checkpoint: Path) -> None:
        """Go on from where ``checkpoint`` (a last.pt) stopped. ValueError when it is not of this run."""
        average = load(checkpoint)
        stored = read_extra(checkpoint).get("training")
        if not isinstance(stored, dict):
            raise ValueError(f"{checkpoint} holds a network, but no training to go on with; give it as --weights")
        if stored["settings"] != _text(self.engine.settings.to_dict()):
            raise ValueError(f"{checkpoint} is of a run with other settings; --resume goes on with the run's own")
        self.engine.load_state(stored["engine"], average)
        self.progress = Progress(**stored["progress"])

    def run(self, interrupt: Interrupt) -> bool:
        """Whether the run came to its end; if not, ``interrupt.reason`` says why and last.pt goes on from there.

        Raises Diverged, OutputError when a checkpoint cannot be written (the one before stays whole).
        """
        batches = self.stream(self.engine.step)
        try:
            return self._run(batches, interrupt)
        finally:
            if isinstance(batches, Generator):
                batches.close()  # ends the processes that make them

    def _run(self, batches: Iterator[Batch], interrupt: Interrupt) -> bool:
        engine = self.engine
        while engine.step < engine.total_steps:
            left = engine.steps_per_epoch - engine.step % engine.steps_per_epoch
            self.started, self.waited = time.monotonic(), 0.0
            stop = False
            for _ in self._steps(left):
                self._step(batches)
                if stop := self._stops(interrupt):
                    break
            self.progress.seconds += time.monotonic() - self.started
            self._share()
            if engine.step % engine.steps_per_epoch:
                self.save("last.pt")
                return False
            self._end_of_epoch(left)
            last = engine.step == engine.total_steps
            stop = not last and (stop or self._stops(interrupt))
            if last or stop or time.monotonic() - self._saved > SAVE_PAUSE:
                self.save("last.pt")
            if stop:
                return False
        any_process(False, engine.device)  # the others wait for the first, which is still validating
        return True

    def _steps(self, left: int) -> Iterable[int]:
        """The steps left of an epoch, shown as they are done."""
        label = f"epoch {self.epoch + 1}/{self.engine.settings.epochs}"
        if rank():
            return range(left)
        if _on_terminal():
            return self.console.progress(range(left), left, label)
        return self._told(left, label)

    def _told(self, left: int, label: str) -> Iterator[int]:
        """Logs get one line an epoch, and a sign of life in long ones."""
        told = time.monotonic()
        for step in range(left):
            yield step
            if time.monotonic() - told > SILENCE and step + 1 < left:
                told = time.monotonic()
                done = self.engine.step % self.engine.steps_per_epoch
                mean = self.progress.sums["loss"] / max(done, 1)
                self.console.say(f"{label}: step {done} of {self.engine.steps_per_epoch}, loss {mean:.3f}")

    def _step(self, batches: Iterator[Batch]) -> None:
        asked = time.monotonic()
        batch = next(batches)
        self.waited += time.monotonic() - asked
        for reason in batch.damaged:
            self._skipped(reason.partition(": ")[0], reason)
        for name, value in self.engine.train_step(batch).items():
            self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value

    def _skipped(self, name: str, reason: str) -> None:
        if name not in self.progress.damaged:
            self.progress.damaged[name] = reason
            if rank() == 0:
                self.console.say(f"skipped {reason}")

    def _stops(self, interrupt: Interrupt) -> bool:
        """Whether any process is to stop; then all are, and know why."""
        if not any_process(interrupt.wanted, self.engine.device):
            return False
        interrupt.reason = next(reason for reason in gathered(interrupt.reason) if reason)
        return True

    def _share(self) -> None:
        """What only one process has seen becomes known to all; losses become those of the whole batches."""
        sums = gathered(self.progress.sums)
        self.progress.sums = {name: sum(part[name] for part in sums) / len(sums) for name in sums[0]}
        for damaged in gathered(self.progress.damaged):
            for name, reason in damaged.items():
                self._skipped(name, reason)

    def _end_of_epoch(self, steps: int) -> None:
        """Validate, keep the best, report."""
        engine, settings = self.engine, self.engine.settings
        spent = time.monotonic() - self.started
        row: dict[str, float | None] = {"epoch": self.epoch, "lr": engine.rate}
        row |= {name: value / engine.steps_per_epoch for name, value in self.progress.sums.items()}
        row |= {
            "images_per_second": steps * settings.batch / spent,
            "waiting": self.waited / spent,  # share of the time without a batch
            "minutes": self.progress.seconds / 60,
        }
        self.progress.sums = {}
        if rank():
            return
        last = engine.step == engine.total_steps
        validation = None
        if self.validator and (last or self.epoch % settings.validate_every == 0):
            shown = self.console.progress if _on_terminal() else None
            validation = self.validator(engine.averaged, engine.autocast, shown)
            for name, reason in self.validator.damaged.items():
                self._skipped(name, reason)
            ap = validation.ap.ap or 0.0
            if ap > self.progress.best_ap:
                self.progress.best_ap, self.progress.best_epoch = ap, self.epoch
                self.save("best.pt")
        row |= {name: getattr(validation.ap, name) if validation else None for name in FIGURES}
        self.report(row, validation)

    def save(self, name: str) -> None:
        """The averaged network; last.pt also with everything that the run needs to go on."""
        if rank():
            return
        extra: dict[str, Any] = {"epoch": self.epoch}
        if name == "last.pt":
            extra["training"] = {
                "settings": _text(self.engine.settings.to_dict()),
                "engine": self.engine.state(),
                "progress": vars(self.progress),
            }
            self._saved = time.monotonic()
        save(self.engine.averaged, self.folder / name, **extra)


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True)
