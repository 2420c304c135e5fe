"""Inside the child: time, memory and people of one artifact through ``PoseEstimator``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolopose.runtime.machine import peak_resident_mib, resident_mib

from .bare import BareRun, bare_run
from .measure import Clock, Stopwatch, images_per_second, take_turns
from .tasks import Opening, PeopleTask, TimeTask

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

    from .people_file import save_people

    for file, score in task.files.items():
        with open_estimator(task.opening, score) as estimate:
            save_people(Path(file), [estimate(read_image(path)) for path in task.images])
    return {}
