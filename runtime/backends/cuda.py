"""What of CUDA TensorRT's builder and backend need, through cuda-python; imported when it is used."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import BackendUnavailable

INSTALL = 'pip install "yolopose[cuda]" (cuda-python)'


@dataclass(frozen=True)
class Gpu:
    """A device as plans must know it: they run on GPUs of the compute capability that they were built on."""

    name: str
    compute_capability: str  # "8.7"
    cuda: str  # version of the CUDA runtime, "13.0"

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def find_gpu(index: int = 0) -> Gpu:
    """The device of that number. Raises BackendUnavailable: no cuda-python, no driver, no such device."""
    runtime = _runtime()
    count = _checked(runtime, "cudaGetDeviceCount", runtime.cudaGetDeviceCount())
    if not 0 <= index < count:
        raise BackendUnavailable(f"there is no GPU {index}: CUDA sees {count}")
    properties = _checked(runtime, "cudaGetDeviceProperties", runtime.cudaGetDeviceProperties(index))
    version = int(_checked(runtime, "cudaRuntimeGetVersion", runtime.cudaRuntimeGetVersion()))
    name = properties.name
    return Gpu(
        name.decode() if isinstance(name, bytes) else str(name),
        f"{properties.major}.{properties.minor}",
        f"{version // 1000}.{version % 1000 // 10}",
    )


def _runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendUnavailable(f"the GPU cannot be asked ({error}): {INSTALL}") from error
    return runtime


def _checked(runtime: Any, name: str, answer: tuple[Any, ...]) -> Any:
    """What follows the error code in ``answer``. Raises BackendUnavailable."""
    error, *values = answer
    if int(error):
        _, text = runtime.cudaGetErrorString(error)
        raise BackendUnavailable(f"{name}: {text.decode() if isinstance(text, bytes) else text}; is there a GPU?")
    return values[0] if values else None
