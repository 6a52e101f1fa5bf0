"""Generated chains with forks, faults of the stream, of the source and of the node, against the truth.

Method: one seed makes one history (oracle.history). Its frames go through a real Unix socket, the real
Feed in the real feed thread, EventBuffer, coordinator, processor and arena; scraper and node are
simulated. A reader looks all the time: the live pools of one snapshot must be in the state of one
single block of that number. At the end faults cease, and every pool must be live and equal to the
canonical tip.

What is not simulated, because no rule could be right: a source without block hashes that shows another
branch than the stream just when the stream has lost messages and not noticed yet.
"""

import asyncio
import fcntl
import os
import random
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import PROFILE, SEED
from oracle.chain_oracle import V2State
from oracle.history import (
    FAULTS,
    GENESIS,
    Delivery,
    Producer,
    SimBlock,
    Universe,
    answer,
    disturb,
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
from arena.writer import coordinator as coordinator_module
from arena.writer import feed as feed_module
from arena.writer.coordinator import Coordinator, Preset
from arena.writer.feed import EventBuffer, Feed
from arena.writer.intake import Intake
from arena.writer.logs import RpcNode
from arena.writer.processor import Processor
from arena.writer.scrapers import Scrape, ScrapedPool
from arena.writer.service import FeedThread

HISTORIES = {"quick": 30, "ci": 300, "long": 2000}[PROFILE]
END_SECONDS = 30.0
SETTLE_SECONDS = 5.0
PRESET = Preset(buffer_events=10_000, v2_batch=1, cl_batch=2, concurrency=2)
TOKENS = (TokenSpec(b"\1" * 20, 18, "ONE"), TokenSpec(b"\2" * 20, 18, "TWO"))
PROTOCOLS = {"uniswap_v2": 0, "uniswap_v3": 1, "uniswap_v4": 2}
# Seeds that stay the same from run to run: all but the first three failed once.
EXAMPLES = (
    *("fixed:0", "fixed:1", "fixed:2", "m:3", "m:126", "m:212", "m:234", "m:383", "m:429"),
    *("880200002:108", "880200002:1552"),
)


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
        )


class World:
    """The chain, and the views of it that producer, node and database have. Any thread may look."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(f"chain {plan.seed}")
        self.universe = Universe(self.rng)
        self.producer = Producer(self.universe, order=plan.order, envelope=plan.envelope)  # type: ignore[arg-type]
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

    def __init__(self, world: World) -> None:
        self.world = world
        self.kind = world.plan.scraper
        self.trails = self.kind != "rpc"
        self.rng = random.Random(f"scraper {world.plan.seed}")
        self.reads = 0

    def _view(self) -> tuple[SimBlock, ...]:
        return self.world.database_view() if self.trails else self.world.node_view()

    def get_current_block_number(self) -> int:
        return self._view()[-1].number

    def list_pools(self) -> Sequence[PoolSpec]:
        return [spec_of(self.world, key) for key in self.world.universe.protocols]

    def read_pools(self, keys: Sequence[bytes]) -> Scrape:
        self.reads += 1
        if self.kind == "database" and self.world.is_unsure:
            raise NotAtRest("simulated")
        if not self.world.is_calm and self.rng.random() < self.world.plan.scrape_failures:
            raise Scraper("the source does not answer")
        block = self._view()[-1]
        has_hash = self.kind != "database"
        pools, invalid = [], []
        for key in keys:
            text = "0x" + key.hex()
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

    def close(self) -> None:
        pass


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


class Run:
    """One history against one writer."""

    def __init__(self, plan: Plan, name: str, path: Path) -> None:
        self.plan = plan
        self.world = World(plan)
        self.rng = random.Random(f"wire {plan.seed}")
        self.path = path
        self.wire = Wire(path)
        self.arena = WriterArena.create(name, max_pools=16, max_tokens=16, tick_bytes=1 << 20)
        self.feed = Feed(path)
        self.transport = SimTransport(self.world)
        self.scraper = SimScraper(self.world)
        self.queue: list[bytes] = []
        self.looks = self.live_looks = 0
        self.reader = arena.attach(name)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        node = None if self.plan.node == "absent" else RpcNode(self.transport)
        ended: list[BaseException | None] = []

        def notify(what: str) -> None:
            loop.call_soon_threadsafe(self.coordinator.notice, what)

        self.intake = Intake(
            Processor(self.arena),
            EventBuffer(PRESET.buffer_events),
            notify=notify,
            closes_gaps=node is not None,
        )
        thread = FeedThread(self.feed, self.intake, ended.append)

        async def call(work: Callable[[], Any]) -> Any:
            answer: asyncio.Future[Any] = loop.create_future()

            def done() -> None:
                try:
                    result = work()
                except BaseException as error:
                    loop.call_soon_threadsafe(_give, answer, None, error)
                else:
                    loop.call_soon_threadsafe(_give, answer, result, None)

            thread.submit(done)
            return await answer

        self.call = call
        self.coordinator = Coordinator(
            self.intake,
            self.scraper,
            call,
            preset=PRESET,
            scrape_timeout_s=END_SECONDS,
            node=node,
            gap_timeout_s=0.3,
            witness_pause_s=0.002,
        )
        thread.start()
        work = asyncio.ensure_future(self._stay_live())
        try:
            await self._connected()
            for _ in range(self.plan.steps):
                await self._step()
                if ended or work.done():
                    break
            self.world.is_calm = True
            await self._end(work, ended)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            thread.stop()

    async def _stay_live(self) -> None:
        while True:
            try:
                await self.coordinator.cold_start()
                break
            except (Scraper, CoverageError, ArenaRegistry) as error:
                self.world.note(f"start: {type(error).__name__}")
            except BufferOverflow:
                await self.call(self.intake.drop_buffer)
            await asyncio.sleep(0.001)
        await self.coordinator.run_live()

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
            await self.call(lambda: None)

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
        keys = list(self.reader)
        try:
            with self.reader.snapshot(keys) as view:
                number = view.block_number
                states = {key: view[key].state() for key in keys}
        except arena.SnapshotTooOld:
            return None
        self.looks += 1
        live = {key: shown(state) for key, state in states.items() if state.status == "live"}
        if not live:
            return {"number": number, "live": live}
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
        return {"number": number, "live": live}

    async def _end(self, work: "asyncio.Future[None]", ended: list[Any]) -> None:
        """Faults cease: the stream goes on, and everything must come right."""
        limit = time.monotonic() + END_SECONDS
        self._flush()
        self.world.note("calm")
        while True:
            if ended:
                self.fail(f"the feed thread ended: {ended[0]!r}")
            if work.done():
                self.fail(f"the coordinator ended: {work.exception()!r}")
            await self._connected()
            self.wire.send(self.world.advance())
            self.world.delivered()
            await self._consumed()
            self.world.is_unsure = False
            wait = time.monotonic() + 0.05
            while time.monotonic() < wait:
                found = self.look()
                tip = self.world.universe.tip
                if (
                    found is not None
                    and self.reader.phase == "live"
                    and found["number"] == tip.number
                    and len(found["live"]) == len(self.world.universe.pools)
                ):
                    for key, state in found["live"].items():
                        if state != tip.state(key):
                            self.fail(f"pool {key}: {state}, the truth is {tip.state(key)}")
                    return
                await asyncio.sleep(0.002)
            if time.monotonic() > limit:
                found = self.look()
                for task in asyncio.all_tasks():
                    for line in task.get_stack(limit=1):
                        self.world.note(f"task {line.f_code.co_name} {line.f_lineno}")
                chain: Any = work
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
                    f"{found and list(found['live'])}, frames {self.feed.frames}"
                )

    def close(self) -> None:
        self.reader.close()
        self.wire.close()
        self.feed.close()
        self.arena.close(unlink=True)
        os.unlink(self.path)


def _give(answer: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)


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
        seed = f"{SEED}:{number}"
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
