"""What the follower asks of a node and refuses of it, against a simulated chain that answers as told.

The frames themselves are held against a real node in tests/e2e/test_bridge.py.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from oracle.history import DECOY, SimBlock, Universe
from oracle.reth_database import keccak

from arena.arena import PoolSpec, TokenSpec
from arena.errors import ChainMoved, NodeBehind, ReorgTooDeep
from arena.layouts.slots import UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.writer.follow import Follower
from arena.writer.logs import Header, Log, read_header, read_log
from arena.writer.scrapers.slots import pool_target

PROTOCOLS = {"uniswap_v2": UNISWAP_V2, "uniswap_v3": UNISWAP_V3, "uniswap_v4": UNISWAP_V4}


def all_logs(block: SimBlock) -> list[dict[str, Any]]:
    """With those of other contracts, which the simulated chain only counts."""
    found: list[dict[str, Any]] = []
    for log in block.logs:
        for number in range(len(found), int(log["logIndex"], 16)):
            found.append(log | {"address": DECOY, "topics": [], "logIndex": hex(number)})
        found.append(log)
    return found


def bloom_of(block: SimBlock) -> bytes:
    """Bit by bit, as the yellow paper has it."""
    bits = 0
    for log in all_logs(block):
        for content in (log["address"], *log["topics"]):
            digest = keccak(bytes.fromhex(content[2:]))
            for pair in range(3):
                bits |= 1 << (int.from_bytes(digest[2 * pair : 2 * pair + 2], "big") % 2048)
    return bits.to_bytes(256, "big")


class ToldNode:
    """Answers for a chain; `less` leaves logs out, `empty_blooms` is a chain without filters."""

    def __init__(self, universe: Universe) -> None:
        self.universe = universe
        self.less = False
        self.empty_blooms = False
        self.asked: list[int] = []

    def _header(self, block: SimBlock) -> Header:
        bloom = bytes(256) if self.empty_blooms else bloom_of(block)
        return replace(read_header(block.header()), logs_bloom=bloom)

    def chain_id(self) -> int:
        return 1

    def head_number(self) -> int:
        return self.universe.tip.number

    def head(self) -> Header:
        return self._header(self.universe.tip)

    def headers(self, numbers: Sequence[int]) -> list[Header | None]:
        self.asked += numbers
        by_number = {block.number: block for block in self.universe.chain}
        return [self._header(by_number[n]) if n in by_number else None for n in numbers]

    def logs(self, first: int, last: int, topics: Sequence[bytes]) -> Sequence[Log]:
        raise AssertionError("a follower asks by hash")

    def block_logs(self, hashes: Sequence[bytes], topics: Sequence[bytes]) -> list[list[Log]]:
        assert not topics, "positions in a receipt need every log"
        found = [self.universe.by_hash["0x" + each.hex()] for each in hashes]
        return [
            [read_log(log) for log in (all_logs(block)[1:] if self.less else all_logs(block))]
            for block in found
        ]

    def words(self, block_hash: bytes, places: Sequence[tuple[bytes, bytes]]) -> list[int]:
        return [1 << 96 for _ in places]


@pytest.fixture
def universe(rng: random.Random) -> Universe:
    made = Universe(rng)
    for _ in range(5):
        made.mine()
    return made


@pytest.fixture
def node(universe: Universe) -> ToldNode:
    return ToldNode(universe)


@pytest.fixture
def follower(node: ToldNode, universe: Universe) -> Follower:
    targets = []
    for pool in universe.pools:
        spec = PoolSpec(
            bytes.fromhex(pool.key[2:]),
            PROTOCOLS[pool.protocol],
            TokenSpec(bytes([1]) * 20, 18, ""),
            TokenSpec(bytes([2]) * 20, 18, ""),
            3000,
            0 if pool.protocol == "uniswap_v2" else 10,
            bytes.fromhex(pool.emitter[2:]) if pool.protocol == "uniswap_v4" else bytes(20),
        )
        targets.append(pool_target(spec))
    return Follower(node, targets, history_blocks=20)


def advance(follower: Follower, node: ToldNode) -> list[int]:
    """Numbers of the blocks that units ended at."""
    return [last.number for last, _ in follower.advance(node.head())]


def mine_with_logs(universe: Universe) -> SimBlock:
    while not (block := universe.mine()).logs:
        pass
    return block


def test_the_first_head_is_the_first_block(follower: Follower, node: ToldNode) -> None:
    assert advance(follower, node) == [node.head_number()]
    assert advance(follower, node) == []


def test_skipped_heads_are_filled_in(
    follower: Follower, node: ToldNode, universe: Universe
) -> None:
    first = universe.tip.number
    advance(follower, node)
    for _ in range(30):
        universe.mine()
    assert advance(follower, node) == list(range(first + 1, first + 31))


def test_logs_that_are_not_all_there_are_not_taken(
    follower: Follower, node: ToldNode, universe: Universe
) -> None:
    advance(follower, node)
    block = mine_with_logs(universe)
    node.less = True
    with pytest.raises(NodeBehind, match="left out log 0|not all that its header"):
        advance(follower, node)
    assert follower.tip is not None
    assert follower.tip.number < block.number
    node.less = False
    assert advance(follower, node)[-1] == block.number


def test_a_chain_without_blooms_is_believed_and_said(
    follower: Follower,
    node: ToldNode,
    universe: Universe,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node.empty_blooms = True
    with caplog.at_level(logging.WARNING):
        advance(follower, node)
        for _ in range(2):
            mine_with_logs(universe)
        found = [records for _, records in follower.advance(node.head())]
    events = sum(len(block.block.events) for block in universe.chain[-len(found) :])
    assert sum(len(records) - 2 for records in found) == events
    assert sum("event=no_bloom" in message for message in caplog.messages) == 1
    assert all(DECOY[2:] not in records["key"].tobytes().hex() for records in found)


def test_a_reorg_below_what_is_kept_is_too_deep(
    follower: Follower, node: ToldNode, universe: Universe
) -> None:
    advance(follower, node)
    for _ in range(25):
        universe.mine()
    advance(follower, node)
    universe.cut(22)
    for _ in range(23):
        universe.mine()
    with pytest.raises(ReorgTooDeep, match="deeper than what is kept"):
        advance(follower, node)
    follower.forget()
    assert advance(follower, node) == [universe.tip.number]


def test_too_long_an_absence_is_not_filled_in(
    follower: Follower, node: ToldNode, universe: Universe
) -> None:
    advance(follower, node)
    far = replace(node.head(), number=node.head().number + 5000, hash=bytes(32))
    with pytest.raises(ReorgTooDeep, match="at most 4096"):
        list(follower.advance(far))


def test_headers_that_change_while_they_are_read_are_refused(
    follower: Follower, node: ToldNode, universe: Universe
) -> None:
    advance(follower, node)
    for _ in range(3):
        universe.mine()
    head = node.head()
    universe.cut(2)
    for _ in range(2):
        universe.mine()
    with pytest.raises(ChainMoved):
        list(follower.advance(head))


def test_only_the_headers_that_are_missing_are_asked_for(
    follower: Follower, node: ToldNode, universe: Universe
) -> None:
    advance(follower, node)
    for _ in range(10):
        universe.mine()
    advance(follower, node)
    node.asked.clear()
    universe.mine()
    advance(follower, node)
    assert node.asked == []
