"""Inside the child: the two baselines, straight on the engine.

Bare artifact: the engine's own call on a ready letterboxed tensor, as ONNX Runtime's ``session.run``. Bare network: the
same network without normalisation and NMS. Comparing the two takes two sessions in one process, and that is a trap: the
worker threads of a session spin for a while after each run and take cores from the other (measured on two cores: 34 ms
alone, 56 ms in turn with another session). ``session.force_spinning_stop`` lets them spin while their own session runs,
as they do when deployed, and stops them when it returns; then both take the time they take alone (measured: 34 ms).

Inside the child: time, memory and people of one artifact through ``PoseEstimator``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolopose.runtime.machine import peak_resident_mib, resident_mib

from .measure import Clock, Stopwatch, images_per_second, take_turns
from .tasks import NetworkTask, Opening, PeopleTask, TimeTask

if TYPE_CHECKING:
    import numpy as np

    from yolopose.runtime import Contract, PoseEstimator

BareRun = Callable[["np.ndarray"], object]


def bare_run(estimate: PoseEstimator, opening: Opening) -> tuple[BareRun | None, str | None]:
    """Runs the estimator's own session on a (b, h, w, 3) uint8 tensor and does nothing more; else why there is none.

    On a GPU the copies to and from it belong to the run.
    """
    import numpy as np

    from yolopose.runtime.backends.onnxruntime import OnnxRuntimeBackend

    backend = estimate.backend
    rows = estimate.batch_rows(1)
    thresholds = _thresholds(opening, rows)
    if isinstance(backend, OnnxRuntimeBackend):
        session = backend.session  # the very one: a second session would not be the same, see above
        return (lambda batch: session.run(None, {"images": batch, **thresholds})), None
    if hasattr(backend, "bare"):
        run = backend.bare(np.zeros((rows, *estimate.shape_hw, 3), np.uint8), *thresholds.values())
        return (lambda batch: run()), None  # the picture decides nothing: all shapes are static
    return None, f"no bare baseline: it is not measured for the backend {backend.name!r}"


def _thresholds(opening: Opening, rows: int) -> dict[str, np.ndarray]:
    import numpy as np

    return {
        "score_threshold": np.full((rows, 1), opening.score, dtype=np.float32),
        "iou_threshold": np.full((rows, 1), opening.iou, dtype=np.float32),
    }


def compare_with_network(task: NetworkTask) -> dict[str, Any]:
    """Samples of ``artifact`` and ``network``, taking turns on the same images in two sessions of equal settings."""
    import numpy as np

    from yolopose.runtime import read_contract, read_image

    contract = read_contract(task.opening.artifact)
    shape_hw = (
        (task.opening.imgsz[0], task.opening.imgsz[1])
        if task.opening.imgsz
        else (contract.input.height.opt, contract.input.width.opt)
    )
    spec = json.loads(Path(task.network + ".json").read_text(encoding="utf-8"))
    artifact = _open_session(task.opening.artifact, task.opening.threads, shape_hw)
    network = _open_session(task.network, task.opening.threads, shape_hw)
    rows = contract.input.batch.min  # 1, but for a file of a fixed batch
    thresholds = _thresholds(task.opening, rows)
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


def _open_session(path: str, threads: int | None, shape_hw: tuple[int, int]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0: as ONNX Runtime decides
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for name, size in zip(("height", "width"), shape_hw, strict=True):
        options.add_free_dimension_override_by_name(name, size)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


if TYPE_CHECKING:
    import numpy as np

    from yolopose.runtime import PoseEstimator

_MEMORY_IMAGES = 10  # processed one at a time before the peak is read


def open_estimator(opening: Opening, score: float | None = None) -> PoseEstimator:
    from yolopose.runtime import PoseEstimator

    return PoseEstimator(
        opening.artifact,
        backend=opening.backend,
        device=opening.device,
        score_threshold=opening.score if score is None else score,
        iou_threshold=opening.iou,
        threads=opening.threads,
        imgsz=None if opening.imgsz is None else (opening.imgsz[0], opening.imgsz[1]),
    )


def time_artifact(task: TimeTask, started_ns: int, clock: Clock) -> dict[str, Any]:
    """``started_ns`` is the parent's ``clock`` just before it started this process."""
    before_open_mib = resident_mib()
    opening_ns = clock()
    estimate = open_estimator(task.opening)
    opened_ns = clock()

    from yolopose.runtime import read_image

    estimate(read_image(task.images[0]))
    first_result_ns = clock()
    for path in task.images[:_MEMORY_IMAGES]:
        estimate(read_image(path))
    peak_mib = peak_resident_mib()

    # Read last, because the decoded pictures would count as the estimator's memory.
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
        "load_ms": _load_ms(task.opening, clock),
        "before_open_mib": before_open_mib,
        "peak_mib": peak_mib,
    }


def _load_ms(opening: Opening, clock: Clock) -> float:
    """Opening the artifact once more, when every module is imported and the file is cached: the engine's own share."""
    start = clock()
    estimate = open_estimator(opening)
    load_ms = (clock() - start) / 1e6
    estimate.close()
    return load_ms


def _time_stages(
    estimate: PoseEstimator, images: list[np.ndarray], task: TimeTask
) -> tuple[dict[str, list[float]], str | None]:
    """Samples of pre, infer, post (the public steps), total (the public call) and bare (see ``bare_run``), in turn.

    The bare turn letterboxes too, off the clock, so that both meet the same caches.
    """
    watch = Stopwatch()
    run_bare, note = bare_run(estimate, task.opening)

    def staged(i: int) -> None:
        with estimate.buffer(1) as buffer:
            watch.start()
            batch, placements = estimate.preprocess([images[i % len(images)]], out=buffer)
            watch.lap("pre")
            raw = estimate.infer(batch)
            watch.lap("infer")
            estimate.postprocess(raw, placements)
            watch.lap("post")

    def whole(i: int) -> None:
        watch.start()
        estimate(images[i % len(images)])
        watch.lap("total")

    def bare(i: int, run: BareRun) -> None:
        with estimate.buffer(1) as buffer:
            batch, _ = estimate.preprocess([images[i % len(images)]], out=buffer)
            watch.start()
            run(batch)
            watch.lap("bare")

    turns: list[Callable[[int], None]] = [staged, whole]
    if run_bare is not None:
        turns.append(partial(bare, run=run_bare))
    take_turns(turns, watch, task.iterations, task.warmup)
    return watch.samples_ms, note


def _batches(estimate: PoseEstimator, images: list[np.ndarray], batch: int) -> Callable[[int], int]:
    """Call ``i`` handles the ``batch`` images from number ``i * batch`` on, round and round."""

    def run(i: int) -> int:
        if batch == 1:
            estimate(images[i % len(images)])
        else:
            estimate([images[(i * batch + k) % len(images)] for k in range(batch)])
        return batch

    return run


def collect_people(task: PeopleTask) -> dict[str, Any]:
    """Each image by itself, at each score threshold in turn; nothing is timed here."""
    from yolopose.runtime import read_image

    from .tasks import save_people

    for file, score in task.files.items():
        with open_estimator(task.opening, score) as estimate:
            save_people(Path(file), [estimate(read_image(path)) for path in task.images])
    return {}
