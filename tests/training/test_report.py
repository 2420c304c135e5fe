"""Metrics: each epoch once in the CSV after interrupted sessions, TensorBoard, curves."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from yolopose.runtime.errors import BackendUnavailable, DataError, OutputError
from yolopose.runtime.images import read_image
from yolopose.training.report import Metrics, draw_curves, read_metrics


def no_message(text: str) -> None:
    raise AssertionError(text)


def fill(path: Path, epochs: range, start: int = 0, offset: float = 0.0) -> None:
    with Metrics(path, None, no_message, start_epoch=start) as metrics:
        for epoch in epochs:
            ap = None if epoch % 2 else epoch / 100
            metrics.add({"epoch": epoch, "loss": 1 / (epoch + 1) + offset, "lr": 1e-3, "ap": ap})


def test_csv_rows(tmp_path: Path) -> None:
    fill(tmp_path / "metrics.csv", range(3))
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "epoch,loss,lr,ap",
        "0,1,0.001,0",
        "1,0.5,0.001,",
        "2,0.333333333,0.001,0.02",
    ]
    columns = read_metrics(tmp_path / "metrics.csv")
    assert columns["epoch"] == [0, 1, 2]
    assert math.isnan(columns["ap"][1])


def test_resumed_run_has_every_epoch_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    fill(path, range(3))
    fill(path, range(2, 4), start=2, offset=1.0)  # epoch 2 was not in the checkpoint
    columns = read_metrics(path)
    assert columns["epoch"] == [0, 1, 2, 3]
    assert columns["loss"] == pytest.approx([1, 1 / 2, 4 / 3, 5 / 4])
    fill(path, range(1), start=0)
    assert read_metrics(path)["epoch"] == [0]


def test_rejects_rows_with_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    fill(path, range(2))
    before = path.read_bytes()
    with Metrics(path, None, no_message, start_epoch=2) as metrics:
        with pytest.raises(ValueError, match=r"differs in \['lr', 'rate'\]"):
            metrics.add({"epoch": 2, "loss": 1.0, "rate": 1.0, "ap": 1.0})
        with pytest.raises(ValueError, match="epoch"):
            metrics.add({"loss": 1.0})
        assert path.read_bytes() == before
        metrics.add({"ap": math.nan, "lr": 2.0, "loss": 1.0, "epoch": 2})  # in any order
    assert path.read_text().splitlines()[-1] == "2,1,2,"


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "epoch,loss\n1\n", "epoch\none\n", "epoch,loss\n1,2\n\n"])
def test_rejects_other_csv_files_and_keeps_them(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"metrics\.csv is not a metrics file of yolopose-train"):
        Metrics(path, None, no_message)
    assert path.read_text() == text


def test_rejects_a_missing_folder(tmp_path: Path) -> None:
    with (
        Metrics(tmp_path / "gone" / "metrics.csv", None, no_message) as metrics,
        pytest.raises(OutputError, match="metrics"),
    ):
        metrics.add({"epoch": 0})


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = tmp_path / "tensorboard"
    for start, epochs in ((0, range(3)), (2, range(2, 4))):
        with Metrics(tmp_path / "metrics.csv", board, no_message, start_epoch=start) as metrics:
            for epoch in epochs:
                metrics.add({"epoch": epoch, "loss": start + 0.5, "ap": math.nan})
    events = EventAccumulator(str(board)).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 0.5), (1, 0.5), (2, 2.5), (3, 2.5)]


def test_without_tensorboard_prints_one_sentence_and_writes_the_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    said: list[str] = []
    with Metrics(tmp_path / "metrics.csv", tmp_path / "tensorboard", said.append) as metrics:
        metrics.add({"epoch": 0, "loss": 1.0})
    assert said == ["no TensorBoard files: pip install tensorboard; metrics are in metrics.csv"]
    assert read_metrics(tmp_path / "metrics.csv") == {"epoch": [0], "loss": [1]}


def test_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "metrics.csv"
    fill(path, range(4))
    picture = read_image(draw_curves(path, tmp_path / "curves.png"))
    assert picture.shape[1] > 2 * picture.shape[0]  # three panels
    assert picture.std() > 5
    with Metrics(path, None, no_message) as metrics:
        metrics.add({"epoch": 0, "loss": math.nan, "box": 1.0, "minutes": 3.0})
    assert read_image(draw_curves(path, tmp_path / "curves.png")).shape[0] > 0
    path.write_text("epoch,loss\n1,x\n")
    with pytest.raises(DataError, match="damaged"):
        draw_curves(path, tmp_path / "curves.png")


def test_curves_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "metrics.csv", range(2))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendUnavailable, match=r"curves need matplotlib .*yolopose\[bench\]"):
        draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
