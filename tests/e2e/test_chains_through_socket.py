"""The recorded chains through a real socket, a real writer and a separate reader process.

After every block with a recorded state, every pool in the arena must equal what contract storage
held: reserves; price, tick, liquidity, and gross and net of every tick.
"""

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from builders.frames import Exex, Piece, Seed, pieces
from chains.evm_data import Block, Chain, load, write_state_file
from doubles.feed_server import FeedServer
from oracle.chain_oracle import ChainOracle, from_record, plain, plain_record
from roles.processes import ReaderProcess, WriterProcess

SEED_TAGGED, SEED_INDEXED, EXEX = "seed-tagged", "seed-indexed", "exex"
EXEX_AT_ONCE = [
    EXEX,
    pytest.param(SEED_TAGGED, marks=pytest.mark.slow),
    pytest.param(SEED_INDEXED, marks=pytest.mark.slow),
]


def _encoder(dialect: str) -> Exex | Seed:
    if dialect == EXEX:
        return Exex(first_seq=7_000, base_fee=1_000_000_007)
    return Seed(tagged=dialect == SEED_TAGGED)


def _spread(chain: Chain, keys: list[str], start: int, width: int) -> dict[str, str]:
    """A scrape block for each pool: different ones, from `start` on, within `width` blocks."""
    numbered = {b.number: b.hash for b in chain.blocks.values() if chain.has_state(b.hash)}
    chosen = {}
    for index, key in enumerate(keys):
        number = start + 5 * index % width
        while number not in numbered or key not in chain.initialised_at(numbered[number]):
            number += 1
        chosen[key] = numbered[number]
    return chosen


@dataclass(slots=True)
class Story:
    """One chain served to one writer: what is served, and which pools the writer reads where."""

    chain: Chain
    dialect: str
    scraped_at: dict[str, str]
    served: list[Piece]

    @property
    def last_scraped(self) -> int:
        return max(self.chain.blocks[h].number for h in self.scraped_at.values())


def _story(name: str, dialect: str, scraped_at: dict[str, str]) -> Story:
    chain = load(name)
    served = pieces(chain, _encoder(dialect), form="envelope" if dialect == EXEX else "bare")
    return Story(chain, dialect, scraped_at, served)


class Expectation:
    """What the arena must hold after each block, and where that is not the truth.

    V2 reserves of the seed dialect come from the oracle following the same deltas; `drifted` names
    the pools where that differed from the truth, `reread` the block at which a pool's deltas left
    the range of a reserve, so that the writer must read it anew.
    """

    def __init__(self, story: Story) -> None:
        self.story = story
        self.oracle = ChainOracle({}, v2_from_deltas=story.dialect != EXEX)
        self.drifted: set[str] = set()
        self.reread: dict[str, int] = {}

    def take(self, block: Block) -> list[str]:
        """Follow one block; the pools that must be read anew at it."""
        self.oracle.failed.clear()
        self.oracle.apply_block(block)
        for key, block_hash in self.story.scraped_at.items():
            if block_hash == block.hash:
                self.oracle.pools[key] = from_record(self.story.chain.state_at(block_hash)[key])
        lost = sorted(self.oracle.failed)
        for key in lost:
            self.reread[key] = block.number
            self.oracle.pools[key] = from_record(self.story.chain.state_at(block.hash)[key])
        return lost

    def states(self, block_hash: str) -> dict[str, Any]:
        truth = self.story.chain.state_at(block_hash)
        result = {}
        for key in self.story.scraped_at:
            result[key] = plain_record(truth[key])
            predicted = plain(self.oracle.pools[key])
            if predicted != result[key]:
                assert "reserve0" in predicted, "only V2 reserves may differ from the truth"
                self.drifted.add(key)
                result[key] = predicted
        return result


def _follow(
    story: Story, tmp_path: Path, arena_name: str, *, states_first: bool, drip: int | None = None
) -> tuple[Expectation, dict[str, tuple[int, int]]]:
    """Serve the story; compare after every block. Returns the V4 fees the arena ends with."""
    chain = story.chain
    states = tmp_path / "states.jsonl"
    ends = list(accumulate(len(piece.data) for piece in story.served))
    stream = b"".join(piece.data for piece in story.served)
    expectation = Expectation(story)
    v4 = [key for key in story.scraped_at if chain.pools[key].protocol == "uniswap_v4"]
    if states_first:
        write_state_file(states, chain, story.scraped_at)
    with (
        FeedServer(tmp_path / "feed.sock", stream, tmp_path / "stream.bin") as server,
        WriterProcess(
            tmp_path,
            name=arena_name,
            socket=server.socket_path,
            states=states,
            dialect=story.dialect,
        ),
        ReaderProcess(tmp_path, arena_name) as reader,
    ):
        server.await_clients(1)
        before = [p for p in story.served if p.number <= story.last_scraped]
        for piece in before:
            expectation.take(chain.blocks[piece.block_hash])
        expectation.reread.clear()
        server.send(0, ends[len(before) - 1])
        if not states_first:
            write_state_file(states, chain, story.scraped_at)
        reader.wait_live()
        reader.expect(before[-1].number, expectation.states(before[-1].block_hash))
        compared = 0
        for index in range(len(before), len(story.served)):
            piece = story.served[index]
            lost = expectation.take(chain.blocks[piece.block_hash])
            if lost:
                story.scraped_at |= dict.fromkeys(lost, piece.block_hash)
                write_state_file(states, chain, story.scraped_at)
            if drip is None:
                server.send(ends[index - 1], ends[index])
            else:
                server.drip(ends[index - 1], ends[index], drip)
            if chain.has_state(piece.block_hash):
                compared += 1
                expected = expectation.states(piece.block_hash)
                reader.expect(piece.number, expected, settle=bool(lost))
        assert compared == sum(chain.has_state(p.block_hash) for p in story.served[len(before) :])
        assert compared > 50
        return expectation, reader.fees(v4)


def _names(chain: Chain, keys: Any) -> set[str]:
    return {chain.pools[key].name for key in keys}


@pytest.mark.parametrize("dialect", EXEX_AT_ONCE)
def test_v2_chain_equals_storage_or_its_deltas(
    dialect: str, tmp_path: Path, arena_name: str
) -> None:
    chain = load("v2_chain")
    first = next(p for p in chain.steps if isinstance(p, Block) and chain.has_state(p.hash))
    keys = chain.initialised_at(first.hash)
    assert len(keys) == 5
    story = _story("v2_chain", dialect, _spread(chain, keys, first.number, 12))
    result, _ = _follow(story, tmp_path, arena_name, states_first=dialect != EXEX)
    if dialect == EXEX:
        assert result.drifted == set()
        return
    assert _names(chain, result.drifted) == {"v2_0", "v2_1", "v2_2", "v2_3", "v2_4"}
    reread = {chain.pools[key].name: number for key, number in result.reread.items()}
    assert reread == REREAD


REREAD = {"v2_1": 114, "v2_0": 165, "v2_3": 175}
"""Blocks at which the sums of the seed's V2 deltas would leave the range of a reserve."""


@pytest.mark.slow
def test_v2_frames_split_anywhere_give_the_same(tmp_path: Path, arena_name: str) -> None:
    chain = load("v2_chain")
    last_start = next(p for p in chain.steps if isinstance(p, Block) and p.number == 135)
    keys = chain.initialised_at(last_start.hash)
    assert len(keys) == 6
    scraped_at = _spread(chain, keys[:-1], 17, 100) | {keys[-1]: last_start.hash}
    story = _story("v2_chain", EXEX, scraped_at)
    result, _ = _follow(story, tmp_path, arena_name, states_first=False, drip=7)
    assert result.drifted == set()


@pytest.mark.slow
@pytest.mark.parametrize("dialect", EXEX_AT_ONCE)
def test_v3_chain_equals_storage(dialect: str, tmp_path: Path, arena_name: str) -> None:
    chain = load("v3_chain")
    story = _story("v3_chain", dialect, _spread(chain, list(chain.pools), 13, 23))
    assert len(story.scraped_at) == 11
    result, _ = _follow(story, tmp_path, arena_name, states_first=dialect == EXEX)
    assert result.drifted == set()
    assert result.reread == {}


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [EXEX, SEED_TAGGED, SEED_INDEXED])
def test_v4_chain_equals_storage_but_for_fees_without_events(
    dialect: str, tmp_path: Path, arena_name: str
) -> None:
    chain = load("v4_chain")
    story = _story("v4_chain", dialect, _spread(chain, list(chain.pools), 17, 23))
    assert len(story.scraped_at) == 14
    result, fees = _follow(story, tmp_path, arena_name, states_first=dialect != EXEX)
    assert result.drifted == set()
    # Fees are those of each pool's scrape: no event tells of a change.
    scraped = {k: chain.state_at(block_hash)[k] for k, block_hash in story.scraped_at.items()}
    assert fees == {k: (state["lpFee"], state["protocolFee"]) for k, state in scraped.items()}
    last = chain.state_at(story.served[-1].block_hash)
    changed_lp = {k for k, (lp, _) in fees.items() if lp != last[k]["lpFee"]}
    changed_protocol = {k for k, (_, p) in fees.items() if p != last[k]["protocolFee"]}
    assert _names(chain, changed_lp) == {"dynamic_silent", "dynamic_beforeSwap"}
    assert _names(chain, changed_protocol) == {
        "protofee",
        "ts1",
        "dynamic_silent",
        "dynamic_beforeSwap",
        "zero_fee_protofee",
    }
