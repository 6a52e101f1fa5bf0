"""The short cut from the socket to a commit against the feed thread's own road, byte for byte.

Two feed threads get the same generated streams, cut anywhere, with reorgs, faults and lost connections in
them, and take turns; one of them takes the short cut wherever it may, the other never. After each piece
everything must be equal: the whole segment (lines, ticks, undo ring, commit records, counters), what is kept
for replay, where the stream stands, what was told, and what was logged.
"""

import itertools
import logging
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.frames import Seed
from builders.history import (
    FAULTS,
    MORE_POOLS,
    Producer,
    SimBlock,
    Universe,
    disturb,
    frames_of,
    write_states,
)

from arena import generations
from arena.native import lib
from arena.writer.scrapers.statefile import StateFile
from arena.writer.service import feed_thread
from arena.writer.service.feed_thread import FeedThread
from arena.writer.stream.history import EventBuffer
from arena.writer.stream.socket import FIRST_EVENTS, Feed
from arena.writer.sync.applying import Processor
from arena.writer.sync.candidate import Candidate
from arena.writer.sync.gap_side import NEVER_NS
from arena.writer.sync.intake import Intake
from arena.writing import WriterArena

STEPS = 60
FORMS = ("exex", "bridge", "seed-tagged", "seed-indexed")
EACH_NS, GROUPED_NS = 0, NEVER_NS


class SteadyProcessor(Processor):
    """Commits by what it was told, not by the machine's clock."""

    pause_ns = EACH_NS

    @property
    def catch_up_ns(self) -> int:
        return self.pause_ns


class LongRoad(Intake):
    """Never lets the short cut be taken."""

    is_plain = False  # type: ignore[assignment]


class Road:
    """One feed thread whose rounds the test plays, and its producer's end of the socket."""

    def __init__(self, kind: type[Intake], name: str, path: Path, pause_ns: int) -> None:
        self.path = path
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen()
        self.client: socket.socket | None = None
        size = {"max_pools": 16, "tick_bytes": 1 << 18, "undo_blocks": 64, "undo_records": 4096}
        self.arena = WriterArena.create(name, chain_id=1, **size)
        self.told: list[str] = []
        processor = SteadyProcessor(self.arena)
        processor.pause_ns = pause_ns
        self.intake = kind(
            processor, EventBuffer(30_000), notify=self.told.append, history_blocks=20
        )
        clock = itertools.count(0, 100)  # a refused attempt may be repeated at once
        self.feed = Feed(
            path, clock=lambda: float(next(clock)), sleep=lambda _s: False, uniform=lambda: 0.0
        )
        self.ended: list[BaseException | None] = []
        self.thread = FeedThread(self.feed, self.intake, self.ended.append)
        self.pumped = 0
        run = self.thread._pump.run

        def count(*arguments: Any, **named: Any) -> Any:
            batch = run(*arguments, **named)
            self.pumped += len(self.thread._pump.ends)
            return batch

        self.thread._pump.run = count  # type: ignore[method-assign]

    def connect(self) -> None:
        self.thread.turn()
        self.client, _ = self.server.accept()
        self.client.setblocking(False)

    def send(self, data: bytes) -> None:
        """All of it, with rounds of the thread wherever the socket is full, then until nothing is left."""
        left = memoryview(data)
        while self.client is not None and len(left):
            try:
                left = left[self.client.send(left) :]
            except BlockingIOError:
                self.thread.turn()
            except BrokenPipeError:
                self.drop()
        self.rest()

    def rest(self) -> None:
        """Rounds until there is nothing to do."""
        self.thread.turn()
        while self.feed.is_connected and not self.thread._waits:
            self.thread.turn()
        if not self.feed.is_connected:
            self.drop()

    def drop(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None
        while self.feed.is_connected:
            self.thread.turn()

    def join(self, file: StateFile, keys: list[bytes]) -> bool:
        """Begin to be live, with the pools as the file has them; whether that was possible."""
        standing, buffer = self.intake.standing, self.intake.buffer
        found = file.read_pools(keys).pools
        candidates = [Candidate(each, buffer.mark(), losses=standing.losses) for each in found]
        self.intake.install(standing.epoch, candidates)
        return self.intake.go_live(standing.epoch, candidates).is_clear

    def facts(self) -> dict[str, Any]:
        intake, feed, buffer = self.intake, self.feed, self.intake.buffer
        stage, standing = intake.stage, intake.standing
        return {
            "segment": bytes(self.arena._live().segment.map),
            "kept": [block.tobytes() for block in buffer.blocks()],
            "kept of each number": [
                None if (found := buffer.block(number)) is None else found.tobytes()
                for number in range(buffer.first_block or 0, (buffer.last_block or 0) + 2)
            ],
            "buffer": (buffer.event_count, buffer.tip, buffer.mark(), list(buffer._reverts)),
            "stage": (stage.values, stage.link, stage.in_envelope, stage.turning),
            "standing": (standing.epoch, standing.losses, standing.is_silent, standing.is_first),
            "reverted": list(standing.reverted),
            "depths": intake.reorg_depths.counts(),
            "idle": standing.idle_count,
            "stale": (intake.processor.has_stale, self.arena.stale_slots().tolist()),
            "phase": (
                self.arena.phase_name,
                self.arena.phase_reason.replace(str(self.path), "PATH"),
            ),
            "told": list(self.told),
            "feed": (feed.frames, feed.bytes, feed.open_block, feed.connections, feed._has_more),
            "latencies": int(self.thread.latency.counts.sum()),
            "unseen": bool(self.thread._unseen_ns),
        }

    def close(self) -> None:
        if self.client is not None:
            self.client.close()
        self.feed.close()
        self.server.close()
        self.arena.close(unlink=True)


@pytest.fixture(autouse=True)
def same_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells arenas apart is the one thing that both may not have of their own."""
    monkeypatch.setattr(generations, "_new_origin", lambda generation: generation)


class Roads:
    """Both, and a chain whose producer they listen to."""

    def __init__(self, name: str, folder: Path, rng: random.Random, form: str, pause_ns: int):
        self.rng, self.form = rng, form
        self.universe = Universe(rng, pools=MORE_POOLS)
        self.listed = [pool.key for pool in MORE_POOLS]
        self.exex = Producer(self.universe, order="newest-first", envelope=rng.random() < 0.5)
        self.exex.is_bridge = form == "bridge"
        self.seed = Seed(tagged=form == "seed-tagged")
        self.states = folder / "states.jsonl"
        self.short = Road(Intake, f"{name}-short", folder / "a.sock", pause_ns)
        self.long = Road(LongRoad, f"{name}-long", folder / "b.sock", pause_ns)
        self.both = (self.short, self.long)
        self.lives = 0

    def close(self) -> None:
        for road in self.both:
            road.close()

    def each(self, work: Callable[[Road], None]) -> None:
        for road in self.both:
            work(road)
        self.compare()

    def compare(self) -> None:
        short, long = self.short.facts(), self.long.facts()
        assert [name for name in long if short[name] != long[name]] == []

    def block(self, *, busy: int = 0) -> SimBlock:
        block = self.universe.mine(busy=busy)
        for event in block.block.events:
            event.args.setdefault("fee", 3000)  # a bridge tells what a V4 swap paid
        return block

    def mined(self, blocks: list[SimBlock]) -> bytes:
        if self.form in ("exex", "bridge"):
            return self.exex.mined(blocks)
        return b"".join(self.seed.block(each.block) for each in blocks)

    def mine(self, *, busy: int = 0) -> bytes:
        return self.mined([self.block(busy=busy)])

    def reorganise(self, depth: int) -> bytes:
        old = self.universe.cut(depth)
        new = [self.block() for _ in range(depth + self.rng.randrange(2))]
        if self.form in ("exex", "bridge"):
            return self.exex.reorganised(old, new, self.universe.tip)
        olds, news = [each.block for each in old], [each.block for each in new]
        return b"".join(self.seed.bare_reorg(olds, news, "newest-first"))

    def send(self, data: bytes) -> None:
        """Cut at random."""
        cuts = sorted(
            self.rng.randrange(len(data) + 1) for _ in range(self.rng.choice((0, 0, 1, 3)))
        )
        for start, end in itertools.pairwise([0, *cuts, len(data)]):
            self.each(lambda road, piece=data[start:end]: road.send(piece))  # type: ignore[misc]

    def connect(self) -> None:
        self.each(Road.connect)

    def join(self) -> None:
        """Be live, again if need be."""
        if self.long.client is None:
            self.connect()
        while not self.long.intake.stage.is_live:
            self.send(self.mine())
            if self.long.client is None:
                self.connect()
            if self.long.intake.buffer.first_block is None:
                continue
            write_states(self.states, self.universe, self.universe.tip, self.listed)
            file = StateFile(self.states)
            keys = [bytes.fromhex(key[2:]) for key in self.listed]
            joined = [road.join(file, keys) for road in self.both]
            assert joined[0] == joined[1]
            self.compare()
            self.lives += joined[0]

    def step(self, fault: str | None) -> None:
        """A few blocks or a reorg, with a fault on the way."""
        if self.rng.random() < 0.25:
            data = self.reorganise(self.rng.randrange(1, min(5, len(self.universe.chain) - 1) + 1))
        else:
            blocks = [self.block() for _ in range(self.rng.choice((1, 1, 1, 2, 5)))]
            data = self.mined(blocks)
        for part in disturb(data, fault, self.rng).parts:
            if part is None:
                self.each(Road.drop)
                self.connect()
            elif part:
                self.send(part)
            if self.long.client is None:
                self.connect()
        for road in self.both:
            road.intake.processor.take_stale()  # somebody heard of them


@pytest.fixture
def make(
    arena_name: str, tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Roads]]:
    monkeypatch.setattr(feed_thread, "IDLE_WAIT_S", 0.0)  # a round is one receive on both roads
    made: list[Roads] = []

    def build(form: str, pause_ns: int = EACH_NS) -> Roads:
        made.append(Roads(arena_name, tmp_path, rng, form, pause_ns))
        return made[-1]

    yield build
    for roads in made:
        roads.close()


@pytest.mark.parametrize("pause_ns", [EACH_NS, GROUPED_NS], ids=["each", "grouped"])
@pytest.mark.parametrize("form", FORMS)
def test_a_stream_with_reorgs_and_faults_leaves_the_same(
    make: Callable[..., Roads], form: str, pause_ns: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    roads = make(form, pause_ns)
    for _ in range(STEPS):
        roads.join()
        roads.step(roads.rng.choice(FAULTS) if roads.rng.random() < 0.15 else None)
    assert roads.short.pumped > STEPS / 6
    assert roads.long.pumped == 0
    assert not roads.short.ended
    texts = [record.getMessage() for record in caplog.records]
    sides = [
        [text.replace(str(road.path), "PATH") for text in texts if str(road.path) in text]
        for road in roads.both
    ]
    assert [t.split("peer_pid")[0] for t in sides[0]] == [t.split("peer_pid")[0] for t in sides[1]]


@pytest.mark.parametrize("form", FORMS)
def test_events_of_pools_that_are_not_listed_are_counted_alike(
    make: Callable[..., Roads], form: str
) -> None:
    roads = make(form)
    roads.listed = roads.listed[::2]
    roads.join()
    for _ in range(20):
        roads.send(roads.mine(busy=2))
    assert roads.short.pumped > 10
    assert roads.short.arena.counters[lib.PSA_COUNTER_FAULTS : lib.PSA_COUNTER_FAULTS + 8].any()


@pytest.mark.parametrize("form", FORMS)
def test_a_block_larger_than_the_arrays_is_taken(make: Callable[..., Roads], form: str) -> None:
    """Its records outgrow the array, its frames the receive buffer many times."""
    roads = make(form)
    roads.join()
    block = roads.block()
    while not any(event.kind in ("Swap", "Mint", "Burn") for event in block.block.events):
        roads.send(roads.mined([block]))
        block = roads.block()
    [event, *_] = (e for e in block.block.events if e.kind in ("Swap", "Mint", "Burn"))
    more = [replace(event, log_index=index) for index in range(FIRST_EVENTS + 10)]
    huge = replace(block, block=replace(block.block, events=tuple(more)))
    roads.universe.by_hash[block.hash] = huge
    data = roads.mined([huge])
    roads.each(lambda road: road.send(data))
    for _ in range(3):
        roads.send(roads.mine())
    assert roads.short.pumped >= 3


def test_blocks_that_come_together_are_kept_one_by_one(make: Callable[..., Roads]) -> None:
    """More than the history holds, in one receive."""
    roads = make("exex")
    roads.join()
    data = b"".join(roads.mine() for _ in range(50))
    roads.each(lambda road: road.send(data))
    assert roads.short.pumped == 50
    assert len(roads.short.intake.buffer) == 20


@pytest.mark.parametrize("cut", range(3))
def test_the_plain_part_in_front_of_a_fault_is_taken(make: Callable[..., Roads], cut: int) -> None:
    """A frame that nobody can read behind whole blocks, and an open block in front of it."""
    roads = make("exex")
    roads.join()
    data = roads.mine() + roads.mine()
    frames = frames_of(roads.mine())
    roads.each(lambda road: road.send(data + b"".join(frames[:cut]) + b"\1\0\0\0\xff"))
    assert not roads.short.feed.is_connected


def test_a_pool_that_goes_stale_is_told_at_once(make: Callable[..., Roads]) -> None:
    """Liquidity below nothing is burnt: the pool is in doubt from that block on."""
    roads = make("exex")
    roads.join()
    while True:
        block = roads.block()
        burns = [e for e in block.block.events if e.kind == "Mint"]
        if burns:
            break
        roads.send(roads.mined([block]))
    args = dict(burns[0].args) | {"amount": 10**30}
    wrong = replace(burns[0], kind="Burn", args=args)
    roads.universe.by_hash[block.hash] = block
    data = roads.mined([replace(block, block=replace(block.block, events=(wrong,)))])
    pumped = roads.short.pumped
    roads.send(data)
    assert roads.short.pumped == pumped + 1
    assert roads.short.told[-1] == "stale"
    assert roads.short.intake.processor.take_stale()
    assert roads.long.intake.processor.take_stale()
    roads.send(roads.mine())
    assert roads.short.pumped == pumped + 2
