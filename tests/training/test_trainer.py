"""The training loop: checkpoints, exact resuming, reports, and interrupts."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import yolopose
from tests.training.small import SETTINGS, Record, StopAt, small_net, small_source, small_trainer
from yolopose.checkpoints import load, read_extra
from yolopose.data.sample import DamagedImage
from yolopose.evaluation import KeypointAP
from yolopose.runtime.errors import OutputError, UsageError
from yolopose.training.train_step import Diverged
from yolopose.training.trainer import SIGNALS, Interrupt, Trainer

TIMES = {"images_per_second", "waiting", "minutes"}


class FakeValidator:
    """Returns the given APs one after another."""

    def __init__(self, *figures: float) -> None:
        self.figures, self.calls, self.damaged = list(figures), 0, {"gone.jpg": "gone.jpg: no such file"}

    def __call__(self, net: yolopose.PoseNet, autocast: torch.dtype | None, progress: Any = None) -> Any:
        assert not net.training
        self.calls += 1
        ap = KeypointAP(self.figures.pop(0), 0.5, 0.5, None, 0.5, 0.5, 3, 3, "all")
        return SimpleNamespace(ap=ap, results={}, not_finite=0, note=None)


def plain(rows: list[dict[str, float | None]]) -> list[dict[str, float | None]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def assert_same_weights(first: Trainer, second: Trainer) -> None:
    for one, other in (
        (first.train_step.trainable, second.train_step.trainable),
        (first.train_step.averaged, second.train_step.averaged),
    ):
        mine, theirs = one.state_dict(), other.state_dict()
        assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("yolox", {"optimizer": "muon"}),
        pytest.param("yolox", {"optimizer": "sgd", "precision": "bf16"}, marks=pytest.mark.slow),
        pytest.param("yolov5", {"optimizer": "adamw"}, marks=pytest.mark.slow),
    ],
)
def test_a_run_in_three_sessions_equals_one_in_one_session(
    family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Stopped after 2 epochs, and again one step into the third."""
    settings_ = replace(SETTINGS, **settings)
    whole, expected, _ = small_trainer(tmp_path / "whole", settings_, small_net(family))
    assert whole.train_step.steps_per_epoch == 2
    assert whole.run(Interrupt())

    net, rows = small_net(family), []
    for session, stop in enumerate((4, 5, 99)):
        part, some, _ = small_trainer(tmp_path / "parts", settings_, net)
        if session:
            part.resume(tmp_path / "parts" / "last.pt")
        assert part.run(StopAt(part, stop)) == (session == 2)
        rows += some
        assert part.train_step.step == min(stop, 8)
        net = load(tmp_path / "parts" / "last.pt").train()
    assert_same_weights(whole, part)
    assert plain(rows) == plain(expected)
    assert len(rows) == 4
    deployed = [load(tmp_path / name / "last.pt").state_dict() for name in ("whole", "parts")]
    assert all(torch.equal(deployed[0][name], deployed[1][name]) for name in deployed[0])


def test_equal_seeds_give_equal_weights(tmp_path: Path) -> None:
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer, _, _ = small_trainer(tmp_path / name, replace(SETTINGS, epochs=1, seed=seed))
        trainer.run(Interrupt())
        made.append(trainer)
    assert_same_weights(made[0], made[1])
    with pytest.raises(AssertionError):
        assert_same_weights(made[0], made[2])


def test_best_checkpoint_has_the_highest_ap(tmp_path: Path) -> None:
    validator = FakeValidator(0.1, 0.5, 0.4, 0.5)
    trainer, rows, console = small_trainer(tmp_path, SETTINGS, validator=validator)
    assert not trainer.run(StopAt(trainer, 5))
    assert read_extra(tmp_path / "best.pt")["epoch"] == 2
    trainer, more, _ = small_trainer(tmp_path, SETTINGS, load(tmp_path / "last.pt").train(), validator)
    trainer.resume(tmp_path / "last.pt")
    trainer.run(Interrupt())
    assert read_extra(tmp_path / "best.pt")["epoch"] == 2  # an equal one later is not better
    assert "training" not in read_extra(tmp_path / "best.pt")
    assert (trainer.progress.best_ap, trainer.progress.best_epoch) == (0.5, 2)
    assert [row["ap"] for row in rows + more] == [0.1, 0.5, 0.4, 0.5]
    assert rows[0]["ap_m"] is None
    assert console.lines == ["skipped gone.jpg: no such file"]
    assert not load(tmp_path / "best.pt").training


def test_short_epochs_save_every_few_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved: the first epoch, those after an interval, the last, and the one after which a run is stopped."""
    saved: list[int] = []
    usual = Trainer.save
    clock = [0.0]

    def save(self: Trainer, name: str) -> None:
        usual(self, name)
        saved.append(self.epoch)

    def now() -> float:
        clock[0] += 1e-3
        return clock[0]

    monkeypatch.setattr(Trainer, "save", save)
    trainer, rows, _ = small_trainer(tmp_path, replace(SETTINGS, epochs=6))
    report = trainer.report

    def four_seconds_later(row: dict[str, float | None], validation: Any) -> None:
        clock[0] += 4.0
        report(row, validation)

    trainer.report = four_seconds_later
    monkeypatch.setattr("yolopose.training.trainer.time.monotonic", now)
    assert not trainer.run(StopAt(trainer, 2 * trainer.train_step.steps_per_epoch))
    assert saved == [1, 2]
    saved.clear()
    assert trainer.run(Interrupt())
    assert saved == [5, 6]
    assert len(rows) == 6


def test_first_validation_is_the_best_even_with_ap_zero(tmp_path: Path) -> None:
    trainer, _, _ = small_trainer(tmp_path, replace(SETTINGS, epochs=2), validator=FakeValidator(0.0, 0.0))
    trainer.run(Interrupt())
    assert read_extra(tmp_path / "best.pt")["epoch"] == 1


def test_validates_every_n_epochs_and_at_the_end(tmp_path: Path) -> None:
    validator = FakeValidator(0.1, 0.2)
    trainer, rows, _ = small_trainer(tmp_path, replace(SETTINGS, epochs=3, validate_every=2), validator=validator)
    trainer.run(Interrupt())
    assert [row["ap"] for row in rows] == [None, 0.1, 0.2]
    assert all(row.keys() == rows[0].keys() for row in rows)


def test_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _, _ = small_trainer(tmp_path)
    assert not trainer.run(StopAt(trainer, 2))
    before = (tmp_path / "last.pt").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*last\.pt: No space left on device"):
        trainer.run(Interrupt())
    assert (tmp_path / "last.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    monkeypatch.undo()
    again, more, _ = small_trainer(tmp_path, net=load(tmp_path / "last.pt").train())
    again.resume(tmp_path / "last.pt")
    assert again.run(Interrupt())
    assert [row["epoch"] for row in more] == [2, 3, 4]


def test_divergence_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    trainer, _, _ = small_trainer(tmp_path, replace(SETTINGS, lr=9.9, optimizer="sgd", clip=0.0))
    trainer.train_step.warmup = 0
    trainer.save("last.pt")
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(Diverged, match=r"not finite at epoch \d, step"):
        trainer.run(Interrupt())
    if trainer.epoch == 0:
        assert (tmp_path / "last.pt").read_bytes() == before
    load(tmp_path / "last.pt")


def test_rejects_checkpoints_that_cannot_be_resumed(tmp_path: Path) -> None:
    trainer, _, _ = small_trainer(tmp_path, replace(SETTINGS, epochs=1), validator=FakeValidator(0.5))
    trainer.run(Interrupt())
    with pytest.raises(UsageError, match="no training state; give it as --weights"):
        trainer.resume(tmp_path / "best.pt")
    other, _, _ = small_trainer(tmp_path, replace(SETTINGS, epochs=9))
    with pytest.raises(UsageError, match="other settings"):
        other.resume(tmp_path / "last.pt")
    other, _, _ = small_trainer(tmp_path, replace(SETTINGS, epochs=1), small_net("yolov5"))
    with pytest.raises(UsageError, match="another network"):
        other.resume(tmp_path / "last.pt")


def test_damaged_images_are_reported_once_and_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(small_source(1))
    usual = kind.__getitem__

    def some(self: Any, index: int) -> Any:
        if len(self._kept) == len(self) and index == 3:
            raise DamagedImage("three.jpg", "cut short")
        return usual(self, index)

    trainer, _, console = small_trainer(tmp_path)
    monkeypatch.setattr(kind, "__getitem__", some)
    trainer.run(StopAt(trainer, 3))
    assert console.lines == ["skipped three.jpg: cut short"]
    trainer, _, console = small_trainer(tmp_path, net=load(tmp_path / "last.pt").train())
    trainer.resume(tmp_path / "last.pt")
    trainer.run(Interrupt())
    assert console.lines == []
    assert trainer.progress.damaged == {"three.jpg": "three.jpg: cut short"}


def test_progress_lines_without_a_terminal_and_a_bar_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, epochs=1, batch=2)
    trainer, _, console = small_trainer(tmp_path, settings)
    trainer.run(Interrupt())
    assert console.lines == []
    monkeypatch.setattr("yolopose.training.trainer.LOG_INTERVAL", 0.0)
    trainer, _, console = small_trainer(tmp_path, settings)
    trainer.run(Interrupt())
    assert [line.partition(", loss")[0] for line in console.lines] == [f"epoch 1/1: step {n} of 4" for n in (1, 2, 3)]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    drawn: list[str] = []
    monkeypatch.setattr(Record, "_draw", lambda self, text: drawn.append(text))
    trainer, _, console = small_trainer(tmp_path, settings)
    trainer.run(Interrupt())
    assert drawn[-1].startswith("epoch 1/1 [####")
    assert console.lines == []


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_requests_a_stop(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        assert interrupt.requested
        assert interrupt.reason == number.name
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("first", SIGNALS)
def test_second_ctrl_c_raises_at_once(first: signal.Signals) -> None:
    with Interrupt() as interrupt:
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers may send it again
    assert interrupt.requested


def test_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    interrupt = Interrupt(0.5)
    now += 100  # the limit begins with the training, not with reading data
    with interrupt:
        now += 29
        assert not interrupt.requested
        now += 2
        assert interrupt.requested
        assert interrupt.reason == "--max-minutes 0.5"
        os.kill(os.getpid(), signal.SIGINT)  # the first: no KeyboardInterrupt
        assert interrupt.reason == "SIGINT"


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_rejects_a_time_limit_of_zero_or_less(minutes: float) -> None:
    with pytest.raises(ValueError, match="--max-minutes must be more than 0"):
        Interrupt(minutes)
