"""The training loop: epochs of steps, validation, report and checkpoints, exactly resumable after any step.

``Interrupt`` turns Ctrl-C, SIGTERM and a time limit into a request that the loop checks between steps.
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
from yolopose.runtime.errors import UsageError

from ..checkpoints import load, read_extra, save
from ..data.batch import Batch
from .distributed import any_process, gathered, rank
from .train_step import TrainStep
from .validate import Validation, Validator

AP_COLUMNS = ("ap", "ap50", "ap75", "ap_m", "ap_l", "ar")
LOG_INTERVAL = 60.0  # seconds between lines about the current epoch, where stderr is no terminal
SAVE_INTERVAL = 10.0  # seconds between writes of last.pt: one takes half a second, a short epoch on a GPU two
SIGNALS = (signal.SIGINT, signal.SIGTERM)

Row = dict[str, float | None]  # of metrics.csv
Stream = Callable[[int], Iterator[Batch]]  # first step -> the batches from there to the end of the run


@dataclass
class Progress:
    """How far a run has come, apart from the state of TrainStep; plain values, stored in last.pt."""

    best_ap: float = -1.0  # -1: not validated yet
    best_epoch: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # of the losses of the current epoch
    seconds: float = 0.0  # spent on training (not validation) in all sessions
    damaged: dict[str, str] = field(default_factory=dict)  # images that could not be used, and why


class Trainer:
    """Runs a TrainStep over its epochs until they are done or an interrupt is requested.

    folder   gets best.pt when keypoint AP rises, and last.pt after each epoch (short epochs: every few seconds) and
             whenever the run stops
    report   is called after each epoch with a row of metrics and the validation, if there was one. It is called before
             last.pt is written: a run that is killed in between repeats the epoch, and ``report.Metrics`` drops the row

    With several processes only the first validates, reports, prints and writes.
    """

    def __init__(
        self,
        train_step: TrainStep,
        stream: Stream,
        validator: Validator | None,
        folder: Path,
        console: Console,
        report: Callable[[Row, Validation | None], None],
    ) -> None:
        self.train_step, self.stream, self.validator = train_step, stream, validator
        self.folder, self.console, self.report = folder, console, report
        self.progress = Progress()
        self._saved = -math.inf  # when last.pt was written

    @property
    def epoch(self) -> int:
        """Number of complete epochs."""
        return self.train_step.step // self.train_step.steps_per_epoch

    def run(self, interrupt: Interrupt) -> bool:
        """Train; False if interrupted: ``interrupt.reason`` says why, and last.pt continues from there.

        Raises Diverged, and OutputError when a checkpoint cannot be written (the previous one is kept).
        """
        step = self.train_step
        batches = self.stream(step.step)
        try:
            while step.step < step.total_steps:
                steps_left = step.steps_per_epoch - step.step % step.steps_per_epoch
                stopped, seconds, waited = self._train_epoch(batches, steps_left, interrupt)
                self._share_between_processes()
                if step.step % step.steps_per_epoch:  # stopped within the epoch
                    self.save("last.pt")
                    return False

                row = self._row(steps_left, seconds, waited)
                if rank() == 0:
                    validation = self._validate()
                    ap = {name: getattr(validation.ap, name) if validation else None for name in AP_COLUMNS}
                    self.report(row | ap, validation)

                last = step.step == step.total_steps
                stopped = not last and (stopped or self._stop_requested(interrupt))
                if last or stopped or time.monotonic() - self._saved > SAVE_INTERVAL:
                    self.save("last.pt")
                if stopped:
                    return False
            any_process(False, step.device)  # the others wait for the first, which is still validating
            return True
        finally:
            if isinstance(batches, Generator):
                batches.close()  # ends the worker processes

    def _train_epoch(
        self, batches: Iterator[Batch], steps_left: int, interrupt: Interrupt
    ) -> tuple[bool, float, float]:
        """The steps left of an epoch. Whether a stop is requested; seconds in total, and without a batch."""
        started, waited, stopped = time.monotonic(), 0.0, False
        for _ in self._shown(steps_left):
            requested = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - requested
            for reason in batch.damaged:
                self._skip(reason.partition(": ")[0], reason)
            for name, value in self.train_step(batch).items():
                self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value
            if stopped := self._stop_requested(interrupt):
                break
        seconds = time.monotonic() - started
        self.progress.seconds += seconds
        return stopped, seconds, waited

    def _stop_requested(self, interrupt: Interrupt) -> bool:
        """Whether a stop is requested in any process; then all stop for the same reason."""
        if not any_process(interrupt.requested, self.train_step.device):
            return False
        interrupt.reason = next(reason for reason in gathered(interrupt.reason) if reason)
        return True

    def _share_between_processes(self) -> None:
        """Average the losses over all processes and collect the damaged images of all."""
        sums = gathered(self.progress.sums)
        self.progress.sums = {name: sum(part[name] for part in sums) / len(sums) for name in sums[0]}
        for damaged in gathered(self.progress.damaged):
            for name, reason in damaged.items():
                self._skip(name, reason)

    def _row(self, steps: int, seconds: float, waited: float) -> Row:
        """Metrics of the epoch that has ended; begins a new sum of losses."""
        row: Row = {"epoch": self.epoch, "lr": self.train_step.learning_rate}
        row |= {name: value / self.train_step.steps_per_epoch for name, value in self.progress.sums.items()}
        self.progress.sums = {}
        return row | {
            "images_per_second": steps * self.train_step.settings.batch / seconds,
            "waiting": waited / seconds,  # share of the time without a batch
            "minutes": self.progress.seconds / 60,
        }

    def _validate(self) -> Validation | None:
        """Every ``validate_every`` epochs and after the last; saves best.pt when AP has risen."""
        step = self.train_step
        last = step.step == step.total_steps
        if not self.validator or not (last or self.epoch % step.settings.validate_every == 0):
            return None
        shown = self.console.progress if _on_terminal() else None
        validation = self.validator(step.averaged, step.autocast, shown)
        for name, reason in self.validator.damaged.items():
            self._skip(name, reason)
        ap = validation.ap.ap or 0.0
        if ap > self.progress.best_ap:
            self.progress.best_ap, self.progress.best_epoch = ap, self.epoch
            self.save("best.pt")
        return validation

    def _skip(self, name: str, reason: str) -> None:
        if name not in self.progress.damaged:
            self.progress.damaged[name] = reason
            if rank() == 0:
                self.console.say(f"skipped {reason}")

    def _shown(self, steps: int) -> Iterable[int]:
        """A progress bar on a terminal, else one line per LOG_INTERVAL."""
        label = f"epoch {self.epoch + 1}/{self.train_step.settings.epochs}"
        if rank():
            return range(steps)
        if _on_terminal():
            return self.console.progress(range(steps), steps, label)
        return self._logged(steps, label)

    def _logged(self, steps: int, label: str) -> Iterator[int]:
        logged = time.monotonic()
        for step in range(steps):
            yield step
            if time.monotonic() - logged > LOG_INTERVAL and step + 1 < steps:
                logged = time.monotonic()
                done = self.train_step.step % self.train_step.steps_per_epoch
                mean = self.progress.sums["loss"] / max(done, 1)
                self.console.say(f"{label}: step {done} of {self.train_step.steps_per_epoch}, loss {mean:.3f}")

    def save(self, name: str) -> None:
        """Write the network with averaged weights; last.pt also holds all that the run needs to continue."""
        if rank():
            return
        extra: dict[str, Any] = {"epoch": self.epoch}
        if name == "last.pt":
            extra["training"] = {
                "settings": _sorted_json(self.train_step.settings.to_dict()),
                "engine": self.train_step.state(),  # the key of the first version, so that its runs can be resumed
                "progress": vars(self.progress),
            }
            self._saved = time.monotonic()
        save(self.train_step.averaged, self.folder / name, **extra)

    def resume(self, checkpoint: Path) -> None:
        """Continue from ``checkpoint`` (a last.pt). Raises UsageError if it is not of this run."""
        average = load(checkpoint)
        stored = read_extra(checkpoint).get("training")
        if not isinstance(stored, dict):
            raise UsageError(f"{checkpoint} holds a network but no training state; give it as --weights")
        if stored["settings"] != _sorted_json(self.train_step.settings.to_dict()):
            raise UsageError(f"{checkpoint} is of a run with other settings; --resume needs the run's own last.pt")
        self.train_step.load_state(stored["engine"], average)
        self.progress = Progress(**stored["progress"])


class Interrupt:
    """Within ``with``, the first Ctrl-C or SIGTERM only sets ``reason``; a second Ctrl-C raises KeyboardInterrupt.

    minutes: limit from the beginning of ``with``; None: no limit. Raises UsageError unless it is more than 0.
    """

    def __init__(self, minutes: float | None = None) -> None:
        if minutes is not None and not minutes > 0:
            raise UsageError(f"--max-minutes must be more than 0, got {minutes:g}")
        self.reason: str | None = None
        self._minutes, self._deadline = minutes, float("inf")
        self._signaled = False
        self._handlers: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        """Whether to stop before the next step; ``reason`` then says why."""
        if self.reason is None and time.monotonic() > self._deadline:
            self.reason = f"--max-minutes {self._minutes:g}"
        return self.reason is not None

    def __enter__(self) -> Interrupt:
        if self._minutes is not None:
            self._deadline = time.monotonic() + 60 * self._minutes
        for number in SIGNALS:
            self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signaled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signaled = True
        self.reason = signal.Signals(number).name


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _sorted_json(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True)
