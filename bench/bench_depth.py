"""What does a quote over many ticks cost from Python, by a depth table and by a walk?

Timed: Pool.quote_exact_in with reading amount_out, once its handle has a table; the same on a private copy,
which walks through every tick; the building of a table through cffi, a rung; and a list of 1,000 amounts.
The pool has 5,000 ticks, each spacing with liquidity of its own. Baseline: a V2 quote with Python integers
in hand. Time is that of the thread.
"""

import os
import time
from collections.abc import Callable

import numpy as np
from harness import Report, against, alternate, arguments
from workload import limbs_array

import arena
from arena.native import ffi, lib
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

SPACING = 10
TICKS = 5_000
LIQUIDITY = 10**18  # amounts stay below 2^63, as those of most tokens do
CROSSINGS = (0, 1, 10, 100, 1_000)
MANY = 1_000


def values() -> PoolValues:
    """In the middle of a spacing at price 1."""
    half = TICKS // 2
    amounts = [0, *(LIQUIDITY + n * 10**12 for n in range(2 * half)), 0]
    ticks = tuple(
        ((n - half) * SPACING, amounts[n] + amounts[n + 1], amounts[n + 1] - amounts[n])
        for n in range(2 * half + 1)
    )
    return PoolValues(
        block_number=1,
        fee_pips=3000,
        sqrt_price_x96=(1 << 96) + (1 << 96) // 5_000,
        tick=3,
        liquidity=amounts[half + 1],
        ticks=ticks,
    )


def amount_crossing(copy: arena.FrozenPool, wanted: int) -> int:
    """An input that crosses exactly `wanted` ticks, by doubling and halving."""
    low, high = 1, 2
    while copy.quote_exact_in(high, zero_for_one=True).ticks_crossed <= wanted:
        high *= 2
    while True:
        middle = (low + high) // 2
        crossed = copy.quote_exact_in(middle, zero_for_one=True).ticks_crossed
        if crossed == wanted:
            return middle
        low, high = (middle, high) if crossed < wanted else (low, middle)


def one_by_one(pool: arena.Pool | arena.FrozenPool, amount: int, times: int) -> Callable[[], None]:
    def repeated() -> None:
        quote = pool.quote_exact_in
        for _ in range(times):
            quote(amount, zero_for_one=True).amount_out  # noqa: B018

    return repeated


def v2_python(times: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(times):
            fee = 10**18 * 997
            fee * 3 * 10**24 // (10**24 * 1000 + fee)

    return repeated


def build(copy: arena.FrozenPool) -> tuple[Callable[[], None], int]:
    """The building of one direction's whole table, and how many rungs it has."""
    flags = lib.PSA_ZERO_FOR_ONE
    capacity = lib.psa_depth_capacity(copy._pool, flags, 0)
    rungs, depth = ffi.new("psa_rung[]", capacity), ffi.new("psa_depth *")

    def once() -> None:
        assert lib.psa_depth_build(copy._pool, flags, 0, rungs, capacity, depth) == lib.PSA_OK

    once()
    return once, depth.count


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    singles = 200 if options.smoke else 20_000
    name = f"psa-bench-depth-{os.getpid()}"
    token = [TokenSpec(address=bytes([n]) * 20, decimals=18, symbol="T") for n in (1, 2)]
    with WriterArena.create(name, max_pools=16) as owner:
        try:
            spec = PoolSpec(b"\x03" * 20, 1, *token, 3000, SPACING, bytes(20), bytes(20))
            owner.install(owner.add_pool(spec), values(), status=2)
            owner.set_head(1)
            owner.commit()
            with arena.attach(name) as pools:
                measure(report, options.repeat, pools[spec.key], singles)
        finally:
            owner.close(unlink=True)
    report.show(options)


def measure(report: Report, repeat: int, pool: arena.Pool, singles: int) -> None:
    copy = pool.freeze()
    once, rungs = build(copy)
    amounts = {crossings: amount_crossing(copy, crossings) for crossings in CROSSINGS}
    walked = {n: copy.quote_exact_in(amount, zero_for_one=True) for n, amount in amounts.items()}
    for _ in range(10):  # enough for a table
        pool.quote_exact_in(amounts[1_000], zero_for_one=True)
    python = "V2, Python integers in hand"
    for crossings, amount in amounts.items():
        assert pool.quote_exact_in(amount, zero_for_one=True) == walked[crossings]
        words = limbs_array([amount - n for n in range(MANY)], 4)
        times = max(10, singles // (1 + crossings))
        title = f"V3, {crossings} ticks crossed"

        def batch(words: np.ndarray = words) -> None:
            pool.quote_many(words, zero_for_one=True)

        deep, many, walk, baseline = alternate(
            [
                (f"{title}, handle with a table", singles, one_by_one(pool, amount, singles)),
                (f"{title}, list of 1,000 words", MANY, batch),
                (f"{title}, walk of a copy", times, one_by_one(copy, amount, times)),
                (python, singles, v2_python(singles)),
            ],
            repeat,
            timer=time.thread_time,
        )
        deep.target = "<= 2 x the integers" if crossings >= 100 else ""
        if crossings == 0:
            report.add(baseline)
        for row in (deep, many, walk):
            report.add(against(row, baseline))
    (built,) = alternate(
        [("table of one direction, a rung", rungs, once)], repeat, timer=time.thread_time
    )
    built.note = f"{rungs:,} rungs, {rungs * ffi.sizeof('psa_rung'):,} bytes"
    report.add(built)


if __name__ == "__main__":
    main()
