"""Frozen pools of any protocol from plain integers, put together from the dtypes of layouts/slots.py."""

from collections.abc import Sequence

import numpy as np

from arena.layouts import slots
from arena.readers import FrozenPool


def words(value: int, count: int) -> list[int]:
    """`count` little-endian u64 words, two's complement when negative."""
    value %= 1 << 64 * count
    return [value >> 64 * at & (1 << 64) - 1 for at in range(count)]


def frozen(
    protocol: int,
    fee_pips: int,
    *,
    reserves: tuple[int, int] = (0, 0),
    sqrt_price: int = 0,
    tick: int = 0,
    liquidity: int = 0,
    spacing: int = 1,
    net: Sequence[tuple[int, int]] = (),
    protocol_fee: int = 0,
    row_flags: int = 0,
    slot: int = 5,
    commit: int = 7,
) -> FrozenPool:
    """`net` are (tick, liquidity_net), ascending; gross liquidity is made as large."""
    line, row, tokens = (
        np.zeros(count, dtype)
        for dtype, count in ((slots.LINE, 1), (slots.STATIC, 1), (slots.TOKEN, 2))
    )
    first, second = (sqrt_price, liquidity) if protocol in (1, 2) else reserves
    line["stamp"], line["slab"], line["generation"] = commit, slot, 1
    line["sqrt_price_hi"], line["tick"] = sqrt_price >> 128, tick
    line["a"], line["b"] = words(first, 2), words(second, 2)
    line["fee_status"] = fee_pips | slots.STATUS_LIVE << 24
    line["protocol_fee"], line["block_number"] = protocol_fee, 100 + commit
    line["tick_count"] = len(net)
    line["current_index"] = sum(each <= tick for each, _ in net)
    row["protocol"], row["flags"], row["generation"] = protocol, row_flags, 1
    row["key_nbytes"], row["tick_spacing"] = 32 if protocol == 2 else 20, spacing
    row["key"][0, :20] = slot + 1
    nets = np.array([words(each, 2) for _, each in net], "<u8")
    gross = np.array([words(abs(each), 2) for _, each in net], "<u8")
    ticks = np.array([each for each, _ in net], "<i4")
    return FrozenPool(
        b"".join([part.tobytes() for part in (line, row, tokens, nets, gross, ticks)])
    )
