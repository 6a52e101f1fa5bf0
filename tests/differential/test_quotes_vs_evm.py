"""Every recorded quote of the published contracts against the native quotes, bit for bit.

The reference is the router library's answer for V2 and the pool's own swap for V3 and V4. Each
quote is answered from the full state read from storage at the same block. Counts are asserted, so
nothing is left out unseen.
"""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders.native_pools import Answer, Depth, NativePool

from arena.native import lib

DATA = Path(__file__).resolve().parents[1] / "data" / "evm"
Record = dict[str, Any]

V2_REASONS = {
    "UniswapV2Library: INSUFFICIENT_INPUT_AMOUNT": lib.PSA_AMOUNT_OUT_OF_RANGE,
    "UniswapV2Library: INSUFFICIENT_OUTPUT_AMOUNT": lib.PSA_AMOUNT_OUT_OF_RANGE,
    "UniswapV2Library: INSUFFICIENT_LIQUIDITY": lib.PSA_NOT_INITIALIZED,
    "ds-math-mul-overflow": lib.PSA_SWAP_REVERTS,
    "ds-math-sub-underflow": lib.PSA_INSUFFICIENT_LIQUIDITY,
    "": lib.PSA_INSUFFICIENT_LIQUIDITY,  # output equals the reserve: division by zero
}
V3_REASONS = {"AS": lib.PSA_AMOUNT_OUT_OF_RANGE, "SPL": lib.PSA_PRICE_LIMIT}
V4_REASONS = {
    "SwapAmountCannotBeZero": lib.PSA_AMOUNT_OUT_OF_RANGE,
    "PriceLimitAlreadyExceeded": lib.PSA_PRICE_LIMIT,
    "PriceLimitOutOfBounds": lib.PSA_PRICE_LIMIT,
    "InvalidFeeForExactOut": lib.PSA_FEE_TOO_HIGH,
    "SafeCastOverflow": lib.PSA_SWAP_REVERTS,
}


def records(name: str) -> Iterator[Record]:
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="ascii") as lines:
        for line in lines:
            yield json.loads(line)


def full_states(name: str) -> dict[tuple[str, str], Record]:
    """(block hash, pool) to the pool's state, of every block with a full listing."""
    return {
        (record["hash"], pool): state
        for record in records(name)
        if record["kind"] == "state" and record["full"]
        for pool, state in record["pools"].items()
    }


def quotes(name: str, every: int = 1) -> Iterator[tuple[str, str, list[Record]]]:
    for index, record in enumerate(records(name)):
        assert record["kind"] == "quotes"
        yield record["hash"], record["pool"], record["quotes"][index % every :: every]


def concentrated(
    protocol: int, state: Record, fee: int, spacing: int, flags: int = 0
) -> NativePool:
    return NativePool(
        protocol,
        fee,
        sqrt_price=int(state["sqrtPriceX96"]),
        tick=int(state["tick"]),
        liquidity=int(state["liquidity"]),
        spacing=spacing,
        ticks=[(int(tick), int(net)) for tick, _, net in state["ticks"]],
        protocol_fee=int(state.get("protocolFee", 0)),
        flags=flags,
    )


def expected_swap(quote: Record, reasons: dict[str, int], state: Record, pool_side: int) -> Answer:
    """What the recorded swap says; `pool_side` is 1 where positive amounts flow into the pool."""
    swap = quote["swap"]
    if not swap["ok"]:
        return Answer(reasons[swap["reason"]], 0, 0, 0, 0, 0, 0, False)
    amounts = [pool_side * int(swap["amount0"]), pool_side * int(swap["amount1"])]
    amount_in, amount_out = amounts if quote["zf1"] else amounts[::-1]
    amount_out = -amount_out
    tick_after = int(swap["tickAfter"])
    start = int(state["tick"])
    low, high = min(start, tick_after), max(start, tick_after)
    crossed = sum(low < int(tick[0]) <= high for tick in state["ticks"])
    asked = amount_in if quote["mode"] == "in" else amount_out
    return Answer(
        lib.PSA_OK,
        amount_in,
        amount_out,
        int(swap["sqrtPriceX96After"]),
        tick_after,
        int(swap["liquidityAfter"]),
        crossed,
        asked == int(quote["amt"]),
    )


# Of the quotes of each pool and block, every so-manyth; the second test command compares all.
EVERY = [45, pytest.param(1, marks=pytest.mark.slow)]


class Comparison:
    """Counts what was compared and keeps the first differences."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.counts: Counter[str] = Counter()
        self.differences: list[str] = []

    def check(self, kind: str, found: Answer, expected: Answer, where: object) -> None:
        self.counts[kind if expected.status == lib.PSA_OK else f"{kind} refused"] += 1
        if found != expected:
            self.counts["different"] += 1
            if len(self.differences) < 5:
                self.differences.append(f"{where}\n  found    {found}\n  expected {expected}")

    def finish(self, **expected: int) -> None:
        assert not self.differences, "\n".join(self.differences)
        if self.every != 1:
            assert all(self.counts[key.replace("_", " ")] for key in expected)
            return
        assert self.counts == {key.replace("_", " "): value for key, value in expected.items()}


def compare_pool(
    comparison: Comparison,
    pool: NativePool,
    state: Record,
    items: list[Record],
    reasons: dict[str, int],
    pool_side: int,
    flags: int = 0,
    lp_fee: int = 0,
    kind: str = "",
) -> None:
    """Quotes of one pool at one block: one by one, by depth, and those without a limit on a ladder."""
    plain: dict[tuple[bool, bool], list[tuple[int, Answer]]] = {}
    depths: dict[bool, Depth] = {}
    for item in items:
        zero_for_one, exact_in, amount = item["zf1"], item["mode"] == "in", int(item["amt"])
        limit = None if item["limit"] is None else int(item["limit"])
        expected = expected_swap(item, reasons, state, pool_side)
        found = pool.quote(amount, zero_for_one, exact_in, limit, flags, lp_fee)
        comparison.check(f"{kind}quote", found, expected, item)
        if zero_for_one not in depths:
            depths[zero_for_one] = pool.depth(zero_for_one, flags, lp_fee)
        found = depths[zero_for_one].quote([amount], exact_in, limit)[0]
        comparison.check(f"{kind}depth", found, expected, item)
        if limit is None:
            plain.setdefault((zero_for_one, exact_in), []).append((amount, expected))
    for (zero_for_one, exact_in), asked in plain.items():
        ladder = pool.depth(zero_for_one, flags, lp_fee, from_price=True)
        answers = ladder.quote([amount for amount, _ in asked], exact_in)
        for found, (amount, expected) in zip(answers, asked, strict=True):
            comparison.check(f"{kind}ladder", found, expected, (amount, zero_for_one, exact_in))


@pytest.mark.parametrize("every", EVERY)
def test_v2_quotes_equal_the_router_library(every: int) -> None:
    states = full_states("v2_chain")
    comparison = Comparison(every)
    for block_hash, key, items in quotes("v2_quotes", every):
        state = states[block_hash, key]
        reserves = int(state["reserve0"]), int(state["reserve1"])
        pool = NativePool(lib.PSA_UNISWAP_V2, 3000, reserves=reserves)
        for item in items:
            zero_for_one, exact_in, amount = item["zf1"], item["mode"] == "in", int(item["amt"])
            library = item["lib"]
            if library["ok"]:
                other = int(library["amount"])
                ends = (amount, other) if exact_in else (other, amount)
                expected = Answer(lib.PSA_OK, *ends, 0, 0, 0, 0, True)
            else:
                status = V2_REASONS[library["reason"]]
                expected = Answer(status, 0, 0, 0, 0, 0, 0, False)
            found = pool.quote(amount, zero_for_one, exact_in)
            comparison.check("quote", found, expected, (reserves, item))
            if library["ok"]:
                by_ladder = pool.depth(zero_for_one).quote([amount], exact_in)[0]
                comparison.check("ladder", by_ladder, expected, (reserves, item))
    # 24,480 recorded, all compared
    comparison.finish(quote=21030, quote_refused=3450, ladder=21030)


@pytest.mark.slow
@pytest.mark.parametrize("every", EVERY)
def test_v3_quotes_equal_the_pools_own_swap(every: int) -> None:
    states = full_states("v3_chain")
    pools = next(r["pools"] for r in records("v3_chain") if r["kind"] == "pools")
    comparison = Comparison(every)
    for block_hash, key, items in quotes("v3_quotes", every):
        state, meta = states[block_hash, key], pools[key]
        fee, spacing = int(meta["fee"]), int(meta["tickSpacing"])
        pool = concentrated(lib.PSA_UNISWAP_V3, state, fee, spacing)
        compare_pool(comparison, pool, state, items, V3_REASONS, pool_side=1)
    # 60,125 recorded, all compared; 51,281 of them have no limit
    comparison.finish(
        quote=56898,
        quote_refused=3227,
        depth=56898,
        depth_refused=3227,
        ladder=49409,
        ladder_refused=1872,
    )


def hook_fees() -> dict[tuple[str, str], dict[str, str]]:
    """(block hash, pool) to the fee each test hook would set for a swap then."""
    return {
        (record["hash"], record["pool"]): record["hookFees"]
        for record in records("v4_quotes")
        if record["hookFees"]
    }


@pytest.mark.parametrize("every", EVERY)
def test_v4_quotes_equal_the_pools_own_swap(every: int) -> None:
    states = full_states("v4_chain")
    set_by_hooks = hook_fees()
    pools = next(r["pools"] for r in records("v4_chain") if r["kind"] == "meta")
    comparison = Comparison(every)
    for block_hash, key, items in quotes("v4_quotes", every):
        state, meta = states[block_hash, key], pools[key]
        dynamic = int(meta["fee"]) == 0x800000
        if meta["swapAffectedByHook"]:
            pool = concentrated(
                lib.PSA_UNISWAP_V4,
                state,
                int(state["lpFee"]),
                int(meta["tickSpacing"]),
                lib.PSA_POOL_HOOKED | lib.PSA_POOL_DYNAMIC_FEE * dynamic,
            )
            for item in items:
                refused = Answer(lib.PSA_HOOKED_POOL, 0, 0, 0, 0, 0, 0, False)
                found = pool.quote(int(item["amt"]), item["zf1"], item["mode"] == "in")
                comparison.check("hooked", found, refused, item)
            # These hooks only set the fee: told which, the curve's answer is the pool's own.
            fee = int(set_by_hooks[block_hash, key][meta["hooks"]])
            told = lib.PSA_FEE_GIVEN | lib.PSA_ALLOW_HOOKS
            compare_pool(comparison, pool, state, items, V4_REASONS, -1, told, fee, "told ")
            continue
        flags = lib.PSA_POOL_DYNAMIC_FEE if dynamic else 0
        lp_fee = int(state["lpFee"])
        pool = concentrated(lib.PSA_UNISWAP_V4, state, lp_fee, int(meta["tickSpacing"]), flags)
        allow = lib.PSA_ALLOW_DYNAMIC if dynamic else 0
        compare_pool(comparison, pool, state, items, V4_REASONS, pool_side=-1, flags=allow)
        if dynamic:
            # the stored fee is refused unless allowed, and a given fee replaces it
            refused = Answer(lib.PSA_DYNAMIC_FEE, 0, 0, 0, 0, 0, 0, False)
            stored = pool.quote(1, True, True)
            comparison.check("dynamic", stored, refused, key)
            pool.copy.line.fee_status = 123 | lib.PSA_STATUS_LIVE << 24
            given = lib.PSA_FEE_GIVEN
            compare_pool(comparison, pool, state, items, V4_REASONS, -1, given, lp_fee, "given ")
    # 82,895 recorded: 12,815 of pools whose swaps their hooks alter are refused, and compared with
    # the hook's fee given; all others are compared; those of the dynamic-fee pool once more with the
    # fee given by the caller
    comparison.finish(
        quote=62301,
        quote_refused=7779,
        depth=62301,
        depth_refused=7779,
        ladder=53696,
        ladder_refused=5440,
        hooked_refused=12815,
        dynamic_refused=76,
        given_quote=5648,
        given_quote_refused=528,
        given_depth=5648,
        given_depth_refused=528,
        given_ladder=4894,
        given_ladder_refused=370,
        told_quote=12086,
        told_quote_refused=729,
        told_depth=12086,
        told_depth_refused=729,
        told_ladder=10416,
        told_ladder_refused=575,
    )


@pytest.mark.parametrize("name", ["v2", "v3", "v4"])
def test_every_refusal_reason_in_the_data_is_mapped(name: str) -> None:
    reasons = {"v2": V2_REASONS, "v3": V3_REASONS, "v4": V4_REASONS}[name]
    result = "lib" if name == "v2" else "swap"
    seen = {
        item[result]["reason"]
        for _, _, items in quotes(f"{name}_quotes")
        for item in items
        if not item[result]["ok"]
    }
    assert seen == set(reasons)
