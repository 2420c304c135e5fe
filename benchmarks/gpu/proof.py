"""``python -m yolopose.benchmarks.gpu``: tests, parity, placement and time on the GPU of this machine, in one report.

What is not installed is named in the report and not measured. Exit code 1 if a test fails, an artifact does not match
the network, or a provider runs operators on the CPU that belong on the GPU; the report is written in any case.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from yolopose.runtime.backends.cuda import find_gpu
from yolopose.runtime.console import Console, parser, run
from yolopose.runtime.contract import PLAN_SUFFIXES, read_contract
from yolopose.runtime.errors import BackendError, BackendUnavailable, UsageError, YoloposeError
from yolopose.runtime.machine import machine_now
from yolopose.runtime.output import atomic_write, output_folder

from ..measure import latency, paired_difference, paired_excess
from ..tasks import run_child
from .report import Proof, Tail, Timed, markdown
from .steps import GpuTask

TESTS = Path(__file__).resolve().parents[2] / "tests" / "gpu"
TORCH = ("torch", "torch-graph", "torch:fp16", "torch-graph:fp16")

Child = Callable[[GpuTask], dict[str, Any]]
Configuration = tuple[Path, str]  # artifact and backend
Samples = dict[tuple[int, Path, str], list[dict[str, Any]]]  # (batch, artifact, backend) -> one answer per round
_CHILD: Child = partial(run_child, module="yolopose.benchmarks.gpu.worker")


def _parser() -> argparse.ArgumentParser:
    made = parser("python -m yolopose.benchmarks.gpu", "Tests, parity, placement and time on the GPU of this machine.")
    add = made.add_argument
    add("--weights", default="demo", metavar="FILE|demo", help="trained network that every artifact is exported from")
    add(
        "--artifact",
        type=Path,
        action="append",
        metavar="FILE",
        help="artifact of these weights, repeatable (default: all are exported)",
    )
    add("--int8", action="store_true", help="export int8 as well (minutes)")
    add("--imgsz", type=int, help="optimal size of the exported artifacts")
    add("--images", type=Path, metavar="DIR", help="photographs; default: synthetic scenes")
    add("--data", type=Path, metavar="JSON", help="their labels: parity by keypoint AP")
    add("--limit", type=int, default=64, help="images for parity")
    add("--batches", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    add("--iterations", type=int, default=150, help="timed batches of each configuration, over all rounds")
    add("--warmup", type=int, default=20, help="batches of each round that are not counted")
    add("--rounds", type=int, default=3, help="processes for each configuration; configurations alternate")
    add("--compile", action="store_true", help="torch.compile as well (minutes)")
    add("--device", default="cuda:0")
    add("--output", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    return run(partial(_main, words), _parser(), words)


def _main(words: Sequence[str], arguments: argparse.Namespace, console: Console) -> None:
    device = _check(arguments)
    gpu = find_gpu(device)
    folder = output_folder(arguments.output)
    proof = Proof(
        gpu.to_dict(),
        machine_now(),
        shlex.join(["python -m yolopose.benchmarks.gpu", *words]).replace("'", ""),
        datetime.now(timezone.utc).isoformat(timespec="minutes"),
        Path(arguments.weights).name,
        "synthetic scenes" if arguments.images is None else arguments.images.name,
    )
    name = f"{re.sub(r'[^a-z0-9]+', '-', gpu.name.lower()).strip('-')}_{proof.created[:10]}"
    try:
        _run_tests(proof, console)
        prove(arguments, console, proof)
    finally:  # results so far are written even if a later step fails
        written = atomic_write(folder / f"{name}.md", markdown(proof))
        atomic_write(folder / f"{name}.json", json.dumps(proof.to_dict(), indent=1, ensure_ascii=False) + "\n")
    console.result(proof.to_dict(), markdown(proof))
    console.say(f"written: {written} and .json")
    if proof.failures:
        raise BackendError(f"{len(proof.failures)} failures, see {written}")


def _check(arguments: argparse.Namespace) -> int:
    """Number of the device. Raises UsageError."""
    for name in ("limit", "iterations", "rounds", *(["imgsz"] if arguments.imgsz is not None else [])):
        if getattr(arguments, name) < 1:
            raise UsageError(f"--{name} must be 1 or more, got {getattr(arguments, name)}")
    if min(arguments.batches) < 1:
        raise UsageError(f"--batches must be 1 or more, got {arguments.batches}")
    match = re.fullmatch(r"(?:cpu|cuda)(?::(\d{1,4}))?", arguments.device)
    if match is None:
        raise UsageError(f"--device must be cpu, cuda or cuda:N, got {arguments.device!r}")
    return int(match[1] or 0)


def _run_tests(proof: Proof, console: Console) -> None:
    if not TESTS.is_dir() or find_spec("pytest") is None:
        proof.tests = "not available (no checkout, or no pytest)"
        return
    console.say(f"pytest -m gpu {TESTS}")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(TESTS)]
    done = subprocess.run(command, cwd=TESTS.parents[1], capture_output=True, text=True)
    proof.tests = (done.stdout.strip().splitlines() or ["no output"])[-1].strip("= ")
    if done.returncode or "passed" not in proof.tests:  # if all are skipped, nothing is proven
        proof.failures.append(f"GPU tests: {proof.tests}")
        console.say(done.stdout[-4000:])


def prove(arguments: argparse.Namespace, console: Console, proof: Proof, child: Child = _CHILD) -> None:
    """Fill `proof`: export, parity, placement, time, and the tail (normalization, decode and NMS).

    child: runs a GpuTask in its own process
    """
    base = GpuTask(
        "", arguments.weights, "", "", arguments.device, images=_text(arguments.images), data=_text(arguments.data)
    )
    with tempfile.TemporaryDirectory(prefix="yolopose-gpu-") as folder:
        artifacts = arguments.artifact or list(_exported(arguments, Path(folder), console, proof))
        configurations = [(path, backend) for path in artifacts for backend in _backends(path, arguments.device)]
        parity = replace(base, step="parity", limit=arguments.limit)
        runnable = [
            configuration
            for configuration in console.progress(configurations, len(configurations), "parity")
            if _compare(*configuration, parity, proof, child)
        ]
        if not runnable:
            proof.failures.append("nothing could be run on the GPU")
        for artifact in dict.fromkeys(artifact for artifact, backend in runnable if backend == "onnxruntime"):
            _place(artifact, replace(base, step="placement"), proof, child)
        onnx = next((artifact for artifact in artifacts if artifact.suffix == ".onnx"), None)
        in_torch = (*TORCH, *(["torch-compile"] if arguments.compile else [])) if onnx else ()
        timed = [*((onnx, backend) for backend in in_torch if onnx), *runnable]
        timing = replace(base, step="time", warmup=arguments.warmup)
        _time(timed, arguments, timing, console, proof, child)
        if onnx is not None:
            _time_tail(replace(timing, step="tail", artifact=str(onnx), iterations=arguments.iterations), proof, child)


def _exported(arguments: argparse.Namespace, folder: Path, console: Console, proof: Proof) -> Iterator[Path]:
    """float32, float16 and with --int8 int8 artifacts; with TensorRT also their plans."""
    given = [] if arguments.imgsz is None else ["--imgsz", str(arguments.imgsz)]
    given += ["--images", str(arguments.images)] if arguments.images else []
    plans = find_spec("tensorrt") is not None
    int8 = [["--int8"], *([["--int8", "--target", "tensorrt"]] if plans else [])]
    for precision in [[], ["--fp16"], *(int8 if arguments.int8 else [])]:
        for artifact in _export(["--weights", arguments.weights, *given, *precision], folder, console, proof):
            yield artifact
            if plans and read_contract(artifact).precision.target in ("any", "tensorrt"):
                words = ["--weights", str(artifact), "--format", "engine"]
                yield from _export([*words, *_profiles(arguments.batches)], folder, console, proof)


def _profiles(batches: Sequence[int]) -> Iterator[str]:
    """Flags for one profile per batch size, tuned for it; together they leave out no batch."""
    first = 1
    for batch in sorted(set(batches)):
        yield from ("--profile", f"{first}:{batch}:{batch}")
        first = batch + 1


def _export(words: list[str], folder: Path, console: Console, proof: Proof) -> list[Path]:
    """The artifacts or plans that yolopose-export writes. An export that fails is a failure of the proof."""
    console.say(shlex.join(["yolopose-export", *words]))
    before = set(folder.iterdir())
    command = [sys.executable, "-m", "yolopose.export", *words, "--output", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        proof.failures.append(f"{shlex.join(['yolopose-export', *words])}: {last}")
    return sorted(path for path in set(folder.iterdir()) - before if path.suffix in (".onnx", *PLAN_SUFFIXES))


def _backends(artifact: Path, device: str) -> Sequence[str]:
    if artifact.suffix in PLAN_SUFFIXES:
        return ("tensorrt",)
    if read_contract(artifact).precision.target == "tensorrt":
        return ()
    return ("onnxruntime", "onnxruntime:eager") if device.startswith("cuda") else ("onnxruntime",)


def _try(child: Child, task: GpuTask, proof: Proof) -> dict[str, Any] | None:
    """The answer of the child; None after an error, which is noted as unavailable or as a failure."""
    try:
        return child(task)
    except (YoloposeError, ValueError, OSError) as error:
        last = str(error).strip().splitlines()[-1]
        message = f"{task.step}, {Path(task.artifact).name} on {task.backend or 'PyTorch'}: {last}"
        messages = proof.unavailable if isinstance(error, BackendUnavailable) else proof.failures
        if message not in messages:
            messages.append(message)
        return None


def _compare(artifact: Path, backend: str, base: GpuTask, proof: Proof, child: Child) -> bool:
    """False if the configuration cannot run here."""
    found = _try(child, replace(base, artifact=str(artifact), backend=backend), proof)
    if found is None:
        return False
    proof.parity.append({"artifact": artifact.name, "backend": backend, **found})
    if found["verdict"] == "failed":
        proof.failures.append(f"{artifact.name} on {backend}: {found['reason']}")
    return True


def _place(artifact: Path, base: GpuTask, proof: Proof, child: Child) -> None:
    found = _try(child, replace(base, artifact=str(artifact)), proof)
    if found is not None:
        proof.placement.append({"artifact": artifact.name, **found})
        if found["misplaced"]:
            proof.failures.append(f"{artifact.name}: on the CPU or copied inside the graph: {found['misplaced']}")


def _time(
    configurations: Sequence[Configuration],
    arguments: argparse.Namespace,
    base: GpuTask,
    console: Console,
    proof: Proof,
    child: Child,
) -> None:
    base = replace(base, iterations=max(1, arguments.iterations // arguments.rounds))
    accepted = {artifact: read_contract(artifact).input.batch for artifact, _ in configurations}
    one_round = [
        (batch, artifact, backend)
        for batch in arguments.batches
        for artifact, backend in configurations
        if batch in accepted[artifact]
    ]
    jobs = one_round * arguments.rounds
    samples: Samples = {}
    for batch, artifact, backend in console.progress(jobs, len(jobs), "time"):
        found = _try(child, replace(base, artifact=str(artifact), backend=backend, batch=batch), proof)
        if found is not None:
            samples.setdefault((batch, artifact, backend), []).append(found)
    proof.times.extend(_statistics(samples))


def _statistics(samples: Samples) -> Iterator[Timed]:
    eager: dict[int, float] = {}  # batch -> p50 of PyTorch, which comes first
    for (batch, artifact, backend), answers in samples.items():
        infer = [value for answer in answers for value in answer["samples_ms"]["infer"]]
        bare = [value for answer in answers for value in answer["samples_ms"].get("bare", [])]
        found = latency(infer)
        if backend == "torch":
            eager[batch] = found.p50_ms
        speed = eager[batch] / found.p50_ms if batch in eager else None
        overhead = paired_excess(infer, bare) if bare else None
        yield Timed(backend, artifact.name, batch, answers[0]["version"], found, speed, overhead)


def _time_tail(task: GpuTask, proof: Proof, child: Child) -> None:
    if (found := _try(child, task, proof)) is not None:
        deployed, network = (found["samples_ms"][name] for name in ("deployed", "network"))
        proof.tail = Tail(paired_difference(deployed, network), latency(deployed).p50_ms)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


if __name__ == "__main__":
    raise SystemExit(main())
