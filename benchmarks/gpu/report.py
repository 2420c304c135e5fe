"""What the proof found, as text for people and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from yolopose.runtime.machine import Machine

from ..measure import Latency, Paired


@dataclass(frozen=True)
class Timed:
    """One contestant at one batch size; ``latency`` of a whole batch in ms."""

    contestant: str
    artifact: str
    batch: int
    version: str
    latency: Latency
    speed: float | None  # p50 of PyTorch eager over this one's
    overhead: Paired | None  # of our backend over the engine's own call


@dataclass(frozen=True)
class Tail:
    """Normalisation, decode and NMS inside one CUDA graph at batch 1, ms."""

    difference: Paired  # of the deployed network over the bare one
    deployed_p50_ms: float


@dataclass
class Proof:
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
    not_here: list[str] = field(default_factory=list)  # contestants that could not run, with the reason
    failures: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def markdown(proof: Proof) -> str:
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
        *(f"- not here: {each}" for each in proof.not_here),
        "",
        "## Parity with PyTorch",
        "",
        "| artifact | engine | reference | verdict | people | matched | max px | mean OKS |",
        "| :-- | :-- | :-- | :-- | --: | --: | --: | --: |",
        *(_parity_row(each) for each in proof.parity),
        "",
        "## Operators that ONNX Runtime runs on the CPU",
        "",
        *(_placement_line(each) for each in proof.placement),
        "",
        "## Time of a batch, from letterboxed images on the host to people on the host, ms",
        "",
        "| contestant | artifact | batch | p50 | p90 | n | speed | overhead over the engine's own call |",
        "| :-- | :-- | --: | --: | --: | --: | --: | --: |",
        *(_time_row(each) for each in proof.times),
        "",
        "speed: PyTorch eager float32's p50 at that batch over this one's; overhead: median of pairs [95 % interval]",
        "",
    ]
    if proof.tail is not None:
        found = proof.tail.difference
        lines.append(
            f"Normalisation, decode and NMS as part of one CUDA graph, batch 1: {found.median:.3f} ms "
            f"[{found.low:.3f}, {found.high:.3f}] of {proof.tail.deployed_p50_ms:.3f} ms."
        )
    return "\n".join(lines).rstrip() + "\n"


def _parity_row(each: dict[str, Any]) -> str:
    px, oks = (("-" if each[name] is None else f"{each[name]:.4g}") for name in ("max_px", "mean_oks"))
    named = [each[name] for name in ("artifact", "engine", "reference", "verdict", "people", "matched")]
    cells = [*named, px, oks]
    return f"| {' | '.join(map(str, cells))} |"


def _placement_line(each: dict[str, Any]) -> str:
    counts = {provider: sum(operators.values()) for provider, operators in each["providers"].items()}
    wrong = ", ".join(f"{name} x {count}" for name, count in each["misplaced"].items())
    placed = ", ".join(f"{provider} {count}" for provider, count in counts.items())
    return f"- {each['artifact']}: {placed}; " + (
        f"MISPLACED: {wrong}" if wrong else "on the CPU shape arithmetic alone"
    )


def _time_row(each: Timed) -> str:
    overhead = "-"
    if each.overhead is not None:
        share = each.overhead
        overhead = f"{share.median:.1%} [{share.low:.1%}, {share.high:.1%}]"
    speed = "-" if each.speed is None else f"{each.speed:.2f}x"
    latency = each.latency
    cells = [f"{each.contestant} ({each.version})", each.artifact, each.batch, f"{latency.p50_ms:.3f}"]
    return f"| {' | '.join(map(str, [*cells, f'{latency.p90_ms:.3f}', latency.n, speed, overhead]))} |"
