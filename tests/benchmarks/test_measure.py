"""Stopwatch, turns and statistics."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolopose.benchmarks.measure import (
    Latency,
    Stopwatch,
    images_per_second,
    latency,
    median_interval,
    nearest_rank,
    paired_excess,
    paired_share,
    take_turns,
)

samples = st.lists(st.floats(0.001, 1e6, allow_nan=False), min_size=1, max_size=60)


class FakeClock:
    """A clock that advances only through ``work``."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def work(self, ms: float) -> None:
        self.now_ns += round(ms * 1e6)


def test_laps_split_the_time_since_start() -> None:
    clock = FakeClock()
    watch = Stopwatch(clock)
    clock.work(50)  # before the start: not counted
    watch.start()
    clock.work(2)
    watch.lap("pre")
    clock.work(30)
    watch.lap("infer")
    assert watch.samples_ms == {"pre": [2.0], "infer": [30.0]}


def test_only_warm_up_samples_are_dropped() -> None:
    clock = FakeClock()
    watch = Stopwatch(clock)

    def run(i: int) -> None:
        watch.start()
        clock.work(1000 if i < 0 else i + 1)
        watch.lap("run")

    take_turns([run], watch, iterations=4, warmup=3)
    assert watch.samples_ms == {"run": [1.0, 2.0, 3.0, 4.0]}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_function_is_first_equally_often(count: int) -> None:
    order: list[tuple[int, int]] = []

    def function(number: int) -> Callable[[int], None]:
        return lambda i: order.append((i, number))

    take_turns([function(number) for number in range(count)], Stopwatch(), iterations=6, warmup=0)
    assert len(order) == 6 * count
    rounds = [[number for _, number in group] for _, group in itertools.groupby(order, key=lambda turn: turn[0])]
    assert all(sorted(turns) == list(range(count)) for turns in rounds)
    first = [turns[0] for turns in rounds]
    assert {first.count(number) for number in range(count)} == {6 // count}


@pytest.mark.parametrize(("iterations", "warmup"), [(0, 0), (1, -1)])
def test_take_turns_rejects_no_iterations(iterations: int, warmup: int) -> None:
    with pytest.raises(ValueError, match="iterations must be at least 1"):
        take_turns([lambda i: None], Stopwatch(), iterations, warmup)


@pytest.mark.parametrize(("percent", "expected"), [(0, 15), (5, 15), (30, 20), (40, 20), (50, 35), (99, 50), (100, 50)])
def test_nearest_rank_of_a_textbook_example(percent: float, expected: float) -> None:
    assert nearest_rank([15, 20, 35, 40, 50], percent) == expected


def test_latency_of_one_to_a_hundred() -> None:
    assert latency([float(value) for value in range(100, 0, -1)]) == Latency(100, 50.5, 50, 90, 99, 1, 100)


def test_latency_rejects_no_samples() -> None:
    with pytest.raises(ValueError, match="no samples"):
        latency([])


@given(samples)
def test_percentiles_are_observed_and_ordered(values: list[float]) -> None:
    figure = latency(values)
    assert {figure.p50_ms, figure.p90_ms, figure.p99_ms, figure.min_ms, figure.max_ms} <= set(values)
    assert figure.min_ms <= figure.p50_ms <= figure.p90_ms <= figure.p99_ms <= figure.max_ms
    assert figure.n == len(values)
    assert sum(value <= figure.p90_ms for value in values) >= 0.9 * len(values)


@given(samples)
def test_interval_contains_the_median(values: list[float]) -> None:
    ordered = sorted(values)
    low, high = median_interval(ordered)
    assert low <= statistics.median_low(ordered) <= statistics.median_high(ordered) <= high


def test_interval_narrows_with_more_samples() -> None:
    assert median_interval([float(value) for value in range(1, 101)]) == (40, 61)  # exact binomial: ranks 40 and 61
    assert median_interval([1.0, 2.0, 3.0]) == (1.0, 3.0)


def test_pairs_are_compared_one_by_one() -> None:
    # the machine becomes ten times slower half-way: the two medians alone would be misleading
    bare = [10.0, 10.0, 100.0, 100.0, 100.0]
    over = [10.3, 10.3, 103.0, 103.0, 103.0]
    assert paired_excess(over, bare).median == pytest.approx(0.03)
    assert paired_share(over, bare).median == pytest.approx(0.03 / 1.03)
    assert paired_excess(over, bare).n == 5


def test_unpaired_samples_are_rejected() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_excess([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("batch", "ms", "expected"), [(1, 10, 100), (4, 20, 200), (7, 70, 100)])
def test_throughput_is_images_over_wall_clock_time(batch: int, ms: float, expected: float) -> None:
    clock = FakeClock()
    calls: list[int] = []

    def run(i: int) -> int:
        calls.append(i)
        clock.work(ms)
        return batch

    assert images_per_second(run, images=20, warmup=2, clock=clock) == pytest.approx(expected)
    assert calls == list(range(2 + -(-20 // batch)))
