"""Importing yolopose.runtime, and the runtime's names of yolopose, in a clean process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import yolopose
import yolopose.runtime

HEAVY = ["torch", "onnx", "onnxruntime", "tensorrt", "openvino", "cv2"]


def loaded_after(statement: str, *modules: str) -> list[str]:
    program = (
        f"import json, sys\n{statement}\nprint(json.dumps([name for name in {list(modules)} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


def test_import_loads_nothing_heavy() -> None:
    assert loaded_after("import yolopose.runtime", *HEAVY, "numpy") == []


def test_contract_result_and_console_need_neither_backend_nor_opencv() -> None:
    names = "contract, result, skeleton, console, errors, artifact_file, backends.base, backends.fake"
    statement = "\n".join(f"import yolopose.runtime.{name}" for name in names.split(", "))
    assert loaded_after(statement, *HEAVY) == []


def test_estimator_loads_no_backend_until_one_is_opened() -> None:
    assert loaded_after("from yolopose.runtime import PoseEstimator, draw_people", *HEAVY) == ["cv2"]


def test_import_takes_at_most_as_long_as_numpy_and_opencv() -> None:
    """A ratio, because machines differ; here it is about 0.4."""
    program = (
        "import time; start = time.perf_counter(); import numpy, cv2; libraries = time.perf_counter(); "
        "from yolopose.runtime import PoseEstimator; print((time.perf_counter() - libraries) / (libraries - start))"
    )
    ratios = [
        float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    assert min(ratios) <= 1


def test_package_gives_the_names_of_the_runtime_without_loading_numpy() -> None:
    names = ("Person", "PoseEstimator", "PoseResult", "Skeleton")
    assert loaded_after("import yolopose", *HEAVY, "numpy", "yolopose.runtime") == []
    assert loaded_after("from yolopose import Person, PoseResult, Skeleton", *HEAVY) == []
    assert loaded_after("from yolopose import PoseEstimator", *HEAVY) == ["cv2"]
    for name in names:
        assert getattr(yolopose, name) is getattr(yolopose.runtime, name)


def test_every_public_name_of_the_package_exists() -> None:
    for name in yolopose.__all__:
        assert getattr(yolopose, name) is not None
    assert set(dir(yolopose)) == set(yolopose.__all__)
    with pytest.raises(AttributeError, match="no attribute 'PoseEstimators'"):
        yolopose.PoseEstimators  # noqa: B018


def test_every_public_name_exists() -> None:
    assert sorted(yolopose.runtime.__all__) == yolopose.runtime.__all__
    for name in yolopose.runtime.__all__:
        assert getattr(yolopose.runtime, name) is not None
    assert set(dir(yolopose.runtime)) == set(yolopose.runtime.__all__)


def test_message_about_absent_opencv() -> None:
    program = (
        "import sys\nsys.modules['cv2'] = None\nfrom yolopose.runtime.errors import BackendUnavailable\n"
        "try:\n    from yolopose.runtime import PoseEstimator\n"
        "except BackendUnavailable as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 'pip install "yolopose[opencv]"' in done.stdout
