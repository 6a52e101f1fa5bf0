"""Twenty recorded reorganisations through a real socket, writer and reader process.

After every block of the branch that is canonical at that moment, and after every envelope, each
pool must equal what contract storage held there.
"""

import hashlib
import json
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from builders.frames import Exex, Order, Piece, ReorgForm, Seed, pieces
from builders.history import frames_of
from chains.evm_data import Block, Chain, load, write_state_file
from doubles.feed_server import FeedServer
from oracle.chain_oracle import ChainOracle, V2State, from_record, plain, plain_record
from roles.processes import SECONDS, ReaderProcess, WriterProcess

import arena

FORK_BLOCK = 41
"""Last block before the first reorg; no reorg reaches below it."""


def _canonical(chain: Chain, number: int) -> str:
    """Hash of a block at or below FORK_BLOCK, where there is one branch only."""
    assert number <= FORK_BLOCK
    return next(b.hash for b in chain.steps if isinstance(b, Block) and b.number == number)


def _scraped_before_any_reorg(chain: Chain) -> dict[str, str]:
    keys = chain.initialised_at(_canonical(chain, FORK_BLOCK))
    assert {chain.pools[key].protocol[-2:] for key in keys} == {"v2", "v3", "v4"}
    chosen = {}
    for index, key in enumerate(keys):
        number = FORK_BLOCK - index % 5
        while key not in chain.initialised_at(_canonical(chain, number)):
            number += 1
        chosen[key] = _canonical(chain, number)
    return chosen


class Deltas:
    """V2 reserves by the oracle, for streams that carry V2 deltas instead of reserves."""

    def __init__(self, chain: Chain, scraped_at: dict[str, str]) -> None:
        self.chain = chain
        self.oracle = ChainOracle({}, v2_from_deltas=True)
        self.scraped_at = scraped_at
        self.reverted: object = None

    def take(self, piece: Piece) -> None:
        if piece.reorg is not None and piece.reorg is not self.reverted:
            self.reverted = piece.reorg
            for block in reversed(piece.reorg.orphaned):
                self.oracle.undo_block(block.number)
            for block in piece.new:
                self.apply(block)
        elif piece.reorg is None:
            self.apply(self.chain.blocks[piece.block_hash])

    def apply(self, block: Block) -> None:
        self.oracle.apply_block(block)
        assert not self.oracle.failed
        for key, block_hash in self.scraped_at.items():
            if block_hash == block.hash:
                self.oracle.pools[key] = from_record(self.chain.state_at(block_hash)[key])

    def correct(self, states: dict[str, Any]) -> dict[str, Any]:
        return states | {
            key: plain(pool)
            for key, pool in self.oracle.pools.items()
            if isinstance(pool, V2State) and key in states
        }


class Served:
    """The pieces as one stream, sent in order by index."""

    def __init__(self, server_pieces: list[Piece]) -> None:
        self.pieces = server_pieces
        self.stream = b"".join(piece.data for piece in server_pieces)
        self.ends = [0, *accumulate(len(piece.data) for piece in server_pieces)]
        self.next = 0

    def send(self, server: FeedServer, count: int = 1) -> list[Piece]:
        """Send the next `count` pieces at once and return them."""
        sent = self.pieces[self.next : self.next + count]
        server.send(self.ends[self.next], self.ends[self.next + len(sent)])
        self.next += len(sent)
        return sent

    def wait_received(self, arena_name: str) -> None:
        """Until the writer has taken in all that was sent: a file written from now on is newer."""
        limit = time.monotonic() + SECONDS
        sent = len(frames_of(self.stream[: self.ends[self.next]]))
        with arena.attach(arena_name, timeout=SECONDS) as pools:
            while pools.counters["frames"] < sent:
                assert time.monotonic() < limit
                time.sleep(0.01)
            # Frames count as they come; the next sign of life follows what was made of them.
            received = time.monotonic()
            while time.monotonic() - received < pools.heartbeat_age:
                assert time.monotonic() < limit
                time.sleep(0.01)

    def drip(self, server: FeedServer, *, piece_bytes: int, pause: float) -> None:
        """Send the next piece in writes of that many bytes, that many seconds apart."""
        start, end = self.ends[self.next], self.ends[self.next + 1]
        server.drip(start, end, piece_bytes, pause=pause)
        self.next += 1

    def index(self, *, number: int, first_from: int = 0) -> int:
        """Index of the first settled piece of that block number, from an index on."""
        return next(
            index
            for index, piece in enumerate(self.pieces)
            if index >= first_from and piece.settled and piece.number == number
        )


def _states(chain: Chain, keys: Any, block_hash: str) -> dict[str, Any]:
    truth = chain.state_at(block_hash)
    return {key: plain_record(truth[key]) for key in keys}


def _encoder(dialect: str) -> Exex | Seed:
    if dialect == "exex":
        return Exex()
    if dialect == "exex-v2-deltas":
        return Exex(v2_deltas=True)
    return Seed(tagged=dialect == "seed-tagged")


def _writer(tmp_path: Path, name: str, server: FeedServer, dialect: str) -> WriterProcess:
    return WriterProcess(
        tmp_path,
        name=name,
        socket=server.socket_path,
        states=tmp_path / "states.jsonl",
        dialect="exex" if dialect.startswith("exex") else dialect,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dialect", "form", "order"),
    [
        ("exex", "envelope", "newest-first"),
        ("exex", "bare", "oldest-first"),
        ("seed-indexed", "bare", "oldest-first"),
        pytest.param("exex", "envelope", "oldest-first", marks=pytest.mark.slow),
        pytest.param("exex", "bare", "newest-first", marks=pytest.mark.slow),
        pytest.param("exex-v2-deltas", "envelope", "newest-first", marks=pytest.mark.slow),
        pytest.param("seed-tagged", "bare", "newest-first", marks=pytest.mark.slow),
    ],
)
def test_every_canonical_block_equals_storage_over_twenty_reorgs(
    dialect: str, form: ReorgForm, order: Order, tmp_path: Path, arena_name: str
) -> None:
    chain = load("reorg")
    scraped_at = _scraped_before_any_reorg(chain)
    served = Served(pieces(chain, _encoder(dialect), order=order, form=form))
    deltas = None if dialect == "exex" else Deltas(chain, scraped_at)
    write_state_file(tmp_path / "states.jsonl", chain, scraped_at)
    with (
        FeedServer(tmp_path / "feed.sock", served.stream, tmp_path / "stream.bin") as server,
        _writer(tmp_path, arena_name, server, dialect),
        ReaderProcess(tmp_path, arena_name) as reader,
    ):
        server.await_clients(1)
        reorgs = set()
        for piece in served.send(server, served.index(number=FORK_BLOCK) + 1):
            if deltas is not None:
                deltas.take(piece)
        reader.wait_live()
        while served.next < len(served.pieces):
            (piece,) = served.send(server)
            if deltas is not None:
                deltas.take(piece)
            if piece.reorg is not None:
                reorgs.add(id(piece.reorg))
            if piece.settled and chain.has_state(piece.block_hash):
                expected = _states(chain, scraped_at, piece.block_hash)
                if deltas is not None:
                    expected = deltas.correct(expected)
                reader.expect(piece.number, expected, settle=piece.reorg is not None)
        assert len(reorgs) == 20


@pytest.mark.slow
@pytest.mark.parametrize("form", ["envelope", "bare"])
def test_reorgs_inside_the_buffering_phase_are_replayed(
    form: ReorgForm, tmp_path: Path, arena_name: str
) -> None:
    """Four reorgs arrive before the states can be read: half of the pools are read before the
    first of them, half at the block the stream has reached."""
    chain = load("reorg")
    before = _scraped_before_any_reorg(chain)
    served = Served(pieces(chain, Exex(), form=form))
    with (
        FeedServer(tmp_path / "feed.sock", served.stream, tmp_path / "stream.bin") as server,
        _writer(tmp_path, arena_name, server, "exex"),
        ReaderProcess(tmp_path, arena_name) as reader,
    ):
        server.await_clients(1)
        buffered = served.send(server, served.index(number=61) + 1)
        assert len({id(p.reorg) for p in buffered if p.reorg is not None}) == 4
        tip = buffered[-1]
        at_tip = dict.fromkeys(list(before)[::2], tip.block_hash)
        served.wait_received(arena_name)
        write_state_file(tmp_path / "states.jsonl", chain, before | at_tip)
        reader.wait_live()
        reader.expect(tip.number, _states(chain, before, tip.block_hash), settle=True)
        for _ in range(60):
            (piece,) = served.send(server)
            if piece.settled and chain.has_state(piece.block_hash):
                expected = _states(chain, before, piece.block_hash)
                reader.expect(piece.number, expected, settle=piece.reorg is not None)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["envelope", "bare"])
def test_reorg_below_the_scrape_block_of_some_pools(
    form: ReorgForm, tmp_path: Path, arena_name: str
) -> None:
    """Some pools are read at blocks that a later reorg removes, so they cannot be undone to a
    block before their own first one. The states file then offers them at the new tip."""
    chain = load("reorg")
    served = Served(pieces(chain, Exex(), form=form, first=60))
    states = tmp_path / "states.jsonl"
    old_tip = served.index(number=66)
    reorg = served.pieces[old_tip + 1].reorg
    assert reorg is not None
    assert (reorg.ancestor_number, len(reorg.orphaned)) == (61, 5)
    scraped_at = {}
    for index, key in enumerate(_scraped_before_any_reorg(chain)):
        number = 60 + index % 7
        scraped_at[key] = served.pieces[served.index(number=number)].block_hash
    with (
        FeedServer(tmp_path / "feed.sock", served.stream, tmp_path / "stream.bin") as server,
        _writer(tmp_path, arena_name, server, "exex"),
        ReaderProcess(tmp_path, arena_name) as reader,
    ):
        server.await_clients(1)
        sent = served.send(server, old_tip + 1)
        write_state_file(states, chain, scraped_at)
        reader.wait_live()
        reader.expect(66, _states(chain, scraped_at, sent[-1].block_hash))
        settled = served.index(number=66, first_from=old_tip + 1)
        tip = served.pieces[settled]
        served.send(server, settled - old_tip)
        served.wait_received(arena_name)
        write_state_file(states, chain, dict.fromkeys(scraped_at, tip.block_hash))
        reader.expect(66, _states(chain, scraped_at, tip.block_hash), settle=True)
        for _ in range(40):
            (piece,) = served.send(server)
            if piece.settled and chain.has_state(piece.block_hash):
                expected = _states(chain, scraped_at, piece.block_hash)
                reader.expect(piece.number, expected, settle=piece.reorg is not None)


def test_readers_never_see_a_state_that_no_tip_had(tmp_path: Path, arena_name: str) -> None:
    """Two readers look as often as they can while the whole chain passes; an envelope must appear
    to them at once, and every view must be the true state of one settled block."""
    chain = load("reorg")
    scraped_at = _scraped_before_any_reorg(chain)
    served = Served(pieces(chain, Exex()))
    start = served.index(number=FORK_BLOCK)
    tips = []
    for piece in served.pieces[start:]:
        expected = _states(chain, scraped_at, piece.block_hash)
        text = json.dumps(expected, sort_keys=True)
        tips.append((piece.number, hashlib.sha256(text.encode()).hexdigest()))
    write_state_file(tmp_path / "states.jsonl", chain, scraped_at)
    with (
        FeedServer(tmp_path / "feed.sock", served.stream, tmp_path / "stream.bin") as server,
        _writer(tmp_path, arena_name, server, "exex"),
        ReaderProcess(tmp_path, arena_name) as one,
        ReaderProcess(tmp_path, arena_name) as two,
    ):
        server.await_clients(1)
        served.send(server, start + 1)
        for reader in (one, two):
            reader.wait_live()
            reader.expect(FORK_BLOCK, _states(chain, scraped_at, _canonical(chain, FORK_BLOCK)))
        for reader in (one, two):
            reader.tell(do="watch", keys=list(scraped_at), last=tips[-1], seconds=60)
        while served.next < len(served.pieces):
            # Slowly, also inside envelopes, so that the readers would see what was published there.
            served.drip(server, piece_bytes=300, pause=0.002)
            time.sleep(0.002)
        for reader in (one, two):
            answer = reader.answer()
            assert answer["ok"], answer
            seen = {(number, digest) for number, digest in answer["seen"]}
            assert len(seen) > 5
            assert seen <= set(tips), sorted(number for number, _ in seen - set(tips))
