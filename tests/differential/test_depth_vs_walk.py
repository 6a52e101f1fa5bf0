"""Quotes by depth against the walk: every field, on random pools of up to 300 positions.

Prices lie inside ticks, on them, one below and on edges of bitmap words; half of the amounts are what a
swap costs or pays to an end of a step, or one unit beside it; half of the questions have a price limit.
An answer counts as one by depth when falsified sums change it.
"""

import random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from builders.native_pools import Answer, Depth, NativePool, answer, limbs
from oracle import swap_oracle as oracle

from arena.native import ffi, lib
from arena.readers.quote import RESULT

RUNG = np.dtype(
    [
        ("amount_in", "<u8", 4),
        ("amount_out", "<u8", 4),
        ("sqrt_price_x96", "<u8", 3),
        ("liquidity", "<u8", 2),
        ("tick", "<i4"),
        ("index", "<u4"),
    ]
)
AMOUNTS = 24
FEES = (0, 100, 500, 3000, 10_000, 999_999)


def random_net(source: random.Random, spacing: int) -> dict[int, int]:
    """Net liquidity by tick of 1 to 300 positions; most are narrow, and ticks are shared."""
    positions = source.choice([1, 3, 20, 300])
    reach = min(source.choice([40, 600, 3000]), oracle.MAX_TICK // spacing - 1)
    bits = source.choice([20, 64, 110])
    net: dict[int, int] = {}
    for _ in range(positions):
        lower = source.randint(-reach, reach - 1)
        width = source.choice([1, 2, 8, 2 * reach])
        upper = min(reach, lower + source.randint(1, width))
        amount = source.getrandbits(source.randint(1, bits)) + 1
        net[lower * spacing] = net.get(lower * spacing, 0) + amount
        net[upper * spacing] = net.get(upper * spacing, 0) - amount
    return net


class RandomPool:
    """A pool with ticks that stay, and a price that `move` sets."""

    def __init__(self, source: random.Random) -> None:
        self.source = source
        self.spacing = source.choice([1, 10, 60, 200])
        self.net = random_net(source, self.spacing)
        self.ticks = sorted(self.net)
        version = source.choice([3, 4])
        protocol_fee = source.randint(0, 1000) << 12 | source.randint(0, 1000)
        protocol = lib.PSA_UNISWAP_V4 if version == 4 else lib.PSA_UNISWAP_V3
        self.pool = NativePool(
            protocol,
            source.choice(FEES),
            spacing=self.spacing,
            ticks=sorted(self.net.items()),
            protocol_fee=protocol_fee if version == 4 else 0,
        )
        self.move()
        # made at one price, used at all of them
        self.depths = {way: self.pool.depth(way) for way in (True, False)}
        self.false = {
            (way, side): self.falsified(way, side)
            for way in (True, False)
            for side in (True, False)
        }

    def falsified(self, zero_for_one: bool, exact_in: bool) -> Depth:
        """n 2^192 more on rung n of the sums that the search does not look at."""
        depth = self.pool.depth(zero_for_one)
        rungs = rungs_of(depth)
        rungs["amount_out" if exact_in else "amount_in"][:, 3] = np.arange(len(rungs))
        return depth

    def move(self) -> None:
        source = self.source
        span = self.ticks[-1] - self.ticks[0]
        tick = source.choice(
            [
                source.choice(self.ticks) + source.choice([-1, 0, 0, 1]),
                source.randint(self.ticks[0] - span // 20 - 2, self.ticks[-1] + span // 20 + 2),
                source.randint(-3, 3) * 256 * self.spacing - source.choice([0, self.spacing]),
            ]
        )
        tick = max(oracle.MIN_TICK + 1, min(oracle.MAX_TICK - 1, tick))
        bottom, top = oracle.sqrt_price_at_tick(tick), oracle.sqrt_price_at_tick(tick + 1)
        price = source.choice([bottom, bottom, top - 1, source.randint(bottom, top - 1)])
        if price == bottom and source.random() < 0.5:
            tick -= 1  # as a swap leaves it that came down onto the price
        self.tick, self.price = tick, price
        self.liquidity = sum(net for at, net in self.net.items() if at <= tick)
        line = self.pool.copy.line
        line.a, line.sqrt_price_hi = limbs(price, 2), price >> 128
        line.b, line.tick = limbs(self.liquidity, 2), tick
        line.current_index = sum(at <= tick for at in self.ticks)

    def limit(self, zero_for_one: bool) -> int | None:
        source = self.source
        if source.random() < 0.5:
            return None
        tick = source.choice(
            [source.choice(self.ticks), source.randint(-40, 40) * 256 * self.spacing, self.tick]
        )
        tick = max(oracle.MIN_TICK, min(oracle.MAX_TICK, tick))
        return oracle.sqrt_price_at_tick(tick) + source.choice([-1, 0, 0, 1])

    def oracle(self, zero_for_one: bool) -> oracle.ConcentratedPool:
        line = self.pool.copy.line
        fee = line.fee_status & 0xFFFFFF
        way = line.protocol_fee & 0xFFF if zero_for_one else line.protocol_fee >> 12
        fee += way - way * fee // 1_000_000
        version = 4 if self.pool.row.protocol == lib.PSA_UNISWAP_V4 else 3
        return oracle.ConcentratedPool(
            version, self.price, self.tick, self.liquidity, fee, self.spacing, self.net
        )


def rungs_of(depth: Depth) -> npt.NDArray[Any]:
    """(n,) view of RUNG."""
    return np.frombuffer(ffi.buffer(depth.memory), RUNG, depth.depth.count)


def asked(pool: RandomPool, source: random.Random, zero_for_one: bool, exact_in: bool) -> list[int]:
    """Half of them thresholds of the way ahead, or one beside."""
    ahead = rungs_of(pool.pool.depth(zero_for_one, from_price=True))
    out = []
    for _ in range(AMOUNTS):
        amount = source.getrandbits(source.randint(1, 112)) + 1
        if source.random() < 0.5:
            rung = ahead[source.randrange(len(ahead))]["amount_in" if exact_in else "amount_out"]
            near = sum(int(word) << 64 * i for i, word in enumerate(rung))
            near += source.choice([-1, 0, 0, 1])
            amount = near if 0 < near < 1 << 254 else amount
        out.append(amount)
    return out


def ask(
    depth: Depth, words: npt.NDArray[np.uint64], exact_in: bool, limit: int | None
) -> npt.NDArray[np.void]:
    results = np.zeros(len(words), RESULT)
    status = lib.psa_depth_quote(
        depth.pool.copy,
        depth.depth,
        ffi.from_buffer("uint64_t *", words),
        ffi.NULL if limit is None else limit.to_bytes(32, "little"),
        depth.flags | (0 if exact_in else lib.PSA_EXACT_OUT),
        0,
        len(words),
        ffi.from_buffer("psa_quote_result *", results),
    )
    assert status == lib.PSA_OK
    return results


def compare(seed: int, pools: int, states: int, every_oracle: int) -> tuple[int, int, int]:
    """Answers compared, those of them by depth, and ticks crossed by the latter."""
    source = random.Random(seed)
    total = deep = crossed = 0
    for _ in range(pools):
        pool = RandomPool(source)
        none = pool.pool.depth(True)
        none.depth.count = 0
        for _ in range(states):
            pool.move()
            zero_for_one, exact_in = source.random() < 0.5, source.random() < 0.5
            limit = pool.limit(zero_for_one)
            amounts = asked(pool, source, zero_for_one, exact_in)
            words = np.array([limbs(a, 4) for a in amounts], "<u8")
            none.flags = pool.depths[zero_for_one].flags
            walked = ask(none, words, exact_in, limit)
            found = ask(pool.depths[zero_for_one], words, exact_in, limit)
            assert found.tobytes() == walked.tobytes(), (seed, zero_for_one, exact_in, limit)
            false = ask(pool.false[zero_for_one, exact_in], words, exact_in, limit)
            by_depth = found["status"] == 0
            by_depth &= (
                (false["status"] != 0)
                | (false["amount_in"] != found["amount_in"]).any(1)
                | (false["amount_out"] != found["amount_out"]).any(1)
            )
            total += len(words)
            deep += int(by_depth.sum())
            crossed += int(found["ticks_crossed"][by_depth].sum())
            if source.randrange(every_oracle) == 0:
                pick = source.randrange(len(words))
                wanted = expected(
                    pool.oracle(zero_for_one), amounts[pick], zero_for_one, exact_in, limit
                )
                assert answer(found.view(np.recarray)[pick]) == wanted
    return total, deep, crossed


STATUS = {
    "AS": lib.PSA_AMOUNT_OUT_OF_RANGE,
    "int256": lib.PSA_AMOUNT_OUT_OF_RANGE,
    "SPL": lib.PSA_PRICE_LIMIT,
    "InvalidFeeForExactOut": lib.PSA_FEE_TOO_HIGH,
    "SafeCastOverflow": lib.PSA_SWAP_REVERTS,
}


def expected(
    pool: oracle.ConcentratedPool,
    amount: int,
    zero_for_one: bool,
    exact_in: bool,
    limit: int | None,
) -> Answer:
    try:
        swap = oracle.swap(pool, amount, zero_for_one, exact_in, limit)
    except oracle.RevertError as reverted:
        return Answer(STATUS[reverted.args[0]], 0, 0, 0, 0, 0, 0, False)
    return Answer(
        lib.PSA_OK,
        swap.amount_in,
        swap.amount_out,
        swap.sqrt_price,
        swap.tick,
        swap.liquidity,
        swap.ticks_crossed,
        swap.is_complete,
    )


@pytest.mark.parametrize("seed", range(4))
def test_depth_equals_the_walk_and_the_oracle_in_every_field(seed: int) -> None:
    total, deep, crossed = compare(seed, pools=12, states=40, every_oracle=20)
    assert deep > total // 4
    assert crossed > 3 * deep
