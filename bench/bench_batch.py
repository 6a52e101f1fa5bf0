"""What does a quote in a batch cost, with amounts as words: on one pool, in runs, on many pools?

Timed: Pool.quote_many of 1,000 amounts on one pool; Arena.quote_batch of 1,000 references with words and
directions, on one pool each, in runs of 8, and of one pool; the answers stay an array. CPU time of the
thread. Baselines in the same run: the C function alone on pools by turns, so that it copies, checks and
loads one for each amount, as a batch did for every item; and the same swap with Python integers in hand.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from bench_quote import SPACING, amount_crossing, oracle_pool, v3_values
from harness import Report, against, alternate, arguments
from workload import limbs_array

import arena
from arena.native import ffi, lib
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

MANY = 1_000
RESERVES = (10**24, 3 * 10**24)
TOKENS = [TokenSpec(address=bytes([n]) * 20, decimals=18, symbol="T") for n in (1, 2)]


def add(owner: WriterArena, key: bytes, protocol: int, values: PoolValues) -> None:
    spec = PoolSpec(key, protocol, *TOKENS, 3000, SPACING if protocol else 0)
    owner.install(owner.add_pool(spec), values, status=2)


def one_call_each(pools: arena.Arena, key: bytes, words: Any, flags: int) -> Callable[[], None]:
    """psa_quote_batch on that pool and another by turns, so that no two neighbours ask the same one."""
    mapped = pools._current()
    other = pools.slots([b"\x05" + bytes(19)])[0]
    references = np.full(2 * MANY, pools.slots([key])[0], np.uint64)
    references[1::2] = other
    results = np.empty(2 * MANY * ffi.sizeof("psa_quote_result"), np.uint8)
    pointers = (
        mapped.pointer,
        ffi.from_buffer("uint64_t *", references),
        0,
        ffi.from_buffer("uint64_t *", words),
        ffi.NULL,
        flags,
        2 * MANY,
        ffi.from_buffer("psa_quote_result *", results),
    )
    return lambda: lib.psa_quote_batch(*pointers)


def python_pair(amounts: list[int]) -> Callable[[], None]:
    first, second = RESERVES

    def run() -> None:
        for amount in amounts:
            fee = amount * 997
            fee * second // (first * 1000 + fee)

    return run


def loop(run: Callable[[], object], times: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(times):
            run()

    return repeated


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    times = 2 if options.smoke else 20
    name = f"psa-bench-batch-{os.getpid()}"
    values = v3_values(150, SPACING // 2)
    with WriterArena.create(name, max_pools=2048) as owner:
        try:
            add(owner, b"\x02" * 20, 0, PoolValues(1, 3000, *RESERVES))
            add(owner, b"\x03" * 20, 1, values)
            keys = [b"\x05" + number.to_bytes(19, "big") for number in range(MANY)]
            for key in keys:
                add(owner, key, 0, PoolValues(1, 3000, *RESERVES))
            owner.set_head(1)
            owner.commit()
            with arena.attach(name) as pools:
                measure(report, options.repeat, times, pools, keys, values)
        finally:
            owner.close(unlink=True)
    report.show(options)


def measure(
    report: Report,
    repeat: int,
    times: int,
    pools: arena.Arena,
    keys: list[bytes],
    values: PoolValues,
) -> None:
    pair, v3 = pools[b"\x02" * 20], pools[b"\x03" * 20]
    amounts = [10**18 + n for n in range(MANY)]
    words = limbs_array(amounts, 4)
    crossing = amount_crossing(oracle_pool(values), 1)
    in_tick, crossed = limbs_array(amounts, 4), limbs_array([crossing - n for n in range(MANY)], 4)
    many = pools.slots(keys)
    runs, same = np.repeat(many[: MANY // 8], 8), np.repeat(pools.slots([pair]), MANY)
    up, down = np.zeros(MANY, np.bool_), np.ones(MANY, np.bool_)
    ways = np.arange(MANY) % 2 == 0
    twice = np.repeat(words, 2, axis=0)
    assert pair.quote_many(words, zero_for_one=True)[0].amount_out == (
        10**18 * 997 * RESERVES[1] // (RESERVES[0] * 1000 + 10**18 * 997)
    )
    assert v3.quote_many(in_tick, zero_for_one=False)[-1].ticks_crossed == 0
    assert v3.quote_many(crossed, zero_for_one=True)[-1].ticks_crossed == 1

    def batch(references: Any, asked: Any, zero_for_one: Any) -> Callable[[], None]:
        return loop(lambda: pools.quote_batch(references, asked, zero_for_one=zero_for_one), times)

    cases = [
        ("V2, Python integers in hand", MANY * times, loop(python_pair(amounts), times)),
        (
            "V2, C alone, loaded for each amount",
            2 * MANY * times,
            loop(one_call_each(pools, b"\x02" * 20, twice, lib.PSA_ZERO_FOR_ONE), times),
        ),
        (
            "V2, one pool, quote_many",
            MANY * times,
            loop(lambda: pair.quote_many(words, zero_for_one=True), times),
        ),
        ("V2, one pool by reference, both directions", MANY * times, batch(same, words, ways)),
        ("V2, runs of 8 of one pool", MANY * times, batch(runs, words, down)),
        ("V2, 1,000 pools", MANY * times, batch(many, words, down)),
        (
            "V3 in tick, one pool, quote_many",
            MANY * times,
            loop(lambda: v3.quote_many(in_tick, zero_for_one=False), times),
        ),
        (
            "V3 in tick, one pool by reference",
            MANY * times,
            batch(np.repeat(pools.slots([v3]), MANY), in_tick, up),
        ),
        (
            "V3, 1 tick crossed, one pool, quote_many",
            MANY * times,
            loop(lambda: v3.quote_many(crossed, zero_for_one=True), times),
        ),
    ]
    targets = {2: "<= 45 ns", 3: "<= 60 ns", 6: "<= 180 ns"}
    rows = alternate(cases, repeat, timer=time.thread_time)
    for index, row in enumerate(rows):
        row.target = targets.get(index, "")
        report.add(row if index == 0 else against(row, rows[0]))


if __name__ == "__main__":
    main()
