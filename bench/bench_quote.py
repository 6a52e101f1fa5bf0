"""What does a quote cost from Python, one by one, in batches and on a ladder?

Timed: Pool.quote_exact_in with reading amount_out, Pool.quote_many of 1,000 amounts given as limbs,
and a ladder built and asked for 1,000 amounts. V3 pools have one position a tick spacing; amounts
are chosen so that 0, 1, 10 and 100 initialised ticks are crossed. Baseline: the same swap with
Python integers (the slow oracle of the tests), checked to give the same amounts.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from harness import Report, against, alternate, arguments
from workload import limbs_array

import arena
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from oracle import swap_oracle

SPACING = 60
LIQUIDITY = 10**21


def v3_values(positions: int) -> PoolValues:
    """Price 1; every range [k, k+1) of tick spacings within `positions` has liquidity of its own."""
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
        sqrt_price_x96=swap_oracle.sqrt_price_at_tick(0) + (1 << 80),
        tick=0,
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


def one_by_one(pool: arena.Pool, amount: int, times: int) -> Callable[[], None]:
    """The caller's own loop, without a function call of ours in it."""

    def repeated() -> None:
        quote = pool.quote_exact_in
        for _ in range(times):
            quote(amount, zero_for_one=True).amount_out  # noqa: B018

    return repeated


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    singles = 200 if options.smoke else 20_000
    many = 1_000
    name = f"psa-bench-quote-{os.getpid()}"
    token = [TokenSpec(address=bytes([n]) * 20, decimals=18, symbol="T") for n in (1, 2)]
    values = v3_values(150)
    oracle = oracle_pool(values)
    with WriterArena.create(name, max_pools=16) as owner:
        try:
            for key, protocol, state in (
                (b"\x02" * 20, 0, PoolValues(1, 3000, reserve0=10**24, reserve1=3 * 10**24)),
                (b"\x03" * 20, 1, values),
            ):
                spec = PoolSpec(
                    key=key,
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
                v2, v3 = pools[b"\x02" * 20], pools[b"\x03" * 20]
                amounts = limbs_array([10**18 + n for n in range(many)], 4)

                def v2_python() -> int:
                    fee = 10**18 * 997
                    return fee * 3 * 10**24 // (10**24 * 1000 + fee)

                quote = v2.quote_exact_in(10**18, zero_for_one=True).amount_out
                assert quote == v2_python()
                one, batch, python = alternate(
                    [
                        (
                            "V2, one by one",
                            singles,
                            one_by_one(v2, 10**18, singles),
                        ),
                        (
                            "V2, batch of 1,000",
                            many * 20,
                            loop(lambda: v2.quote_many(amounts, zero_for_one=True), 20),
                        ),
                        ("V2, Python integers in hand", singles, loop(v2_python, singles)),
                    ],
                    options.repeat,
                )
                one.target, batch.target = "<= 550 ns", "<= 50 ns"
                report.add(python)
                report.add(against(one, python))
                report.add(against(batch, python))
                for crossings in (0, 1, 10, 100):
                    measure_v3(report, options, v3, oracle, crossings, singles, many)
        finally:
            owner.close(unlink=True)
    report.show(options)


def measure_v3(
    report: Report,
    options: object,
    pool: arena.Pool,
    oracle: swap_oracle.ConcentratedPool,
    crossings: int,
    singles: int,
    many: int,
) -> None:
    amount = amount_crossing(oracle, crossings)
    expected = swap_oracle.swap(oracle, amount, True, True)
    got = pool.quote_exact_in(amount, zero_for_one=True)
    assert (got.amount_out, got.ticks_crossed) == (expected.amount_out, crossings)
    repeats = max(20, singles // (1 + crossings))
    python_repeats = max(5, singles // (100 * (1 + crossings)))
    amounts = limbs_array([amount - n for n in range(many)], 4)
    batches = max(1, 20 // (1 + crossings))

    def with_ladder() -> None:
        pool.ladder(zero_for_one=True).quote(amounts)

    ladder = pool.ladder(zero_for_one=True)
    assert (
        ladder.quote(amounts).amounts_out == pool.quote_many(amounts, zero_for_one=True).amounts_out
    )
    one, batch, built, asked, python = alternate(
        [
            (
                f"V3, {crossings} ticks crossed, one by one",
                repeats,
                one_by_one(pool, amount, repeats),
            ),
            (
                f"V3, {crossings} ticks crossed, batch of 1,000",
                many * batches,
                loop(lambda: pool.quote_many(amounts, zero_for_one=True), batches),
            ),
            (
                f"V3, {crossings} ticks crossed, ladder built for 1,000",
                many * batches,
                loop(with_ladder, batches),
            ),
            (
                f"V3, {crossings} ticks crossed, ladder at hand",
                many * batches,
                loop(lambda: ladder.quote(amounts), batches),
            ),
            (
                f"V3, {crossings} ticks crossed, Python integers",
                python_repeats,
                loop(lambda: swap_oracle.swap(oracle, amount, True, True), python_repeats),
            ),
        ],
        options.repeat,  # type: ignore[attr-defined]
    )
    one.target = {0: "<= 750 ns"}.get(crossings, f"<= 190 ns a tick: {750 + 190 * crossings} ns")
    batch.target = {0: "<= 200 ns"}.get(crossings, f"<= {200 + 190 * crossings} ns")
    asked.target = "<= 500 ns"
    report.add(python)
    for row in (one, batch, built, asked):
        report.add(against(row, python))


if __name__ == "__main__":
    main()
