"""Latency buckets and reorg depths, as the feed thread counts them."""

import itertools
import math
import random

import pytest

from arena.writer.host.counts import BUCKETS, LAST_SHOWN, Latency, ReorgDepths


def test_a_latency_is_in_the_first_bucket_it_does_not_exceed(rng: random.Random) -> None:
    values = [0, 1, 4095, 4096, 10**5, 2**35 - 1, 2**35, 2**40, 10**30]
    values += [int(2 ** rng.uniform(0, 40)) for _ in range(500)]
    for ns in values:
        latency = Latency()
        latency.add(ns)
        buckets = latency.buckets()
        assert latency.total_ns == ns
        for bound, count in buckets:
            # A value on a bound lies above it: a nanosecond no histogram of halves can show.
            assert count == (ns < bound * 1e9 * (1 - 1e-12)), (ns, bound)


def test_buckets_ascend_and_end_with_everything() -> None:
    latency = Latency()
    for ns in (100, 10_000, 1_000_000, 1 << 60):
        latency.add(ns)
    buckets = latency.buckets()
    bounds = [bound for bound, _ in buckets]
    assert bounds == sorted(bounds)
    assert all(a <= b for a, b in itertools.pairwise([count for _, count in buckets]))
    assert buckets[0][0] == pytest.approx(4.096e-6)
    assert buckets[-1] == (math.inf, 4)
    assert LAST_SHOWN < BUCKETS


def depths(*batches: tuple[list[tuple[int, bool]], int | None, bool]) -> dict[int, int]:
    counted = ReorgDepths()
    for blocks, tip, starts in batches:
        counted.note(blocks, tip=tip, starts=starts)
    return counted.counts()


def back(*numbers: int) -> list[tuple[int, bool]]:
    return [(number, True) for number in numbers]


def new(*numbers: int) -> list[tuple[int, bool]]:
    return [(number, False) for number in numbers]


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([], {}),
        ([(back(9), 9, False)], {1: 1}),
        ([(back(9, 8, 7), 9, False)], {3: 1}),
        ([(back(7, 8, 9), 9, False)], {3: 1}),
        # One reorg in three batches, newest first and oldest first.
        ([(back(9), 9, True), (back(8), 8, False), (back(7), 7, False)], {3: 1}),
        ([(back(7), 9, True), (back(8), 6, False), (back(9), 6, False)], {3: 1}),
        # A block in between ends one, whether it came with a note or past it.
        ([(back(9, 8) + new(8, 9) + back(9), 9, False)], {2: 1, 1: 1}),
        ([(back(9, 8), 9, False), (back(8), 8, False)], {2: 1, 1: 1}),
        # So does an envelope that opens at once, and a buffer that was emptied.
        ([(back(9, 8), 9, True), (back(7), 7, True)], {2: 1, 1: 1}),
        ([(back(9, 8), 9, True), (back(7), None, False)], {2: 1, 1: 1}),
        ([(back(5), 5, True), (back(8), 8, True), (back(6, 7), 7, True)], {1: 2, 2: 1}),
    ],
)
def test_a_reorg_is_as_deep_as_the_blocks_it_takes_back_in_a_row(
    batches: list[tuple[list[tuple[int, bool]], int | None, bool]], expected: dict[int, int]
) -> None:
    assert depths(*batches) == expected
