"""What the child process measures, and which errors it passes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from yolopose.benchmarks.tasks import EstimatorOptions, NetworkTask, PeopleTask, run_child
from yolopose.benchmarks.worker import bare_run, compare_with_network, open_estimator
from yolopose.runtime import PoseEstimator
from yolopose.runtime.backends.fake import FakeBackend, fake_contract, raw_people
from yolopose.runtime.contract import Range
from yolopose.runtime.errors import ArtifactError, SourceError, UsageError
from yolopose.runtime.result import PoseResult

from ..runtime.backends.plans import arrays
from ..runtime.conftest import dots, small_contract, write_artifact


def options(path: Path | str, backend: str = "auto") -> EstimatorOptions:
    return EstimatorOptions(str(path), backend, None, 1, None, 0.25, 0.65)


@pytest.mark.parametrize("batch", [Range(1, 1, 4), Range(2, 2, 2)], ids=["dynamic", "fixed batch of 2"])
def test_bare_run_equals_estimator(tmp_path: Path, batch: Range) -> None:
    path = write_artifact(tmp_path / "dots.onnx", small_contract(batch=batch))
    with open_estimator(options(path)) as estimate:
        frame, placements = estimate.preprocess([dots((64, 96), (0, 20, 30), (2, 70, 40))])
        run, note = bare_run(estimate, options(path))
        assert run is not None
        assert note is None
        outputs = run(frame)
        for of_estimator, bare in zip(arrays(estimate.infer(frame)), outputs, strict=True):
            np.testing.assert_array_equal(bare, of_estimator)
        assert len(estimate.postprocess(estimate.infer(frame), placements)[0]) == 2


def test_backend_without_bare_run_gives_the_reason(artifact: Path) -> None:
    backend = FakeBackend([raw_people([PoseResult.empty(17)], max_people=100)])
    run, note = bare_run(PoseEstimator(fake_contract(), backend=backend), options(artifact))
    assert run is None
    assert note == "no bare baseline: it is not measured for the backend 'fake'"


def test_network_and_artifact_are_timed_in_turn(artifact: Path, bare_network: Path, photographs: Path) -> None:
    images = [str(path) for path in sorted(photographs.iterdir())]
    answer = compare_with_network(NetworkTask(options(artifact), str(bare_network), images, iterations=6, warmup=1))
    samples_ms = answer["samples_ms"]
    assert {name: len(values) for name, values in samples_ms.items()} == {"artifact": 6, "network": 6}
    assert all(value > 0 for values in samples_ms.values() for value in values)


def test_errors_of_the_runtime_are_passed_on(artifact: Path) -> None:
    files = {"/nowhere/people.npz": 0.25}
    with pytest.raises(ArtifactError, match=r"/nowhere/a\.onnx"):
        run_child(PeopleTask(options("/nowhere/a.onnx"), ["/nowhere/1.png"], files))
    with pytest.raises(SourceError, match=r"/nowhere/1\.png"):
        run_child(PeopleTask(options(artifact), ["/nowhere/1.png"], files))
    with pytest.raises(UsageError, match=r"backend must be one of"):
        run_child(PeopleTask(options(artifact, "nonsense"), ["/nowhere/1.png"], files))
