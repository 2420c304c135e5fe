"""Describes the machine of a measurement: processor, instruction sets, cores, memory, load, installed versions."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

# Those that decide the speed of float32, float16, bfloat16 and int8 kernels on x86 and Arm, in the order of reports.
_ISA = (
    "sse4_2", "avx", "fma", "f16c", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
)  # fmt: skip
_DISTRIBUTIONS = (
    "yolopose", "numpy", "opencv-python", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "openvino",
    "tensorrt", "tensorrt-lean", "cuda-bindings", "pycuda", "pycocotools", "torch", "onnx", "onnxscript", "onnxsim",
)  # fmt: skip
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


@dataclass(frozen=True)
class Machine:
    """What machine_now() finds; None for what the system does not report."""

    cpu: str
    isa: tuple[str, ...]  # instruction sets of _ISA that the processor reports
    logical_cores: int
    usable_cores: float  # after affinity and the container's quota; may be a fraction
    memory_mib: int | None
    governor: str | None  # frequency governor of the first core, where the system reports it
    load_average: tuple[float, float, float] | None  # 1, 5 and 15 minutes, before the first measurement
    system: str
    python: str
    versions: dict[str, str]  # of installed distributions only
    environment: dict[str, str]  # variables that set thread counts, where set


def machine_now() -> Machine:
    """The machine in its present state; imports none of the packages whose versions it reads."""
    cpuinfo = _text("/proc/cpuinfo")
    return Machine(
        cpu=_cpu_name(cpuinfo),
        isa=isa_flags(cpuinfo),
        logical_cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        memory_mib=_memory_mib(),
        governor=_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        load_average=os.getloadavg() if hasattr(os, "getloadavg") else None,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        versions=installed_versions(),
        environment={name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
    )


def isa_flags(cpuinfo: str) -> tuple[str, ...]:
    """Known instruction sets in the content of /proc/cpuinfo ("flags" on x86, "Features" on Arm)."""
    words = set(_field(cpuinfo, "flags", "Features").split())
    return tuple(name for name in _ISA if name in words)


def installed_versions() -> dict[str, str]:
    """Versions from the metadata of installed packages, which are not imported."""
    versions = {}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def usable_cores() -> float:
    """Cores that this process may use: the minimum of its affinity mask and the container's CPU quota (cgroup 2)."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota = _text("/sys/fs/cgroup/cpu.max").split()  # "200000 100000" or "max 100000"
    if len(quota) == 2 and quota[0] != "max":
        cores = min(cores, int(quota[0]) / int(quota[1]))
    return cores


def resident_mib() -> float | None:
    """Memory of this process now (VmRSS), MiB; None where the system does not report it."""
    return _status_mib("VmRSS")


def peak_resident_mib() -> float | None:
    """Peak memory of this process, MiB; None where the system does not report it.

    Linux resets VmHWM for each program, but not ru_maxrss: a child inherits its parent's peak through fork. So
    ru_maxrss is used only where there is no /proc.
    """
    peak = _status_mib("VmHWM")
    if peak is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _status_mib(key: str) -> float | None:
    kib = _field(_text("/proc/self/status"), key).split()  # "123456 kB"
    return int(kib[0]) / 1024 if kib else None


def _memory_mib() -> int | None:
    kib = _field(_text("/proc/meminfo"), "MemTotal").split()
    return int(kib[0]) // 1024 if kib else None


def _cpu_name(cpuinfo: str) -> str:
    # Arm boards name themselves in the device tree instead ("NVIDIA Jetson Orin Nano Developer Kit").
    board = _text("/proc/device-tree/model").strip("\0\n ")
    return _field(cpuinfo, "model name") or board or platform.processor() or platform.machine() or "unknown"


def _field(text: str, *names: str) -> str:
    """Value of the first line `name : value` whose name is among `names`; empty when there is none."""
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip() in names:
            return value.strip()
    return ""


def _text(path: str) -> str:
    """Content of a kernel file; empty where the system has no such file."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
