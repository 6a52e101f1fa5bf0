"""Pools in private memory for the native quotes, and their answers as Python values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from arena.native import ffi, lib

MASK64 = (1 << 64) - 1


def limbs(value: int, count: int) -> list[int]:
    """`count` little-endian u64 words of a value, two's complement when negative."""
    value %= 1 << 64 * count
    return [value >> 64 * i & MASK64 for i in range(count)]


def integer(words: Any, count: int) -> int:
    return sum(int(words[i]) << 64 * i for i in range(count))


@dataclass(frozen=True)
class Answer:
    """One psa_quote_result. Everything but `status` is 0 after a refusal."""

    status: int
    amount_in: int
    amount_out: int
    sqrt_price: int
    tick: int
    liquidity: int
    ticks_crossed: int
    is_complete: bool


def answer(result: Any) -> Answer:
    return Answer(
        result.status,
        integer(result.amount_in, 4),
        integer(result.amount_out, 4),
        integer(result.sqrt_price_x96_after, 4),
        result.tick_after,
        integer(result.liquidity_after, 2),
        result.ticks_crossed,
        bool(result.is_complete),
    )


class NativePool:
    """A psa_pool_copy and the memory it points to.

    `ticks` are (tick, liquidity_net), ascending. V2 reserves go to `reserves`. Fields of `copy` and
    `row` may be changed afterwards.
    """

    def __init__(
        self,
        protocol: int,
        fee: int,
        *,
        reserves: tuple[int, int] = (0, 0),
        sqrt_price: int = 0,
        tick: int = 0,
        liquidity: int = 0,
        spacing: int = 1,
        ticks: Sequence[tuple[int, int]] = (),
        protocol_fee: int = 0,
        flags: int = 0,
        status: int = lib.PSA_STATUS_LIVE,
    ) -> None:
        self.row = ffi.new("psa_static *")
        self.row.protocol = protocol
        self.row.tick_spacing = spacing
        self.row.flags = flags
        self.row.generation = 1
        self.ticks = ffi.new("int32_t[]", [t for t, _ in ticks] or 1)
        self.net = ffi.new("uint64_t[]", [word for _, net in ticks for word in limbs(net, 2)] or 2)
        self.copy = ffi.new("psa_pool_copy *")
        line = self.copy.line
        line.stamp = 7
        line.block_number = 1234
        line.generation = 1
        line.fee_status = fee | status << 24
        line.tick = tick
        line.protocol_fee = protocol_fee
        if protocol == lib.PSA_UNISWAP_V2:
            line.a, line.b = limbs(reserves[0], 2), limbs(reserves[1], 2)
        else:
            line.a = limbs(sqrt_price, 3)[:2]
            line.sqrt_price_hi = sqrt_price >> 128
            line.b = limbs(liquidity, 2)
            line.tick_count = len(ticks)
            line.current_index = sum(t <= tick for t, _ in ticks)
        self.copy.row = self.row
        self.copy.ticks = self.ticks
        self.copy.net = self.net
        self.result = ffi.new("psa_quote_result *")

    def quote(
        self,
        amount: int,
        zero_for_one: bool,
        exact_in: bool,
        limit: int | None = None,
        flags: int = 0,
        lp_fee: int = 0,
    ) -> Answer:
        flags |= direction(zero_for_one, exact_in)
        status = lib.psa_quote_copy(
            self.copy,
            amount.to_bytes(32, "little"),
            ffi.NULL if limit is None else limit.to_bytes(32, "little"),
            flags,
            lp_fee,
            self.result,
        )
        assert status == self.result.status
        return answer(self.result)

    def depth(
        self,
        zero_for_one: bool,
        flags: int = 0,
        lp_fee: int = 0,
        *,
        capacity: int | None = None,
        from_price: bool = False,
    ) -> "Depth":
        """Rungs of the whole range, or of what lies ahead of the price."""
        return Depth(self, flags | direction(zero_for_one, True), lp_fee, capacity, from_price)


class Depth:
    """A psa_depth of one direction and its answers."""

    def __init__(
        self, pool: NativePool, flags: int, lp_fee: int, capacity: int | None, from_price: bool
    ) -> None:
        self.pool, self.flags, self.lp_fee = pool, flags, lp_fee
        if capacity is None:
            capacity = lib.psa_depth_capacity(pool.copy, flags, lp_fee)
        self.memory = ffi.new("psa_rung[]", capacity)
        self.depth = ffi.new("psa_depth *")
        build = flags | (lib.PSA_FROM_PRICE if from_price else 0)
        status = lib.psa_depth_build(pool.copy, build, lp_fee, self.memory, capacity, self.depth)
        assert status == lib.PSA_OK, status

    @property
    def rungs(self) -> list[Any]:
        """Copies: an item would not keep the array it lies in."""
        return [ffi.new("psa_rung *", self.memory[i]) for i in range(self.depth.count)]

    def quote(
        self, amounts: Sequence[int], exact_in: bool, limit: int | None = None
    ) -> list[Answer]:
        words = np.array([limbs(a, 4) for a in amounts], dtype="<u8").reshape(len(amounts), 4)
        results = ffi.new("psa_quote_result[]", len(amounts))
        status = lib.psa_depth_quote(
            self.pool.copy,
            self.depth,
            ffi.from_buffer("uint64_t[]", words),
            ffi.NULL if limit is None else limit.to_bytes(32, "little"),
            self.flags | (0 if exact_in else lib.PSA_EXACT_OUT),
            self.lp_fee,
            len(amounts),
            results,
        )
        assert status == lib.PSA_OK
        return [answer(results[i]) for i in range(len(amounts))]


def direction(zero_for_one: bool, exact_in: bool) -> int:
    """The two flags of a swap's direction."""
    flags: int = lib.PSA_ZERO_FOR_ONE if zero_for_one else 0
    return flags if exact_in else flags | lib.PSA_EXACT_OUT
