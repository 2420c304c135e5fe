"""The steps of the proof that run in child processes: time, tail, parity and placement.

A *configuration* is an artifact and what runs it: a backend of ``PoseEstimator``, or PyTorch. It starts from
letterboxed images on the host and ends with people on the host.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from yolopose.runtime import PoseEstimator, read_contract
from yolopose.runtime.backends.onnxruntime import CPU, CUDA, open_session, session_options
from yolopose.runtime.errors import BackendUnavailable

from ..measure import Stopwatch, take_turns

if TYPE_CHECKING:
    import torch

    from yolopose.runtime import Contract

_WARM_UP = 3  # runs before a CUDA graph is captured
_SHAPE_TYPES = frozenset(("int64", "bool"))
_LARGEST_SHAPE = 8  # elements of a tensor that counts as a shape; larger ones are pixels, anchors or people

Run = Callable[[], object]
Inputs = tuple[np.ndarray, np.ndarray, np.ndarray]  # images, score_threshold, iou_threshold
Event = dict[str, Any]  # of ONNX Runtime's profile


@dataclass(frozen=True)
class GpuTask:
    """One step on one configuration.

    step: a name in STEPS
    artifact: also gives the contract and the sizes where PyTorch runs
    backend: of ``PoseEstimator``; or torch, torch-graph or torch-compile, optionally with :fp16, which run the
        deployed network in PyTorch
    batch: images of a run; iterations, warmup: of "time" and "tail"; limit: images of "parity"
    """

    step: str
    weights: str
    artifact: str
    backend: str
    device: str
    batch: int = 1
    iterations: int = 0
    warmup: int = 0
    images: str | None = None
    data: str | None = None
    limit: int = 0


class Runs(NamedTuple):
    """What is timed of a configuration."""

    infer: Run  # what an application calls
    bare: Run | None  # the run of the artifact alone, where the backend offers it
    version: str


def time_configuration(task: GpuTask) -> dict[str, Any]:
    """Samples of ``infer`` and, where there is one, ``bare``, alternating, in ms per batch."""
    inputs = _inputs(task)
    name, _, precision = task.backend.partition(":")
    in_torch = name.startswith("torch")
    found = _runs_in_torch(task, name, precision, inputs) if in_torch else _runs_in_backend(task, inputs)
    runs = {"infer": found.infer} | ({"bare": found.bare} if found.bare else {})
    return {"samples_ms": _samples(runs, task), "version": found.version}


def time_tail(task: GpuTask) -> dict[str, Any]:
    """Samples of the deployed network and of the bare network, both as CUDA graphs on the device, alternating.

    The difference is the time of normalization, decode and NMS.
    """
    import torch

    from yolopose.checkpoints import load
    from yolopose.deploy.deployed import BareNet, DeployedNet

    contract, device = read_contract(task.artifact), _device(task)
    images, *thresholds = (torch.from_numpy(array).to(device) for array in _inputs(task))
    deployed = DeployedNet(load(task.weights), contract.nms).eval().to(device)
    network = BareNet(load(task.weights)).eval().to(device)
    pixels = images.permute(0, 3, 1, 2).float().contiguous()

    def synchronized(run: Run) -> Run:
        def once() -> None:
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return once

    with torch.inference_mode():
        whole = _as_graph(lambda: deployed(images, *thresholds), device)[0]
        bare = _as_graph(lambda: network(pixels), device)[0]
        samples_ms = _samples({"deployed": synchronized(whole), "network": synchronized(bare)}, task)
    return {"samples_ms": samples_ms, "version": torch.__version__}


def _samples(runs: dict[str, Run], task: GpuTask) -> dict[str, list[float]]:
    """Of each run, alternating, in ms."""
    watch = Stopwatch()

    def once(i: int, name: str) -> None:
        watch.start()
        runs[name]()
        watch.lap(name)

    take_turns([partial(once, name=name) for name in runs], watch, task.iterations, task.warmup)
    return watch.samples_ms


def _inputs(task: GpuTask) -> Inputs:
    """A batch of letterboxed images, repeated where there are too few, and the thresholds of the contract."""
    from yolopose.data.image_set import open_image_set
    from yolopose.export.graph import letterboxed

    contract: Contract = read_contract(task.artifact)
    folder = None if task.images is None else Path(task.images)
    some = open_image_set(None, folder, contract.skeleton, task.batch)
    frames = [frame for frame, _ in letterboxed(some, contract.input)]
    images = np.stack([frames[i % len(frames)] for i in range(task.batch)])
    nms = contract.nms
    score, iou = (np.full((task.batch, 1), each, np.float32) for each in (nms.score_threshold, nms.iou_threshold))
    return images, score, iou


def _runs_in_backend(task: GpuTask, inputs: Inputs) -> Runs:
    backend: Any = PoseEstimator(task.artifact, task.backend, task.device).backend
    bare = backend.bare(*inputs) if hasattr(backend, "bare") else None
    return Runs(lambda: backend.infer(*inputs), bare, f"{backend.name} {backend.version}")


def _runs_in_torch(task: GpuTask, name: str, precision: str, inputs: Inputs) -> Runs:
    import torch

    from yolopose.checkpoints import load
    from yolopose.deploy.deployed import DeployedNet

    device = _device(task)
    torch.backends.cudnn.benchmark = True
    deployed: Any = DeployedNet(load(task.weights), read_contract(task.artifact).nms).eval().to(device)
    if name == "torch-compile":
        deployed = torch.compile(deployed, mode="reduce-overhead")
    # A baseline for speed only: its coordinates are float16, which those of our artifacts never are.
    half = torch.autocast(device.type, torch.float16) if precision == "fp16" else nullcontext()
    on_host = [torch.from_numpy(array) for array in inputs]
    if device.type == "cuda":
        on_host = [tensor.pin_memory() for tensor in on_host]
    static = [tensor.to(device) for tensor in on_host]

    def compute() -> Any:
        with torch.inference_mode(), half:
            return deployed(*static)

    graph = _as_graph(compute, device) if name == "torch-graph" else None

    def infer() -> list[torch.Tensor]:
        for target, source in zip(static, on_host, strict=True):
            target.copy_(source, non_blocking=True)
        if graph is None:
            return [part.cpu() for part in compute()]
        replay, outputs = graph
        replay()
        return [part.cpu() for part in outputs]

    return Runs(infer, None, f"torch {torch.__version__}")


def _device(task: GpuTask) -> torch.device:
    """The device of the task, made current, without TF32. Raises BackendUnavailable if PyTorch finds no GPU."""
    import torch

    if task.device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendUnavailable(f"PyTorch {torch.__version__} finds no GPU")
    torch.backends.cudnn.allow_tf32 = False  # on by default, and not float32
    device = torch.device(task.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # streams and graphs are created on the current device
    return device


def _as_graph(compute: Callable[[], Any], device: torch.device) -> tuple[Run, Any]:
    """``compute`` as a CUDA graph, and the tensors that it writes. On a CPU, ``compute`` itself."""
    import torch

    if device.type != "cuda":
        return compute, compute()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            compute()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = compute()
    return graph.replay, outputs


def compare(task: GpuTask) -> dict[str, Any]:
    """Parity with PyTorch, by the gate of an export. float32 must be equal within tolerance.

    The reference runs on the GPU if PyTorch has CUDA; on a Jetson PyTorch may be built for the CPU only.
    """
    import torch

    from yolopose.checkpoints import load
    from yolopose.data.image_set import open_image_set
    from yolopose.export.config import Limits
    from yolopose.export.source import source_from_net
    from yolopose.export.verify import verify

    torch.backends.cudnn.allow_tf32 = False  # on by default, and not float32
    contract = read_contract(task.artifact)
    reference_device = task.device if torch.cuda.is_available() else "cpu"
    net = load(task.weights).to(reference_device)
    data, folder = (None if path is None else Path(path) for path in (task.data, task.images))
    images = open_image_set(data, folder, net.skeleton, task.limit)
    exact = contract.precision.weights == contract.precision.activations == "float32"
    found = verify(
        Path(task.artifact),
        source_from_net(net),
        images,
        limits=None if exact else Limits.usual(contract.precision.activations == "float16"),
        progress=lambda items, total, label: items,
        backend=task.backend,
        device=task.device,
    )
    report = found.report
    return {
        "verdict": found.info.verdict,
        "reason": found.reason,
        "reference": f"PyTorch {torch.__version__} on {reference_device}",
        "images": report.images,
        "people": report.people,
        "matched": report.matched,
        "max_px": report.max_px,
        "mean_oks": report.mean_oks,
    }


def operators_by_provider(task: GpuTask) -> dict[str, Any]:
    """Operators that ONNX Runtime ran, counted by provider, and ``misplaced``: those that the GPU should have run."""
    given = read_contract(task.artifact).input
    shape_hw = (given.height.opt, given.width.opt)
    options = session_options(shape_hw)
    options.enable_profiling = True
    on_gpu = task.device.startswith("cuda")
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = open_session(task.artifact, options, [(CUDA if on_gpu else CPU, {})])
        rows = given.batch.min
        thresholds = {name: np.full((rows, 1), 0.25, np.float32) for name in ("score_threshold", "iou_threshold")}
        session.run(None, {"images": np.zeros((rows, *shape_hw, 3), np.uint8), **thresholds})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return {"providers": count_operators(events), "misplaced": misplaced(events) if on_gpu else {}}


def count_operators(events: list[Event]) -> dict[str, dict[str, int]]:
    """Provider -> operator -> number of runs."""
    found: dict[str, Counter[str]] = {}
    for arguments in _operators(events):
        found.setdefault(arguments["provider"], Counter())[arguments["op_name"]] += 1
    return {provider: dict(sorted(counts.items())) for provider, counts in found.items()}


def misplaced(events: list[Event]) -> dict[str, int]:
    """Operators on the CPU that compute more than a shape, and copies between CPU and GPU inside the graph.

    ONNX Runtime runs arithmetic on shapes, a few integers, on the CPU on purpose.
    """
    found: Counter[str] = Counter()
    for arguments in _operators(events):
        on_cpu = arguments["provider"] == CPU
        if arguments["op_name"].startswith("Memcpy") or (on_cpu and not _is_shape(arguments["output_type_shape"])):
            found[arguments["op_name"]] += 1
    return dict(sorted(found.items()))


def _operators(events: list[Event]) -> Iterator[dict[str, Any]]:
    for event in events:
        arguments = event.get("args", {})
        if event.get("cat") == "Node" and arguments.get("provider"):
            yield arguments


def _is_shape(outputs: list[dict[str, list[int]]]) -> bool:
    return all(
        kind in _SHAPE_TYPES and prod(shape) <= _LARGEST_SHAPE for each in outputs for kind, shape in each.items()
    )


STEPS: dict[str, Callable[[GpuTask], dict[str, Any]]] = {
    "parity": compare,
    "placement": operators_by_provider,
    "time": time_configuration,
    "tail": time_tail,
}
