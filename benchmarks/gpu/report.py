"""The results of the proof, as Markdown and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from yolopose.runtime.machine import Machine

from ..measure import Latency, Paired


@dataclass(frozen=True)
class Timed:
    """A configuration at one batch size."""

    backend: str
    artifact: str
    batch: int
    version: str
    latency: Latency  # ms per batch
    speed: float | None  # p50 of PyTorch eager divided by the p50 of this one
    overhead: Paired | None  # of infer() over the bare run


@dataclass(frozen=True)
class Tail:
    """Time of normalization, decode and NMS inside one CUDA graph at batch 1, ms."""

    difference: Paired  # deployed network minus bare network
    deployed_p50_ms: float


@dataclass
class Proof:
    """Everything that the proof finds; prove() fills it step by step."""

    gpu: dict[str, str]
    machine: Machine
    command: str
    created: str
    weights: str
    images: str
    tests: str = "not run"
    parity: list[dict[str, Any]] = field(default_factory=list)
    placement: list[dict[str, Any]] = field(default_factory=list)
    times: list[Timed] = field(default_factory=list)
    tail: Tail | None = None
    unavailable: list[str] = field(default_factory=list)  # configurations that cannot run here, with the reason
    failures: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def markdown(proof: Proof) -> str:
    """The report for people."""
    gpu, machine = proof.gpu, proof.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    lines = [
        f"# {gpu['name']} (compute capability {gpu['compute_capability']}, CUDA {gpu['cuda']})",
        "",
        f"`{proof.command}`, {proof.created}; {machine.cpu}, Python {machine.python}; {versions}",
        "",
        f"Network: {proof.weights}. Images: {proof.images}. GPU tests: {proof.tests}.",
        "",
        *(f"- FAILED: {each}" for each in proof.failures),
        *(f"- not available here: {each}" for each in proof.unavailable),
        "",
        "## Parity with PyTorch",
        "",
        "| artifact | backend | reference | verdict | people | matched | max px | mean OKS |",
        "| :-- | :-- | :-- | :-- | --: | --: | --: | --: |",
        *(_parity_row(each) for each in proof.parity),
        "",
        "## Operators that ONNX Runtime runs on the CPU",
        "",
        *(_placement_line(each) for each in proof.placement),
        "",
        "## Time per batch, from letterboxed images on the host to people on the host, ms",
        "",
        "| backend | artifact | batch | p50 | p90 | n | speed | overhead over the bare run |",
        "| :-- | :-- | --: | --: | --: | --: | --: | --: |",
        *(_time_row(each) for each in proof.times),
        "",
        "speed: p50 of PyTorch eager float32 at the same batch, divided by this p50; overhead: median of pairs "
        "[95 % interval]",
        "",
    ]
    if proof.tail is not None:
        found = proof.tail.difference
        lines.append(
            f"Normalization, decode and NMS as part of one CUDA graph, batch 1: {found.median:.3f} ms "
            f"[{found.low:.3f}, {found.high:.3f}] of {proof.tail.deployed_p50_ms:.3f} ms."
        )
    return "\n".join(lines).rstrip() + "\n"


def _parity_row(each: dict[str, Any]) -> str:
    px, oks = (("-" if each[name] is None else f"{each[name]:.4g}") for name in ("max_px", "mean_oks"))
    named = [each[name] for name in ("artifact", "backend", "reference", "verdict", "people", "matched")]
    return _row(*named, px, oks)


def _placement_line(each: dict[str, Any]) -> str:
    counts = {provider: sum(operators.values()) for provider, operators in each["providers"].items()}
    wrong = ", ".join(f"{name} x {count}" for name, count in each["misplaced"].items())
    placed = ", ".join(f"{provider} {count}" for provider, count in counts.items())
    return f"- {each['artifact']}: {placed}; " + (
        f"MISPLACED: {wrong}" if wrong else "only shape arithmetic on the CPU"
    )


def _time_row(each: Timed) -> str:
    overhead = "-"
    if each.overhead is not None:
        share = each.overhead
        overhead = f"{share.median:.1%} [{share.low:.1%}, {share.high:.1%}]"
    speed = "-" if each.speed is None else f"{each.speed:.2f}x"
    p50, p90 = f"{each.latency.p50_ms:.3f}", f"{each.latency.p90_ms:.3f}"
    named = f"{each.backend} ({each.version})"
    return _row(named, each.artifact, each.batch, p50, p90, each.latency.n, speed, overhead)


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
