"""Two processes give the losses, gradients and weights of one; a whole run under torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.small import SIZE, save_scenes
from tests.training.two_processes import CASES, measured
from yolopose.checkpoints import load, read_extra
from yolopose.training.command import main
from yolopose.training.distributed import gathered, mean_positives, rank, world_size
from yolopose.training.report import read_metrics

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="PyTorch without gloo")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    folder = tmp_path_factory.mktemp("two")
    (folder / "run").mkdir()
    command = [sys.executable, "-m", "tests.training.two_processes", str(folder)]
    started = [subprocess.Popen([*command, str(i), "2"], cwd=ROOT, stderr=subprocess.PIPE, text=True) for i in range(2)]
    try:
        said = [process.communicate(timeout=180)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"{i}-of-2.pt", weights_only=False) for i in range(2)]


def test_one_process_has_rank_0_of_1() -> None:
    assert (rank(), world_size(), gathered(3)) == (0, 1, [3])
    assert float(mean_positives(torch.tensor(0))) == 1
    assert float(mean_positives(torch.tensor(5))) == 5


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_losses_gradients_and_weights_equal_those_of_one_process(
    case: tuple[str, str], both: list[dict[Any, Any]]
) -> None:
    one = measured(*case, 0, 1)
    for name, loss in one["losses"].items():
        assert np.mean([each[case]["losses"][name] for each in both]) == pytest.approx(loss, rel=1e-4, abs=1e-6), name
    for kind, tolerance in (("gradients", 1e-3), ("weights", 2e-3)):
        for name, expected in one[kind].items():
            first, second = (each[case][kind][name] for each in both)
            assert torch.equal(first, second), f"{kind} of {name} differ between processes"
            scale = float(expected.detach().abs().max()) + 1e-6
            assert float((first - expected).detach().abs().max()) < tolerance * scale, f"{kind} of {name}"


def test_processes_share_values_and_divergence(both: list[dict[Any, Any]]) -> None:
    assert [each["gathered"] for each in both] == [["of 0", "of 1"]] * 2
    assert all("not finite at epoch 1, step 1 of 2" in each["diverges"] for each in both)


def test_all_processes_stop_when_one_is_interrupted(both: list[dict[Any, Any]]) -> None:
    first, second = (each["stops"] for each in both)
    for found in (first, second):
        assert (found["finished"], found["reason"], found["step"], found["rows"]) == (False, "SIGTERM", 1, 0)
        assert found["damaged"] == ["seen-by-one.jpg"]
    assert first["sums"] == second["sums"]
    assert first["lines"] == ["skipped seen-by-one.jpg: cut short"]
    assert second["lines"] == []


def torchrun(*given: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*command, "-m", "yolopose.training", *map(str, given)], cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def arguments(labels: Path, output: Path, *more: object) -> list[object]:
    return [
        "--data", labels, "--val", labels, "--model", "yolox-pose-nano", "--imgsz", SIZE, "--batch", 4, "--output",
        output, "--device", "cpu", "--precision", "fp32", "--freeze-bn", "--workers", 0, *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_run_under_torchrun_equals_that_of_one_process(tmp_path: Path) -> None:
    labels = save_scenes(tmp_path / "data")
    started = torchrun(*arguments(labels, tmp_path / "two", "--epochs", 1, "--json"))
    out, err = started.communicate(timeout=240)
    assert started.returncode == 0, err
    outcome = json.loads(out)  # of one process, not two
    assert outcome["finished"]
    assert [line.partition(":")[0] for line in err.splitlines()].count("epoch 1") == 1, err
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert {"best.pt", "last.pt", "metrics.csv", "run.json", "curves.png"} <= names
    assert len(list((tmp_path / "two").rglob("events.out.*"))) == 1

    assert main([str(word) for word in arguments(labels, tmp_path / "one", "--epochs", 1)]) == 0
    one, two = (read_metrics(tmp_path / name / "metrics.csv") for name in ("one", "two"))
    for name in ("loss", "box", "objectness", "classes", "keypoints", "visibility", "heatmaps"):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-3, err_msg=name)
    ours, theirs = (load(tmp_path / name / "last.pt").state_dict() for name in ("one", "two"))
    for name in ours:
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_signal_stops_a_run_under_torchrun(tmp_path: Path) -> None:
    labels, run = save_scenes(tmp_path / "data"), tmp_path / "run"
    started = torchrun(*arguments(labels, run, "--epochs", 300))
    limit = time.monotonic() + 180
    while not (run / "metrics.csv").exists():
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < limit
        time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=120)
    assert read_extra(run / "last.pt")["training"]["engine"]["step"] > 0
    outcome = json.loads((run / "run.json").read_text(encoding="utf-8"))["outcome"]
    assert outcome["stopped_by"] == "SIGINT", err


@pytest.mark.slow
def test_rejects_a_batch_that_processes_cannot_share_evenly(tmp_path: Path) -> None:
    labels = save_scenes(tmp_path / "data")
    started = torchrun(*arguments(labels, tmp_path / "run", "--batch", 5))
    _, err = started.communicate(timeout=240)
    assert started.returncode != 0
    assert "--batch 5 cannot be shared evenly by 2 processes" in err
    assert not (tmp_path / "run").exists()
