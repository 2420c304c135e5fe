"""Ctrl-C, SIGTERM and a limit of time as a question asked between steps: a step is never torn in half."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType

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
