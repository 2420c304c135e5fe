"""Inside the child: the PyTorch reference. The only module here that loads torch, and onnx for the bare network."""

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
    """Whatever the task asks for: people at each threshold, the bare network as ONNX, time of the public call."""
    import torch

    from yolopose.checkpoints import load
    from yolopose.deploy.reference import ReferenceEstimator
    from yolopose.runtime import read_image

    if task.threads is not None:
        torch.set_num_threads(task.threads)
    net = load(task.weights)
    shape_hw = (task.shape_hw[0], task.shape_hw[1])

    def estimator(score: float) -> ReferenceEstimator:
        return ReferenceEstimator(
            net, score_threshold=score, iou_threshold=task.iou, max_people=task.max_people, shape_hw=shape_hw
        )

    if task.files:
        from .people_file import save_people

        for file, score in task.files.items():
            save_people(Path(file), [_people(estimator(score), path) for path in task.images])
    if task.network is not None:
        _export_network(net, shape_hw, Path(task.network))
    samples_ms: dict[str, list[float]] = {}
    if task.score is not None:
        images = [read_image(path) for path in task.images[: task.warmup + task.iterations]]
        samples_ms = _time_calls(estimator(task.score), images, task)
    return {
        "samples_ms": samples_ms,
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "weights_sha256": net.weights_sha256,
    }


def _people(reference: ReferenceEstimator, path: str) -> PoseResult:
    from yolopose.runtime import PoseResult, read_image

    people = reference(read_image(path))
    assert isinstance(people, PoseResult)  # one image, not a list
    return people


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
