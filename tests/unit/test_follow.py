"""What the follower asks of a node and refuses of it, against a simulated chain that answers as told.

The frames themselves are held against a real node in tests/e2e/test_bridge.py.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from builders.history import DECOY, SimBlock, Universe

from arena.errors import ChainMoved, LogInvalid, NodeBehind, ReorgTooDeep, RpcRefused
from arena.layouts.slots import UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.native import lib
from arena.specs import PoolSpec, TokenSpec
from arena.writer.node.client import Header, Log
from arena.writer.node.rpc_node import read_header, read_log
from arena.writer.producers.follow import Follower
from arena.writer.protocols.held import pool_target
from arena.writer.stream.block_logs import PASS_S, SETTLE_S

PROTOCOLS = {"uniswap_v2": UNISWAP_V2, "uniswap_v3": UNISWAP_V3, "uniswap_v4": UNISWAP_V4}


class ToldNode:
    """Answers for a chain; `less` leaves logs out, `empty_blooms` is a chain without filters, and
    `demands_address` is asked for logs of named contracts only."""

    def __init__(self, universe: Universe) -> None:
        self.universe = universe
        self.less = False
        self.empty_blooms = False
        self.demands_address = False
        self.doubted: list[tuple[frozenset[bytes], int]] = []
        self.asked: list[int] = []
        self.empty: set[bytes] = set()  # accounts whose words are zero

    def _header(self, block: SimBlock) -> Header:
        header = read_header(block.header())
        header = replace(header, transaction_count=len(block.logs), gas_used=len(block.logs))
        return replace(header, logs_bloom=bytes(256)) if self.empty_blooms else header

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
        assert first == last
        block = next(each for each in self.universe.chain if each.number == first)
        return self.block_logs([bytes.fromhex(block.hash[2:])], topics)[0]

    def block_logs(
        self, hashes: Sequence[bytes], topics: Sequence[bytes], addresses: Sequence[bytes] = ()
    ) -> list[list[Log]]:
        if self.demands_address and not addresses:
            raise RpcRefused("refused", code=-32701, reason="please specify an address")
        assert addresses or not topics, "positions in a receipt need every log"
        found = [self._logs(self.universe.by_hash["0x" + each.hex()]) for each in hashes]
        return [
            [log for log in logs if not addresses or log.address in addresses] for logs in found
        ]

    def _logs(self, block: SimBlock) -> list[Log]:
        found = [read_log(log) for log in block.logs]
        return found[1:] if self.less else found

    def words(self, block_hash: bytes, places: Sequence[tuple[bytes, bytes]]) -> list[int]:
        return [0 if account in self.empty else 1 << 96 for account, _slot in places]


def mine(universe: Universe, blocks: int) -> None:
    for _ in range(blocks):
        universe.mine()


@pytest.fixture
def universe(rng: random.Random) -> Universe:
    made = Universe(rng)
    mine(made, 5)
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
    return Follower(
        node,
        targets,
        history_blocks=20,
        doubted=lambda keys, block_number: node.doubted.append((keys, block_number)),
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, follower: Follower) -> list[float]:
    """The time by which a follower's doubts last."""
    now = [0.0]
    monkeypatch.setattr(follower._reader, "_clock", lambda: now[0])
    return now


def advance(follower: Follower, node: ToldNode) -> list[int]:
    """Numbers of the blocks that units ended at."""
    return [last.number for last, _ in follower.advance(node.head())]


def mine_with_logs(universe: Universe, emitter: str | None = None) -> SimBlock:
    """Up to a block with a log of that contract, or of any pool."""
    emitters = {pool.emitter for pool in universe.pools} if emitter is None else {emitter}
    while True:
        block = universe.mine()
        if not emitters.isdisjoint(log["address"] for log in block.logs):
            return block


def test_the_first_head_is_the_first_block(follower: Follower, node: ToldNode) -> None:
    assert advance(follower, node) == [node.head_number()]
    assert advance(follower, node) == []


def test_skipped_heads_are_filled_in(
    follower: Follower, node: ToldNode, universe: Universe
) -> None:
    first = universe.tip.number
    advance(follower, node)
    mine(universe, 30)
    assert advance(follower, node) == list(range(first + 1, first + 31))


def test_logs_that_are_not_all_there_are_not_taken(
    follower: Follower, node: ToldNode, universe: Universe
) -> None:
    advance(follower, node)
    block = mine_with_logs(universe)
    node.less = True
    with pytest.raises(NodeBehind, match="have holes|not all that its header"):
        advance(follower, node)
    assert follower.tip is not None
    assert follower.tip.number < block.number
    node.less = False
    assert advance(follower, node)[-1] == block.number


def test_a_chain_without_blooms_is_believed_after_a_moment_and_said(
    follower: Follower,
    node: ToldNode,
    universe: Universe,
    clock: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    while universe.mine().logs:
        pass
    advance(follower, node)  # a block in which nothing ran needs no proof
    node.empty_blooms = True
    for _ in range(2):
        mine_with_logs(universe)
    with caplog.at_level(logging.WARNING):
        with pytest.raises(NodeBehind, match="no bloom filter"):
            advance(follower, node)
        clock[0] += SETTLE_S
        found = [records for _, records in follower.advance(node.head())]
    events = sum(len(block.block.events) for block in universe.chain[-len(found) :])
    assert sum(len(records) - 2 for records in found) == events
    assert sum("event=no_bloom" in message for message in caplog.messages) == 1
    assert all(DECOY[2:] not in records["key"].tobytes().hex() for records in found)


def test_the_first_block_is_looked_at_until_its_doubt_is_over(
    follower: Follower, node: ToldNode, universe: Universe, clock: list[float]
) -> None:
    """Else a chain that is faster than a doubt would have no first block."""
    node.empty_blooms = True
    first = mine_with_logs(universe)
    for _ in range(3):
        with pytest.raises(NodeBehind, match=f"block {first.number}:"):
            advance(follower, node)
        mine_with_logs(universe)
    clock[0] += SETTLE_S
    assert advance(follower, node) == [first.number]
    follower.forget()
    node.empty_blooms = False
    assert advance(follower, node) == [universe.tip.number]


def test_a_doubtful_first_block_that_is_replaced_is_given_up(
    follower: Follower, node: ToldNode, universe: Universe
) -> None:
    node.empty_blooms = True
    mine_with_logs(universe)
    with pytest.raises(NodeBehind):
        advance(follower, node)
    universe.cut(1)
    node.empty_blooms = False
    mine_with_logs(universe)
    assert advance(follower, node) == [universe.tip.number]


def test_a_doubtful_block_that_is_reverted_leaves_its_pools_in_doubt(
    follower: Follower, node: ToldNode, universe: Universe, clock: list[float]
) -> None:
    """They were read anew behind it, and nothing that is sent turns back what it changed."""
    advance(follower, node)
    emitters = {pool.emitter for pool in universe.pools}
    doubtful = mine_with_logs(universe)
    while len(doubtful.logs) > 1 or doubtful.logs[0]["address"] not in emitters:
        advance(follower, node)
        doubtful = mine_with_logs(universe)
    node.less = True
    with pytest.raises(NodeBehind):
        advance(follower, node)
    clock[0] += PASS_S
    assert advance(follower, node)[-1] == doubtful.number
    [(keys, number)] = node.doubted
    assert number == doubtful.number
    assert keys
    node.less = False
    universe.mine()
    advance(follower, node)
    universe.cut(2)
    mine(universe, 3)
    advance(follower, node)
    assert node.doubted[1:] == [(keys, universe.tip.number)]
    universe.cut(1)
    universe.mine()
    advance(follower, node)
    assert len(node.doubted) == 2, "its block is gone"


def test_a_pool_that_was_not_asked_for_is_in_doubt_when_the_block_is_reverted(
    follower: Follower, node: ToldNode, universe: Universe
) -> None:
    """A node that demands addresses was asked for those listed then."""
    everyone = follower.targets
    follower.targets = everyone[:-1]
    node.demands_address = True
    advance(follower, node)
    mine_with_logs(universe)
    advance(follower, node)
    follower.targets = everyone
    universe.mine()
    advance(follower, node)
    universe.cut(2)
    mine(universe, 3)
    advance(follower, node)
    assert node.doubted == [(frozenset({everyone[-1].spec.key}), universe.tip.number)]


def test_a_reverted_pool_that_storage_shows_empty_is_read_anew(
    follower: Follower, node: ToldNode, universe: Universe
) -> None:
    """Its first events may have been turned back; or the node has not its state yet."""
    advance(follower, node)
    pair = next(each for each in follower.targets if each.spec.protocol == PROTOCOLS["uniswap_v2"])
    mine_with_logs(universe, "0x" + pair.spec.key.hex())
    mine(universe, 11)
    advance(follower, node)
    node.empty = {pair.spec.key}
    universe.cut(12)
    mine(universe, 13)
    (_, records) = list(follower.advance(node.head()))[-1]
    finals = np.isin(records["kind"], [lib.PSA_EVENT_V2_FINAL, lib.PSA_EVENT_SLOT0_FINAL])
    told = {each.tobytes()[:20] for each in records["key"][finals]}
    assert pair.spec.key not in told
    assert told, "of the others"
    assert node.doubted == [(frozenset({pair.spec.key}), universe.tip.number)]


def test_a_reorg_below_what_is_kept_is_too_deep(
    follower: Follower, node: ToldNode, universe: Universe
) -> None:
    advance(follower, node)
    mine(universe, 25)
    advance(follower, node)
    universe.cut(22)
    mine(universe, 23)
    with pytest.raises(ReorgTooDeep, match="deeper than what is kept"):
        advance(follower, node)
    follower.forget()
    assert advance(follower, node) == [universe.tip.number]


def test_only_the_headers_that_are_missing_are_asked_for(
    follower: Follower, node: ToldNode, universe: Universe
) -> None:
    advance(follower, node)
    mine(universe, 10)
    advance(follower, node)
    node.asked.clear()
    universe.mine()
    advance(follower, node)
    assert node.asked == []


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
    mine(universe, 3)
    head = node.head()
    universe.cut(2)
    mine(universe, 2)
    with pytest.raises(ChainMoved):
        list(follower.advance(head))


def undecodable(node: ToldNode, block: SimBlock) -> None:
    """The node's logs of that block have no data."""
    whole = node._logs

    def told(asked: SimBlock) -> list[Log]:
        return [replace(log, data=b"") if asked is block else log for log in whole(asked)]

    node._logs = told  # type: ignore[method-assign]


def test_a_block_that_cannot_be_decoded_is_asked_for_until_it_can(
    follower: Follower, node: ToldNode, universe: Universe
) -> None:
    advance(follower, node)
    before, whole = node.head_number(), node._logs
    block = mine_with_logs(universe)
    undecodable(node, block)
    for _ in range(3):
        with pytest.raises(LogInvalid, match=str(block.number)):
            advance(follower, node)
        assert follower.tip is not None
        assert follower.tip.number < block.number
    node._logs = whole  # type: ignore[method-assign]
    assert advance(follower, node)[-1] == node.head_number() > before


def test_a_reverted_block_that_cannot_be_told_is_a_new_beginning(
    follower: Follower, node: ToldNode, universe: Universe
) -> None:
    """Its logs are of a pool that was listed after it was sent."""
    advance(follower, node)
    targets = follower.targets
    follower.targets = ()
    block = mine_with_logs(universe)
    undecodable(node, block)
    advance(follower, node)
    follower.targets = targets
    universe.cut(universe.tip.number - block.number + 1)
    mine(universe, 3)
    with pytest.raises(ReorgTooDeep, match="cannot be told"):
        advance(follower, node)
