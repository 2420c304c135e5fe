"""Inside the child: a checkpoint in PyTorch. The only module here that loads torch, and onnx for the bare network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .measure import Stopwatch, take_turns
from .tasks import ReferenceTask

if TYPE_CHECKING:
    from yolopose import PoseNet
    from yolopose.deploy.reference import ReferenceEstimator
    from yolopose.runtime import PoseResult


def run_reference(task: ReferenceTask) -> dict[str, Any]:
    """Whatever the task asks for: people at each threshold, the bare network as ONNX, time of the public call.

    Raises what ``yolopose.load`` raises, and ValueError for a size that the network does not take.
    """
    import torch

    from yolopose.checkpoints import load
    from yolopose.deploy.reference import ReferenceEstimator
    from yolopose.runtime import read_image

    if task.threads is not None:
        torch.set_num_threads(task.threads)
    net = load(task.weights)
    shape_hw = _shape_hw(net, task)

    estimate = ReferenceEstimator(net, iou_threshold=task.iou, max_people=task.max_people, shape_hw=shape_hw)
    if task.files:
        _save_people(estimate, task)
    if task.network is not None:
        _export_network(net, shape_hw, Path(task.network))
    samples_ms: dict[str, list[float]] = {}
    if task.score is not None:
        images = [read_image(path) for path in task.images[: task.warmup + task.iterations]]
        estimate.score_threshold = task.score
        samples_ms = _time_calls(estimate, images, task)
    return {
        "samples_ms": samples_ms,
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "weights_sha256": net.weights_sha256,
        "network": net.config.name,
        "shape_hw": list(shape_hw),
        "skeleton": net.skeleton.to_dict(),
    }


def _shape_hw(net: PoseNet, task: ReferenceTask) -> tuple[int, int]:
    height, width = task.shape_hw or (net.input.size, net.input.size)
    if height % net.input.multiple or width % net.input.multiple:
        name, multiple = Path(task.weights).name, net.input.multiple
        raise ValueError(f"{name}: height and width must be multiples of {multiple}, got {height} x {width}")
    return height, width


def _save_people(estimate: ReferenceEstimator, task: ReferenceTask) -> None:
    """The network runs once an image, whatever the number of thresholds."""
    from yolopose.runtime import read_image

    from .tasks import save_people

    found: dict[str, list[PoseResult]] = {file: [] for file in task.files}
    for path in task.images:
        predictions, placement = estimate.predict(read_image(path))
        for file, score in task.files.items():
            estimate.score_threshold = score
            found[file].append(estimate.people(predictions, placement))
    for file, results in found.items():
        save_people(Path(file), results)


def _export_network(net: PoseNet, shape_hw: tuple[int, int], path: Path) -> None:
    """The bare network, and beside it how its input is made from a letterboxed picture."""
    from yolopose.export.onnx_export import bare_onnx_from_net

    path.write_bytes(bare_onnx_from_net(net, shape_hw))
    spec = {"channel_order": net.input.channel_order, "scale": net.input.scale}
    Path(f"{path}.json").write_text(json.dumps(spec), encoding="utf-8")


def _time_calls(reference: ReferenceEstimator, images: list[Any], task: ReferenceTask) -> dict[str, list[float]]:
    watch = Stopwatch()

    def whole(i: int) -> None:
        image = images[i % len(images)]
        watch.start()
        reference(image)
        watch.lap("total")

    take_turns([whole], watch, task.iterations, task.warmup)
    return watch.samples_ms
