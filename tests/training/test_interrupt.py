"""Signals and the limit of time are questions between steps."""

from __future__ import annotations

import os
import signal
import time

import pytest

from yolopose.training.trainer import SIGNALS, Interrupt


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_only_asks(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        assert not interrupt.wanted
        os.kill(os.getpid(), number)
        assert interrupt.wanted
        assert interrupt.reason == number.name
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_ctrl_c_stops_at_once(first: signal.Signals) -> None:
    with Interrupt() as interrupt:
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers repeat themselves
    assert interrupt.wanted


def test_limit_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    interrupt = Interrupt(0.5)
    now += 100  # reading data is no training
    with interrupt:
        now += 29
        assert not interrupt.wanted
        now += 2
        assert interrupt.wanted
        assert interrupt.reason == "--max-minutes 0.5"
        os.kill(os.getpid(), signal.SIGINT)  # the first: no KeyboardInterrupt
        assert interrupt.reason == "SIGINT"


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_a_limit_is_more_than_nothing(minutes: float) -> None:
    with pytest.raises(ValueError, match="--max-minutes must be more than 0"):
        Interrupt(minutes)
