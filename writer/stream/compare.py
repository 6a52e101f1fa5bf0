"""Whether a block of the stream and one of a node are the same."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from arena.native import lib
from arena.specs import PoolSpec
from arena.writer.node.client import Header
from arena.writer.stream.history import Records


@dataclass(frozen=True, slots=True)
class NodeBlock:
    """One block as the node has it; `records`, (n,) of EVENT, from BeginBlock to EndBlock."""

    header: Header
    records: Records


def same_block(kept: Records, found: NodeBlock, pools: Mapping[bytes, PoolSpec]) -> bool:
    """Whether a block the feed sent is this block of the node.

    The feed carries no hashes. Compared are time, base fee (it follows from all blocks before, so
    branches differ in it) and every event of `pools`. Streams that send V2 changes in place of Sync
    are compared without V2, those that do not bring V4's protocol fees without them. A feed without
    timestamps cannot be compared: False.
    """
    begin = kept[0]
    if begin["timestamp"] == 0 or begin["timestamp"] != found.header.timestamp:
        return False
    has_base_fee = bool(begin["flags"] & lib.PSA_EVENT_HAS_BASE_FEE)
    if has_base_fee and int(begin["words"][0]) != found.header.base_fee:
        return False
    return _effects(kept, kept, pools) == _effects(kept, found.records, pools)


def differing_pools(kept: Records, found: Records, pools: Mapping[bytes, PoolSpec]) -> list[bytes]:
    """The pools whose own events in a block of the feed are others than in `found`.

    As same_block compares them, but for their positions.
    """
    sides: list[dict[bytes, list[tuple[Any, ...]]]] = [{}, {}]
    for side, records in zip(sides, (kept, found), strict=True):
        for key, _tx_index, *effect in _effects(kept, records, pools):
            side.setdefault(key, []).append(tuple(effect))
    return [key for key in pools if sides[0].get(key) != sides[1].get(key)]


def is_reverted_block(kept: Records, reverted: Records, pools: Container[bytes]) -> bool:
    """Whether a block the feed turns back is the one it sent before, as far as both carry their time,
    base fee and events of `pools`; reserves are not sent in reverted blocks."""
    begin, turned = kept[0], reverted[0]
    if begin["timestamp"] and turned["timestamp"] and begin["timestamp"] != turned["timestamp"]:
        return False
    have_fees = begin["flags"] & turned["flags"] & lib.PSA_EVENT_HAS_BASE_FEE
    if have_fees and begin["words"][0] != turned["words"][0]:
        return False
    sides = [
        sorted(each for each in _effects(kept, records, pools) if each[2] != lib.PSA_EVENT_V2_SYNC)
        for records in (kept, reverted)
    ]
    return sides[0] == sides[1]


def touched_pools(records: Records, pools: Mapping[bytes, PoolSpec]) -> set[bytes]:
    """Those of `pools` that a block has events of."""
    return {key for key, *_ in _effects(records, records, pools)}


def _effects(kept: Records, records: Records, pools: Container[bytes]) -> list[tuple[Any, ...]]:
    """What the events of `pools` in `records` do; without V2 where `kept` has changes for it, and
    without protocol fees where it does not bring them."""
    kinds = [lib.PSA_EVENT_CL_SWAP, lib.PSA_EVENT_CL_LIQUIDITY]
    if kept["flags"][0] & lib.PSA_EVENT_HAS_FEES:
        kinds.append(lib.PSA_EVENT_PROTOCOL_FEE)
    if not (kept["kind"] == lib.PSA_EVENT_V2_DELTA).any():
        kinds.append(lib.PSA_EVENT_V2_SYNC)
    effects = []
    for record in records[np.isin(records["kind"], kinds)]:
        key = record["key"].tobytes()[: record["key_nbytes"]]
        if key in pools:
            effects.append(
                (
                    key,
                    int(record["tx_index"]),
                    int(record["kind"]),
                    int(record["tick"]),
                    int(record["tick_lower"]),
                    int(record["tick_upper"]),
                    _compared_words(record),
                    record["amount"].tobytes(),
                )
            )
    return effects


def _compared_words(record: Any) -> bytes:
    """A swap's price alone: what a stream may carry besides, its fee or amounts, is no effect."""
    is_swap = record["kind"] == lib.PSA_EVENT_CL_SWAP
    words: bytes = record["words"][: 4 if is_swap else 8].tobytes()
    return words
