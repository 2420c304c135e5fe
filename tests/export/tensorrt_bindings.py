"""TensorRT's real Python bindings without TensorRT: every class, member and signature, but nothing computes.

The bindings are a wheel of 1.3 MB; the three libraries that they load are replaced by a C file of nine empty functions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("10.16.1.11", "11.4.0.106")
SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRuntime_INTERNAL", "createInferRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getBuilderPluginRegistry",
    "getPluginRegistry", "initLibNvInferPlugins", "getNvOnnxParserVersion",
)  # fmt: skip
LIBS = """
import ctypes, pathlib
for path in sorted(pathlib.Path(__file__).parent.glob("*.so*")):
    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
"""
DUMP = """
import json, tensorrt_bindings as trt
members = {}
for name in dir(trt):
    kind = getattr(trt, name)
    if isinstance(kind, type):
        members[name] = {m: (getattr(kind, m).__doc__ or "") if callable(getattr(kind, m)) else None for m in dir(kind)}
        members[name]["__init__"] = kind.__init__.__doc__ or ""
severity = trt.ILogger.Severity
members["ILogger.Severity"] = {m: None for m in dir(severity)}
print(json.dumps(members))
"""


def install(folder: Path, version: str) -> Path:
    """Folder for PYTHONPATH. Raises OSError or CalledProcessError: no registry, no compiler."""
    target = folder / version
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), f"tensorrt-cu13-bindings=={version}"], check=True, timeout=120)
    libs = target / "tensorrt_libs"
    libs.mkdir()
    source = libs / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in SYMBOLS), encoding="utf-8")
    (libs / "__init__.py").write_text(LIBS, encoding="utf-8")
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        file = f"lib{name}.so.{version.split('.')[0]}"
        gcc = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", str(libs / file), str(source)]
        subprocess.run(gcc, check=True, timeout=60)
    return target


def run(target: Path, script: str) -> str:
    """Standard output of a script that may import ``tensorrt_bindings``."""
    path = os.pathsep.join([str(target), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def members_of(target: Path) -> dict[str, dict[str, Any]]:
    """Class -> member -> docstring of a method (with its signature), None for other members."""
    members: dict[str, dict[str, Any]] = json.loads(run(target, DUMP))
    return members


def arguments_of(docstring: str) -> list[tuple[int, int]]:
    """Smallest and largest number of arguments without self, of each overload in a docstring of pybind11."""
    found = []
    for line in docstring.splitlines():
        if "(self" not in line:
            continue
        depth, parts, start = 0, [], line.index("(self") + 1
        part = ""
        for character in line[start:]:
            if character in "([{":
                depth += 1
            elif character in ")]}":
                depth -= 1
                if depth < 0:
                    break
            if character == "," and depth == 0:
                parts.append(part)
                part = ""
            else:
                part += character
        parts.append(part)
        given = parts[1:]
        found.append((sum("=" not in one for one in given), len(given)))
    return found
