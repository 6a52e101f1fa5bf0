"""What does a quote cost from Python, one by one, in batches and on a ladder?

Timed, in CPU time of the thread: Pool.quote_exact_in with reading amount_out, Pool.quote_many of 1,000
amounts given as limbs or as a list of ints, and a ladder built and asked for 1,000 amounts. V3 pools have
one position a tick spacing; a quote begins inside a tick or on an initialized one, and amounts are chosen
so that 0, 1, 10 and 100 initialized ticks are crossed. Baselines: for V2 the same formula with Python
integers in hand; for V3 the same core called through cffi from a Python method, with bytes in and out (the
handles there were before the C type took 0.76 of that); for batches and ladders the same swap with Python
integers (the slow oracle of the tests). All are checked to give the same amounts.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Report, against, alternate, arguments
from workload import limbs_array

import arena
from arena.native import ffi, lib
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from oracle import swap_oracle

SPACING = 60
LIQUIDITY = 10**21
MANY = 1_000


def v3_values(positions: int, tick: int) -> PoolValues:
    """Price at `tick`, from 0 to below a spacing; every range [k, k+1) of tick spacings within `positions`
    has liquidity of its own."""
    ticks = []
    active = 0
    amounts = {k: LIQUIDITY + k * 10**15 for k in range(-positions, positions)}
    for k in range(-positions, positions + 1):
        below, above = amounts.get(k - 1, 0), amounts.get(k, 0)
        if below + above:
            ticks.append((k * SPACING, below + above, above - below))
    active = amounts[0]
    return PoolValues(
        block_number=1,
        fee_pips=3000,
        sqrt_price_x96=swap_oracle.sqrt_price_at_tick(tick),
        tick=tick,
        liquidity=active,
        ticks=tuple(ticks),
    )


def oracle_pool(values: PoolValues) -> swap_oracle.ConcentratedPool:
    return swap_oracle.ConcentratedPool(
        version=3,
        sqrt_price=values.sqrt_price_x96,
        tick=values.tick,
        liquidity=values.liquidity,
        fee=values.fee_pips,
        spacing=SPACING,
        net={tick: net for tick, _, net in values.ticks},
    )


def amount_crossing(pool: swap_oracle.ConcentratedPool, wanted: int) -> int:
    """An input that crosses exactly `wanted` ticks, by doubling and halving."""
    low, high = 1, 2
    while swap_oracle.swap(pool, high, True, True).ticks_crossed <= wanted:
        high *= 2
    while True:
        middle = (low + high) // 2
        crossed = swap_oracle.swap(pool, middle, True, True).ticks_crossed
        if crossed == wanted:
            return middle
        low, high = (middle, high) if crossed < wanted else (low, middle)


def loop(run: Callable[[], object], times: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(times):
            run()

    return repeated


def one_by_one(pool: "arena.Pool | ThroughCffi", amount: int, times: int) -> Callable[[], None]:
    """The caller's own loop, without a function call of ours in it."""

    def repeated() -> None:
        quote = pool.quote_exact_in
        for _ in range(times):
            quote(amount, zero_for_one=True).amount_out  # noqa: B018

    return repeated


class Answer:
    """A result as bytes, decoded when it is read."""

    __slots__ = ("raw",)
    raw: bytes

    @property
    def amount_out(self) -> int:
        return int.from_bytes(self.raw[32:64], "little")


class ThroughCffi:
    """A pool's quotes by a call through cffi."""

    def __init__(self, pool: arena.Pool) -> None:
        mapped, self.slot, self.generation = pool._where
        self.arena = mapped.pointer
        self.result = ffi.new("psa_quote_result *")
        self.buffer = ffi.buffer(self.result)

    def quote_exact_in(self, amount: int, *, zero_for_one: bool) -> Answer:
        data = amount.to_bytes(32, "little")
        flags = {True: lib.PSA_ZERO_FOR_ONE, False: 0}[zero_for_one]
        assert not lib.psa_quote(
            self.arena, self.slot, self.generation, 0, data, ffi.NULL, flags, 0, self.result
        )
        answer = Answer()
        answer.raw = self.buffer[:]
        return answer


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    name = f"psa-bench-quote-{os.getpid()}"
    token = [TokenSpec(address=bytes([n]) * 20, decimals=18, symbol="T") for n in (1, 2)]
    inside, on_tick = v3_values(150, SPACING // 2), v3_values(150, 0)
    pairs = PoolValues(1, 3000, reserve0=10**24, reserve1=3 * 10**24)
    with WriterArena.create(name, max_pools=16) as owner:
        try:
            for key, protocol, state in ((2, 0, pairs), (3, 1, inside), (4, 1, on_tick)):
                spec = PoolSpec(
                    key=bytes([key]) * 20,
                    protocol=protocol,
                    token0=token[0],
                    token1=token[1],
                    fee_pips=3000,
                    tick_spacing=SPACING if protocol else 0,
                    factory=bytes(20),
                    hooks=bytes(20),
                )
                owner.install(owner.add_pool(spec), state, status=2)
            owner.set_head(1)
            owner.commit()
            with arena.attach(name) as pools:
                measure_v2(report, options, pools[b"\x02" * 20])
                pool, oracle = pools[b"\x04" * 20], oracle_pool(on_tick)
                measure_v3(report, options, pool, oracle, "starts on a tick", 10**15, "<= 0.25 x")
                pool, oracle = pools[b"\x03" * 20], oracle_pool(inside)
                measure_v3(report, options, pool, oracle, "in its tick", 10**15, "<= 0.22 x")
                for crossings in (1, 10, 100):
                    what = f"{crossings} ticks crossed"
                    amount = amount_crossing(oracle, crossings)
                    measure_v3(report, options, pool, oracle, what, amount)
        finally:
            owner.close(unlink=True)
    report.show(options)


def measure_v2(report: Report, options: argparse.Namespace, pool: arena.Pool) -> None:
    singles = 200 if options.smoke else 20_000
    for shown, amount, target in (
        ("V2", 10**18, "<= 0.6 x"),
        ("V2, amounts above 2^64", 10**20, "<= 1 x"),
    ):
        given = [amount + n * (amount // MANY) for n in range(MANY)]  # not all the same branches
        limbs = limbs_array(given, 4)

        def in_hand(amount: int = amount) -> int:
            fee = amount * 997
            return fee * 3 * 10**24 // (10**24 * 1000 + fee)

        assert pool.quote_exact_in(amount, zero_for_one=True).amount_out == in_hand()
        assert pool.quote_many(given, zero_for_one=True).amounts_out[0] == in_hand()

        def of_ints(given: list[int] = given) -> None:
            pool.quote_many(given, zero_for_one=True).amounts_out  # noqa: B018

        def of_limbs(limbs: Any = limbs) -> None:
            pool.quote_many(limbs, zero_for_one=True)

        python, one, batch, ints = alternate(
            [
                (f"{shown}, Python integers in hand", singles, loop(in_hand, singles)),
                (f"{shown}, one by one", singles, one_by_one(pool, amount, singles)),
                (f"{shown}, batch of 1,000", MANY * 20, loop(of_limbs, 20)),
                (f"{shown}, batch of 1,000 ints, ints out", MANY * 20, loop(of_ints, 20)),
            ],
            options.repeat,
            timer=time.thread_time,
        )
        one.target = target
        batch.target = "<= 45 ns"
        ints.target = "<= 110 ns" if amount < 1 << 64 else ""
        report.add(python)
        for row in (one, batch, ints):
            report.add(against(row, python))


def measure_v3(
    report: Report,
    options: argparse.Namespace,
    pool: arena.Pool,
    oracle: swap_oracle.ConcentratedPool,
    what: str,
    amount: int,
    target: str = "",
) -> None:
    expected = swap_oracle.swap(oracle, amount, True, True)
    got = pool.quote_exact_in(amount, zero_for_one=True)
    crossed = expected.ticks_crossed
    former = ThroughCffi(pool)
    assert (got.amount_out, got.ticks_crossed) == (expected.amount_out, crossed)
    assert former.quote_exact_in(amount, zero_for_one=True).amount_out == got.amount_out
    singles = 200 if options.smoke else 20_000
    repeats = max(20, singles // (1 + crossed))
    python_repeats = max(5, singles // (100 * (1 + crossed)))
    limbs = limbs_array([amount - n for n in range(MANY)], 4)
    batches = max(1, 20 // (1 + crossed))
    ladder = pool.ladder(zero_for_one=True)
    assert ladder.quote(limbs).amounts_out == pool.quote_many(limbs, zero_for_one=True).amounts_out
    shown = f"V3, {what}"
    python, cffi, one, batch, built, asked = alternate(
        [
            (
                f"{shown}, Python integers",
                python_repeats,
                loop(lambda: swap_oracle.swap(oracle, amount, True, True), python_repeats),
            ),
            (f"{shown}, one by one through cffi", repeats, one_by_one(former, amount, repeats)),
            (f"{shown}, one by one", repeats, one_by_one(pool, amount, repeats)),
            (
                f"{shown}, batch of 1,000",
                MANY * batches,
                loop(lambda: pool.quote_many(limbs, zero_for_one=True), batches),
            ),
            (
                f"{shown}, ladder built for 1,000",
                MANY * batches,
                loop(lambda: pool.ladder(zero_for_one=True).quote(limbs), batches),
            ),
            (
                f"{shown}, ladder at hand",
                MANY * batches,
                loop(lambda: ladder.quote(limbs), batches),
            ),
        ],
        options.repeat,
        timer=time.thread_time,
    )
    one.target = target
    batch.target = {0: "<= 180 ns"}.get(crossed, f"<= {180 + 190 * crossed} ns")
    asked.target = "<= 500 ns"
    report.add(python)
    report.add(against(cffi, python))
    report.add(against(one, cffi))
    for row in (batch, built, asked):
        report.add(against(row, python))


if __name__ == "__main__":
    main()
