"""CUDA's Python bindings: the real ones have all that is called, with as many arguments; without a GPU they say so."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.played_gpu import ROOT, Machine, play
from yolopose.runtime.backends.cuda import open_cuda
from yolopose.runtime.errors import BackendError

VERSIONS = ("12.9.2", "13.4.4")
SIGNATURES = """
import json, sys
from cuda.bindings import driver, runtime
found = {}
for module in (runtime, driver):
    for name in dir(module):
        kind = getattr(module, name)
        if callable(kind) and not isinstance(kind, type):
            found[name] = (kind.__doc__ or "").splitlines()[:1]
        elif isinstance(kind, type) and hasattr(kind, "__members__"):
            found[name] = sorted(kind.__members__)
found["cudaStreamNonBlocking"] = runtime.cudaStreamNonBlocking
found["handles"] = [int(runtime.cudaStream_t()), int(driver.CUcontext())]
print(json.dumps(found))
"""


@pytest.fixture(scope="module", params=VERSIONS)
def bindings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What to put on PYTHONPATH: 30 MB, of which nothing needs a GPU to be imported."""
    target = tmp_path_factory.mktemp("cuda")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    wanted = [f"cuda-bindings=={request.param}", "cuda-pathfinder"]
    try:
        subprocess.run([*pip, "--target", str(target), *wanted], check=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"CUDA's bindings cannot be installed: {error}")
    return target


def run(bindings: Path, script: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(bindings), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True, timeout=60
    ).stdout


def test_the_real_bindings_have_all_that_is_called(bindings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = json.loads(run(bindings, SIGNATURES))
    play(monkeypatch)
    from cuda.bindings import driver, runtime

    checked = 0
    for module in (runtime, driver):
        for name, played in vars(module).items():
            if not name.startswith("cu"):
                continue
            if inspect.isfunction(played):
                (line,) = real[name]
                arguments = line[line.index("(") + 1 : line.rindex(")")]
                given = [part for part in arguments.split(",") if part.strip()]
                assert len(given) == len(inspect.signature(played).parameters), line
                checked += 1
            elif inspect.isclass(played):
                assert set(played.__members__) <= set(real[name]), name
    assert checked > 18
    assert real["cudaStreamNonBlocking"] == runtime.cudaStreamNonBlocking
    assert real["handles"] == [0, 0]  # handles become numbers


def test_without_a_gpu_it_is_said(bindings: Path) -> None:
    script = """
from yolopose.runtime.backends.cuda import open_cuda
from yolopose.runtime.errors import BackendUnavailable
try:
    open_cuda()
except BackendUnavailable as error:
    print(error)
else:
    print("there is a GPU")
"""
    said = run(bindings, script)
    assert "is there an NVIDIA GPU with a driver?" in said or "there is a GPU" in said


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return play(monkeypatch)


@pytest.mark.parametrize("through", ["cuda-python", "pycuda"])
def test_copies_go_there_and_back(machine: Machine, through: str) -> None:
    cuda = open_cuda(0, through)
    assert cuda.gpu.to_dict() == {"name": "Played Orin", "compute_capability": "8.7", "cuda": "12.6"}
    with cuda.current():
        stream, end_stream = cuda.stream()
        address, free = cuda.allocate(10)
        host, free_host = cuda.pinned(10)
        host[:] = range(10)
        cuda.copy_to_device(address, host, stream)
        cuda.wait(stream)
        host[:] = 0
        cuda.copy_to_host(host[:4], address, stream)
        assert host.tolist() == [0] * 10  # not yet
        cuda.wait(stream)
        assert host.tolist() == [0, 1, 2, 3] + [0] * 6
    assert machine.context == 0
    del host
    for release in (free, free_host, end_stream):
        release()
    assert not machine.used()


def test_an_error_inside_a_capture_ends_it(machine: Machine) -> None:
    cuda = open_cuda()

    def enqueue() -> None:
        raise BackendError("the plan failed")

    with cuda.current():
        stream, release = cuda.stream()
        with pytest.raises(BackendError, match="the plan failed"):
            cuda.capture(stream, enqueue)
        assert machine.used() == {"streams": 1}
        assert not machine.capturing
        release()


def test_pycuda_says_that_it_has_no_graphs(machine: Machine) -> None:
    cuda = open_cuda(0, "pycuda")
    assert not cuda.has_graphs
    with pytest.raises(BackendError, match="no CUDA graphs"):
        cuda.capture(1, lambda: None)
    with pytest.raises(BackendError, match="no CUDA graphs"):
        cuda.launch(1, 1)
