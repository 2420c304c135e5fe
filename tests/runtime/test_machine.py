from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from yolopose.runtime.machine import (
    installed_versions,
    isa_flags,
    machine_now,
    peak_resident_mib,
    resident_mib,
    usable_cores,
)

X86 = "processor : 0\nmodel name : Some CPU\nflags\t\t: fpu sse4_2 avx avx2 fma avx512_vnni amx_int8 unheard_of\n"
ARM = "processor : 0\nFeatures : fp asimd asimddp i8mm\n"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("", ()),
        (X86, ("sse4_2", "avx", "fma", "avx2", "avx512_vnni", "amx_int8")),
        (ARM, ("asimd", "asimddp", "i8mm")),
        ("no colon here\nflags", ()),
    ],
)
def test_finds_known_instruction_sets(cpuinfo: str, expected: tuple[str, ...]) -> None:
    assert isa_flags(cpuinfo) == expected


def test_machine_is_json() -> None:
    document = json.loads(json.dumps(dataclasses.asdict(machine_now()), allow_nan=False))
    assert document["cpu"]
    assert 0 < document["usable_cores"] <= document["logical_cores"]
    assert document["versions"]["numpy"]


def test_reads_versions_without_importing_packages() -> None:
    code = "import sys; from yolopose.runtime.machine import machine_now as m; m(); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
    assert "numpy" in installed_versions()


def test_usable_cores_respect_the_affinity_mask() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("the system has no affinity")
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert usable_cores() <= 1
    finally:
        os.sched_setaffinity(0, cores)


def test_peak_memory_is_not_inherited_and_stays_after_memory_is_freed() -> None:
    if peak_resident_mib() is None or resident_mib() is None:
        pytest.skip("the system does not report it")
    # The parent holds 200 MiB more than the child ever does: an inherited peak must not count.
    ballast = bytearray(200 * 2**20)
    code = (
        "from yolopose.runtime.machine import peak_resident_mib as peak, resident_mib as now\n"
        "before = now(); block = bytearray(60 * 2**20); del block\n"
        "print(peak() - before, now() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    grown, kept = map(float, done.stdout.split())
    assert len(ballast) > 0
    assert 55 < grown < 90
    assert kept < 30
