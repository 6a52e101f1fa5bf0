"""Generated chains with forks, faults of the stream, of the source and of the node, against the truth.

Method: one seed makes one history (oracle.history). Its frames go through a real Unix socket, the real
Feed in the real feed thread, EventBuffer, coordinator, processor and arena; scraper and node are
simulated. A reader looks all the time: the live pools of one snapshot must be in the state of one
single block of that number. At the end faults cease, and exactly the pools of the list must be there,
live, and equal to the canonical tip.

In the histories with a life (Life) the list of pools changes, arenas are too small, checkpoints are
written, pools are compared with the node, and the writer is killed: its threads stop wherever they
are, nothing is committed, taken back or closed, and another one begins as writer/service.py does. The
reader stays attached. A pool once gone stays gone, and no handle ever shows another pool's numbers.

What is not simulated, because no rule could be right: a source without block hashes that shows another
branch than the stream just when the stream has lost messages and not noticed yet; a producer that
follows the list later than one block after the one in progress, or, when a writer starts, is still
to follow what that writer has read as its list.
"""

import asyncio
import contextlib
import fcntl
import os
import random
import socket
import struct
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import PROFILE, SEED
from oracle.chain_oracle import V2State
from oracle.history import (
    FAULTS,
    GENESIS,
    MORE_POOLS,
    POOLS,
    Delivery,
    ListChange,
    Producer,
    SimBlock,
    Universe,
    answer,
    disturb,
    frames_of,
)

import arena
from arena.arena import PoolSpec, PoolValues, TokenSpec, WriterArena
from arena.errors import (
    ArenaRegistry,
    BufferOverflow,
    CoverageError,
    NotAtRest,
    PoolInvalid,
    RpcRefused,
    RpcUnavailable,
    Scraper,
)
from arena.native import lib
from arena.writer import coordinator as coordinator_module
from arena.writer import feed as feed_module
from arena.writer import upkeep as upkeep_module
from arena.writer.checkpoint import checkpoint_files
from arena.writer.coordinator import Coordinator, Preset
from arena.writer.feed import EventBuffer, Feed
from arena.writer.intake import NEVER_NS, Intake
from arena.writer.logs import RpcNode
from arena.writer.processor import Processor
from arena.writer.restart import open_arena
from arena.writer.scrapers import Scrape, ScrapedPool
from arena.writer.scrapers.slots import PoolTarget, pool_target
from arena.writer.service import FeedThread
from arena.writer.upkeep import Audit, Checkpoints

HISTORIES = {"quick": 30, "ci": 300, "long": 5000}[PROFILE]
END_SECONDS = 30.0
HEARD_SECONDS = 0.2
SETTLE_SECONDS = 5.0
PRESET = Preset(buffer_events=10_000, v2_batch=1, cl_batch=2, concurrency=2)
TOKENS = (TokenSpec(b"\1" * 20, 18, "ONE"), TokenSpec(b"\2" * 20, 18, "TWO"))
PROTOCOLS = {"uniswap_v2": 0, "uniswap_v3": 1, "uniswap_v4": 2}
# Seeds that stay the same from run to run: all but the first three failed once.
EXAMPLES = (
    *("fixed:0", "fixed:1", "fixed:2", "m:3", "m:126", "m:212", "m:234", "m:383", "m:429"),
    *("880200002:108", "880200002:1552"),
    *("t:16:life", "t:26:life", "u:30:life", "u:41:life", "u:75:life", "v:66:life", "v:71:life"),
    *("v:83:life", "a:319:life", "b:28:life", "b:211:life", "e:148:life", "m5b:1344:life"),
    *("m5b:1524:life", "m5b:2091:life", "m8c:967:life", "m8c:2610:life"),
)
BEGIN_BLOCK = struct.pack("<I", 1)
# What a reader may be told when pools come and go, and arenas grow, while it looks.
UNLUCKY = (arena.SnapshotTooOld, arena.SnapshotContended, arena.UnknownPool)
LIFE = ":life"  # ends the seeds of histories that have one


@dataclass(frozen=True, slots=True)
class Plan:
    """What one history is made of."""

    seed: str
    node: str  # absent, good, flaky
    scraper: str  # rpc, database, hashed_database
    envelope: bool
    order: str
    steps: int
    fault_rate: float
    delay_rate: float
    scrape_failures: float
    block_limit: int
    life: "Life"

    @classmethod
    def of(cls, seed: str) -> "Plan":
        rng = random.Random(f"plan {seed}")
        node = rng.choice(("absent", "good", "good", "flaky"))
        sources = ("database",) if node == "absent" else ("rpc", "hashed_database")
        return cls(
            seed=seed,
            node=node,
            scraper=rng.choice(sources),
            envelope=rng.random() < 0.75,
            order=rng.choice(("newest-first", "oldest-first")),
            steps=rng.randrange(6, 25),
            fault_rate=rng.choice((0.0, 0.2, 0.5)),
            delay_rate=rng.choice((0.0, 0.3)),
            scrape_failures=rng.choice((0.0, 0.0, 0.2)),
            block_limit=rng.choice((1, 3, 1000)),
            life=Life.of(seed),
        )


@dataclass(frozen=True, slots=True)
class Life:
    """What becomes of the list of pools and of the writer in one history; rates are per step."""

    changes: float = 0.0
    kills: float = 0.0
    checkpoint_every: int = 0
    audit_every: int = 0
    slow_reads: float = 0.0
    max_pools: int = 16
    tick_bytes: int = 1 << 20

    @classmethod
    def of(cls, seed: str) -> "Life":
        if not seed.endswith(LIFE):
            return cls()
        rng = random.Random(f"life of {seed}")
        kind = rng.choice(("changes", "kills", "both", "both"))
        return cls(
            changes=0.0 if kind == "kills" else rng.choice((0.15, 0.4, 0.8)),
            kills=0.0 if kind == "changes" else rng.choice((0.1, 0.3)),
            checkpoint_every=rng.choice((0, 1, 3)),
            audit_every=rng.choice((0, 1, 4)),
            slow_reads=rng.choice((0.0, 0.0, 0.3)),
            max_pools=rng.choice((1, 3, 16)),
            tick_bytes=rng.choice((4096, 1 << 20)),
        )

    @property
    def is_eventful(self) -> bool:
        return self != Life()


class World:
    """The chain, and the views of it that producer, node and database have. Any thread may look."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(f"chain {plan.seed}")
        self.turns = random.Random(f"turns {plan.seed}")
        eventful = plan.life.is_eventful
        self.universe = Universe(self.rng, pools=MORE_POOLS if eventful else POOLS)
        self.listed = set(self.universe.protocols)
        if eventful:
            keys = sorted(self.listed)
            self.listed = set(self.turns.sample(keys, self.turns.randrange(1, len(keys) + 1)))
        self.producer = Producer(
            self.universe,
            order=plan.order,  # type: ignore[arg-type]
            envelope=plan.envelope,
            tracked=set(self.listed) if eventful else None,
        )
        self.lock = threading.Lock()
        self.views: list[tuple[SimBlock, ...]] = [self.universe.chain]
        self.sent: tuple[SimBlock, ...] = self.universe.chain
        self.database: tuple[SimBlock, ...] = self.universe.chain
        self.notes: list[str] = []
        self.is_calm = False
        self.is_unsure = False
        """The stream has lost something and may not have noticed: what a source without hashes shows
        then cannot be told from another branch's."""

    def note(self, text: str) -> None:
        self.notes.append(text)

    # what happens on the chain

    def advance(self) -> bytes:
        """One thing happens; the frames of it."""
        rng, universe = self.rng, self.universe
        if self.is_calm or rng.random() < 0.65 or len(universe.chain) < 3:
            new = [universe.mine() for _ in range(1 if self.is_calm else rng.randrange(1, 4))]
            data = self.producer.mined(new)
            self.note(f"mined {new[0].number}..{new[-1].number}")
        else:
            depth = rng.randrange(1, min(8, len(universe.chain) - 1) + 1)
            old = universe.cut(depth)
            count = 0 if rng.random() < 0.1 else depth + rng.randrange(2)
            new = [universe.mine() for _ in range(count)]
            data = self.producer.reorganised(old, new, universe.tip)
            self.note(f"reorg {old[0].number}..{old[-1].number} by {count}")
        with self.lock:
            self.views.append(universe.chain)
        return data

    def order_of(self, keys: Iterable[str]) -> list[str]:
        """As the universe lists them."""
        return [key for key in self.universe.protocols if key in keys]

    def change_list(self, blocks: int) -> ListChange:
        """The list changes; the producer follows after that many more blocks."""
        rng = self.turns
        keys = sorted(self.universe.protocols)
        there = sorted(self.listed)
        removed: set[str] = set()
        if len(there) > 1 and rng.random() < 0.6:
            removed = set(rng.sample(there, rng.randrange(1, min(3, len(there) - 1) + 1)))
        others = [key for key in keys if key not in self.listed]
        added: set[str] = set()
        if others and (not removed or rng.random() < 0.4):
            added = set(rng.sample(others, rng.randrange(1, min(3, len(others)) + 1)))
        if removed and rng.random() < 0.2:
            added.add(rng.choice(sorted(removed)))  # read anew
        change = ListChange(frozenset(removed), frozenset(added), blocks)
        self.listed = (self.listed - removed) | added
        self.producer.changes.append(change)
        self.note(f"  list -{[k[:6] for k in removed]} +{[k[:6] for k in added]} in {blocks}")
        return change

    def delivered(self, *, is_whole: bool = True) -> None:
        """Everything up to now was put on the wire, or, not `is_whole`, partly lost there."""
        with self.lock:
            self.sent = self.universe.chain
            self._move_database(may_stay=is_whole and not self.is_calm)

    def _move_database(self, *, may_stay: bool) -> None:
        """A database follows what was announced, some blocks behind; it may be slow to notice a
        reorg that the stream has told whole."""
        lag = 0 if self.is_calm else self.rng.randrange(7)
        if may_stay and self.rng.random() < 0.3:
            return
        target = self.sent[: max(1, len(self.sent) - lag)]
        self.database = target

    # views

    def node_view(self) -> tuple[SimBlock, ...]:
        with self.lock:
            if self.plan.node == "flaky" and not self.is_calm and self.rng.random() < 0.2:
                return self.views[-self.rng.randrange(1, min(4, len(self.views)) + 1)]
            return self.views[-1]

    def database_view(self) -> tuple[SimBlock, ...]:
        with self.lock:
            return self.database


class SimTransport:
    """JSON-RPC without a wire. A flaky node fails now and then and refuses long ranges."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = random.Random(f"node {world.plan.seed}")
        self.calls = 0

    def _disturb(self, method: str, params: Sequence[Any]) -> None:
        self.calls += 1
        plan = self.world.plan
        if plan.node == "flaky" and not self.world.is_calm and self.rng.random() < 0.15:
            raise RpcUnavailable(f"{method}: no answer")
        if method == "eth_getLogs" and "fromBlock" in params[0]:
            span = int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) + 1
            if span > plan.block_limit:
                raise RpcRefused("query returned more than 10000 results", code=-32602)

    def call(self, method: str, *parameters: Any) -> Any:
        self._disturb(method, parameters)
        return answer(self.world.node_view(), method, list(parameters))

    def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> Sequence[Any]:
        self._disturb(*calls[0])
        view = self.world.node_view()
        found: list[Any] = []
        for method, parameters in calls:
            try:
                found.append(answer(view, method, list(parameters)))
            except LookupError as error:
                found.append(RpcRefused(str(error), code=-32000))
        return found


class SimScraper:
    """Reads whole states of one block of its view."""

    def __init__(self, world: World, targets: Sequence[PoolTarget], number: int) -> None:
        self.world = world
        self.kind = world.plan.scraper
        self.trails = self.kind != "rpc"
        own = f" of writer {number}" if number else ""
        self.rng = random.Random(f"scraper {world.plan.seed}{own}")
        self.reads = 0
        self.hold(targets)

    def hold(self, targets: Sequence[PoolTarget]) -> None:
        self.specs = {target.spec.key: target.spec for target in targets}

    def _view(self) -> tuple[SimBlock, ...]:
        return self.world.database_view() if self.trails else self.world.node_view()

    def get_current_block_number(self) -> int:
        return self._view()[-1].number

    def list_pools(self) -> Sequence[PoolSpec]:
        return list(self.specs.values())

    def read_pools(self, keys: Sequence[bytes]) -> Scrape:
        self.reads += 1
        if self.kind == "database" and self.world.is_unsure:
            raise NotAtRest("simulated")
        if not self.world.is_calm and self.rng.random() < self.world.plan.scrape_failures:
            raise Scraper("the source does not answer")
        life = self.world.plan.life
        if life.slow_reads and not self.world.is_calm and self.rng.random() < life.slow_reads:
            time.sleep(self.rng.choice((0.002, 0.02)))
        block = self._view()[-1]
        if life.slow_reads and not self.world.is_calm and self.rng.random() < life.slow_reads:
            time.sleep(self.rng.choice((0.002, 0.02)))
        has_hash = self.kind != "database"
        pools, invalid = [], []
        for key in keys:
            text = "0x" + key.hex()
            if key not in self.specs:
                invalid.append(PoolInvalid("simulated", key=key, found="no entry"))
                continue
            if not self.world.is_calm and self.rng.random() < self.world.plan.scrape_failures / 4:
                invalid.append(PoolInvalid("simulated", key=key, found="simulated"))
                continue
            pools.append(
                ScrapedPool(
                    spec_of(self.world, text),
                    values_of(block, text),
                    bytes.fromhex(block.hash[2:]) if has_hash else None,
                )
            )
        return Scrape(tuple(pools), tuple(invalid))

    def read_pools_at(self, number: int, block_hash: bytes, keys: Sequence[bytes]) -> Scrape:
        """As the node that compares has it: of any block there ever was."""
        if self.rng.random() < self.world.plan.scrape_failures:
            raise RpcUnavailable("the node does not answer")
        block = self.world.universe.by_hash["0x" + block_hash.hex()]
        assert block.number == number
        texts = ["0x" + key.hex() for key in keys]
        return Scrape(
            tuple(
                ScrapedPool(spec_of(self.world, text), values_of(block, text), block_hash)
                for text in texts
            )
        )

    def close(self) -> None:
        pass


def target_of(world: World, key: str) -> PoolTarget:
    return pool_target(spec_of(world, key))


def spec_of(world: World, key: str) -> PoolSpec:
    protocol = PROTOCOLS[world.universe.protocols[key]]
    factory = bytes.fromhex("99" * 20) if protocol == 2 else bytes(20)
    return PoolSpec(
        bytes.fromhex(key[2:]), protocol, *TOKENS, 3000, 0 if protocol == 0 else 10, factory
    )


def values_of(block: SimBlock, key: str) -> PoolValues:
    pool = block.states[key]
    if isinstance(pool, V2State):
        return PoolValues(block.number, 3000, reserve0=pool.reserve0, reserve1=pool.reserve1)
    return PoolValues(
        block.number,
        3000,
        sqrt_price_x96=pool.sqrt_price_x96,
        tick=pool.tick,
        liquidity=pool.liquidity,
        ticks=tuple((tick, *pool.ticks[tick]) for tick in sorted(pool.ticks)),
        lp_fee=3000,
    )


class Wire:
    """The producer's end of the socket, in this process."""

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(8)
        self.listener.setblocking(False)
        self.client: socket.socket | None = None

    def accept(self) -> bool:
        while True:
            try:
                found, _ = self.listener.accept()
            except BlockingIOError:
                return self.client is not None
            self.drop()
            found.setblocking(False)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
            self.client = found

    def send(self, data: bytes) -> None:
        self.accept()
        if self.client is None:
            return
        try:
            sent = self.client.send(data)
        except (BrokenPipeError, ConnectionResetError):
            self.drop()
            return
        assert sent == len(data)

    def drop(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None

    def unread(self) -> int:
        """Bytes the client has not received."""
        if self.client is None:
            return 0
        answer = fcntl.ioctl(self.client, termios.TIOCOUTQ, b"\0" * 4)
        return int(struct.unpack("i", answer)[0])

    def close(self) -> None:
        self.drop()
        self.listener.close()


@dataclass
class Failure(Exception):
    """A history that does not hold; the message has all it takes to see why."""

    text: str
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return self.text + "\n" + "\n".join(self.notes[-60:])


class SimWriter:
    """What one writer process is made of, put together as writer/service.py does."""

    def __init__(self, run: "Run", arena: WriterArena, number: int) -> None:
        self.plan, self.world = run.plan, run.world
        self.arena = arena
        self.feed = Feed(run.path)
        targets = [target_of(self.world, key) for key in run.world.order_of(run.world.listed)]
        self.scraper = SimScraper(self.world, targets, number)
        self.loop = asyncio.get_running_loop()
        self.ended: list[BaseException | None] = []
        node = run.node

        def notify(what: str) -> None:
            self.loop.call_soon_threadsafe(self.coordinator.notice, what)

        self.intake = Intake(
            Processor(self.arena),
            EventBuffer(PRESET.buffer_events),
            notify=notify,
            closes_gaps=node is not None,
        )
        self.thread = FeedThread(self.feed, self.intake, self.ended.append)
        self.coordinator = Coordinator(
            self.intake,
            self.scraper,
            self.thread.call,
            targets=targets,
            preset=PRESET,
            scrape_timeout_s=END_SECONDS,
            node=node,
            gap_timeout_s=0.3,
            witness_pause_s=0.002,
        )
        self.works: list[Any] = []
        life = self.plan.life
        if node is not None and life.checkpoint_every:
            self.checkpoints = Checkpoints(
                self.intake,
                self.thread.call,
                self.coordinator,
                run.folder,
                1,
                life.checkpoint_every,
            )
            self.works.append(self.checkpoints.run)
        if node is not None and life.audit_every:
            audit = Audit(
                self.intake, self.thread.call, self.coordinator, self.scraper, life.audit_every, 2
            )
            self.coordinator.on_added = audit.recheck
            self.works.append(audit.run)

    def start(self, *, is_warm: bool) -> None:
        self.thread.start()
        self.work = asyncio.ensure_future(self._stay_live(is_warm))
        self.tasks = [self.work, *(asyncio.ensure_future(work()) for work in self.works)]

    async def _stay_live(self, is_warm: bool) -> None:
        while True:
            try:
                await (self.coordinator.warm_start() if is_warm else self.coordinator.cold_start())
                break
            except (Scraper, CoverageError, ArenaRegistry) as error:
                self.world.note(f"start: {type(error).__name__}")
            except BufferOverflow:
                await self.thread.call(self.intake.drop_buffer)
            await asyncio.sleep(0.001)
        await self.coordinator.run_live()

    @property
    def failure(self) -> str | None:
        """What ended a part of it that should not end."""
        if self.ended:
            return f"the feed thread ended: {self.ended[0]!r}"
        for task in self.tasks:
            if task.done():
                return f"{task.get_coro().__qualname__} ended: {task.exception()!r}"
        return None

    async def _stop_tasks(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def stop(self) -> None:
        """End in order, but for the arena."""
        await self._stop_tasks()
        self.thread.stop()
        self.feed.close()

    async def die(self, rng: random.Random) -> None:
        """End as kill -9 ends it: nothing is committed, taken back, closed or unlinked."""
        self.thread.stop()
        await self._stop_tasks()
        self.feed.close()
        if rng.random() < 0.5:
            self._begin_a_block(rng)
        self.arena._control.unlock()  # as the kernel does

    def _begin_a_block(self, rng: random.Random) -> None:
        """Lines and undo entries of a commit that never comes."""
        head = self.arena.head_block
        kept = [each for each in self.intake.buffer.blocks() if each["block_number"][0] == head]
        if not kept:
            return
        records = kept[0].copy()
        if rng.random() < 0.5:
            records["flags"] |= lib.PSA_EVENT_IS_REVERT
        else:
            records["block_number"] += 1
        self.arena.apply(records[: rng.randrange(1, len(records) + 1)], min_commit_ns=NEVER_NS)


class Run:
    """One history against one writer after another."""

    def __init__(self, plan: Plan, name: str, path: Path) -> None:
        self.plan, self.name, self.path = plan, name, path
        self.world = World(plan)
        self.rng = random.Random(f"wire {plan.seed}")
        self.turns = self.world.turns
        self.glances = random.Random(f"glances {plan.seed}")  # as many as there is time for
        self.folder = path.with_suffix(".state")
        self.wire = Wire(path)
        self.node = None if plan.node == "absent" else RpcNode(SimTransport(self.world))
        self.queue: list[bytes] = []
        self.looks = self.live_looks = 0
        self.counts: Counter[str] = Counter()
        self.leaving: set[str] = set()
        self.gone: set[str] = set()
        self.is_down = False
        self.handles: list[arena.Pool] = []
        self.writers: list[SimWriter] = []
        self.first = WriterArena.create(
            name,
            max_pools=plan.life.max_pools,
            max_tokens=16,
            tick_bytes=plan.life.tick_bytes,
            chain_id=1,
        )
        self.reader = arena.attach(name)

    @property
    def writer(self) -> SimWriter:
        return self.writers[-1]

    @property
    def coordinator(self) -> Coordinator:
        return self.writer.coordinator

    async def run(self) -> None:
        self._begin(self.first, is_warm=False)
        try:
            await self._connected()
            for _ in range(self.plan.steps):
                await self._turn()
                if self.writer.failure is not None:
                    break
            self.world.is_calm = True
            await self._end()
        finally:
            await self.writer.stop()

    def _begin(self, arena: WriterArena, *, is_warm: bool) -> None:
        self.writers.append(SimWriter(self, arena, len(self.writers)))
        self.writer.start(is_warm=is_warm)

    # -- lists and deaths

    async def _turn(self) -> None:
        """One step, and what the history's life brings with it."""
        life, turns = self.plan.life, self.turns
        if not life.is_eventful:
            await self._step()
            return
        if turns.random() < 0.4:
            await self._live()
        if turns.random() < life.kills:
            if self.node is not None and turns.random() < 0.6:
                await self._live(is_known=True)
            if turns.random() < 0.5:
                await self._restart()
            else:
                await self._step_cut_by(self._restart, None)
        elif turns.random() < life.changes:
            if turns.random() < 0.5:
                self._flush()
                for _ in range(turns.choice((1, 1, 1, 2, 3))):
                    await self._tell(self.world.change_list(turns.randrange(3)))
                self.world.producer.follow_list()
                await self._step()
            else:
                block, late = turns.randrange(4), turns.randrange(2)
                change = self.world.change_list(block + 1 + late)
                await self._step_cut_by(partial(self._tell, change), (change, block))
        else:
            await self._step()

    async def _live(self, *, is_known: bool = False) -> None:
        """Wait until the arena is live, if it can be with what the stream has brought; with `is_known`
        until another writer could go on from its blocks and checkpoints, too."""
        limit = time.monotonic() + HEARD_SECONDS
        while time.monotonic() < limit:
            is_written = not self.plan.life.checkpoint_every or checkpoint_files(self.folder)
            is_enough = not is_known or (self.coordinator.known() and is_written)
            if self.coordinator.is_live and is_enough:
                break
            await asyncio.sleep(0.001)
            self.look()

    async def _tell(self, change: ListChange) -> None:
        """The writer hears of a change, in time to follow it before the producer does."""
        self.counts["added"] += len(change.added)
        self.counts["removed"] += len(change.removed)
        self._note_change(change)
        self.coordinator.change_pools(
            [target_of(self.world, key) for key in self.world.order_of(change.added)],
            [bytes.fromhex(key[2:]) for key in sorted(change.removed)],
        )
        limit = time.monotonic() + HEARD_SECONDS
        while self.leaving & change.removed and time.monotonic() < limit:
            await asyncio.sleep(0.0005)
            self.look()

    def _note_change(self, change: ListChange) -> None:
        self.leaving = (self.leaving | change.removed) - change.added
        self.gone -= change.added

    async def _step_cut_by(
        self, work: Callable[[], Any], told: tuple[ListChange, int] | None
    ) -> None:
        """A step without faults, in the middle of whose frames something happens: for a change told
        while the producer is in its block number `told[1]` of the step, exactly there."""
        turns, producer = self.turns, self.world.producer
        self._flush()
        data = self.world.advance()
        frames = frames_of(data)
        if told is None:
            at = turns.randrange(len(data) + 1)
        else:
            change, block = told
            begins = [i for i, each in enumerate(frames) if each[4:8] == BEGIN_BLOCK]
            if block < len(begins):
                index = begins[block] + 1
                at = sum(map(len, frames[:index])) + turns.randrange(len(frames[index]))
            else:
                # The step ended first.
                at, change.blocks = len(data), turns.randrange(3)
                producer.follow_list()
        self.world.note(f"  cut at {at} of {len(data)}")
        self.wire.send(data[:at])
        client = self.wire.client
        if turns.random() < 0.7:
            await self._consumed()
        deaths, tracked = len(self.writers), producer.tracked
        await work()
        rest = frames_of(data)
        while rest and sum(map(len, frames)) - sum(map(len, rest)) < at:
            rest.pop(0)
        self.wire.accept()
        is_whole = client is not None and self.wire.client is client
        if len(self.writers) > deaths:
            if rest and turns.random() < 0.3 and producer.tracked == tracked:
                self.wire.send(b"".join(rest))
        else:
            # A connection that came meanwhile begins with a whole message.
            self.wire.send(data[at:] if is_whole else b"".join(rest))
        is_whole &= self.wire.client is client
        self.world.is_unsure |= not is_whole
        self.world.delivered(is_whole=is_whole)
        if turns.random() < 0.7:
            await self._consumed()
            self.world.is_unsure &= not is_whole
        await self._look_for(turns.choice((0.0, 0.002, 0.01)))

    async def _restart(self) -> None:
        """The writer dies; the chain goes on; another writer begins."""
        turns, world = self.turns, self.world
        self.check_audits()
        await self.writer.die(turns)
        generation = self.writer.arena.generation
        self.counts["kills"] += 1
        world.note("killed")
        self.wire.drop()
        self.queue.clear()
        world.is_unsure = True
        self.is_down = True
        self.leaving |= self.gone
        self.gone = set()
        await self._followed(generation)
        self._spoil()
        world.delivered(is_whole=False)
        for _ in range(turns.choice((0, 0, 1, 3))):
            world.advance()
            world.delivered(is_whole=False)
            self.look()
        if self.plan.life.changes and turns.random() < 0.3:
            self._note_change(world.change_list(0))
        for change in world.producer.changes:
            change.blocks = 0
        world.producer.follow_list()
        opening = asyncio.ensure_future(asyncio.to_thread(self._open))
        while not opening.done():
            self.look()
            await asyncio.sleep(0.0005)
        found, is_warm = opening.result()
        source = "cold"
        if is_warm:
            source = "segment" if found.generation == generation else "checkpoint"
        self.counts[source] += 1
        world.note(f"  begins from {source}, head {found.head_block}")
        self._begin(found, is_warm=is_warm)
        self.is_down = False
        if turns.random() < 0.7:
            await self._connected()

    async def _followed(self, generation: int) -> None:
        """A reader that has not come to the last generation could not any more once it is spoiled."""
        limit = time.monotonic() + SETTLE_SECONDS
        while self.reader.generation != generation:
            self.look()
            await asyncio.sleep(0.001)
            if time.monotonic() > limit:
                self.fail(f"the reader stays at generation {self.reader.generation}")

    def _open(self) -> tuple[WriterArena, bool]:
        limit = time.monotonic() + END_SECONDS
        while True:
            try:
                return open_arena(
                    self.name,
                    max_pools=self.plan.life.max_pools,
                    tick_bytes=self.plan.life.tick_bytes,
                    mode=0o600,
                    group=None,
                    chain_id=1,
                    node=self.node,
                    folder=self.folder,
                )
            except Scraper:  # a service manager starts it again
                if time.monotonic() > limit:
                    raise

    def _spoil(self) -> None:
        """Now and then the segment is of no use to a writer, or checkpoints are not."""
        turns = self.turns
        if turns.random() < 0.4:
            self.world.note("  segment spoiled")
            for path in Path("/dev/shm").glob(f"{self.name}.*"):
                with path.open("r+b") as shared:
                    shared.write(bytes(8))
        files = checkpoint_files(self.folder)
        if files and turns.random() < 0.3:
            for path in files if turns.random() < 0.5 else files[:1]:
                try:
                    content = bytearray(path.read_bytes())
                except FileNotFoundError:  # older ones go with the last the dead writer wrote
                    continue
                self.world.note("  checkpoint damaged")
                content[turns.randrange(len(content))] ^= 1 << turns.randrange(8)
                path.write_bytes(content[: None if turns.random() < 0.7 else len(content) // 2])

    def check_audits(self) -> None:
        found = self.reader.counters["audit_differences"]
        if found:
            self.fail(f"{found} differences between live pools and the node")
        self.counts["audited"] = max(self.counts["audited"], self.reader.counters["audited"])

    # -- the stream

    async def _connected(self) -> None:
        limit = time.monotonic() + SETTLE_SECONDS
        while not self.wire.accept() and time.monotonic() < limit:
            await asyncio.sleep(0.001)

    async def _step(self) -> None:
        rng = self.rng
        before = self.world.producer.next_seq
        data = self.world.advance()
        fault = rng.choice(FAULTS) if rng.random() < self.plan.fault_rate else None
        if fault == "skip" and "reorg" in self.world.notes[-1]:
            fault = "offline"  # a stream cannot forget a reorg without the connection or a number
        if fault == "skip":
            self.world.is_unsure = True
            self.world.producer.next_seq = before
            self.world.note("  skipped without a trace")
        else:
            delivery = disturb(data, fault, rng) if fault else Delivery([data], "sent")
            self.world.note(f"  {delivery.note}")
            if rng.random() < self.plan.delay_rate and fault is None:
                self.queue.append(data)
                self.world.note("  delayed")
                await self._look_for(rng.choice((0.0, 0.003)))
                return
            self.world.is_unsure |= fault is not None or self.wire.client is None
            self._flush()
            for part in delivery.parts:
                if part is None:
                    await self._consumed()
                    self.wire.drop()
                    if rng.random() < 0.7:
                        await self._connected()
                else:
                    self.wire.send(part)
        is_whole = fault is None and self.wire.client is not None
        self.world.delivered(is_whole=is_whole)
        if rng.random() < 0.7:
            await self._consumed()
            self.world.is_unsure &= not is_whole
        await self._look_for(rng.choice((0.0, 0.002, 0.01)))

    def _flush(self) -> None:
        for data in self.queue:
            self.wire.send(data)
        self.queue.clear()

    async def _consumed(self) -> None:
        limit = time.monotonic() + SETTLE_SECONDS
        while self.wire.unread() and time.monotonic() < limit:
            await asyncio.sleep(0.0005)
            self.look()
        for _ in range(2):
            await self.writer.thread.call(lambda: None)

    async def _look_for(self, seconds: float) -> None:
        limit = time.monotonic() + seconds
        while True:
            self.look()
            await asyncio.sleep(0.0005)
            if time.monotonic() >= limit:
                return

    def fail(self, text: str) -> None:
        raise Failure(f"{text}\n{self.plan}", self.world.notes)

    def look(self) -> dict[str, Any] | None:
        """One snapshot; its live pools must be in the state of one block of its number."""
        was_joined = not self.is_down and self.coordinator.is_live
        try:
            keys = list(self.reader)
            with self.reader.snapshot(keys) as view:
                number = view.block_number
                states = {key: view[key].state() for key in keys}
        except UNLUCKY:
            return None
        self.looks += 1
        if self.plan.life.is_eventful:
            self._check_membership(states, was_joined=was_joined)
            self._check_handles(keys)
        live = {key: shown(state) for key, state in states.items() if state.status == "live"}
        if not live:
            return {"number": number, "live": live, "keys": set(keys)}
        self.live_looks += 1
        candidates = self.world.universe.by_number.get(number, [])
        if not any(
            all(block.state(key) == found for key, found in live.items()) for block in candidates
        ):
            wrong = {
                key: (found, [block.state(key) for block in candidates])
                for key, found in live.items()
                if not any(block.state(key) == found for block in candidates)
            }
            mixed = {
                key: [block.hash[:8] for block in candidates if block.state(key) == found]
                for key, found in live.items()
            }
            tip = self.world.universe.chain
            here = [block.hash[:8] for block in tip if block.number == number]
            self.fail(
                f"live pools are in no state of a block {number}: {wrong or mixed}, canonical {here}"
            )
        return {"number": number, "live": live, "keys": set(keys)}

    def _check_membership(self, states: dict[str, Any], *, was_joined: bool) -> None:
        """What was gone is gone until it is added again. A join that began before the change may
        still show it, never live."""
        back = [key for key in self.gone & states.keys() if states[key].status == "live"]
        if back:
            self.fail(f"removed pools are live again: {back}")
        if was_joined:
            self.gone |= self.leaving - states.keys()
            self.leaving -= self.gone

    def _check_handles(self, keys: list[str]) -> None:
        """Handles of any age answer with their own pool's numbers or not at all."""
        rng = self.glances
        if keys and len(self.handles) < 30 and rng.random() < 0.1:
            with contextlib.suppress(arena.UnknownPool):
                self.handles.append(self.reader[rng.choice(keys)])
        for handle in rng.sample(self.handles, min(2, len(self.handles))):
            try:
                state = handle.state()
            except (*UNLUCKY, arena.PoolRemoved):
                continue
            if state.status != "live":
                continue
            found = shown(state)
            blocks = self.world.universe.by_hash.values()
            if state.pool_key != handle.key or not any(
                block.state(handle.key) == found for block in blocks
            ):
                self.fail(f"a handle on {handle.key} shows {state.pool_key}: {found}")

    async def _end(self) -> None:
        """Faults cease: the stream goes on, and everything must come right."""
        limit = time.monotonic() + END_SECONDS
        self._flush()
        self.world.note("calm")
        while True:
            if (failure := self.writer.failure) is not None:
                self.fail(failure)
            await self._connected()
            self.wire.send(self.world.advance())
            self.world.delivered()
            await self._consumed()
            self.world.is_unsure = False
            wait = time.monotonic() + 0.05
            while time.monotonic() < wait:
                is_live = self.reader.phase == "live"  # first: before it is, the head is an old one
                found = self.look()
                tip = self.world.universe.tip
                if (
                    found is not None
                    and is_live
                    and found["number"] == tip.number
                    and found["live"].keys() == self.world.listed == found["keys"]
                ):
                    for key, state in found["live"].items():
                        if state != tip.state(key):
                            self.fail(f"pool {key}: {state}, the truth is {tip.state(key)}")
                    self.check_audits()
                    return
                await asyncio.sleep(0.002)
            if time.monotonic() > limit:
                found = self.look()
                for task in asyncio.all_tasks():
                    for line in task.get_stack(limit=1):
                        self.world.note(f"task {line.f_code.co_name} {line.f_lineno}")
                chain: Any = self.writer.work
                while chain is not None:
                    at = getattr(chain, "cr_frame", None)
                    if at is not None:
                        self.world.note(f"awaits in {at.f_code.co_name} {at.f_lineno}")
                    chain = getattr(chain, "cr_await", None) or (
                        chain.get_coro() if hasattr(chain, "get_coro") else None
                    )
                self.fail(
                    f"not live in time: phase {self.reader.phase} ({self.reader.phase_reason}), "
                    f"{found and found['number']} of {self.world.universe.tip.number}, live "
                    f"{found and list(found['live'])} of {found and found['keys']}, listed "
                    f"{self.world.listed}, frames {self.writer.feed.frames}"
                )

    def close(self) -> None:
        self.reader.close()
        self.wire.close()
        self.writer.arena.close(unlink=True)
        os.unlink(self.path)


def shown(state: Any) -> dict[str, Any]:
    if state.protocol == "uniswap_v2":
        return {"reserve0": state.reserve0, "reserve1": state.reserve1}
    return {
        "sqrt_price_x96": state.sqrt_price_x96,
        "tick": state.tick,
        "liquidity": state.liquidity,
        "ticks": [list(tick) for tick in state.ticks],
    }


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that wait for a chain are cut to what a simulated one needs."""
    for module, name, value in (
        (coordinator_module, "SCRAPE_POLL_S", 0.002),
        (coordinator_module, "RESYNC_PAUSE_S", 0.005),
        (coordinator_module, "RESCRAPE_FIRST_PAUSE_S", 0.002),
        (coordinator_module, "RESCRAPE_LONGEST_PAUSE_S", 0.01),
        (coordinator_module, "WITNESS_FAILED_PAUSE_S", 0.005),
        (upkeep_module, "POLL_S", 0.004),
        (upkeep_module, "HASH_WAIT_S", 0.1),
        (upkeep_module, "FAILED_PAUSE_S", 0.01),
        (feed_module, "BACKOFF_FIRST_S", 0.001),
        (feed_module, "BACKOFF_LAST_S", 0.002),
    ):
        monkeypatch.setattr(module, name, value)


def play(seed: str, name: str, folder: Path) -> Run:
    """One history from its seed; Failure when it does not hold."""
    run = Run(Plan.of(seed), name, folder / f"{seed.replace(':', '-')}.sock")
    try:
        asyncio.run(run.run())
    finally:
        run.close()
    return run


def _rounds() -> list[int]:
    return list(range(0, HISTORIES, 10))


@pytest.mark.parametrize("first", _rounds())
@pytest.mark.usefixtures("quickly")
def test_live_pools_are_always_right_and_all_are_live_in_the_end(
    first: int, arena_name: str, tmp_path: Path
) -> None:
    for number in range(first, first + 10):
        seed = f"{SEED}:{number}" + (LIFE if number % 4 else "")
        try:
            play(seed, f"{arena_name}-{number}", tmp_path)
        except Failure as failure:
            pytest.fail(f"seed {seed!r}: {failure}", pytrace=False)


@pytest.mark.parametrize("seed", EXAMPLES)
@pytest.mark.usefixtures("quickly")
def test_kept_histories(seed: str, arena_name: str, tmp_path: Path) -> None:
    play(seed, arena_name, tmp_path)


@pytest.mark.usefixtures("quickly")
def test_gaps_are_closed_from_the_node(arena_name: str, tmp_path: Path) -> None:
    """The histories reach what they are for: with a node, gaps close without reading pools anew."""
    closed = 0
    for number in range(200):
        plan = Plan.of(f"closing:{number}")
        if plan.node != "good" or plan.fault_rate == 0:
            continue
        run = play(plan.seed, f"{arena_name}-{number}", tmp_path)
        closed += run.coordinator.metrics.gaps_closed
        assert run.live_looks > 0
        if closed >= 5:
            break
    assert closed >= 5
    assert GENESIS > 0


@pytest.mark.usefixtures("quickly")
def test_writers_go_on_from_all_that_another_may_have_left(arena_name: str, tmp_path: Path) -> None:
    """The histories with a life reach what they are for."""
    counts: Counter[str] = Counter()
    wanted = {"segment": 3, "checkpoint": 2, "cold": 3, "added": 10, "removed": 10, "audited": 10}
    for number in range(300):
        plan = Plan.of(f"going on:{number}{LIFE}")
        if plan.node == "absent" or not plan.life.kills:
            continue
        run = play(plan.seed, f"{arena_name}-{number}", tmp_path)
        counts += run.counts
        if all(counts[name] >= least for name, least in wanted.items()):
            return
    pytest.fail(f"{counts}, wanted {wanted}")
