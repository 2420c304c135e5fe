"""``python -m yolopose.benchmarks.gpu``: tests, parity, placement and time on the GPU that is here, into one report.

What is not installed is named in the report, not measured. Exit code 1 where a test fails, an artifact is not the
network's, or a provider runs our operators on the CPU; the report is written all the same.
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
from yolopose.runtime.errors import BackendError, BackendUnavailable, YoloposeError
from yolopose.runtime.machine import machine_now
from yolopose.runtime.output import atomic_write, output_folder

from ..measure import latency, paired_difference, paired_excess
from ..tasks import run_child
from .report import Proof, Tail, Timed, markdown
from .worker import GpuTask

TESTS = Path(__file__).resolve().parents[2] / "tests" / "gpu"
TORCH = ("torch", "torch-graph", "torch:fp16", "torch-graph:fp16")
Child = Callable[[GpuTask], dict[str, Any]]
Samples = dict[tuple[int, Path, str], list[dict[str, Any]]]  # (batch, artifact, engine) -> one answer a round
_CHILD: Child = partial(run_child, module="yolopose.benchmarks.gpu.worker")


def prove(arguments: argparse.Namespace, console: Console, proof: Proof, child: Child = _CHILD) -> None:
    """Fill ``proof``, step after step. child: runs a GpuTask in a process of its own."""
    base = GpuTask(
        "", arguments.weights, "", "", arguments.device, images=_text(arguments.images), data=_text(arguments.data)
    )
    with tempfile.TemporaryDirectory(prefix="yolopose-gpu-") as folder:
        artifacts = arguments.artifact or list(_exported(arguments, Path(folder), console, proof))
        subjects = [(artifact, engine) for artifact in artifacts for engine in _engines(artifact, arguments.device)]
        parity = replace(base, step="parity", limit=arguments.limit)
        runnable = [
            subject
            for subject in console.progress(subjects, len(subjects), "parity")
            if _compared(*subject, parity, proof, child)
        ]
        if not runnable:
            proof.failures.append("nothing could be run on the GPU")
        for artifact in dict.fromkeys(artifact for artifact, engine in runnable if engine == "onnxruntime"):
            _placed(artifact, replace(base, step="placement"), proof, child)
        dynamic = next((artifact for artifact in artifacts if artifact.suffix == ".onnx"), None)
        in_torch = (*TORCH, *(["torch-compile"] if arguments.compile else [])) if dynamic else ()
        contestants = [*((dynamic, engine) for engine in in_torch if dynamic), *runnable]
        timing = replace(base, step="time", warmup=arguments.warmup)
        _timed(contestants, arguments, timing, console, proof, child)
        if dynamic is not None:
            tail = replace(timing, step="tail", artifact=str(dynamic), iterations=arguments.iterations)
            if (found := _tried(child, tail, proof)) is not None:
                deployed, network = (found["samples_ms"][name] for name in ("deployed", "network"))
                proof.tail = Tail(paired_difference(deployed, network), latency(deployed).p50_ms)


def _compared(artifact: Path, engine: str, base: GpuTask, proof: Proof, child: Child) -> bool:
    """False where it cannot run here."""
    found = _tried(child, replace(base, artifact=str(artifact), backend=engine), proof)
    if found is None:
        return False
    proof.parity.append({"artifact": artifact.name, "engine": engine, **found})
    if found["verdict"] == "failed":
        proof.failures.append(f"{artifact.name} on {engine}: {found['reason']}")
    return True


def _placed(artifact: Path, base: GpuTask, proof: Proof, child: Child) -> None:
    found = _tried(child, replace(base, artifact=str(artifact)), proof)
    if found is not None:
        proof.placement.append({"artifact": artifact.name, **found})
        if found["misplaced"]:
            proof.failures.append(f"{artifact.name}: on the CPU or copied inside: {found['misplaced']}")


def _timed(
    contestants: Sequence[tuple[Path, str]],
    arguments: argparse.Namespace,
    base: GpuTask,
    console: Console,
    proof: Proof,
    child: Child,
) -> None:
    base = replace(base, iterations=max(1, arguments.iterations // arguments.rounds))
    taken = {artifact: read_contract(artifact).input.batch for artifact, _ in contestants}
    one_round = [(batch, *each) for batch in arguments.batches for each in contestants if batch in taken[each[0]]]
    jobs = one_round * arguments.rounds
    samples: Samples = {}
    for batch, artifact, engine in console.progress(jobs, len(jobs), "time"):
        found = _tried(child, replace(base, artifact=str(artifact), backend=engine, batch=batch), proof)
        if found is not None:
            samples.setdefault((batch, artifact, engine), []).append(found)
    proof.times.extend(_times(samples))


def _exported(arguments: argparse.Namespace, folder: Path, console: Console, proof: Proof) -> Iterator[Path]:
    """float32, float16 and, where asked, int8; and plans of them where there is a TensorRT."""
    given = [] if arguments.imgsz is None else ["--imgsz", str(arguments.imgsz)]
    given += ["--images", str(arguments.images)] if arguments.images else []
    plans = find_spec("tensorrt") is not None
    int8 = [["--int8"], *([["--int8", "--target", "tensorrt"]] if plans else [])]
    for precision in [[], ["--fp16"], *(int8 if arguments.int8 else [])]:
        for artifact in _made(["--weights", arguments.weights, *given, *precision], folder, console, proof):
            yield artifact
            if plans and read_contract(artifact).precision.target in ("any", "tensorrt"):
                words = ["--weights", str(artifact), "--format", "engine"]
                yield from _made([*words, *_profiles(arguments.batches)], folder, console, proof)


def _profiles(batches: Sequence[int]) -> Iterator[str]:
    """Each batch is the best one of a profile of its own, and none between them is left out."""
    first = 1
    for batch in sorted(set(batches)):
        yield from ("--profile", f"{first}:{batch}:{batch}")
        first = batch + 1


def _made(words: list[str], folder: Path, console: Console, proof: Proof) -> list[Path]:
    """The artifacts or plans that yolopose-export writes; what it refuses is a failure of the proof."""
    console.say(shlex.join(["yolopose-export", *words]))
    before = set(folder.iterdir())
    command = [sys.executable, "-m", "yolopose.export", *words, "--output", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        proof.failures.append(f"{shlex.join(['yolopose-export', *words])}: {last}")
    return sorted(path for path in set(folder.iterdir()) - before if path.suffix in (".onnx", *PLAN_SUFFIXES))


def _engines(artifact: Path, device: str) -> Sequence[str]:
    if artifact.suffix in PLAN_SUFFIXES:
        return ("tensorrt",)
    if read_contract(artifact).precision.target == "tensorrt":
        return ()
    return ("onnxruntime", "onnxruntime:eager") if device.startswith("cuda") else ("onnxruntime",)


def _tried(child: Child, task: GpuTask, proof: Proof) -> dict[str, Any] | None:
    """The answer, or None: what is not installed or active is named in the report, anything else is a failure."""
    try:
        return child(task)
    except (YoloposeError, ValueError, OSError) as error:
        last = str(error).strip().splitlines()[-1]
        said = f"{task.step}, {Path(task.artifact).name} on {task.backend or 'PyTorch'}: {last}"
        told = proof.not_here if isinstance(error, BackendUnavailable) else proof.failures
        if said not in told:
            told.append(said)
        return None


def _times(samples: Samples) -> Iterator[Timed]:
    eager: dict[int, float] = {}
    for (batch, artifact, engine), answers in samples.items():
        infer = [value for answer in answers for value in answer["samples_ms"]["infer"]]
        bare = [value for answer in answers for value in answer["samples_ms"].get("bare", [])]
        found = latency(infer)
        if engine == "torch":
            eager[batch] = found.p50_ms
        speed = eager[batch] / found.p50_ms if batch in eager else None
        overhead = paired_excess(infer, bare) if bare else None
        yield Timed(engine, artifact.name, batch, answers[0]["version"], found, speed, overhead)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _run_tests(proof: Proof, console: Console) -> None:
    if not TESTS.is_dir() or find_spec("pytest") is None:
        proof.tests = "not here (no checkout, or no pytest)"
        return
    console.say(f"pytest -m gpu {TESTS}")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(TESTS)]
    done = subprocess.run(command, cwd=TESTS.parents[1], capture_output=True, text=True)
    proof.tests = (done.stdout.strip().splitlines() or ["no output"])[-1].strip("= ")
    if done.returncode or "passed" not in proof.tests:  # all skipped is no proof
        proof.failures.append(f"GPU tests: {proof.tests}")
        console.say(done.stdout[-4000:])


def _parser() -> argparse.ArgumentParser:
    made = parser("python -m yolopose.benchmarks.gpu", "Tests, parity, placement and time on the GPU that is here.")
    add = made.add_argument
    add("--weights", default="demo", metavar="FILE|demo", help="trained network that everything is made from")
    add("--artifact", type=Path, action="append", metavar="FILE", help="made from it already (default: all are made)")
    add("--int8", action="store_true", help="make int8 as well (minutes)")
    add("--imgsz", type=int, help="best size of what is made")
    add("--images", type=Path, metavar="DIR", help="photographs; default: synthetic scenes")
    add("--data", type=Path, metavar="JSON", help="their labels: parity by keypoint AP")
    add("--limit", type=int, default=64, help="images for parity")
    add("--batches", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    add("--iterations", type=int, default=150, help="timed batches of each contestant, all rounds together")
    add("--warmup", type=int, default=20, help="of each round, not counted")
    add("--rounds", type=int, default=3, help="fresh processes of each contestant; contestants take turns")
    add("--compile", action="store_true", help="torch.compile as well (minutes)")
    add("--device", default="cuda:0")
    add("--output", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    return made


def _main(words: Sequence[str], arguments: argparse.Namespace, console: Console) -> None:
    for name in ("limit", "iterations", "rounds", *(["imgsz"] if arguments.imgsz is not None else [])):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} must be 1 or more, got {getattr(arguments, name)}")
    if min(arguments.batches) < 1:
        raise ValueError(f"--batches must be 1 or more, got {arguments.batches}")
    gpu = find_gpu(int(arguments.device.partition(":")[2] or 0))
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
    finally:  # what was found out is not lost with what comes after it
        written = atomic_write(folder / f"{name}.md", markdown(proof))
        atomic_write(folder / f"{name}.json", json.dumps(proof.to_dict(), indent=1, ensure_ascii=False) + "\n")
    console.result(proof.to_dict(), markdown(proof))
    console.say(f"written: {written} and .json")
    if proof.failures:
        raise BackendError(f"{len(proof.failures)} failures, see {written}")


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    return run(partial(_main, words), _parser(), words)


if __name__ == "__main__":
    raise SystemExit(main())
