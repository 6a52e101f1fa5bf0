"""A coordinator and what it stands between, driven by a test: blocks, values, a source, a bench."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np

import arena
from arena.errors import (
    ArenaError,
    PoolInvalid,
)
from arena.layouts.events import EVENT
from arena.native import lib
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writer.protocols.held import pool_target
from arena.writer.protocols.storage import PoolTarget
from arena.writer.scrapers import Scrape, ScrapedPool
from arena.writer.stream.history import EventBuffer
from arena.writer.sync.applying import Processor
from arena.writer.sync.coordinator import Coordinator
from arena.writer.sync.intake import Intake
from arena.writer.sync.starts import Preset
from arena.writing import WriterArena

V2_KEY, V3_KEY, OTHER_KEY = b"\x22" * 20, b"\x33" * 20, b"\x44" * 20
TOKENS = (TokenSpec(b"\1" * 20, 18, "ONE"), TokenSpec(b"\2" * 20, 18, "TWO"))
SMALL = Preset(buffer_events=1000, v2_batch=2, cl_batch=1, concurrency=2)
ONE_X96 = 1 << 96


def spec(key: bytes) -> PoolSpec:
    v2 = key == V2_KEY
    return PoolSpec(key, 0 if v2 else 1, *TOKENS, 3000, 0 if v2 else 10)


def values(key: bytes, block: int, amount: int) -> PoolValues:
    """A pool whose numbers are `amount`: reserve0, or the liquidity between -10 and 10."""
    if key == V2_KEY:
        return PoolValues(block, 3000, reserve0=amount, reserve1=1)
    ticks = ((-10, amount, amount), (10, amount, -amount)) if amount else ()
    return PoolValues(block, 3000, sqrt_price_x96=ONE_X96, tick=0, liquidity=amount, ticks=ticks)


def sync(amount: int) -> dict[str, Any]:
    """V2 Sync: reserve0 becomes `amount`."""
    words = [amount, 0, 0, 0, 1, 0, 0, 0]
    return {"kind": lib.PSA_EVENT_V2_SYNC, "key": V2_KEY, "words": words}


def mint(key: bytes, amount: int) -> dict[str, Any]:
    """V3 liquidity change between -10 and 10, negative for a burn."""
    limbs = [amount & (2**64 - 1), (amount >> 64) & (2**64 - 1)]
    return {
        "kind": lib.PSA_EVENT_CL_LIQUIDITY,
        "key": key,
        "protocol": 1,
        "update_type": lib.PSA_UPDATE_MINT if amount > 0 else lib.PSA_UPDATE_BURN,
        "tick_lower": -10,
        "tick_upper": 10,
        "amount": limbs,
    }


def block(
    number: int, *events: dict[str, Any], revert: bool = False, timestamp: int = 0
) -> np.ndarray:
    """A whole block of records."""
    records = np.zeros(len(events) + 2, EVENT)
    records["block_number"] = number
    records["timestamp"] = timestamp
    records["stream_seq"] = number * 1000 + np.arange(len(records))
    records["flags"] = lib.PSA_EVENT_IS_REVERT if revert else 0
    records["kind"][0] = lib.PSA_EVENT_BEGIN_BLOCK
    records["kind"][-1] = lib.PSA_EVENT_END_BLOCK
    records["words"][-1, 0] = len(events)
    for index, event in enumerate(events, 1):
        records["flags"][index] |= lib.PSA_EVENT_IN_BLOCK
        records["key_nbytes"][index] = 20
        records["log_index"][index] = index
        for name, value in event.items():
            if name == "key":
                value = list(value.ljust(32, b"\0"))
            records[name][index] = value
    return records


class ListScraper:
    """Answers from a dictionary; `on_read` may change it, or feed the stream, before that."""

    def __init__(self, *keys: bytes) -> None:
        self.keys = list(keys)
        self.now: dict[bytes, PoolValues | Exception] = {}
        self.reads: list[bytes] = []
        self.fees: dict[bytes, int] = {}
        self.on_read: Callable[[list[bytes]], None] = lambda keys: None

    def get_current_block_number(self) -> int:
        return 0

    def list_pools(self) -> Sequence[PoolSpec]:
        return [self.spec_of(key) for key in self.keys]

    def spec_of(self, key: bytes) -> PoolSpec:
        return replace(spec(key), fee_pips=self.fees.get(key, 3000))

    def hold(self, targets: Sequence[PoolTarget]) -> None:
        self.keys = [target.spec.key for target in targets]

    def read_pools(self, keys: Sequence[bytes]) -> Scrape:
        self.reads += keys
        self.on_read(list(keys))
        found, invalid = [], []
        for key in keys:
            if key not in self.keys:
                invalid.append(PoolInvalid("no such pool", key=key, found="no entry"))
                continue
            value = self.now[key]
            if isinstance(value, PoolInvalid):
                invalid.append(value)
            elif isinstance(value, Exception):
                raise value
            else:
                found.append(ScrapedPool(self.spec_of(key), value))
        return Scrape(tuple(found), tuple(invalid))

    def close(self) -> None:
        pass


class Bench:
    """One arena, its intake and coordinator, and a reader of it."""

    def __init__(self, name: str, scraper: ListScraper, **more: Any) -> None:
        max_pools = more.pop("max_pools", 16)
        given = more.pop("arena", None)
        self.arena = given or WriterArena.create(name, max_pools=max_pools, tick_bytes=1 << 20)
        self.is_dead = False
        self.notices: list[str] = []
        self.coordinator: Coordinator | None = None
        self.intake = Intake(
            Processor(self.arena),
            EventBuffer(more.pop("buffer_events", SMALL.buffer_events)),
            notify=self._notify,
            closes_gaps=more.pop("closes_gaps", False),
        )
        self.loop = asyncio.new_event_loop()
        targets = [pool_target(scraper.spec_of(key)) for key in scraper.keys]
        more = {"preset": SMALL, "scrape_timeout_s": 30.0, "targets": targets} | more
        self.coordinator = Coordinator(self.intake, scraper, self._call, **more)
        self.reader = arena.attach(name)
        self.intake.connected()

    def _notify(self, what: str) -> None:
        self.notices.append(what)
        if self.coordinator is not None:
            self.loop.call_soon_threadsafe(self.coordinator.notice, what)

    async def _call(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        await asyncio.sleep(0)
        self.intake.idle()  # the socket is empty between two pieces of work
        return work(*arguments, **named)

    async def read_again(self, key: bytes) -> bool:
        """Whether the pool is live then; raises what keeps it out."""
        single = self.coordinator._single
        self.coordinator._roster.note_stale([key], time.monotonic())
        found = (await single.read_again([key]))[key]
        single.take_outcome(key, found)
        if isinstance(found, ArenaError):
            raise found
        return found

    def run(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    def send(self, *blocks: np.ndarray) -> None:
        self.intake.take(np.concatenate(blocks))
        self.intake.idle()

    def send_soon(self, *blocks: np.ndarray) -> None:
        """The same from a scraping thread: between two pieces of work of the loop."""
        self.loop.call_soon_threadsafe(self.send, *blocks)

    def amount(self, key: bytes) -> int:
        state = self.reader[key].state()
        return int(state.reserve0 if key == V2_KEY else state.liquidity)

    def status(self, key: bytes) -> str:
        """`unknown` also in the moment between a pool's end and its coming back."""
        try:
            return str(self.reader[key].status)
        except arena.UnknownPool:
            return "unknown"

    def close(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.reader.close()
        if not self.is_dead:
            self.arena.close(unlink=True)

    def die(self) -> None:
        """Leave the segment as kill -9 does."""
        self.arena._hold.control.unlock()
        self.is_dead = True

    @asynccontextmanager
    async def live(self) -> AsyncIterator[None]:
        """run_live beside what the block does."""
        staying = asyncio.ensure_future(self.coordinator.run_live())
        try:
            yield
            assert not staying.done(), staying.exception()
        finally:
            staying.cancel()
            await asyncio.gather(staying, return_exceptions=True)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait; `run` has the deadline."""
        while not condition():
            await asyncio.sleep(0.001)

    def change(self, *, added: Sequence[bytes] = (), removed: Sequence[bytes] = ()) -> None:
        self.coordinator.change_pools([pool_target(spec(key)) for key in added], removed)
