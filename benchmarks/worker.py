"""Inside the child process: one task as JSON on stdin, measured here, its answer in the JSON file that the task names.

``python -m yolopose.benchmarks.worker``, started by ``tasks.run_child`` only. One process measures one configuration,
because the worker threads of an ONNX Runtime session spin for a while after each run and take cores from other sessions
(measured on two cores: 34 ms alone, 56 ms in turn with another session). Only the comparison of bare artifact and bare
network needs two sessions in one process. There ``session.force_spinning_stop`` lets threads spin while their own
session runs, as they do when deployed, and stops them when it returns; then both take the time they take alone (34 ms).

Imports are part of the cold start that is measured here, so the runtime, torch and onnx are imported inside functions.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yolopose.runtime.errors import UsageError, YoloposeError
from yolopose.runtime.machine import peak_resident_mib, resident_mib

from .measure import Clock, Stopwatch, images_per_second, take_turns
from .tasks import CheckpointTask, EstimatorOptions, NetworkTask, PeopleTask, TimeTask, save_people, task_from_dict

if TYPE_CHECKING:
    import onnxruntime

    from yolopose import PoseNet
    from yolopose.deploy.reference import ReferenceEstimator
    from yolopose.runtime import Contract, PoseEstimator, PoseResult

BareRun = Callable[[np.ndarray], object]
_MEMORY_IMAGES = 10  # processed one at a time before the peak is read


def main() -> int:
    """Exit code 0 with an answer, 1 with ``{"error": {"type", "message"}}``; anything else is a bug and a traceback."""
    request = json.load(sys.stdin)
    try:
        answer = _answer(request)
        code = 0
    except (YoloposeError, UsageError, OSError) as error:
        answer = {"error": {"type": error_kind(error), "message": str(error)}}
        code = 1
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")
    return code


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    task = task_from_dict(request["task"])
    if isinstance(task, TimeTask):
        return time_artifact(task, started_ns=request["started_ns"], clock=time.monotonic_ns)
    if isinstance(task, PeopleTask):
        return collect_people(task)
    if isinstance(task, NetworkTask):
        return compare_with_network(task)
    return run_checkpoint(task)


def error_kind(error: Exception) -> str:
    """Name of an exception that the parent can raise again: one of yolopose's own, else ValueError or OSError."""
    if isinstance(error, YoloposeError | UsageError):
        return type(error).__name__
    return "ValueError" if isinstance(error, ValueError) else "OSError"


def open_estimator(options: EstimatorOptions, score: float | None = None) -> PoseEstimator:
    """Raises UsageError for a backend, device, size or threshold that this artifact does not take."""
    from yolopose.runtime import PoseEstimator

    try:
        return PoseEstimator(
            options.artifact,
            backend=options.backend,
            device=options.device,
            score_threshold=options.score if score is None else score,
            iou_threshold=options.iou,
            threads=options.threads,
            imgsz=None if options.imgsz is None else (options.imgsz[0], options.imgsz[1]),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def collect_people(task: PeopleTask) -> dict[str, Any]:
    """The people of each image, one image per call, at each score threshold in turn; nothing is timed."""
    from yolopose.runtime import read_image

    for file, score in task.files.items():
        with open_estimator(task.options, score) as estimate:
            save_people(Path(file), [estimate(read_image(path)) for path in task.images])
    return {}


def time_artifact(task: TimeTask, started_ns: int, clock: Clock) -> dict[str, Any]:
    """``started_ns`` is the parent's ``clock`` just before it started this process."""
    before_open_mib = resident_mib()
    opening_ns = clock()
    estimate = open_estimator(task.options)
    opened_ns = clock()

    from yolopose.runtime import read_image

    estimate(read_image(task.images[0]))
    first_result_ns = clock()
    for path in task.images[:_MEMORY_IMAGES]:
        estimate(read_image(path))
    peak_mib = peak_resident_mib()

    # Read after the peak: the decoded images would count as memory of the estimator.
    images = [read_image(path) for path in task.images[: task.warmup + task.iterations]]
    samples_ms, bare_note = _time_stages(estimate, images, task)
    throughput = {}
    for batch in task.batches:
        throughput[str(batch)] = images_per_second(_batches(estimate, images, batch), task.iterations, warmup=1)
    backend = {"name": estimate.backend.name, "version": estimate.backend.version, "device": estimate.backend.device}
    estimate.close()
    return {
        "backend": backend,
        "samples_ms": samples_ms,
        "bare_note": bare_note,
        "throughput": throughput,
        "cold_start_ms": (first_result_ns - started_ns) / 1e6,
        "first_open_ms": (opened_ns - opening_ns) / 1e6,
        "load_ms": _load_ms(task.options, clock),
        "before_open_mib": before_open_mib,
        "peak_mib": peak_mib,
    }


def _load_ms(options: EstimatorOptions, clock: Clock) -> float:
    """Opening the artifact again, with all modules imported and the file cached: the backend's own share."""
    start = clock()
    estimate = open_estimator(options)
    load_ms = (clock() - start) / 1e6
    estimate.close()
    return load_ms


def _time_stages(
    estimate: PoseEstimator, images: list[np.ndarray], task: TimeTask
) -> tuple[dict[str, list[float]], str | None]:
    """Samples of pre, infer, post (the public steps), total (the public call) and bare (see ``bare_run``), in turn.

    The bare turn letterboxes too, outside the timed part, so that both find the caches in the same state.
    """
    watch = Stopwatch()
    run_bare, note = bare_run(estimate, task.options)

    def stages(i: int) -> None:
        with estimate.buffer(1) as buffer:
            watch.start()
            batch, placements = estimate.preprocess([images[i % len(images)]], out=buffer)
            watch.lap("pre")
            raw = estimate.infer(batch)
            watch.lap("infer")
            estimate.postprocess(raw, placements)
            watch.lap("post")

    def total(i: int) -> None:
        watch.start()
        estimate(images[i % len(images)])
        watch.lap("total")

    def bare(i: int, run: BareRun) -> None:
        with estimate.buffer(1) as buffer:
            batch, _ = estimate.preprocess([images[i % len(images)]], out=buffer)
            watch.start()
            run(batch)
            watch.lap("bare")

    turns: list[Callable[[int], None]] = [stages, total]
    if run_bare is not None:
        turns.append(partial(bare, run=run_bare))
    take_turns(turns, watch, task.iterations, task.warmup)
    return watch.samples_ms, note


def bare_run(estimate: PoseEstimator, options: EstimatorOptions) -> tuple[BareRun | None, str | None]:
    """A function that only runs the estimator's own session on a (b, h, w, 3) uint8 array, or None and the reason.

    On a GPU the copies to and from it are part of the run.
    """
    from yolopose.runtime.backends.onnxruntime import OnnxRuntimeBackend

    backend = estimate.backend
    rows = estimate.batch_rows(1)
    thresholds = _thresholds(options, rows)
    if isinstance(backend, OnnxRuntimeBackend):
        assert backend.session is not None, "the estimator is open"
        session = backend.session  # the estimator's: the threads of a second one would take cores from it
        return (lambda batch: session.run(None, {"images": batch, **thresholds})), None
    if hasattr(backend, "bare"):
        run = backend.bare(np.zeros((rows, *estimate.shape_hw, 3), np.uint8), *thresholds.values())
        return (lambda batch: run()), None  # all shapes are static, so time does not depend on the image
    return None, f"no bare baseline: it is not measured for the backend {backend.name!r}"


def _thresholds(options: EstimatorOptions, rows: int) -> dict[str, np.ndarray]:
    return {
        "score_threshold": np.full((rows, 1), options.score, dtype=np.float32),
        "iou_threshold": np.full((rows, 1), options.iou, dtype=np.float32),
    }


def _batches(estimate: PoseEstimator, images: list[np.ndarray], batch: int) -> Callable[[int], int]:
    """Call ``i`` handles ``batch`` images from index ``i * batch`` on, starting again after the last image."""

    def run(i: int) -> int:
        if batch == 1:
            estimate(images[i % len(images)])
        else:
            estimate([images[(i * batch + k) % len(images)] for k in range(batch)])
        return batch

    return run


def compare_with_network(task: NetworkTask) -> dict[str, Any]:
    """Samples of ``artifact`` and ``network``, taking turns on the same images in two sessions of equal settings."""
    from yolopose.runtime import read_contract, read_image

    contract, imgsz = read_contract(task.options.artifact), task.options.imgsz
    shape_hw = (imgsz[0], imgsz[1]) if imgsz else (contract.input.height.opt, contract.input.width.opt)
    spec = json.loads(Path(task.network + ".json").read_text(encoding="utf-8"))
    artifact = _open_session(task.options.artifact, task.options.threads, shape_hw)
    network = _open_session(task.network, task.options.threads, shape_hw)
    rows = contract.input.batch.min  # 1, except for an artifact with a fixed batch
    thresholds = _thresholds(task.options, rows)
    frames = [
        _letterboxed(read_image(path), contract, shape_hw) for path in task.images[: task.warmup + task.iterations]
    ]
    watch = Stopwatch()

    def run_artifact(i: int) -> None:
        feeds = {"images": np.repeat(frames[i % len(frames)][None], rows, axis=0), **thresholds}
        watch.start()
        artifact.run(None, feeds)
        watch.lap("artifact")

    def run_network(i: int) -> None:
        frame = frames[i % len(frames)]
        ordered = frame[..., ::-1] if spec["channel_order"] == "rgb" else frame
        pixels = np.ascontiguousarray(ordered.transpose(2, 0, 1), dtype=np.float32) * np.float32(spec["scale"])
        images = np.repeat(pixels[None], rows, axis=0)
        watch.start()
        network.run(None, {"images": images})
        watch.lap("network")

    take_turns([run_artifact, run_network], watch, task.iterations, task.warmup)
    return {"samples_ms": watch.samples_ms}


def _letterboxed(image: np.ndarray, contract: Contract, shape_hw: tuple[int, int]) -> np.ndarray:
    from yolopose.runtime.letterbox import letterbox

    return letterbox(image, shape_hw, pad_value=contract.input.pad_value, pad_side=contract.input.pad_side)[0]


def _open_session(path: str, threads: int | None, shape_hw: tuple[int, int]) -> onnxruntime.InferenceSession:
    from yolopose.runtime.backends.onnxruntime import open_session, session_options

    options = session_options(shape_hw, threads)
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return open_session(path, options)


def run_checkpoint(task: CheckpointTask) -> dict[str, Any]:
    """What the task wants: people at each threshold, the bare network as ONNX, time of the public call.

    Raises what ``yolopose.load`` raises, and UsageError for a size that the network does not take.
    """
    import torch

    from yolopose.checkpoints import load
    from yolopose.deploy.reference import ReferenceEstimator
    from yolopose.runtime import read_image
    from yolopose.runtime.contract import PoseInfo

    if task.threads is not None:
        torch.set_num_threads(task.threads)
    net = load(task.weights)
    shape_hw = _network_shape(net, task)

    estimate = ReferenceEstimator(
        net,
        iou_threshold=task.iou,
        max_people=task.max_people,
        shape_hw=shape_hw,
        max_candidates=task.max_candidates,
        pose=None if task.pose is None else PoseInfo(**task.pose),
    )
    if task.files:
        _save_reference_people(estimate, task)
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


def _network_shape(net: PoseNet, task: CheckpointTask) -> tuple[int, int]:
    height, width = task.shape_hw or (net.input.size, net.input.size)
    if height % net.input.multiple or width % net.input.multiple:
        name, multiple = Path(task.weights).name, net.input.multiple
        raise UsageError(f"{name}: height and width must be multiples of {multiple}, got {height} x {width}")
    return height, width


def _save_reference_people(estimate: ReferenceEstimator, task: CheckpointTask) -> None:
    """The network runs once per image, whatever the number of thresholds."""
    from yolopose.runtime import read_image

    people: dict[str, list[PoseResult]] = {file: [] for file in task.files}
    for path in task.images:
        predictions, placement = estimate.predict(read_image(path))
        for file, score in task.files.items():
            estimate.score_threshold = score
            people[file].append(estimate.people(predictions, placement))
    for file, results in people.items():
        save_people(Path(file), results)


def _export_network(net: PoseNet, shape_hw: tuple[int, int], path: Path) -> None:
    """The bare network, and in ``<path>.json`` how its input is made from a letterboxed image."""
    from yolopose.export.onnx_export import bare_onnx_from_net

    path.write_bytes(bare_onnx_from_net(net, shape_hw))
    spec = {"channel_order": net.input.channel_order, "scale": net.input.scale}
    Path(f"{path}.json").write_text(json.dumps(spec), encoding="utf-8")


def _time_calls(estimate: ReferenceEstimator, images: list[np.ndarray], task: CheckpointTask) -> dict[str, list[float]]:
    watch = Stopwatch()

    def total(i: int) -> None:
        image = images[i % len(images)]
        watch.start()
        estimate(image)
        watch.lap("total")

    take_turns([total], watch, task.iterations, task.warmup)
    return watch.samples_ms


if __name__ == "__main__":
    sys.exit(main())
