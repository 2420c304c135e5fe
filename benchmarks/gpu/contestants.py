"""Inside the child: what takes part on a GPU, each from letterboxed images on the host to people on the host.

Inside the child: an artifact or a plan on the GPU against the network in PyTorch, there too where it has CUDA.

Inside the child: which operators ONNX Runtime runs on the GPU, and which fall to the CPU.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from yolopose.runtime import PoseEstimator, read_contract
from yolopose.runtime.errors import BackendUnavailable

from ..measure import Stopwatch, take_turns
from .worker import GpuTask

if TYPE_CHECKING:
    import torch

    from yolopose.runtime import Contract

Run = Callable[[], object]
Inputs = tuple[np.ndarray, np.ndarray, np.ndarray]
_WARM_UP = 3  # runs before a CUDA graph is captured


class Contestant(NamedTuple):
    infer: Run  # what an application calls
    bare: Run | None  # the engine's own call
    version: str


def time_contestant(task: GpuTask) -> dict[str, Any]:
    """Samples of ``infer`` and, where there is one, ``bare``, in turn, ms a batch."""
    inputs = _inputs(task)
    name, _, precision = task.backend.partition(":")
    in_torch = name.startswith("torch")
    found = _in_torch(task, name, precision, inputs) if in_torch else _in_estimator(task, inputs)
    runs = {"infer": found.infer} | ({"bare": found.bare} if found.bare else {})
    return {"samples_ms": _samples(runs, task), "version": found.version}


def time_tail(task: GpuTask) -> dict[str, Any]:
    """Samples of the deployed network and of the bare one, both as CUDA graphs on the device, in turn: what
    normalisation, decode and NMS cost."""
    import torch

    from yolopose.checkpoints import load
    from yolopose.deploy.deployed import BareNet, DeployedNet

    contract, device = read_contract(task.artifact), _device(task)
    images, *thresholds = (torch.from_numpy(array).to(device) for array in _inputs(task))
    deployed = DeployedNet(load(task.weights), contract.nms).eval().to(device)
    network = BareNet(load(task.weights)).eval().to(device)
    pixels = images.permute(0, 3, 1, 2).float().contiguous()

    def finished(run: Run) -> Run:
        def once() -> None:
            run()
            _wait(device)

        return once

    with torch.inference_mode():
        whole = _repeated(lambda: deployed(images, *thresholds), device)[0]
        bare = _repeated(lambda: network(pixels), device)[0]
        samples_ms = _samples({"deployed": finished(whole), "network": finished(bare)}, task)
    return {"samples_ms": samples_ms, "version": torch.__version__}


def _samples(runs: dict[str, Run], task: GpuTask) -> dict[str, list[float]]:
    """Of each run, taking turns, in ms."""
    watch = Stopwatch()

    def once(i: int, name: str) -> None:
        watch.start()
        runs[name]()
        watch.lap(name)

    take_turns([partial(once, name=name) for name in runs], watch, task.iterations, task.warmup)
    return watch.samples_ms


def _inputs(task: GpuTask) -> Inputs:
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


def _in_estimator(task: GpuTask, inputs: Inputs) -> Contestant:
    backend: Any = PoseEstimator(task.artifact, task.backend, task.device).backend
    bare = backend.bare(*inputs) if hasattr(backend, "bare") else None
    return Contestant(lambda: backend.infer(*inputs), bare, f"{backend.name} {backend.version}")


def _in_torch(task: GpuTask, name: str, precision: str, inputs: Inputs) -> Contestant:
    import torch

    from yolopose.checkpoints import load
    from yolopose.deploy.deployed import DeployedNet

    device = _device(task)
    torch.backends.cudnn.benchmark = True
    deployed: Any = DeployedNet(load(task.weights), read_contract(task.artifact).nms).eval().to(device)
    if name == "torch-compile":
        deployed = torch.compile(deployed, mode="reduce-overhead")
    # A baseline of speed: its coordinates come out in float16, which those of our files never do.
    half = torch.autocast(device.type, torch.float16) if precision == "fp16" else nullcontext()
    on_host = [torch.from_numpy(array) for array in inputs]
    if device.type == "cuda":
        on_host = [tensor.pin_memory() for tensor in on_host]
    static = [tensor.to(device) for tensor in on_host]

    def compute() -> Any:
        with torch.inference_mode(), half:
            return deployed(*static)

    repeated = _repeated(compute, device) if name == "torch-graph" else None

    def infer() -> list[torch.Tensor]:
        for target, source in zip(static, on_host, strict=True):
            target.copy_(source, non_blocking=True)
        if repeated is None:
            return [part.cpu() for part in compute()]
        run, outputs = repeated
        run()
        return [part.cpu() for part in outputs]

    return Contestant(infer, None, f"torch {torch.__version__}")


def _device(task: GpuTask) -> torch.device:
    """Raises BackendUnavailable."""
    import torch

    if task.device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendUnavailable(f"PyTorch {torch.__version__} sees no GPU")
    torch.backends.cudnn.allow_tf32 = False  # on by default, and not float32
    device = torch.device(task.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # streams and graphs are made on the current one
    return device


def _repeated(compute: Callable[[], Any], device: torch.device) -> tuple[Run, Any]:
    """``compute`` as a CUDA graph and the tensors that it writes; on a CPU as it is."""
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


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def compare(task: GpuTask) -> dict[str, Any]:
    """The verdict of the gate that an export ends in, with this engine. float32 must be equal up to rounding."""
    import torch

    from yolopose.checkpoints import load
    from yolopose.data.image_set import open_image_set
    from yolopose.export.source import source_from_net
    from yolopose.export.verify import verify
    from yolopose.runtime import read_contract

    torch.backends.cudnn.allow_tf32 = False  # on by default, and not float32
    contract = read_contract(task.artifact)
    on = task.device if torch.cuda.is_available() else "cpu"  # a Jetson may have a PyTorch for CPUs alone
    net = load(task.weights).to(on)
    data, folder = (None if path is None else Path(path) for path in (task.data, task.images))
    images = open_image_set(data, folder, net.skeleton, task.limit)
    exact = contract.precision.weights == contract.precision.activations == "float32"
    found = verify(
        Path(task.artifact),
        source_from_net(net),
        images,
        exact=exact,
        max_ap_drop=0.5,
        progress=lambda items, total, label: items,
        backend=task.backend,
        device=task.device,
    )
    report = found.report
    return {
        "verdict": found.info.verdict,
        "reason": found.reason,
        "reference": f"PyTorch {torch.__version__} on {on}",
        "images": report.images,
        "people": report.people,
        "matched": report.matched,
        "max_px": report.max_px,
        "mean_oks": report.mean_oks,
    }


_SHAPE_TYPES = frozenset(("int64", "bool"))
_LARGEST_SHAPE = 8  # numbers: more are pixels, anchors or people


def operators_by_provider(task: GpuTask) -> dict[str, Any]:
    """Counts of operators that ran, by provider, and ``misplaced``: those of ours that the GPU should have run."""
    import onnxruntime

    from yolopose.runtime import read_contract
    from yolopose.runtime.backends.onnxruntime import session_options

    given = read_contract(task.artifact).input
    shape_hw = (given.height.opt, given.width.opt)
    options = session_options(onnxruntime, shape_hw, None)
    options.enable_profiling = True
    on_gpu = task.device.startswith("cuda")
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        if on_gpu and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        providers = ["CUDAExecutionProvider"] if on_gpu else ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(task.artifact, options, providers=providers)
        rows = given.batch.min
        thresholds = {name: np.full((rows, 1), 0.25, np.float32) for name in ("score_threshold", "iou_threshold")}
        session.run(None, {"images": np.zeros((rows, *shape_hw, 3), np.uint8), **thresholds})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return {"providers": counted(events), "misplaced": misplaced(events) if on_gpu else {}}


def counted(events: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Operators that ran, by provider."""
    found: dict[str, Counter[str]] = {}
    for arguments in _operators(events):
        found.setdefault(arguments["provider"], Counter())[arguments["op_name"]] += 1
    return {provider: dict(sorted(counts.items())) for provider, counts in found.items()}


def misplaced(events: list[dict[str, Any]]) -> dict[str, int]:
    """Operators on the CPU that compute on more than a shape, and copies between CPU and GPU inside the graph.

    ONNX Runtime keeps arithmetic on shapes on the CPU on purpose: a few whole numbers.
    """
    found: Counter[str] = Counter()
    for arguments in _operators(events):
        on_cpu = arguments["provider"] == "CPUExecutionProvider"
        if arguments["op_name"].startswith("Memcpy") or (on_cpu and not _is_shape(arguments["output_type_shape"])):
            found[arguments["op_name"]] += 1
    return dict(sorted(found.items()))


def _operators(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for event in events:
        arguments = event.get("args", {})
        if event.get("cat") == "Node" and arguments.get("provider"):
            yield arguments


def _is_shape(outputs: list[dict[str, list[int]]]) -> bool:
    return all(
        kind in _SHAPE_TYPES and prod(shape) <= _LARGEST_SHAPE for each in outputs for kind, shape in each.items()
    )
