"""Timing: a stopwatch, functions that take turns, and statistics that discard no sample."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Clock = Callable[[], int]  # nanoseconds, monotonic


class Stopwatch:
    """Durations by name, in ms. ``start`` sets the mark; each ``lap`` records the time since the mark and moves it.

    Consecutive laps leave out only the recording itself (a list append, about 0.2 us).
    """

    def __init__(self, clock: Clock = time.perf_counter_ns) -> None:
        self._clock = clock
        self._mark = clock()
        self.samples_ms: dict[str, list[float]] = {}

    def start(self) -> None:
        self._mark = self._clock()

    def lap(self, name: str) -> None:
        now = self._clock()
        self.samples_ms.setdefault(name, []).append((now - self._mark) / 1e6)
        self._mark = self._clock()

    def clear(self) -> None:
        """Drop all samples; called once, between warm-up and measurement."""
        self.samples_ms = {}


def take_turns(turns: Sequence[Callable[[int], None]], watch: Stopwatch, iterations: int, warmup: int) -> None:
    """Calls each function once per iteration with the iteration's number, so that machine drift affects all equally.

    The order rotates by one each iteration (A B, B A, A B ...), because the one that runs second finds warm caches.
    Laps of the first ``warmup`` iterations are dropped, those of all others are kept.
    """
    if iterations < 1 or warmup < 0:
        raise ValueError(f"iterations must be at least 1 and warmup at least 0, got {iterations} and {warmup}")
    for i in range(-warmup, iterations):
        if i == 0:
            watch.clear()
        first = i % len(turns)
        for turn in (*turns[first:], *turns[:first]):
            turn(i)


@dataclass(frozen=True)
class Latency:
    """Statistics of one duration. Percentiles are by nearest rank, so each is an observed time."""

    n: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float  # equals max_ms below 100 samples
    min_ms: float
    max_ms: float


def nearest_rank(ordered: Sequence[float], percent: float) -> float:
    """Smallest of the ``ordered`` (ascending) samples that at least ``percent`` % of them do not exceed."""
    if not ordered:
        raise ValueError("no samples: a percentile needs at least one")
    return ordered[max(math.ceil(percent / 100 * len(ordered)), 1) - 1]


def latency(samples_ms: Sequence[float]) -> Latency:
    ordered = sorted(samples_ms)
    p50, p90, p99 = (nearest_rank(ordered, percent) for percent in (50, 90, 99))
    return Latency(len(ordered), sum(ordered) / len(ordered), p50, p90, p99, ordered[0], ordered[-1])


@dataclass(frozen=True)
class Paired:
    """Statistics of a figure computed from pairs of adjacent runs, e.g. (A - B) / B of each iteration."""

    n: int
    median: float
    p90: float
    low: float  # 95 % interval of the median
    high: float


def median_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median from order statistics; assumes independent samples, but no particular distribution.

    Ranks n/2 -+ 1.96 sqrt(n)/2 (normal approximation of the binomial; Conover, Practical Nonparametric
    Statistics, 3.2).
    """
    n = len(ordered)
    half_width = 1.96 * math.sqrt(n) / 2
    low = max(math.floor(n / 2 - half_width), 1)
    high = min(math.ceil(n / 2 + 1 + half_width), n)
    return ordered[low - 1], ordered[high - 1]


def paired_excess(over: Sequence[float], base: Sequence[float]) -> Paired:
    """How much longer ``over`` took than ``base``, as a share of ``base``, pair by pair: 0.03 is 3 % longer."""
    return _paired([(a - b) / b for a, b in zip(over, base, strict=True)])


def paired_share(whole: Sequence[float], part: Sequence[float]) -> Paired:
    """Share of ``whole`` that ``part`` does not account for, pair by pair: (whole - part) / whole."""
    return _paired([(a - b) / a for a, b in zip(whole, part, strict=True)])


def paired_difference(over: Sequence[float], base: Sequence[float]) -> Paired:
    """How much longer ``over`` took than ``base``, in their own unit, pair by pair."""
    return _paired([a - b for a, b in zip(over, base, strict=True)])


def _paired(values: list[float]) -> Paired:
    values.sort()
    low, high = median_interval(values)
    return Paired(len(values), nearest_rank(values, 50), nearest_rank(values, 90), low, high)


def images_per_second(
    run: Callable[[int], int], images: int, warmup: int, clock: Clock = time.perf_counter_ns
) -> float:
    """Wall-clock throughput of ``run(i)``, which handles some images and returns how many, until ``images`` are done.

    ``warmup`` calls are made before the clock starts. Time between calls counts, because applications spend it too.
    """
    for i in range(warmup):
        run(i)
    done = calls = 0
    start = clock()
    while done < images:
        done += run(warmup + calls)
        calls += 1
    return done / ((clock() - start) / 1e9)
