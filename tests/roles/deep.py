"""The processes of test_depth_under_kills.py: writers that are killed, and a reader that quotes by depth.

The pool's state after a block follows from the block's number: every block swaps, and each LAP blocks
liquidity comes to the middle of what the quotes cross, or goes. Lines on stdin are commands, lines on
stdout are answers.
"""

import json
import os
import random
import sys
from functools import cache
from typing import Any

import numpy as np
from builders.native_pools import Answer, NativePool
from oracle import swap_oracle

import arena
from arena.layouts.events import EVENT
from arena.native import lib
from arena.native._handle import depth_nbytes
from arena.values import PoolValues
from arena.writing import WriterArena
from roles.kill import _readable
from roles.nursery import nurse

KEY = b"\xd3" * 20
FIRST = 1_000
SPACING, TICKS, FEE = 10, 300, 3000
LAP = 64
PRICES = 7
MORE = (-700, 600, 10**25)  # the position that comes and goes; the price stays inside
AMOUNTS = (10**21, 3 * 10**22, 5 * 10**22)


def positions() -> list[int]:
    """Liquidity of each spacing."""
    chance = random.Random("deep")
    return [10**24 + chance.randrange(10**23) for _ in range(TICKS)]


def net(more: bool) -> dict[int, int]:
    amounts = [0, *positions(), 0]
    found = {(n - TICKS // 2) * SPACING: amounts[n + 1] - amounts[n] for n in range(TICKS + 1)}
    if more:
        found[MORE[0]] += MORE[2]
        found[MORE[1]] -= MORE[2]
    return found


def swap_of(number: int) -> tuple[int, int]:
    """(price, tick) after a block."""
    tick = (number % PRICES - PRICES // 2) * 13
    return swap_oracle.sqrt_price_at_tick(tick) + number % PRICES, tick


def has_more(number: int) -> bool:
    return (number - FIRST) // LAP % 2 == 1


def values() -> PoolValues:
    """Before the first block."""
    amounts = [0, *positions(), 0]
    ticks = tuple(
        ((n - TICKS // 2) * SPACING, amounts[n] + amounts[n + 1], amounts[n + 1] - amounts[n])
        for n in range(TICKS + 1)
    )
    price, tick = swap_of(FIRST)
    liquidity = sum(net for at, _, net in ticks if at <= tick)
    return PoolValues(FIRST, FEE, sqrt_price_x96=price, tick=tick, liquidity=liquidity, ticks=ticks)


@cache
def model(more: bool, turn: int) -> NativePool:
    price, tick = swap_of(turn)
    ticks = net(more)
    return NativePool(
        lib.PSA_UNISWAP_V3,
        FEE,
        sqrt_price=price,
        tick=tick,
        liquidity=sum(amount for at, amount in ticks.items() if at <= tick),
        spacing=SPACING,
        ticks=sorted(ticks.items()),
    )


@cache
def expected(more: bool, turn: int, amount: int, zero_for_one: bool, exact_in: bool) -> Answer:
    """By a walk through a private copy."""
    return model(more, turn).quote(amount, zero_for_one, exact_in)


def block(number: int) -> np.ndarray[Any, Any]:
    """Liquidity first, where it changes, then the swap."""
    changes = has_more(number) != has_more(number - 1)
    events = np.zeros(4 if changes else 3, EVENT)
    events["block_number"], events["stream_seq"] = number, 1
    events["log_index"] = np.arange(len(events))
    events["protocol"] = lib.PSA_UNISWAP_V3
    events["key"] = np.frombuffer(KEY.ljust(32, b"\0"), "u1")
    events["key_nbytes"] = len(KEY)
    events["kind"] = lib.PSA_EVENT_CL_SWAP
    events["kind"][[0, -1]] = lib.PSA_EVENT_BEGIN_BLOCK, lib.PSA_EVENT_END_BLOCK
    if changes:
        sign = 1 if has_more(number) else -1
        amount = sign * MORE[2] % 2**128
        events[1]["kind"] = lib.PSA_EVENT_CL_LIQUIDITY
        events[1]["tick_lower"], events[1]["tick_upper"] = MORE[:2]
        events[1]["update_type"] = lib.PSA_UPDATE_MINT if sign > 0 else lib.PSA_UPDATE_BURN
        events[1]["amount"] = [amount % 2**64, amount >> 64]
    price, tick = swap_of(number)
    liquidity = sum(amount for at, amount in net(has_more(number)).items() if at <= tick)
    events[-2]["words"][:3] = price % 2**64, price >> 64 & 2**64 - 1, price >> 128
    events[-2]["tick"], events[-2]["amount"] = tick, [liquidity % 2**64, liquidity >> 64]
    return events


def write_for_ever(name: str, cycle: list[np.ndarray[Any, Any]]) -> None:
    with WriterArena.take_over(name) as owner:
        number = owner.head_block
        os.write(1, b"writing\n")
        while True:
            number += 1
            events = cycle[(number - FIRST) % len(cycle)]
            events["block_number"] = number
            owner.apply(events, min_commit_ns=0)


def reader(name: str) -> None:
    """Quote until stdin says stop; answer with counts."""
    counts = {"quotes": 0, "wrong": 0, "crossed": 0, "blocks": 0}
    last = 0
    with arena.attach(name, timeout=10, require_writer=False) as pools:
        pool = pools[KEY]
        print("ready", flush=True)
        os.set_blocking(0, False)
        turn = 0
        while not os.read(0, 10) if _readable() else True:
            turn += 1
            amount, way, side = AMOUNTS[turn % 3], turn // 3 % 2 == 0, turn // 6 % 2 == 0
            ask = pool.quote_exact_in if side else pool.quote_exact_out
            if turn % 5 == 0:
                many = pool.quote_many([amount] * 3, zero_for_one=way, exact_out=not side)
                found = list(many)
            else:
                found = [ask(amount, zero_for_one=way)]
            for quote in found:
                number = quote.block_number
                right = expected(has_more(number), number % PRICES, amount, way, side)
                seen = (
                    *(quote.amount_in, quote.amount_out, quote.sqrt_price_x96_after),
                    *(quote.tick_after, quote.liquidity_after, quote.ticks_crossed),
                    quote.is_complete,
                )
                wanted = (
                    *(right.amount_in, right.amount_out, right.sqrt_price),
                    *(right.tick, right.liquidity, right.ticks_crossed, right.is_complete),
                )
                counts["quotes"] += 1
                counts["wrong"] += seen != wanted
                counts["crossed"] += quote.ticks_crossed
                counts["blocks"] += number != last
                last = number
    counts["nbytes"] = depth_nbytes()
    print(json.dumps(counts), flush=True)


def nursery(name: str) -> None:
    length = 2 * LAP * PRICES
    cycle = [block(FIRST + length + n) for n in range(length)]
    nurse(lambda: write_for_ever(name, cycle))


if __name__ == "__main__":
    {"nursery": nursery, "reader": reader}[sys.argv[1]](sys.argv[2])
