"""CUDA through cuda-python and PyCUDA: on a simulated GPU, and with the real bindings, which need no GPU to import."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulated_gpu import ROOT, SimulatedGpu, simulate_gpu
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
    """Folder for PYTHONPATH with the real bindings (30 MB)."""
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


def test_real_bindings_have_every_function_used(bindings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = json.loads(run(bindings, SIGNATURES))
    simulate_gpu(monkeypatch)
    from cuda.bindings import driver, runtime

    checked = 0
    for module in (runtime, driver):
        for name, simulated in vars(module).items():
            if not name.startswith("cu"):
                continue
            if inspect.isfunction(simulated):
                (line,) = real[name]
                arguments = line[line.index("(") + 1 : line.rindex(")")]
                given = [part for part in arguments.split(",") if part.strip()]
                assert len(given) == len(inspect.signature(simulated).parameters), line
                checked += 1
            elif inspect.isclass(simulated):
                assert set(simulated.__members__) <= set(real[name]), name
    assert checked > 18
    assert real["cudaStreamNonBlocking"] == runtime.cudaStreamNonBlocking
    assert real["handles"] == [0, 0]  # handles become numbers


def test_missing_gpu_is_an_error(bindings: Path) -> None:
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
    output = run(bindings, script)
    assert "is there an NVIDIA GPU with a driver?" in output or "there is a GPU" in output


@pytest.mark.parametrize("library", ["cuda-python", "pycuda"])
def test_copies_to_the_device_and_back(gpu: SimulatedGpu, library: str) -> None:
    cuda = open_cuda(0, library)
    assert cuda.gpu.to_dict() == {"name": "Simulated Orin", "compute_capability": "8.7", "cuda": "12.6"}
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
    assert gpu.context == 0
    del host
    for release in (free, free_host, end_stream):
        release()
    assert not gpu.used()


def test_an_error_inside_a_capture_ends_it(gpu: SimulatedGpu) -> None:
    cuda = open_cuda()

    def enqueue() -> None:
        raise BackendError("the plan failed")

    with cuda.current():
        stream, release = cuda.stream()
        with pytest.raises(BackendError, match="the plan failed"):
            cuda.capture(stream, enqueue)
        assert gpu.used() == {"streams": 1}
        assert not gpu.capturing
        release()


def test_pycuda_has_no_graphs(gpu: SimulatedGpu) -> None:
    cuda = open_cuda(0, "pycuda")
    assert not cuda.has_graphs
    with pytest.raises(BackendError, match="no CUDA graphs"):
        cuda.capture(1, lambda: None)
    with pytest.raises(BackendError, match="no CUDA graphs"):
        cuda.launch(1, 1)
