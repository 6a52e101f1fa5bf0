"""Joining the stream: real arena and buffer, hand-made blocks, a scraper that does as it is told.

The feed thread's work runs in the event loop itself. Expected values are sums of the events' own
numbers.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders.coordination import (
    ONE_X96,
    OTHER_KEY,
    V2_KEY,
    V3_KEY,
    Bench,
    ListScraper,
    block,
    mint,
    spec,
    sync,
    values,
)

import arena
from arena.errors import (
    AlreadyLive,
    ArenaFull,
    ArenaRegistry,
    BufferOverflow,
    ChainMoved,
    CoverageError,
    NodeBehind,
    NotLive,
    PoolInvalid,
    RpcUnavailable,
    Scraper,
)
from arena.layouts.events import EVENT
from arena.layouts.slots import UNSURE_ALL
from arena.native import lib
from arena.specs import PoolSpec
from arena.values import PoolValues
from arena.writer.host.sidetasks import SideTasks
from arena.writer.node.client import Header, Log, Receipts
from arena.writer.protocols.uniswap_v2 import V2_SYNC
from arena.writer.scrapers import Scrape
from arena.writer.stream.evidence import bloom_of
from arena.writer.sync import confirming
from arena.writer.sync.agreement import UNSURE_BLOCKS, Agreement, Witness
from arena.writer.sync.branch import Branch
from arena.writer.sync.candidate import Candidate
from arena.writer.sync.members import Members
from arena.writer.sync.turning import NOT_YET
from arena.writing import WriterArena


@pytest.fixture
def make(arena_name: str) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def build(scraper: ListScraper, **more: Any) -> Bench:
        benches.append(Bench(arena_name, scraper, **more))
        return benches[-1]

    yield build
    for bench in benches:
        bench.close()


def prepared(
    make: Callable[..., Bench], now: dict[bytes, Any], **more: Any
) -> tuple[Bench, ListScraper]:
    """A bench whose list is the pools of `now`, which is what the source has of them."""
    scraper = ListScraper(*now)
    scraper.now = dict(now)
    return make(scraper, **more), scraper


def live_bench(make: Callable[..., Bench], *keys: bytes, **more: Any) -> tuple[Bench, ListScraper]:
    """Live at block 101, every pool's number 7."""
    scraper = ListScraper(*keys)
    scraper.now = {key: values(key, 100, 7) for key in (V2_KEY, V3_KEY, OTHER_KEY)}
    bench = make(scraper, **more)
    bench.send(block(101))
    bench.run(bench.coordinator.cold_start())
    return bench, scraper


def test_each_pool_takes_exactly_the_blocks_after_its_own(make: Callable[..., Bench]) -> None:
    scraper = ListScraper(V2_KEY, V3_KEY, OTHER_KEY)
    scraper.now = {
        V2_KEY: values(V2_KEY, 100, 7),
        V3_KEY: values(V3_KEY, 101, 1000),
        OTHER_KEY: values(OTHER_KEY, 103, 5000),
    }
    bench = make(scraper)
    bench.send(*(block(n, mint(V3_KEY, n), mint(OTHER_KEY, n)) for n in (101, 102, 103)))
    bench.send(block(104, mint(OTHER_KEY, 1), sync(9)))
    metrics = bench.run(bench.coordinator.cold_start())
    assert bench.amount(V2_KEY) == 9
    assert bench.amount(V3_KEY) == 1000 + 102 + 103
    assert bench.amount(OTHER_KEY) == 5000 + 1
    assert {bench.status(key) for key in scraper.keys} == {"live"}
    assert (bench.reader.phase, bench.reader.head_block) == ("live", 104)
    assert (metrics.first_block, metrics.pools_done, metrics.pools_invalid) == (101, 3, 0)
    assert (metrics.reference_block, metrics.head_block, metrics.blocks_behind) == (100, 104, 4)
    assert {"buffering", "scraping", "replaying"} <= metrics.phase_s.keys()


def test_blocks_after_the_switch_are_applied_at_once(make: Callable[..., Bench]) -> None:
    bench, _ = prepared(make, {V3_KEY: values(V3_KEY, 100, 50)})
    bench.send(block(101))
    bench.run(bench.coordinator.cold_start())
    bench.send(block(102, mint(V3_KEY, 5)), block(103, mint(V3_KEY, -20)))
    assert (bench.amount(V3_KEY), bench.reader.head_block) == (35, 103)


@pytest.mark.parametrize(("scraped", "live"), [(98, False), (99, False), (100, True), (101, True)])
def test_values_older_than_the_block_before_the_first_whole_one_are_refused(
    make: Callable[..., Bench], scraped: int, live: bool
) -> None:
    bench, _ = prepared(
        make,
        {V2_KEY: values(V2_KEY, 101, 7), V3_KEY: values(V3_KEY, scraped, 50)},
        scrape_timeout_s=0.0,
    )
    bench.send(block(101))
    if live:
        bench.run(bench.coordinator.cold_start())
        return
    with pytest.raises(CoverageError) as caught:
        bench.run(bench.coordinator.cold_start())
    assert (caught.value.scraped_block, caught.value.first_block) == (scraped, 101)
    assert caught.value.pool == V3_KEY
    assert f"read at block {scraped}" in str(caught.value)
    assert "--scrape-timeout" in str(caught.value)
    assert bench.reader.phase != "live"


def test_a_source_behind_the_stream_is_waited_for(make: Callable[..., Bench]) -> None:
    bench, scraper = prepared(make, {V3_KEY: values(V3_KEY, 97, 1)})
    bench.send(block(101, mint(V3_KEY, 3)))

    def advance(keys: list[bytes]) -> None:
        if len(scraper.reads) == 3:
            scraper.now[V3_KEY] = values(V3_KEY, 100, 60)

    scraper.on_read = advance
    bench.run(bench.coordinator.cold_start())
    assert bench.amount(V3_KEY) == 63


def test_live_waits_until_the_stream_has_reached_the_newest_scrape(
    make: Callable[..., Bench],
) -> None:
    bench, _ = prepared(make, {V3_KEY: values(V3_KEY, 103, 60)})
    bench.send(block(101, mint(V3_KEY, 3)))

    async def start() -> None:
        starting = asyncio.ensure_future(bench.coordinator.cold_start())
        for number in (102, 103):
            while bench.reader.phase != "replaying":
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.15)
            assert not starting.done()
            bench.send(block(number, mint(V3_KEY, 3)))
        await starting

    bench.run(start())
    assert (bench.amount(V3_KEY), bench.reader.head_block) == (60, 103)


def test_a_revert_at_the_scraped_block_makes_the_pool_read_again(
    make: Callable[..., Bench],
) -> None:
    scraper = ListScraper(V2_KEY, V3_KEY)
    old, new = values(V3_KEY, 102, 111), values(V3_KEY, 102, 222)
    scraper.now = {V2_KEY: values(V2_KEY, 101, 7), V3_KEY: old}
    bench = make(scraper)
    bench.send(block(101), block(102, mint(V3_KEY, 1)))

    def reorganise(keys: list[bytes]) -> None:
        if keys == [V3_KEY] and scraper.reads.count(V3_KEY) == 1:
            bench.send_soon(
                block(102, mint(V3_KEY, 1), revert=True), block(102, mint(V3_KEY, 2)), block(103)
            )
        elif keys == [V3_KEY]:
            scraper.now[V3_KEY] = new

    scraper.on_read = reorganise
    bench.run(bench.coordinator.cold_start())
    assert bench.amount(V3_KEY) == 222
    assert scraper.reads.count(V3_KEY) == 2
    assert scraper.reads.count(V2_KEY) == 1, "101 was not reverted"


def test_a_revert_that_was_known_before_the_read_costs_no_second_one(
    make: Callable[..., Bench],
) -> None:
    bench, scraper = prepared(make, {V3_KEY: values(V3_KEY, 102, 222)})
    bench.send(block(101), block(102), block(102, revert=True), block(102), block(103))
    bench.run(bench.coordinator.cold_start())
    assert scraper.reads == [V3_KEY]


def test_a_source_dated_before_a_revert_is_not_believed(make: Callable[..., Bench]) -> None:
    scraper = ListScraper(V3_KEY)
    scraper.now = {V3_KEY: values(V3_KEY, 102, 222)}
    answer = scraper.read_pools
    scraper.read_pools = lambda keys: Scrape(answer(keys).pools, (), as_of_ns=1)  # type: ignore[method-assign]
    bench = make(scraper, scrape_timeout_s=0.0)
    bench.send(block(101), block(102), block(102, revert=True), block(102), block(103))
    with pytest.raises(CoverageError, match="reverted"):
        bench.run(bench.coordinator.cold_start())


def test_an_interrupted_start_begins_again_with_the_next_whole_block(
    make: Callable[..., Bench],
) -> None:
    bench, scraper = prepared(make, {V3_KEY: values(V3_KEY, 101, 10)})
    bench.send(block(101, mint(V3_KEY, 1)))

    def interrupt() -> None:
        bench.intake.disconnected("end of stream")
        bench.intake.connected()
        bench.send(block(110, mint(V3_KEY, 1)))

    def on_read(keys: list[bytes]) -> None:
        if len(scraper.reads) == 1:
            bench.loop.call_soon_threadsafe(interrupt)
        elif len(scraper.reads) > 2:
            scraper.now[V3_KEY] = values(V3_KEY, 109, 90)

    scraper.on_read = on_read
    metrics = bench.run(bench.coordinator.cold_start())
    assert metrics.first_block == 110
    assert bench.amount(V3_KEY) == 91


def test_contradicting_pools_are_left_out_and_the_others_go_live(
    make: Callable[..., Bench],
) -> None:
    scraper = ListScraper(V2_KEY, V3_KEY, OTHER_KEY)
    unlike = PoolValues(100, 3000, sqrt_price_x96=ONE_X96, tick=0, liquidity=5)
    scraper.now = {
        V2_KEY: values(V2_KEY, 100, 7),
        V3_KEY: PoolInvalid("no", key=V3_KEY),
        OTHER_KEY: unlike,
    }
    bench = make(scraper)
    bench.send(block(101))
    metrics = bench.run(bench.coordinator.cold_start())
    assert (metrics.pools_done, metrics.pools_invalid) == (1, 2)
    assert list(bench.reader) == ["0x" + V2_KEY.hex()]


def test_a_full_arena_grows_and_attached_readers_follow(make: Callable[..., Bench]) -> None:
    scraper = ListScraper(V2_KEY, V3_KEY, OTHER_KEY)
    scraper.now = {key: values(key, 100, 7) for key in scraper.keys}
    bench = make(scraper, max_pools=2)
    assert bench.reader.generation == 1
    bench.send(block(101))
    metrics = bench.run(bench.coordinator.cold_start())
    assert (metrics.pools_done, metrics.pools_invalid, len(bench.reader)) == (3, 0, 3)
    assert bench.reader.generation == 2


def test_an_arena_that_cannot_grow_leaves_pools_out_and_the_others_go_live(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    def grow(members: Members, table: str) -> bool:
        raise ArenaFull("no pages", table=table)

    monkeypatch.setattr(Members, "grow", grow)
    scraper = ListScraper(V2_KEY, V3_KEY, OTHER_KEY)
    scraper.now = {key: values(key, 100, 7) for key in scraper.keys}
    bench = make(scraper, max_pools=2)
    bench.send(block(101))
    metrics = bench.run(bench.coordinator.cold_start())
    assert (metrics.pools_done, metrics.pools_invalid, len(bench.reader)) == (2, 1, 2)


def test_no_installable_pool_at_all_is_an_error(make: Callable[..., Bench]) -> None:
    bench, _ = prepared(make, {V3_KEY: PoolInvalid("no", key=V3_KEY)})
    bench.send(block(101))
    with pytest.raises(ArenaRegistry, match="none of the 1"):
        bench.run(bench.coordinator.cold_start())


def test_errors_of_the_source_end_a_cold_start(make: Callable[..., Bench]) -> None:
    bench, _ = prepared(make, {V3_KEY: Scraper("the source is gone")})
    bench.send(block(101))
    with pytest.raises(Scraper, match="the source is gone"):
        bench.run(bench.coordinator.cold_start())


@pytest.mark.parametrize("extra", [0, 1])
def test_the_buffer_holds_its_capacity_and_not_one_event_more(
    make: Callable[..., Bench], extra: int
) -> None:
    bench, _ = prepared(make, {V3_KEY: values(V3_KEY, 100, 7)}, buffer_events=4)
    bench.send(block(101, *[mint(V3_KEY, 1)] * 2), block(102, *[mint(V3_KEY, 1)] * (2 + extra)))
    if extra:
        with pytest.raises(BufferOverflow, match="its capacity is 4"):
            bench.run(bench.coordinator.cold_start())
    else:
        bench.run(bench.coordinator.cold_start())
        assert bench.amount(V3_KEY) == 11


def test_calls_at_the_wrong_time_are_refused(make: Callable[..., Bench]) -> None:
    bench, _ = prepared(make, {V3_KEY: values(V3_KEY, 100, 7)})
    bench.send(block(101))
    with pytest.raises(NotLive):
        bench.run(bench.coordinator.run_live())
    with pytest.raises(NotLive):
        bench.run(bench.read_again(V3_KEY))
    bench.run(bench.coordinator.cold_start())
    with pytest.raises(AlreadyLive):
        bench.run(bench.coordinator.cold_start())
    with pytest.raises(AlreadyLive):
        bench.run(bench.coordinator.resync())


def test_a_missing_block_makes_all_pools_stale_until_they_are_read_again(
    make: Callable[..., Bench],
) -> None:
    bench, scraper = live_bench(make, V2_KEY, V3_KEY)
    bench.send(block(102), block(105, mint(V3_KEY, 2)))
    assert {bench.status(key) for key in scraper.keys} == {"stale"}
    phase = bench.reader.phase_record
    assert (phase.name, phase.gap) == ("gap", (103, 104))
    scraper.now = {V2_KEY: values(V2_KEY, 104, 30), V3_KEY: values(V3_KEY, 104, 40)}
    bench.run(bench.coordinator.resync())
    assert (bench.amount(V2_KEY), bench.amount(V3_KEY)) == (30, 42)
    assert {bench.status(key) for key in scraper.keys} == {"live"}
    assert (bench.reader.phase, bench.reader.head_block) == ("live", 105)
    assert bench.reader.counters["gaps"] == 1


def test_a_block_that_comes_twice_without_a_revert_is_a_gap(make: Callable[..., Bench]) -> None:
    bench, _ = prepared(make, {V3_KEY: values(V3_KEY, 100, 7)})
    bench.send(block(101))
    bench.run(bench.coordinator.cold_start())
    bench.send(block(102, mint(V3_KEY, 1)), block(102, mint(V3_KEY, 5)))
    assert bench.status(V3_KEY) == "stale"
    assert "without having been reverted" in bench.reader.phase_reason


def test_a_lost_connection_leaves_values_and_the_next_block_opens_a_gap(
    make: Callable[..., Bench],
) -> None:
    bench, _ = prepared(make, {V3_KEY: values(V3_KEY, 100, 7)})
    bench.send(block(101, mint(V3_KEY, 1)))
    bench.run(bench.coordinator.cold_start())
    bench.intake.disconnected("Connection: end of stream")
    assert (bench.reader.phase, bench.status(V3_KEY), bench.amount(V3_KEY)) == (
        "connecting",
        "live",
        8,
    )
    bench.intake.connected()
    assert bench.status(V3_KEY) == "live"
    bench.send(block(102))
    assert (bench.reader.phase, bench.status(V3_KEY)) == ("gap", "stale")


def test_pools_are_read_at_another_block_when_one_is_never_believed(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirming, "UNSETTLED_S", 0.05)
    node = ForkedNode(10**6, 101)
    scraper = NodeScraper(node, V2_KEY, B=7)
    bench = make(scraper, node=node, unsure_s=0.0)
    node.sync(101, "B", 7)
    bench.send(fixed(101, sync(7)))
    first, block_logs = node.hash_of(101, "B"), node.block_logs

    def never(hashes: Sequence[bytes], topics: Sequence[bytes]) -> list[list[Log]]:
        if first in hashes:
            raise NodeBehind("its logs are not all there", block=101)
        return block_logs(hashes, topics)

    node.block_logs = never  # type: ignore[method-assign]

    async def scenario() -> None:
        starting = asyncio.ensure_future(bench.coordinator.cold_start())
        await bench.until(lambda: len(scraper.reads) >= 2)
        node.tip = 102
        bench.send(fixed(102))
        await starting
        assert bench.status(V2_KEY) == "live"

    bench.run(scenario())


@pytest.mark.parametrize("envelope", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_a_reorg_told_twice_is_a_loss(
    make: Callable[..., Bench], envelope: bool, together: bool
) -> None:
    """Without new blocks between the two: the second would take the same events back again."""
    bench, _ = prepared(make, {V3_KEY: values(V3_KEY, 103, 17)})
    # Taken back by its events: the values were read behind it.
    bench.send(block(102), block(103, mint(V3_KEY, 7)))
    bench.run(bench.coordinator.cold_start())
    start, end = ([REORG_START], [REORG_COMPLETE]) if envelope else ([], [])
    told = [*start, block(103, mint(V3_KEY, 7), revert=True), *end]
    for message in [told + told] if together else [told, told]:
        bench.send(*message)
    assert not bench.intake.stage.is_live
    reason = "was reverted and never came" if envelope else "was reverted twice"
    assert f"block 103 {reason}" in bench.reader.phase_reason
    assert (bench.reader.head_block, bench.amount(V3_KEY)) == (102, 10)


@pytest.mark.parametrize("envelope", [True, False])
@pytest.mark.parametrize("numbers", [(104, 103, 102), (102, 103, 104), (104, 102, 103)])
def test_reorgs_without_new_blocks_follow_one_another(
    make: Callable[..., Bench], envelope: bool, numbers: tuple[int, ...]
) -> None:
    """Newest first, oldest first, or in two reorgs, the second one's oldest first."""
    bench, _ = live_bench(make, V3_KEY)
    before = bench.amount(V3_KEY)
    bench.send(*(block(number, mint(V3_KEY, number)) for number in (102, 103, 104)))
    start, end = ([REORG_START], [REORG_COMPLETE]) if envelope else ([], [])
    parts = [numbers[:1], numbers[1:]] if numbers[0] == 104 else [numbers]
    for part in parts:
        reverts = [block(each, mint(V3_KEY, each), revert=True) for each in part]
        bench.send(*start, *reverts, *end)
    assert bench.intake.stage.is_live
    bench.send(block(102))
    assert (bench.reader.head_block, bench.amount(V3_KEY)) == (102, before)


@pytest.mark.parametrize("envelope", [True, False])
def test_between_the_reverts_of_one_reorg_nothing_else_is_done(
    make: Callable[..., Bench], envelope: bool
) -> None:
    """The oldest comes first and turns the others back: the arena is to remember that."""
    bench, scraper = live_bench(make, V2_KEY, V3_KEY)
    bench.send(block(102), block(103, mint(V3_KEY, 5)))
    bench.send(*([REORG_START] if envelope else []), block(102, revert=True))
    intake = bench.intake
    candidate = Candidate(scraper.read_pools([V2_KEY]).pools[0], intake.buffer.mark())
    assert intake.members.replace(intake.standing.epoch, candidate).in_reorg
    assert intake.members.grow("tick heap") is None
    bench.send(block(103, mint(V3_KEY, 5), revert=True))
    bench.send(block(102), *([REORG_COMPLETE] if envelope else []))
    assert intake.stage.is_live
    assert (bench.status(V3_KEY), bench.amount(V3_KEY)) == ("live", 7)
    assert intake.members.grow("tick heap")


@pytest.mark.parametrize("is_cut", [True, False])
def test_what_half_a_reorg_leaves_wrong_waits_for_more_than_a_price(
    make: Callable[..., Bench], arena_name: str, is_cut: bool
) -> None:
    """Oldest first, more blocks than the undo ring holds, and the rest never comes, which would have
    taken their liquidity off."""
    held = WriterArena.create(arena_name, max_pools=16, tick_bytes=1 << 20, undo_blocks=2)
    bench, _scraper = live_bench(make, V3_KEY, arena=held, node=EmptyChain(), closes_gaps=True)
    bench.send(block(102), block(103, mint(V3_KEY, 5)), block(104), block(105))
    bench.send(block(102, revert=True))
    assert (bench.status(V3_KEY), bench.amount(V3_KEY)) == ("stale", 12)
    if is_cut:
        bench.intake.disconnected("gone")
    else:
        bench.send(block(104, revert=True))
        assert not bench.intake.stage.is_live
    with bench.reader.snapshot() as view:
        lines = view.lines(bench.reader.slots([V3_KEY]))
    assert lines["unsure"][0] & UNSURE_ALL


@pytest.mark.parametrize("envelope", [True, False])
def test_a_revert_of_a_block_that_never_came_is_a_gap(
    make: Callable[..., Bench], envelope: bool
) -> None:
    bench, _scraper = live_bench(make, V2_KEY, V3_KEY)
    start, end = ([REORG_START], [REORG_COMPLETE]) if envelope else ([], [])
    # Oldest first, in two pieces, then plain blocks above: nothing is missing.
    bench.send(block(102), block(103))
    bench.send(*start, block(102, revert=True))
    bench.send(block(103, revert=True))
    bench.send(block(102))
    bench.send(block(103), *end)
    bench.send(block(104))
    bench.send(*start, block(104, revert=True), block(104), *end)
    assert bench.intake.stage.is_live
    bench.send(*start, block(106, revert=True), *end)
    assert not bench.intake.stage.is_live
    assert (bench.status(V3_KEY), bench.reader.head_block) == ("stale", 104)
    assert bench.reader.phase_record.gap == (105, 106)
    assert "block 106 was reverted and never came" in bench.reader.phase_reason


def test_a_connection_that_begins_inside_a_reorg_has_no_gap(make: Callable[..., Bench]) -> None:
    """Of the blocks before it nothing is known, in whatever pieces their reverts come."""
    bench = make(ListScraper(V2_KEY))
    epoch = bench.intake.standing.epoch
    bench.send(block(102, revert=True))
    bench.send(block(103, revert=True))
    bench.send(block(104, revert=True), block(102))
    assert bench.intake.joining_block() == (epoch, 102)


def test_half_a_reorg_is_taken_back_when_the_connection_ends(make: Callable[..., Bench]) -> None:
    bench, _ = prepared(make, {V3_KEY: values(V3_KEY, 100, 7)})
    bench.send(block(101), block(102, mint(V3_KEY, 1)))
    bench.run(bench.coordinator.cold_start())
    start = np.zeros(1, EVENT)
    start["kind"] = lib.PSA_EVENT_REORG_START
    bench.send(start, block(102, mint(V3_KEY, 1), revert=True))
    assert (bench.amount(V3_KEY), bench.reader.head_block) == (8, 102)
    bench.intake.disconnected("Connection: end of stream")
    assert (bench.amount(V3_KEY), bench.reader.head_block) == (8, 102)


def test_a_reorg_that_begins_inside_another_is_taken_back_to_before_both(
    make: Callable[..., Bench],
) -> None:
    """The end of one and the beginning of the next were lost: the head is that of the last commit, so
    the history must be, too."""
    bench, _ = prepared(make, {V3_KEY: values(V3_KEY, 100, 7)})
    bench.send(block(101))
    bench.run(bench.coordinator.cold_start())
    bench.send(block(102, mint(V3_KEY, 1)), block(103))
    start = np.zeros(1, EVENT)
    start["kind"] = lib.PSA_EVENT_REORG_START
    bench.send(start, block(102, revert=True))
    bench.send(start)
    bench.intake.disconnected("lost")
    assert [int(kept["block_number"][0]) for kept in bench.intake.buffer.blocks()] == [
        101,
        102,
        103,
    ]
    assert (bench.reader.head_block, bench.amount(V3_KEY)) == (103, 8)


def test_resync_shows_why_it_cannot_go_on_and_goes_on_when_it_can(
    make: Callable[..., Bench],
) -> None:
    bench, scraper = prepared(make, {V3_KEY: values(V3_KEY, 100, 7)}, scrape_timeout_s=0.0)
    bench.send(block(101))
    bench.run(bench.coordinator.cold_start())
    bench.send(block(105))

    async def repair() -> None:
        resync = asyncio.ensure_future(bench.coordinator.resync())
        while not bench.reader.phase_reason.startswith("CoverageError"):
            await asyncio.sleep(0.001)
        scraper.now = {V3_KEY: values(V3_KEY, 104, 50)}
        await resync

    bench.run(repair())
    assert (bench.status(V3_KEY), bench.amount(V3_KEY)) == ("live", 50)


def test_a_start_that_waits_for_its_source_says_what_for(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, scraper = prepared(make, {V3_KEY: values(V3_KEY, 100, 7)})

    def refuse(keys: Sequence[bytes]) -> Scrape:
        raise RpcUnavailable("over the daily allowance")

    async def scenario() -> None:
        with monkeypatch.context() as refusing:
            refusing.setattr(scraper, "read_pools", refuse)
            start = asyncio.ensure_future(bench.coordinator.cold_start())
            await bench.until(lambda: "daily allowance" in bench.reader.phase_reason)
            assert bench.reader.phase == "scraping"
        await start

    bench.send(block(101))
    bench.run(scenario())
    assert (bench.reader.phase, bench.reader.phase_reason) == ("live", "")


def go_stale(bench: Bench) -> None:
    """Block 102 burns more of V3_KEY than there is; OTHER_KEY gains 1 in it and in block 103."""
    bench.send(block(102, mint(V3_KEY, -1000), mint(OTHER_KEY, 1)))
    bench.send(block(103, mint(V3_KEY, 3), mint(OTHER_KEY, 1)))
    assert (bench.status(V3_KEY), bench.status(OTHER_KEY)) == ("stale", "live")


class DatedScraper(ListScraper):
    """Says when its values were made, as a file does, or trails, as a database does."""

    def __init__(self, *keys: bytes, trails: bool = False) -> None:
        super().__init__(*keys)
        self.trails = trails
        self.head = 100
        self.made_ns = time.monotonic_ns()

    def get_current_block_number(self) -> int:
        return self.head

    def renew(self, block: int, amount: int) -> None:
        """Values of now."""
        self.now = {key: values(key, block, amount) for key in self.keys}
        self.made_ns = time.monotonic_ns()

    def read_pools(self, keys: Sequence[bytes]) -> Scrape:
        found = super().read_pools(keys)
        return found if self.trails else replace(found, as_of_ns=self.made_ns)


def skip_a_number(bench: Bench) -> None:
    bench.send(block(106))


def jump_back(bench: Bench) -> None:
    bench.send(block(102), *(block(n) for n in (103, 104, 105, 106)))


def revert_what_never_came(bench: Bench) -> None:
    bench.send(block(105, revert=True), *(block(n) for n in (105, 106)))


def break_a_message(bench: Bench) -> None:
    bench.intake.lost("InvalidMessage: stream_seq", 104, 104)
    bench.send(*(block(n) for n in (104, 105, 106)))


def lose_the_connection(bench: Bench) -> None:
    bench.intake.disconnected("end of stream")
    bench.intake.connected()
    bench.send(*(block(n) for n in (104, 105, 106)))


def overflow(bench: Bench) -> None:
    with pytest.MonkeyPatch.context() as patch:

        def refuse(records: np.ndarray) -> None:
            raise BufferOverflow("full", capacity=1, attempted=2, block=104)

        patch.setattr(bench.intake.buffer, "append", refuse)
        # One that has to go the long way, as its first block is not the next one.
        bench.send(block(103, revert=True), block(103))
    bench.intake.drop_buffer()
    bench.send(*(block(n) for n in (104, 105, 106)))


LOSSES = (
    *(skip_a_number, jump_back, revert_what_never_came, break_a_message, lose_the_connection),
    overflow,
)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("keys", [(V2_KEY,), (V3_KEY, V2_KEY, OTHER_KEY)])
def test_values_from_before_a_loss_are_not_used_after_it(
    make: Callable[..., Bench], loss: Callable[[Bench], None], keys: tuple[bytes, ...]
) -> None:
    scraper = DatedScraper(*keys)
    scraper.renew(101, 7)
    bench = make(scraper)
    bench.send(*(block(n) for n in (101, 102, 103)))

    async def scenario() -> None:
        await bench.coordinator.cold_start()
        # Of the newest block, made before the loss; what was lost may have reverted it.
        scraper.renew(106, 8)
        async with bench.live():
            reads = len(scraper.reads)
            loss(bench)
            await bench.until(lambda: len(scraper.reads) >= reads + 3 * len(keys))
            assert "live" not in {bench.status(key) for key in keys}
            scraper.renew(106, 9)
            await bench.until(lambda: {bench.status(key) for key in keys} == {"live"})
            assert {bench.amount(key) for key in keys} == {9}

    bench.run(scenario())


@pytest.mark.parametrize("loss", LOSSES)
def test_a_source_that_trails_counts_after_a_loss_once_it_has_moved(
    make: Callable[..., Bench], loss: Callable[[Bench], None]
) -> None:
    scraper = DatedScraper(V2_KEY, V3_KEY, trails=True)
    scraper.renew(101, 7)
    scraper.head = 106
    bench = make(scraper)
    bench.send(*(block(n) for n in (101, 102, 103)))

    async def scenario() -> None:
        await bench.coordinator.cold_start()
        scraper.renew(106, 8)
        async with bench.live():
            reads = len(scraper.reads)
            loss(bench)
            await bench.until(lambda: len(scraper.reads) >= reads + 6)
            assert "live" not in {bench.status(key) for key in scraper.keys}
            scraper.renew(107, 9)
            scraper.head = 107
            bench.send(block(107))
            await bench.until(lambda: bench.status(V3_KEY) == bench.status(V2_KEY) == "live")
            assert bench.amount(V3_KEY) == 9

    bench.run(scenario())


def test_a_pool_read_again_alone_after_a_loss_needs_values_made_since(
    make: Callable[..., Bench],
) -> None:
    scraper = DatedScraper(V2_KEY, V3_KEY)
    scraper.renew(101, 7)
    bench = make(scraper)
    bench.send(*(block(n) for n in (101, 102, 103)))

    async def scenario() -> None:
        await bench.coordinator.cold_start()
        old_ns = scraper.made_ns
        skip_a_number(bench)
        scraper.renew(106, 8)
        await bench.coordinator.resync()
        bench.send(block(107, mint(V3_KEY, -1000)))
        assert bench.status(V3_KEY) == "stale"
        scraper.renew(107, 9)
        new_ns, scraper.made_ns = scraper.made_ns, old_ns
        with pytest.raises(CoverageError, match="before the stream lost blocks"):
            await bench.read_again(V3_KEY)
        assert bench.status(V3_KEY) == "stale"
        scraper.made_ns = new_ns
        assert await bench.read_again(V3_KEY)
        assert (bench.amount(V3_KEY), bench.amount(V2_KEY)) == (9, 8)

    bench.run(scenario())


def test_values_made_before_a_connection_brings_its_first_bytes_do_not_count(
    make: Callable[..., Bench],
) -> None:
    """A producer may take a connection up later than it is made: what came between, nobody tells."""
    scraper = DatedScraper(V2_KEY)
    scraper.renew(101, 7)
    bench = make(scraper, scrape_timeout_s=0.0)
    bench.send(block(101))

    async def scenario() -> None:
        await bench.coordinator.cold_start()
        bench.intake.disconnected("it ended")
        bench.intake.connected()
        scraper.renew(106, 8)
        bench.send(block(106))
        old_ns = scraper.made_ns
        scraper.renew(107, 9)
        new_ns, scraper.made_ns = scraper.made_ns, old_ns
        with pytest.raises(CoverageError, match="before the stream lost blocks"):
            await bench.coordinator.cold_start()
        scraper.made_ns = new_ns
        bench.send(block(107))
        await bench.coordinator.cold_start()
        assert bench.amount(V2_KEY) == 9

    bench.run(scenario())


def test_an_old_state_file_ends_a_start_interrupted_by_a_loss_with_the_reason(
    make: Callable[..., Bench],
) -> None:
    scraper = DatedScraper(V2_KEY)
    scraper.renew(106, 7)
    bench = make(scraper, scrape_timeout_s=0.0)
    bench.send(block(101))
    lose_the_connection(bench)
    with pytest.raises(CoverageError, match="before the stream lost blocks"):
        bench.run(bench.coordinator.cold_start())


def test_one_stale_pool_is_exchanged_while_the_others_stay_live(
    make: Callable[..., Bench],
) -> None:
    bench, scraper = live_bench(make, V3_KEY, OTHER_KEY)
    go_stale(bench)
    assert "stale" in bench.notices
    scraper.now = {V3_KEY: values(V3_KEY, 102, 500)}
    assert bench.run(bench.read_again(V3_KEY))
    assert (bench.status(V3_KEY), bench.amount(V3_KEY)) == ("live", 503)
    assert (bench.status(OTHER_KEY), bench.amount(OTHER_KEY)) == ("live", 9)
    assert bench.reader.head_block == 103


def test_a_pool_caught_up_alone_survives_reverts_of_those_blocks(
    make: Callable[..., Bench],
) -> None:
    bench, scraper = live_bench(make, V3_KEY, OTHER_KEY)
    go_stale(bench)
    scraper.now = {V3_KEY: values(V3_KEY, 102, 500)}
    assert bench.run(bench.read_again(V3_KEY))
    bench.send(block(103, mint(OTHER_KEY, 1), mint(V3_KEY, 3), revert=True))
    assert (bench.status(V3_KEY), bench.amount(V3_KEY)) == ("live", 500)
    assert (bench.status(OTHER_KEY), bench.amount(OTHER_KEY)) == ("live", 8)
    bench.send(block(103, mint(V3_KEY, 40)))
    assert (bench.amount(V3_KEY), bench.reader.head_block) == (540, 103)


def test_values_that_meet_the_same_bad_event_again_are_not_installed(
    make: Callable[..., Bench],
) -> None:
    bench, scraper = live_bench(make, V3_KEY, OTHER_KEY)
    go_stale(bench)
    scraper.now = {V3_KEY: values(V3_KEY, 101, 8)}
    assert not bench.run(bench.read_again(V3_KEY))
    assert bench.status(V3_KEY) == "stale"
    assert (bench.status(OTHER_KEY), bench.amount(OTHER_KEY)) == ("live", 9)


def test_run_live_reads_stale_pools_again_and_resyncs_after_gaps(
    make: Callable[..., Bench],
) -> None:
    bench, scraper = live_bench(make, V3_KEY, OTHER_KEY)

    async def live() -> None:
        staying = asyncio.ensure_future(bench.coordinator.run_live())
        scraper.now[V3_KEY] = values(V3_KEY, 103, 500)
        go_stale(bench)
        while bench.status(V3_KEY) != "live":
            await asyncio.sleep(0.001)
        assert bench.amount(V3_KEY) == 500
        scraper.now = {key: values(key, 109, 60) for key in scraper.keys}
        bench.send(block(110, mint(OTHER_KEY, 1)))
        while bench.reader.phase != "live":
            await asyncio.sleep(0.001)
        staying.cancel()
        await asyncio.gather(staying, return_exceptions=True)

    bench.run(live())
    assert (bench.amount(V3_KEY), bench.amount(OTHER_KEY)) == (60, 61)


def test_a_buffer_that_overflows_while_one_pool_is_read_again_does_not_end_the_writer(
    make: Callable[..., Bench],
) -> None:
    """A gap opens during the read, and more comes than is kept before the source answers."""
    bench, scraper = live_bench(make, V3_KEY, OTHER_KEY, buffer_events=2)

    def overflow(keys: list[bytes]) -> None:
        scraper.on_read = lambda keys: None
        done = threading.Event()

        def send() -> None:
            bench.send(block(110, *[mint(OTHER_KEY, 1)] * 3))
            done.set()

        bench.loop.call_soon_threadsafe(send)
        done.wait(30)

    async def live() -> None:
        staying = asyncio.ensure_future(bench.coordinator.run_live())
        scraper.on_read = overflow
        go_stale(bench)
        while "overflow" not in bench.notices:
            await asyncio.sleep(0.001)
        number = 130
        while bench.reader.phase != "live":
            assert not staying.done(), staying.exception()
            bench.send(block(number))
            scraper.now = {key: values(key, number, 60) for key in scraper.keys}
            await asyncio.sleep(0.1)
            number += 1
        staying.cancel()
        await asyncio.gather(staying, return_exceptions=True)

    bench.run(live())
    assert (bench.status(V3_KEY), bench.amount(V3_KEY)) == ("live", 60)


class DisagreeingNode:
    """Has every block, and never with the stream's time."""

    def head_number(self) -> int:
        return 10**6

    def headers(self, numbers: Sequence[int]) -> list[Header]:
        return [
            Header(n, n.to_bytes(32, "big"), (n - 1).to_bytes(32, "big"), 12 * n, 7)
            for n in numbers
        ]

    def logs(self, first: int, last: int, topics: Sequence[bytes]) -> list[Log]:
        return []

    def block_logs(self, hashes: Sequence[bytes], topics: Sequence[bytes]) -> list[list[Log]]:
        return [[] for _ in hashes]


def test_a_node_of_another_opinion_is_logged_once(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    """It may be so for good: a line for each question would be four a second."""
    scraper = ListScraper(V3_KEY)
    scraper.now = {V3_KEY: values(V3_KEY, 100, 7)}
    node = DisagreeingNode()
    bench = make(scraper, node=node, witness_pause_s=0.001)
    bench.send(block(101))
    bench.run(bench.coordinator.cold_start())

    def said(level: int) -> int:
        found = [each for each in caplog.records if "node_disagrees" in each.getMessage()]
        return sum(each.levelno == level for each in found)

    async def live() -> None:
        staying = asyncio.ensure_future(bench.coordinator.run_live())
        while said(logging.DEBUG) + said(logging.INFO) < 10:
            await asyncio.sleep(0.001)
        staying.cancel()
        await asyncio.gather(staying, return_exceptions=True)

    with caplog.at_level(logging.DEBUG):
        bench.run(live())
    assert said(logging.INFO) == 1


def test_a_stream_that_stands_while_the_node_goes_on_is_told(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arena.writer.sync.watch.SILENT_POLL_S", 0.01)
    monkeypatch.setattr("arena.writer.sync.watch.SILENT_S", 0.05)
    bench, _ = live_bench(make, V3_KEY, node=DisagreeingNode())

    async def live() -> None:
        staying = asyncio.ensure_future(bench.coordinator.run_live())
        while bench.reader.phase != "connecting":
            await asyncio.sleep(0.001)
        assert bench.reader.phase_reason == "the stream stands at block 101, the node is at 1000000"
        assert bench.status(V3_KEY) == "live", "its values are those of the head"
        bench.send(block(102))
        assert (bench.reader.phase, bench.reader.phase_reason) == ("live", "")
        staying.cancel()
        await asyncio.gather(staying, return_exceptions=True)

    bench.run(live())


def test_pools_a_block_may_lack_events_of_are_read_at_it_or_later(
    make: Callable[..., Bench],
) -> None:
    bench, scraper = live_bench(make, V2_KEY, V3_KEY)

    async def live() -> None:
        staying = asyncio.ensure_future(bench.coordinator.run_live())
        scraper.now = {key: values(key, 101, 8) for key in (V2_KEY, V3_KEY)}
        await bench.coordinator.doubt([V3_KEY], 102)
        assert (bench.status(V2_KEY), bench.status(V3_KEY)) == ("live", "stale")
        for _ in range(50):
            await asyncio.sleep(0.01)
            assert bench.status(V3_KEY) == "stale", "block 101 is older than the doubt"
        bench.send(block(102))
        scraper.now = {key: values(key, 102, 9) for key in (V2_KEY, V3_KEY)}
        while bench.status(V3_KEY) != "live":
            await asyncio.sleep(0.001)
        staying.cancel()
        await asyncio.gather(staying, return_exceptions=True)

    bench.run(live())
    assert (bench.amount(V2_KEY), bench.amount(V3_KEY)) == (7, 9)


REORG_START, REORG_COMPLETE = np.zeros(1, EVENT), np.zeros(1, EVENT)
REORG_START["kind"], REORG_COMPLETE["kind"] = (
    lib.PSA_EVENT_REORG_START,
    lib.PSA_EVENT_REORG_COMPLETE,
)


def hex_of(key: bytes) -> str:
    return "0x" + key.hex()


async def add_other(bench: Bench, *blocks: np.ndarray) -> None:
    """List OTHER_KEY; it goes live after `blocks`."""
    bench.change(added=[OTHER_KEY])
    await bench.until(lambda: hex_of(OTHER_KEY) in bench.reader)
    bench.send(*blocks)
    await bench.until(lambda: bench.status(OTHER_KEY) == "live")


def test_changes_before_the_arena_is_live_take_effect_when_it_is(
    make: Callable[..., Bench],
) -> None:
    scraper = ListScraper(V2_KEY, V3_KEY)
    scraper.now = {key: values(key, 100, 7) for key in (V2_KEY, V3_KEY, OTHER_KEY)}
    bench = make(scraper)
    bench.change(added=[OTHER_KEY], removed=[V3_KEY])
    bench.send(block(101))
    bench.run(bench.coordinator.cold_start())
    assert list(bench.reader) == [hex_of(V2_KEY)]
    scraper.now[OTHER_KEY] = values(OTHER_KEY, 103, 50)

    async def live() -> None:
        async with bench.live():
            await bench.until(lambda: hex_of(OTHER_KEY) in bench.reader)
            assert bench.status(OTHER_KEY) == "syncing"
            bench.send(block(102), block(103), block(104, mint(OTHER_KEY, 4)))
            await bench.until(lambda: bench.status(OTHER_KEY) == "live")

    bench.run(live())
    assert (bench.amount(OTHER_KEY), bench.status(V2_KEY)) == (54, "live")
    assert hex_of(V3_KEY) not in bench.reader


def test_a_pool_removed_while_it_is_first_read_never_goes_live(make: Callable[..., Bench]) -> None:
    scraper = ListScraper(V2_KEY, V3_KEY)
    scraper.now = {key: values(key, 100, 7) for key in scraper.keys}
    bench = make(scraper)
    bench.send(block(101))

    def on_read(keys: list[bytes]) -> None:
        if keys == [V3_KEY]:
            told = threading.Event()

            def tell() -> None:
                bench.change(removed=[V3_KEY])
                told.set()

            bench.loop.call_soon_threadsafe(tell)
            assert told.wait(30)

    scraper.on_read = on_read
    bench.run(bench.coordinator.cold_start())
    assert hex_of(V3_KEY) not in bench.reader or bench.status(V3_KEY) == "stale"

    async def live() -> None:
        async with bench.live():
            await bench.until(lambda: list(bench.reader) == [hex_of(V2_KEY)])

    bench.run(live())


def test_changes_in_a_gap_remove_at_once_and_add_when_it_is_closed(
    make: Callable[..., Bench],
) -> None:
    bench, scraper = live_bench(make, V2_KEY, V3_KEY)

    async def live() -> None:
        bench.send(block(105))  # opens the gap
        scraper.now = {key: values(key, 103, 9) for key in (V2_KEY, V3_KEY, OTHER_KEY)}  # too old
        async with bench.live():
            bench.change(added=[OTHER_KEY])
            bench.change(removed=[V3_KEY])
            await bench.until(lambda: hex_of(V3_KEY) not in bench.reader)
            assert bench.reader.phase != "live"
            assert hex_of(OTHER_KEY) not in bench.reader
            scraper.now = {key: values(key, 107, 60) for key in (V2_KEY, OTHER_KEY)}
            bench.send(block(106), block(107))
            await bench.until(lambda: hex_of(OTHER_KEY) in bench.reader)
            scraper.now[OTHER_KEY] = values(OTHER_KEY, 109, 61)
            bench.send(block(108), block(109))
            await bench.until(lambda: bench.status(OTHER_KEY) == "live")

    bench.run(live())
    assert set(bench.reader) == {hex_of(V2_KEY), hex_of(OTHER_KEY)}
    assert (bench.amount(V2_KEY), bench.amount(OTHER_KEY)) == (60, 61)


def test_changes_inside_a_reorg_wait_for_its_end_which_shows_no_pool_that_leaves_as_live(
    make: Callable[..., Bench],
) -> None:
    bench, _scraper = live_bench(make, V2_KEY, V3_KEY)
    bench.send(block(102, mint(V3_KEY, 1)))

    async def live() -> None:
        async with bench.live():
            bench.send(REORG_START, block(102, mint(V3_KEY, 1), revert=True))
            bench.change(added=[OTHER_KEY], removed=[V3_KEY])
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert (bench.status(V3_KEY), bench.amount(V3_KEY)) == ("live", 8)
            assert hex_of(OTHER_KEY) not in bench.reader
            bench.send(block(102), REORG_COMPLETE)
            assert bench.status(V3_KEY) == "stale"
            await bench.until(lambda: set(bench.reader) == {hex_of(V2_KEY), hex_of(OTHER_KEY)})

    bench.run(live())


def test_a_reorg_that_is_taken_back_leaves_the_pool_that_leaves_to_be_removed(
    make: Callable[..., Bench],
) -> None:
    bench, _scraper = live_bench(make, V2_KEY, V3_KEY)
    bench.send(block(102, mint(V3_KEY, 1)))

    async def live() -> None:
        async with bench.live():
            bench.send(REORG_START, block(102, mint(V3_KEY, 1), revert=True))
            bench.change(removed=[V3_KEY])
            for _ in range(20):
                await asyncio.sleep(0.001)
            bench.intake.disconnected("lost")
            await bench.until(lambda: hex_of(V3_KEY) not in bench.reader)

    bench.run(live())
    assert (bench.status(V2_KEY), bench.reader.head_block) == ("live", 102)


def test_a_pool_removed_and_added_is_another_one_with_values_of_its_own(
    make: Callable[..., Bench],
) -> None:
    bench, scraper = live_bench(make, V2_KEY, V3_KEY)
    before = bench.reader[V3_KEY]
    scraper.now[V3_KEY] = values(V3_KEY, 103, 70)

    async def live() -> None:
        async with bench.live():
            bench.change(added=[V3_KEY], removed=[V3_KEY])
            await bench.until(lambda: bench.status(V3_KEY) == "syncing")
            bench.send(block(102, mint(V3_KEY, 1000)), block(103), block(104, mint(V3_KEY, 1)))
            await bench.until(lambda: bench.status(V3_KEY) == "live")

    bench.run(live())
    assert bench.amount(V3_KEY) == 71
    assert before.status == "removed"
    with pytest.raises(arena.PoolRemoved):
        before.state()


def test_a_pool_added_again_while_its_former_self_is_read_goes_live(
    make: Callable[..., Bench],
) -> None:
    bench, scraper = live_bench(make, V2_KEY, V3_KEY)

    async def live() -> None:
        async with bench.live():
            scraper.now[V3_KEY] = values(V3_KEY, 102, 500)
            is_read = threading.Event()

            def on_read(keys: list[bytes]) -> None:
                scraper.on_read = lambda keys: None
                done = threading.Event()

                def again() -> None:
                    bench.change(removed=[V3_KEY])
                    bench.change(added=[V3_KEY])
                    bench.loop.call_later(0.1, done.set)

                bench.loop.call_soon_threadsafe(again)
                assert done.wait(30)
                is_read.set()

            scraper.on_read = on_read
            bench.send(block(102, mint(V3_KEY, -1000)))
            await bench.until(is_read.is_set)
            scraper.now[V3_KEY] = values(V3_KEY, 104, 60)
            bench.send(block(103), block(104))
            await bench.until(lambda: bench.status(V3_KEY) == "live")

    bench.run(live())
    assert bench.amount(V3_KEY) == 60


def test_the_addition_of_a_known_pool_changes_nothing(make: Callable[..., Bench]) -> None:
    bench, scraper = live_bench(make, V2_KEY, V3_KEY)
    handle = bench.reader[V3_KEY]
    before = list(scraper.reads)

    async def live() -> None:
        async with bench.live():
            bench.change(added=[V3_KEY, OTHER_KEY])
            await bench.until(lambda: hex_of(OTHER_KEY) in bench.reader)
            scraper.now[OTHER_KEY] = values(OTHER_KEY, 103, 60)
            bench.send(block(102, mint(V3_KEY, 1)), block(103))
            await bench.until(lambda: bench.status(OTHER_KEY) == "live")

    bench.run(live())
    assert (handle.status, bench.amount(V3_KEY)) == ("live", 8)
    assert V3_KEY not in scraper.reads[len(before) :]


@pytest.mark.parametrize(("scraped", "used"), [(102, False), (103, True), (104, True)])
def test_values_below_the_settle_block_are_not_used(
    make: Callable[..., Bench], scraped: int, used: bool
) -> None:
    """Added at head 101: the stream may leave out the pool's events in 102 and 103."""
    bench, scraper = live_bench(make, V2_KEY)
    scraper.now[OTHER_KEY] = values(OTHER_KEY, scraped, 60)
    before = len(scraper.reads)

    async def live() -> None:
        async with bench.live():
            bench.change(added=[OTHER_KEY])
            await bench.until(lambda: hex_of(OTHER_KEY) in bench.reader)
            bench.send(block(102))
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert scraper.reads[before:] == []
            bench.send(block(103), block(104), block(105, mint(OTHER_KEY, 1)))
            if not used:
                await bench.until(lambda: scraper.reads[before:].count(OTHER_KEY) >= 2)
                assert bench.status(OTHER_KEY) == "syncing"
                scraper.now[OTHER_KEY] = values(OTHER_KEY, 103, 60)
            await bench.until(lambda: bench.status(OTHER_KEY) == "live")

    bench.run(live())
    assert bench.amount(OTHER_KEY) == 61


def test_the_settle_block_counts_from_what_was_sent_before_the_change(
    make: Callable[..., Bench],
) -> None:
    """While the connection is down, and until a block has come after it, the head is too old."""
    bench, _scraper = live_bench(make, V2_KEY)
    bench.intake.disconnected("lost")

    async def live() -> None:
        async with bench.live():
            bench.change(added=[OTHER_KEY])
            for _ in range(30):
                await asyncio.sleep(0.001)
            assert hex_of(OTHER_KEY) not in bench.reader
            bench.intake.connected()
            for _ in range(30):
                await asyncio.sleep(0.001)
            assert hex_of(OTHER_KEY) not in bench.reader

    bench.run(live())


def test_a_removal_while_its_pool_is_read_again_is_final(make: Callable[..., Bench]) -> None:
    bench, scraper = live_bench(make, V2_KEY, V3_KEY)

    async def live() -> None:
        async with bench.live():
            scraper.now[V3_KEY] = values(V3_KEY, 102, 500)
            is_read = threading.Event()

            def on_read(keys: list[bytes]) -> None:
                done = threading.Event()

                def remove() -> None:
                    bench.change(removed=[V3_KEY])
                    bench.loop.call_later(0.1, done.set)

                bench.loop.call_soon_threadsafe(remove)
                assert done.wait(30)
                is_read.set()

            scraper.on_read = on_read
            bench.send(block(102, mint(V3_KEY, -1000)))
            await bench.until(is_read.is_set)
            bench.send(block(103))
            for _ in range(50):
                await asyncio.sleep(0.001)

    bench.run(live())
    assert list(bench.reader) == [hex_of(V2_KEY)]


class EmptyChain:
    """A node in whose blocks nothing ran; those from `fork` on are others than the arena's."""

    def __init__(self, fork: int = 10**9) -> None:
        self.fork = fork

    def hash_of(self, number: int) -> bytes:
        return number.to_bytes(31, "big") + bytes([number >= self.fork])

    def head_number(self) -> int:
        return 10**6

    def headers(self, numbers: Sequence[int]) -> list[Header]:
        return [
            Header(n, self.hash_of(n), self.hash_of(n - 1), 12 * n, fee_of(n), bytes(256), 0, 0)
            for n in numbers
        ]

    def logs(self, first: int, last: int, topics: Sequence[bytes]) -> list[Log]:
        return []

    def block_logs(self, hashes: Sequence[bytes], topics: Sequence[bytes]) -> list[list[Log]]:
        return [[] for _ in hashes]


def fee_of(number: int) -> int:
    """A base fee that moves with every block, as where blocks are neither full nor empty."""
    return 1000 + number


def timed(number: int, *events: dict[str, Any]) -> np.ndarray:
    records = block(number, *events, timestamp=12 * number)
    records["flags"][0] |= lib.PSA_EVENT_HAS_BASE_FEE
    records["words"][0, 0] = fee_of(number)
    return records


def take_over(
    make: Callable[..., Bench],
    name: str,
    *,
    before: Callable[[Bench], None] = lambda bench: None,
    change: Callable[[ListScraper], None] = lambda scraper: None,
    fork: int = 10**9,
) -> tuple[Bench, ListScraper]:
    """A writer of V2_KEY (read at 100) and V3_KEY (read at 103), live at 103 and killed; another one
    that begins with `change`d sources and the stream at block 105, before its warm start."""
    scraper = ListScraper(V2_KEY, V3_KEY)
    scraper.now = {V2_KEY: values(V2_KEY, 100, 7), V3_KEY: values(V3_KEY, 103, 70)}
    first = make(scraper)
    first.send(timed(101), timed(102, sync(9)), timed(103))
    first.run(first.coordinator.cold_start())
    before(first)
    for number in (101, 102, 103):
        first.arena.note_hash(number, EmptyChain().hash_of(number))
    first.die()
    scraper.reads.clear()
    scraper.now = {key: values(key, 107, 60) for key in (V2_KEY, V3_KEY, OTHER_KEY)}
    change(scraper)
    second = make(
        scraper, arena=WriterArena.take_over(name), node=EmptyChain(fork), closes_gaps=True
    )
    second.send(timed(105))
    return second, scraper


def test_a_taken_over_arena_is_live_without_a_read(
    make: Callable[..., Bench], arena_name: str
) -> None:
    bench, scraper = take_over(make, arena_name)
    bench.run(bench.coordinator.warm_start())
    assert (bench.reader.phase, bench.reader.head_block) == ("live", 105)
    assert (bench.amount(V2_KEY), bench.amount(V3_KEY)) == (9, 70)
    assert (bench.status(V2_KEY), bench.status(V3_KEY)) == ("live", "live")
    assert scraper.reads == []


class Contradicted:
    """Played in place of Described: these pools are not what the list says."""

    def __init__(self, *keys: bytes) -> None:
        self.keys = keys

    def wrong_of(self, specs: Sequence[PoolSpec]) -> dict[bytes, PoolInvalid]:
        return {
            spec.key: PoolInvalid("fee_pips is 500, listed is 3000", key=spec.key, found="fee")
            for spec in specs
            if spec.key in self.keys
        }

    def checked(self, scrape: Scrape) -> Scrape:
        wrong = self.wrong_of([pool.spec for pool in scrape.pools])
        pools = tuple(pool for pool in scrape.pools if pool.spec.key not in wrong)
        return Scrape(pools, (*scrape.invalid, *wrong.values()))


def test_a_pool_that_the_chain_contradicts_is_not_installed(make: Callable[..., Bench]) -> None:
    bench, _ = prepared(
        make,
        {V2_KEY: values(V2_KEY, 100, 7), V3_KEY: values(V3_KEY, 100, 1000)},
        described=Contradicted(V3_KEY),
    )
    bench.send(block(101))
    metrics = bench.run(bench.coordinator.cold_start())
    assert list(bench.reader) == [hex_of(V2_KEY)]
    assert (metrics.pools_done, metrics.pools_invalid) == (1, 1)


def test_a_taken_over_pool_that_the_chain_contradicts_is_removed_before_live(
    make: Callable[..., Bench], arena_name: str
) -> None:
    bench, _scraper = take_over(make, arena_name)
    bench.coordinator._source.described = Contradicted(V3_KEY)  # type: ignore[assignment]
    bench.run(bench.coordinator.warm_start())
    assert bench.reader.phase == "live"
    assert list(bench.reader) == [hex_of(V2_KEY)]


def test_a_pool_gone_from_the_list_is_removed_before_a_taken_over_arena_goes_live(
    make: Callable[..., Bench], arena_name: str
) -> None:
    bench, scraper = take_over(make, arena_name, change=lambda scraper: scraper.keys.remove(V3_KEY))
    bench.run(bench.coordinator.warm_start())
    assert list(bench.reader) == [hex_of(V2_KEY)]
    assert (bench.status(V2_KEY), scraper.reads) == ("live", [])


def test_a_removal_told_while_a_writer_takes_over_comes_before_the_gap_is_closed(
    make: Callable[..., Bench], arena_name: str
) -> None:
    bench, scraper = take_over(make, arena_name)
    bench.change(removed=[V3_KEY])
    bench.run(bench.coordinator.warm_start())
    assert list(bench.reader) == [hex_of(V2_KEY)]
    assert (bench.status(V2_KEY), scraper.reads) == ("live", [])


@pytest.mark.parametrize("what", ["new", "changed", "announced"])
def test_a_pool_without_values_in_a_taken_over_arena_is_read_above_its_settle_block(
    make: Callable[..., Bench], arena_name: str, what: str
) -> None:
    """New in the list, described otherwise than before, or announced by the former writer."""
    key = V3_KEY if what == "changed" else OTHER_KEY

    def before(bench: Bench) -> None:
        if what == "announced":
            bench.arena.announce(bench.arena.add_pool(spec(OTHER_KEY)))
            bench.arena.commit()

    def change(scraper: ListScraper) -> None:
        if what == "changed":
            scraper.fees[V3_KEY] = 500
        else:
            scraper.keys.append(OTHER_KEY)
        scraper.now[key] = values(key, 106, 60)

    bench, scraper = take_over(make, arena_name, before=before, change=change)

    async def live() -> None:
        await bench.coordinator.warm_start()
        assert bench.status(V2_KEY) == "live"
        async with bench.live():
            await bench.until(lambda: bench.coordinator._roster._settle.get(key) == 107)
            assert bench.status(key) == "syncing"
            bench.send(timed(106), timed(107))
            await bench.until(lambda: scraper.reads.count(key) >= 2)
            assert bench.status(key) == "syncing", "106 is below the settle block"
            scraper.now[key] = values(key, 107, 61)
            await bench.until(lambda: bench.status(key) == "live")

    bench.run(live())
    assert bench.amount(key) == 61
    assert bench.intake.members.pools()[key].fee_pips == (500 if what == "changed" else 3000)
    assert set(scraper.reads) == {key}


def assert_v3_is_read_again_alone(bench: Bench, scraper: ListScraper) -> None:
    """After a warm start that leaves it stale."""

    async def live() -> None:
        await bench.coordinator.warm_start()
        assert (bench.reader.phase, bench.reader.head_block) == ("live", 105)
        assert (bench.status(V2_KEY), bench.status(V3_KEY)) == ("live", "stale")
        async with bench.live():
            bench.send(timed(106), timed(107))
            await bench.until(lambda: bench.status(V3_KEY) == "live")

    bench.run(live())
    assert (bench.amount(V2_KEY), bench.amount(V3_KEY)) == (9, 60)
    assert set(scraper.reads) == {V3_KEY}


def test_a_stale_pool_of_a_taken_over_arena_is_read_again_alone(
    make: Callable[..., Bench], arena_name: str
) -> None:
    def before(bench: Bench) -> None:
        bench.arena.set_status(
            bench.arena.pools()[V3_KEY], lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL
        )
        bench.arena.commit()

    bench, scraper = take_over(make, arena_name, before=before)
    assert_v3_is_read_again_alone(bench, scraper)


def test_pools_read_above_the_ancestor_go_stale_when_the_head_was_orphaned_meanwhile(
    make: Callable[..., Bench], arena_name: str
) -> None:
    """Block 103 is turned back without its events, and V3_KEY's values are of it."""
    bench, scraper = take_over(make, arena_name, fork=103)
    assert_v3_is_read_again_alone(bench, scraper)


def test_pools_of_a_join_that_failed_are_stale_for_the_next_writer(
    make: Callable[..., Bench], arena_name: str
) -> None:
    """They were read at blocks the head has nothing to do with."""
    bench, scraper = live_bench(make, V2_KEY, V3_KEY)
    bench.send(block(105))

    async def fail() -> None:
        scraper.now = {V2_KEY: values(V2_KEY, 104, 50), V3_KEY: Scraper("gone")}
        resync = asyncio.ensure_future(bench.coordinator.resync())
        await bench.until(lambda: bench.reader.phase_reason.startswith("Scraper"))
        assert bench.amount(V2_KEY) == 50, "it was installed"
        resync.cancel()
        await asyncio.gather(resync, return_exceptions=True)

    bench.run(fail())
    bench.die()
    found = WriterArena.take_over(arena_name)
    stale, there = set(found.slots_with(lib.PSA_STATUS_STALE)), set(found.pools().values())
    found.close(unlink=True)
    assert stale == there


def test_a_hash_learned_behind_a_gap_is_no_copys(
    make: Callable[..., Bench], arena_name: str
) -> None:
    """The gap turns block 103 back, and another block 103 takes its place."""
    bench, _ = prepared(
        make, {V2_KEY: values(V2_KEY, 100, 7)}, node=EmptyChain(fork=103), closes_gaps=True
    )
    bench.send(timed(101), timed(102), timed(103))
    bench.run(bench.coordinator.cold_start())
    branch = bench.coordinator._branch
    assert branch is not None
    mark = bench.intake.buffer.mark()
    branch.witnesses = [Witness(n, EmptyChain().hash_of(n), mark) for n in (101, 102, 103)]
    copied = bench.intake.members.image()
    assert copied is not None
    moment, head, _image = copied
    assert (head, len(bench.intake.standing.valid_at(moment, branch.witnesses))) == (103, 3)
    bench.send(timed(105))
    bench.run(bench.coordinator.resync())
    known = bench.coordinator.hash_of(103)
    assert known is not None
    assert known.hash == EmptyChain(fork=103).hash_of(103)
    assert bench.intake.standing.valid_at(moment, [known]) == []


def test_a_hash_learned_without_a_pool_is_not_that_of_a_copy_that_has_it(
    make: Callable[..., Bench],
) -> None:
    bench, scraper = live_bench(make, V2_KEY, V3_KEY, node=EmptyChain(), closes_gaps=True)
    bench.send(timed(102, mint(V3_KEY, 5)))
    branch = bench.coordinator._branch
    before = bench.intake.members.sample(9, [])
    copied = bench.intake.members.image()

    async def learn() -> list[Witness]:
        mark = bench.intake.buffer.mark()
        branch.witnesses = [Witness(101, EmptyChain().hash_of(101), mark)]
        await bench.coordinator._watch.witness(branch)
        return branch.witnesses

    assert [each.number for each in bench.run(learn())] == [101], "the node's 102 has no mint"
    bench.run(bench.coordinator._membership._remove([V3_KEY]))
    known = bench.run(learn())
    assert [each.number for each in known] == [101, 102]
    for moment in (before[0], copied[0]):
        assert bench.intake.standing.valid_at(moment, known) == []
    assert bench.intake.standing.valid_at(bench.intake.members.sample(9, [])[0], known) == known
    # An added pool is not compared in the block it was read at either.
    scraper.now[OTHER_KEY] = values(OTHER_KEY, 104, 60)

    async def live() -> None:
        async with bench.live():
            await add_other(bench, timed(103), timed(104))
        assert (
            bench.intake.members.sample(9, [OTHER_KEY])[2].keys(),
            bench.intake.members.image(),
        ) == (
            {V2_KEY},
            None,
        )
        bench.send(timed(105))
        assert bench.intake.members.sample(9, [OTHER_KEY])[2].keys() == {V2_KEY, OTHER_KEY}
        assert bench.intake.members.image() is not None

    bench.run(live())


async def close_a_gap(bench: Bench) -> None:
    """Block 105 is missing; the hashes of those before it are known."""
    branch = bench.coordinator._branch
    assert branch is not None
    mark = bench.intake.buffer.mark()
    branch.witnesses = [Witness(n, EmptyChain().hash_of(n), mark) for n in (102, 103, 104)]
    bench.send(timed(106))
    await bench.coordinator.resync()


def test_a_late_pool_goes_stale_when_a_gap_turns_back_blocks_it_was_read_above(
    make: Callable[..., Bench],
) -> None:
    """The stream may have left out its events in them, so that they cannot be turned back."""
    bench, scraper = live_bench(make, V2_KEY, node=EmptyChain(fork=103), closes_gaps=True)
    scraper.now[OTHER_KEY] = values(OTHER_KEY, 104, 60)

    async def live() -> None:
        async with bench.live():
            await add_other(bench, timed(102), timed(103), timed(104))
        await close_a_gap(bench)

    bench.run(live())
    assert (bench.status(V2_KEY), bench.status(OTHER_KEY)) == ("live", "stale")
    assert bench.reader.head_block == 106


def test_a_doubted_pool_goes_stale_when_a_gap_turns_back_the_block_in_doubt(
    make: Callable[..., Bench],
) -> None:
    """What the block changed was read above it and is in no event that could be turned back."""
    chain = EmptyChain(fork=103)
    bench, scraper = live_bench(make, V2_KEY, V3_KEY, node=chain, closes_gaps=True)

    async def live() -> None:
        async with bench.live():
            bench.send(timed(102))
            await bench.coordinator.doubt([V3_KEY], 103)
            scraper.now[V3_KEY] = values(V3_KEY, 104, 9)
            bench.send(timed(103), timed(104))
            await bench.until(lambda: bench.status(V3_KEY) == "live")
        await close_a_gap(bench)

    bench.run(live())
    assert (bench.status(V2_KEY), bench.status(V3_KEY)) == ("live", "stale")


def test_a_block_that_came_again_is_compared_with_all_its_pools(make: Callable[..., Bench]) -> None:
    """The stream may have left out an added pool's events in the first block of that number only."""
    bench, scraper = live_bench(make, V2_KEY, node=EmptyChain(), closes_gaps=True)
    scraper.now[OTHER_KEY] = values(OTHER_KEY, 104, 60)

    async def witnessed() -> list[int]:
        branch = bench.coordinator._branch
        branch.witnesses = [Witness(101, EmptyChain().hash_of(101), bench.intake.buffer.mark())]
        await bench.coordinator._watch.witness(branch)
        return [each.number for each in branch.witnesses]

    async def live() -> None:
        async with bench.live():
            bench.change(added=[OTHER_KEY])
            await bench.until(lambda: hex_of(OTHER_KEY) in bench.reader)
            assert bench.intake.standing.late_now == {OTHER_KEY: NOT_YET}
            bench.send(timed(102), timed(103), timed(104))
            await bench.until(lambda: bench.status(OTHER_KEY) == "live")
        assert bench.intake.standing.late_now == {OTHER_KEY: 104}
        assert await witnessed() == [101, 102, 103, 104]
        reverts = [block(n, revert=True) for n in (104, 103)]
        bench.send(
            REORG_START, *reverts, timed(103, mint(OTHER_KEY, 5)), timed(104), REORG_COMPLETE
        )
        assert bench.intake.standing.late_now == {OTHER_KEY: 102}
        assert await witnessed() == [101, 102]
        bench.send(REORG_START, *reverts, block(102, revert=True))
        assert bench.intake.standing.late_now == {OTHER_KEY: 101}
        bench.intake.disconnected("the reorg is taken back")
        assert bench.intake.standing.late_now == {OTHER_KEY: 102}
        # After a gap all blocks come with its events.
        bench.intake.connected()
        bench.send(timed(110))
        assert bench.intake.standing.late_now == {}
        bench.intake.gap.give_up("to read everything anew")
        scraper.now = {key: values(key, 110, 60) for key in (V2_KEY, OTHER_KEY)}
        await bench.coordinator.resync()
        assert bench.intake.stage.is_live
        assert bench.intake.standing.late_now == {}

    bench.run(live())


def test_an_added_pool_is_never_read_again_below_its_settle_block(
    make: Callable[..., Bench],
) -> None:
    """Blocks kept from before lack its events; a source that trails may show it there."""
    bench, scraper = live_bench(make, V2_KEY)
    scraper.now[OTHER_KEY] = values(OTHER_KEY, 103, 60)

    async def live() -> None:
        async with bench.live():
            await add_other(bench, block(102), block(103), block(104))
            before = len(scraper.reads)
            scraper.now[OTHER_KEY] = values(OTHER_KEY, 102, 50)
            bench.send(block(105, mint(OTHER_KEY, -1000)), block(105, revert=True))
            bench.send(block(105, mint(OTHER_KEY, 1)))
            await bench.until(lambda: len(scraper.reads) >= before + 2)
            assert bench.status(OTHER_KEY) == "stale"
            scraper.now[OTHER_KEY] = values(OTHER_KEY, 103, 60)
            await bench.until(lambda: bench.status(OTHER_KEY) == "live")

    bench.run(live())
    assert bench.amount(OTHER_KEY) == 61


class ForkedNode:
    """A node of a chain with equal fees and times on both its branches, A and B, which part at block
    `fork`; it is on `branch` just now. `events`: (branch, block) -> logs. The fee stands still, or
    `moves` with every block, as where the branches' blocks are full, or of the same transactions."""

    moves = False

    def __init__(self, fork: int, tip: int, branch: str = "B") -> None:
        self.fork, self.tip, self.branch = fork, tip, branch
        self.events: dict[tuple[str, int], list[Log]] = {}

    def hash_of(self, number: int, branch: str) -> bytes:
        mark = branch if number >= self.fork else "-"
        return number.to_bytes(31, "big") + mark.encode()

    def head_number(self) -> int:
        return self.tip

    def headers(self, numbers: Sequence[int]) -> list[Header | None]:
        return [self._header(n, self.branch) if n <= self.tip else None for n in numbers]

    def _header(self, number: int, on: str) -> Header:
        logs = self._logs(number, on)
        fee = fee_of(number) if self.moves else 7
        known = self.hash_of(number, on), self.hash_of(number - 1, on), 1000 + number // 4, fee
        bloom = bloom_of(logs).to_bytes(256, "big")
        return Header(number, *known, bloom, min(1, len(logs)), 21000 * len(logs))

    def logs(self, first: int, last: int, topics: Sequence[bytes]) -> list[Log]:
        return [log for n in range(first, last + 1) for log in self._logs(n, self.branch)]

    def _logs(self, number: int, branch: str) -> list[Log]:
        return self.events.get((branch if number >= self.fork else "-", number), [])

    def block_logs(self, hashes: Sequence[bytes], topics: Sequence[bytes]) -> list[list[Log]]:
        return [self._logs(int.from_bytes(each[:31], "big"), chr(each[31])) for each in hashes]

    def receipts(self, hashes: Sequence[bytes]) -> list[Receipts]:
        return [Receipts(min(1, len(logs)), None, logs) for logs in self.block_logs(hashes, ())]

    def sync(self, number: int, branch: str, amount: int) -> None:
        """V2 Sync in that block."""
        data = amount.to_bytes(32, "big") + (1).to_bytes(32, "big")
        block_hash = self.hash_of(number, branch)
        logs = self.events.setdefault((block_hash[31:].decode(), number), [])
        logs.append(Log(V2_KEY, (V2_SYNC,), data, number, block_hash, 0, len(logs)))


class NodeScraper(ListScraper):
    """Reads amounts (branch -> amount) of the node's newest block."""

    def __init__(self, node: ForkedNode, *keys: bytes, **amounts: int) -> None:
        super().__init__(*keys)
        self.node, self.amounts = node, amounts

    def read_pools(self, keys: Sequence[bytes]) -> Scrape:
        on, tip = self.node.branch, self.node.tip
        self.now = {key: values(key, tip, self.amounts[on]) for key in self.keys}
        found = super().read_pools(keys)
        block_hash = self.node.hash_of(tip, on)
        return replace(found, pools=tuple(replace(p, block_hash=block_hash) for p in found.pools))


def fixed(number: int, *events: dict[str, Any], fee: int = 7) -> np.ndarray:
    """A block of a chain with four blocks a second."""
    records = block(number, *events, timestamp=1000 + number // 4)
    records["flags"][0] |= lib.PSA_EVENT_HAS_BASE_FEE
    records["words"][0, 0] = fee
    return records


def forked(
    make: Callable[..., Bench],
    *keys: bytes,
    fork: int,
    branch: str = "B",
    unsure_s: float = 1e9,
    gap_timeout_s: float = 1.0,
) -> tuple[Bench, ForkedNode]:
    """Pools with 5 on branch A, which is the stream's, and 6 on B; the stream begins at block 101."""
    node = ForkedNode(fork, tip=101, branch=branch)
    scraper = NodeScraper(node, *keys, A=5, B=6)
    more: dict[str, Any] = {"unsure_s": unsure_s, "gap_timeout_s": gap_timeout_s}
    more["witness_pause_s"] = 0.005
    bench = make(scraper, node=node, closes_gaps=True, **more)
    bench.send(fixed(101))
    return bench, node


async def go_on(
    bench: Bench, node: ForkedNode, *events: dict[str, Any], look: Callable[[], None] | None = None
) -> None:
    """One more block of the stream, and of the node."""
    node.tip += 1
    bench.send(fixed(node.tip, *events, fee=fee_of(node.tip) if node.moves else 7))
    for _ in range(6):
        await asyncio.sleep(0.005)
        if look is not None:
            look()


KEYS = ((V2_KEY,), (V3_KEY,), (V2_KEY, V3_KEY, OTHER_KEY))


def are_live(bench: Bench, keys: Sequence[bytes]) -> bool:
    return bench.reader.phase == "live" and {bench.status(key) for key in keys} == {"live"}


@pytest.mark.parametrize("keys", KEYS)
def test_pools_read_on_another_branch_that_looks_the_same_are_read_again(
    make: Callable[..., Bench], keys: tuple[bytes, ...]
) -> None:
    """Nothing tells the branches apart but the hash, and the node comes round."""
    bench, node = forked(make, *keys, fork=100)

    async def scenario() -> None:
        start = asyncio.ensure_future(bench.coordinator.cold_start())
        for _ in range(UNSURE_BLOCKS - 4):
            await go_on(bench, node)
        assert not start.done(), "too little speaks for it"
        assert "nothing shows yet" in bench.reader.phase_reason
        while not start.done():
            await go_on(bench, node)
        await start
        async with bench.live():
            node.branch = "A"
            while {bench.amount(key) for key in keys} != {5} or not are_live(bench, keys):
                await go_on(bench, node)

    bench.run(scenario())


@pytest.mark.parametrize("keys", [KEYS[0], pytest.param(KEYS[2], marks=pytest.mark.slow)])
def test_while_events_differ_no_pool_goes_live(
    make: Callable[..., Bench], keys: tuple[bytes, ...]
) -> None:
    """Node and stream stay apart for longer than any number of blocks counts as agreement."""
    bench, node = forked(make, *keys, fork=100)

    def look() -> None:
        assert not any(
            bench.status(key) == "live" and bench.amount(key) != 5
            for key in keys
            if bench.reader.phase == "live"
        )

    async def scenario() -> None:
        node.sync(103, "A", 5)
        node.sync(104, "B", 6)
        start = asyncio.ensure_future(bench.coordinator.cold_start())
        await go_on(bench, node)
        await go_on(bench, node, sync(5), look=look)
        for _ in range(2 * UNSURE_BLOCKS):
            await go_on(bench, node, look=look)
        assert not start.done()
        node.branch = "A"
        while not start.done():
            await go_on(bench, node, look=look)
        await start
        assert are_live(bench, keys)
        assert {bench.amount(key) for key in keys} == {5}

    bench.run(scenario())


def live_before_the_fork(
    make: Callable[..., Bench], keys: tuple[bytes, ...]
) -> tuple[Bench, ForkedNode, Callable[[], Awaitable[None]]]:
    """Live on what both branches have, with hashes known."""
    bench, node = forked(make, *keys, fork=140, branch="A")

    async def start() -> None:
        for number in (102, 104):
            node.sync(number, "A", 5)
        starting = asyncio.ensure_future(bench.coordinator.cold_start())
        await go_on(bench, node, sync(5))
        await go_on(bench, node)
        await go_on(bench, node, sync(5))
        await starting

    return bench, node, start


async def end_on_a(bench: Bench, node: ForkedNode, keys: Sequence[bytes]) -> None:
    for _ in range(4 * UNSURE_BLOCKS):
        await go_on(bench, node)
    assert bench.amount(V2_KEY) == 5
    assert are_live(bench, keys)


@pytest.mark.slow
@pytest.mark.parametrize("is_seen", [False, True])
def test_a_gap_closed_on_another_branch_is_found_when_the_node_comes_round(
    make: Callable[..., Bench], is_seen: bool
) -> None:
    """The stream loses blocks 140 to 142 while the node is on B; events differ later (`is_seen`), or
    only in what was lost."""
    keys = (V2_KEY, V3_KEY)
    bench, node, start = live_before_the_fork(make, keys)

    async def scenario() -> None:
        await start()
        async with bench.live():
            while node.tip < 139 or not bench.coordinator.known():
                await go_on(bench, node)
            node.branch = "B"
            node.sync(141, "A", 5)
            node.sync(141, "B", 6)
            if is_seen:
                node.sync(144, "B", 7)
            node.tip = 142
            await go_on(bench, node)
            assert not are_live(bench, keys), "the blocks before it are missing"
            for _ in range(UNSURE_BLOCKS - 4):
                await go_on(bench, node)
                assert not are_live(bench, keys)
            for _ in range(UNSURE_BLOCKS if is_seen else 0):
                await go_on(bench, node)
                assert not are_live(bench, keys)
            node.branch = "A"
            bench.coordinator._source.scraper.amounts["A"] = 5
            await end_on_a(bench, node, keys)

    bench.run(scenario())


@pytest.mark.slow
def test_a_gap_that_went_live_on_another_branch_is_closed_again_when_the_node_comes_round(
    make: Callable[..., Bench],
) -> None:
    """The blocks of B that are kept do not speak against the node for good."""
    keys = (V2_KEY, V3_KEY)
    bench, node, start = live_before_the_fork(make, keys)

    async def scenario() -> None:
        await start()
        async with bench.live():
            while node.tip < 139 or not bench.coordinator.known():
                await go_on(bench, node)
            node.sync(141, "A", 5)
            node.sync(141, "B", 6)
            node.tip, node.branch = 142, "B"
            await go_on(bench, node)
            while bench.amount(V2_KEY) != 6 or not are_live(bench, keys):
                await go_on(bench, node)
            node.branch = "A"
            await end_on_a(bench, node, keys)

    bench.run(scenario())


async def start_on_other_branch(bench: Bench, node: ForkedNode) -> None:
    """Blocks 106 to 110 are lost while pools are read, the node is on B by then: live with B's."""
    node.sync(110, "A", 5)
    node.sync(110, "B", 6)
    start = asyncio.ensure_future(bench.coordinator.cold_start())
    while node.tip < 105:
        await go_on(bench, node)
    assert not start.done()
    node.tip, node.branch = 110, "B"
    await go_on(bench, node)
    while not start.done():
        await go_on(bench, node)
    await start
    assert bench.amount(V2_KEY) == 6
    assert are_live(bench, (V2_KEY, V3_KEY))


@pytest.mark.slow
def test_a_start_that_lost_blocks_on_another_branch_is_found_when_the_node_comes_round(
    make: Callable[..., Bench],
) -> None:
    """The pools' own block is one of both branches: what they rest on was fetched from B."""
    keys = (V2_KEY, V3_KEY)
    bench, node = forked(make, *keys, fork=106, branch="A")

    async def scenario() -> None:
        await start_on_other_branch(bench, node)
        async with bench.live():
            for _ in range(UNSURE_BLOCKS):
                await go_on(bench, node)
            assert are_live(bench, keys), "nothing tells the branches apart"
            node.branch = "A"
            await end_on_a(bench, node, keys)

    bench.run(scenario())


@pytest.mark.parametrize("is_lost", [pytest.param(True, marks=pytest.mark.slow), False])
def test_pools_that_rest_on_an_unproven_block_are_doubted_while_node_and_stream_differ(
    make: Callable[..., Bench], is_lost: bool
) -> None:
    """The node stays on B, and a later block shows it: what was fetched (`is_lost`) or read there
    may be of B."""
    keys = (V2_KEY, V3_KEY)
    fork = 106 if is_lost else 100
    bench, node = forked(make, *keys, fork=fork, branch="A" if is_lost else "B", unsure_s=0.3)

    async def scenario() -> None:
        if is_lost:
            await start_on_other_branch(bench, node)
        else:
            start = asyncio.ensure_future(bench.coordinator.cold_start())
            while not start.done():
                await go_on(bench, node)
            assert bench.amount(V2_KEY) == 6
            assert are_live(bench, keys)
        async with bench.live():
            node.sync(node.tip + 1, "B", 7)
            while bench.status(V2_KEY) == "live" and bench.reader.phase == "live":
                await go_on(bench, node)
            for _ in range(UNSURE_BLOCKS):
                await go_on(bench, node)
                assert bench.status(V2_KEY) != "live" or bench.reader.phase != "live"
            node.branch = "A"
            while bench.amount(V2_KEY) != 5 or not are_live(bench, keys):
                await go_on(bench, node)

    bench.run(scenario())


@pytest.mark.slow
def test_blocks_fetched_from_the_node_prove_nothing_of_it(make: Callable[..., Bench]) -> None:
    """The node agrees with its own blocks, events and all."""
    bench, node = forked(make, V2_KEY, V3_KEY, fork=106, branch="A")

    async def scenario() -> None:
        for number in (106, 107, 108):
            node.sync(number, "B", 6)
        await start_on_other_branch(bench, node)
        async with bench.live():
            for _ in range(UNSURE_BLOCKS // 2):
                await go_on(bench, node)
            assert not bench.coordinator._branch.agreement.is_proven
            node.branch = "A"
            for _ in range(4 * UNSURE_BLOCKS):
                await go_on(bench, node)
            assert bench.amount(V2_KEY) == 5
            assert are_live(bench, (V2_KEY, V3_KEY))

    bench.run(scenario())


def test_doubts_outlive_a_reorg_that_is_taken_back(make: Callable[..., Bench]) -> None:
    bench, _ = live_bench(make, V2_KEY)
    bench.send(block(102), REORG_START, block(102, revert=True))
    assert not bench.intake.members.suspect([V2_KEY]), "to be told again"
    bench.intake.disconnected("the rest never comes")
    assert bench.status(V2_KEY) == "live"
    assert bench.intake.members.suspect([V2_KEY])
    assert bench.status(V2_KEY) == "stale"


async def comes_round(bench: Bench, node: ForkedNode, keys: Sequence[bytes]) -> None:
    """B's values are live; then the node is on A, and they are for a few blocks more at the most."""
    assert {bench.amount(key) for key in keys} == {6}
    node.branch = "A"
    for _ in range(4):
        await go_on(bench, node)
    assert not are_live(bench, keys) or {bench.amount(key) for key in keys} == {5}
    while {bench.amount(key) for key in keys} != {5} or not are_live(bench, keys):
        await go_on(bench, node)


@pytest.mark.parametrize("proof", ["fees", "events"])
@pytest.mark.parametrize("apart", [0, pytest.param(70, marks=pytest.mark.slow)])
def test_a_start_on_another_branch_that_seemed_proven_is_found_when_the_node_comes_round(
    make: Callable[..., Bench], proof: str, apart: int
) -> None:
    """Fees, or events of another pool, are alike in the blocks of both branches, for `apart` blocks."""
    keys = (V3_KEY,)
    bench, node = forked(make, V3_KEY, V2_KEY, fork=100)
    node.moves = proof == "fees"

    def events() -> list[dict[str, Any]]:
        if proof == "fees":
            return []
        for branch in "AB":
            node.sync(node.tip + 1, branch, 6)
        return [sync(6)]

    async def scenario() -> None:
        if node.moves:
            bench.intake.drop_buffer()
        start = asyncio.ensure_future(bench.coordinator.cold_start())
        while not start.done():
            await go_on(bench, node, *events())
        await start
        assert node.tip < 100 + UNSURE_BLOCKS, "not because there was nothing against it"
        async with bench.live():
            for _ in range(apart):
                await go_on(bench, node, *events())
            await comes_round(bench, node, keys)

    bench.run(scenario())


@pytest.mark.parametrize(
    "what",
    [
        "gap",
        *(pytest.param(what, marks=pytest.mark.slow) for what in ("stale", "added", "restart")),
    ],
)
def test_what_a_live_writer_took_from_another_branch_that_seemed_proven_is_found(
    make: Callable[..., Bench], arena_name: str, what: str
) -> None:
    """Read again, added, fetched for a gap, or held by a former writer; fees move alike on both."""
    bench, node = forked(make, V2_KEY, fork=110, branch="A")
    node.moves = True
    node.sync(110, "A", 5)
    node.sync(110, "B", 6)
    key = OTHER_KEY if what == "added" else V2_KEY

    async def scenario() -> None:
        bench.intake.drop_buffer()
        start = asyncio.ensure_future(bench.coordinator.cold_start())
        while not start.done():
            await go_on(bench, node)
        await start
        async with bench.live():
            while node.tip < 109 or not bench.coordinator.known():
                await go_on(bench, node)
            node.branch = "B"
            if what == "gap":
                node.tip = 111
            elif what == "added":
                bench.coordinator._source.scraper.keys.append(key)
                bench.change(added=[key])
                await go_on(bench, node, sync(5))
            else:
                await go_on(bench, node, sync(5))
                await go_on(bench, node)
                bench.intake.members.suspect([key])
            while bench.status(key) != "live" or bench.amount(key) != 6:
                await go_on(bench, node)
            if what != "restart":
                await comes_round(bench, node, [key])
                return
            read = node.tip
            while bench.coordinator.known()[-1].number < read:
                await go_on(bench, node)

    async def next_writer(bench: Bench) -> None:
        await bench.coordinator.warm_start()
        assert are_live(bench, [key])
        async with bench.live():
            await comes_round(bench, node, [key])

    bench.run(scenario())
    if what == "restart":
        bench.die()
        more: dict[str, Any] = {"gap_timeout_s": 1.0, "witness_pause_s": 0.005}
        held = WriterArena.take_over(arena_name)
        scraper = bench.coordinator._source.scraper
        second = make(scraper, arena=held, node=node, closes_gaps=True, **more)
        second.send(fixed(node.tip + 1, fee=fee_of(node.tip + 1)))
        node.tip += 1
        second.run(next_writer(second))


def test_values_read_on_another_branch_are_found_when_the_stream_comes_round(
    make: Callable[..., Bench],
) -> None:
    """It reverts blocks of A, whose mint the values of B never had."""
    bench, node = forked(make, V3_KEY, fork=100)
    node.moves = True

    def chain(*events: dict[str, Any]) -> list[np.ndarray]:
        """Blocks of one branch, from the first on."""
        numbers = range(102, node.tip + 1)
        return [fixed(n, *(events if n == 102 else ()), fee=fee_of(n)) for n in numbers]

    async def scenario() -> None:
        bench.intake.drop_buffer()
        start = asyncio.ensure_future(bench.coordinator.cold_start())
        await go_on(bench, node, mint(V3_KEY, 3))
        while not start.done():
            await go_on(bench, node)
        await start
        assert bench.amount(V3_KEY) == 6
        async with bench.live():
            reverted = chain(mint(V3_KEY, 3))[::-1]
            for records in reverted:
                records["flags"] |= lib.PSA_EVENT_IS_REVERT
            bench.send(REORG_START, *reverted, *chain(), REORG_COMPLETE)
            for _ in range(4):
                await go_on(bench, node)
            while not are_live(bench, [V3_KEY]):
                await go_on(bench, node)
            assert bench.amount(V3_KEY) == 6

    bench.run(scenario())


def test_events_speak_against_fees_that_are_alike(make: Callable[..., Bench]) -> None:
    """The pair was synced on B where the stream synced it otherwise, below the block it is read at."""
    bench, node = forked(make, V2_KEY, fork=102, gap_timeout_s=1e9)
    node.moves = True

    async def scenario() -> None:
        bench.intake.drop_buffer()
        for branch, amount in ("A", 5), ("B", 6):
            node.sync(102, branch, amount)
        await go_on(bench, node, sync(5))
        await go_on(bench, node)
        start = asyncio.ensure_future(bench.coordinator.cold_start())
        for _ in range(UNSURE_BLOCKS):
            await go_on(bench, node)
            assert not start.done()
        node.branch = "A"
        while not start.done():
            await go_on(bench, node)
        await start
        assert bench.amount(V2_KEY) == 5

    bench.run(scenario())


def undivided(make: Callable[..., Bench], *, moves: bool = True) -> tuple[Bench, ForkedNode]:
    """A pair and a pool with 5 on the only branch."""
    bench, node = forked(make, V2_KEY, V3_KEY, fork=10**6, branch="-")
    node.moves = moves
    bench.coordinator._source.scraper.amounts["-"] = 5
    return bench, node


async def go_live(bench: Bench, node: ForkedNode) -> None:
    """From the next block on."""
    bench.intake.drop_buffer()
    start = asyncio.ensure_future(bench.coordinator.cold_start())
    while not start.done():
        await go_on(bench, node)
    await start


async def until_known(bench: Bench, node: ForkedNode) -> None:
    """Until a block's hash is."""
    while not bench.coordinator.known():
        await go_on(bench, node)


@pytest.mark.parametrize("side", ["stream", "node"])
@pytest.mark.parametrize("moves", [True, False], ids=["fees move", "fees stand"])
def test_events_that_one_side_lacks_make_their_pool_stale_until_it_is_read_anew(
    make: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    side: str,
    moves: bool,
) -> None:
    """No other pool, and what is compared goes on behind that block."""
    monkeypatch.setattr("arena.writer.sync.apart.DISPUTED_S", 0.05)
    bench, node = undivided(make, moves=moves)

    async def scenario() -> None:
        await go_live(bench, node)
        async with bench.live():
            await until_known(bench, node)
            if side == "stream":
                node.sync(node.tip + 1, "-", 9)
                bench.coordinator._source.scraper.amounts["-"] = 9
            await go_on(bench, node, *([sync(9)] if side == "node" else []))
            disputed = node.tip
            while "event=events_disputed" not in caplog.text:
                await go_on(bench, node)
                assert bench.status(V3_KEY) == "live"
            amount = 9 if side == "stream" else 5
            known: Sequence[Witness] = ()
            while not (known and known[-1].number > disputed and are_live(bench, (V2_KEY,))):
                node.sync(node.tip + 1, "-", amount)
                await go_on(bench, node, sync(amount))
                assert bench.status(V3_KEY) == "live"
                known = bench.coordinator.known()
            assert bench.amount(V2_KEY) == amount

    bench.run(scenario())
    assert caplog.text.count("event=events_disputed") == 1
    assert "pools=1 " in caplog.text


async def burst(bench: Bench, node: ForkedNode, blocks: int) -> None:
    """As go_on with so many blocks at once."""
    for _ in range(blocks - 1):
        node.tip += 1
        bench.send(fixed(node.tip, fee=fee_of(node.tip) if node.moves else 7))
    await go_on(bench, node)


@pytest.mark.parametrize("moves", [True, False], ids=["fees move", "fees stand"])
def test_no_block_is_left_out_of_the_comparison_however_fast_they_come(
    make: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    moves: bool,
) -> None:
    """More come between two looks than are looked at in one go, and while one block is in dispute."""
    monkeypatch.setattr("arena.writer.sync.apart.DISPUTED_S", 0.2)
    bench, node = undivided(make, moves=moves)

    async def scenario() -> None:
        await go_live(bench, node)
        async with bench.live():
            await until_known(bench, node)
            node.sync(node.tip + 1, "-", 9)
            await burst(bench, node, 100)
            for _ in range(60):
                await burst(bench, node, 10)
            assert "event=events_disputed" in caplog.text
            bench.coordinator._source.scraper.amounts["-"] = 9
            limit = time.monotonic() + 10.0
            while bench.coordinator.known()[-1].number < node.tip - 64:
                assert time.monotonic() < limit
                node.sync(node.tip + 1, "-", 9)
                await go_on(bench, node, sync(9))

    bench.run(scenario())


def test_a_dispute_that_the_node_never_settles_has_its_pool_read_anew(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It tells logs by number, as the comparison asks, and by hash none."""
    monkeypatch.setattr("arena.writer.sync.apart.DISPUTED_S", 0.05)
    monkeypatch.setattr("arena.writer.sync.apart.UNSETTLED_S", 0.2)
    bench, node = undivided(make)

    def refuse(*_: Any) -> bool:
        raise NodeBehind("not to be told", block=0)

    async def scenario() -> None:
        await go_live(bench, node)
        async with bench.live():
            await until_known(bench, node)
            monkeypatch.setattr("arena.writer.sync.trail.Differing.lasts", refuse)
            node.sync(node.tip + 1, "-", 9)
            limit = time.monotonic() + 10.0
            bench.coordinator._source.scraper.amounts["-"] = 9
            while "event=events_disputed" not in caplog.text or bench.amount(V2_KEY) != 9:
                assert time.monotonic() < limit
                await go_on(bench, node)
                assert bench.status(V3_KEY) == "live"

    bench.run(scenario())


def test_a_pool_whose_events_the_stream_does_not_bring_stays_stale(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once it was in dispute, it is again with its next event."""
    monkeypatch.setattr("arena.writer.sync.apart.DISPUTED_S", 0.05)
    monkeypatch.setattr("arena.writer.sync.apart.KNOWN_S", 0.02)
    bench, node = undivided(make)
    amounts = bench.coordinator._source.scraper.amounts

    async def unsent() -> None:
        amounts["-"] += 1
        node.sync(node.tip + 1, "-", amounts["-"])
        await go_on(bench, node)
        assert bench.status(V3_KEY) == "live"

    async def scenario() -> None:
        await go_live(bench, node)
        async with bench.live():
            while "event=events_disputed" not in caplog.text:
                await unsent()
            monkeypatch.setattr("arena.writer.sync.apart.DISPUTED_S", 1e9)
            for _ in range(50):
                await unsent()
                assert bench.status(V2_KEY) == "stale"
            assert bench.coordinator.known()[-1].number > node.tip - 20, "others are compared"
            while bench.status(V2_KEY) != "live":
                await go_on(bench, node)
            await unsent()
            for _ in range(6):
                await go_on(bench, node)
            assert bench.status(V2_KEY) == "stale"

    bench.run(scenario())


def test_an_index_of_logs_that_is_late_disputes_no_pool(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By number the newest blocks have no logs yet; by hash, and in receipts, they are all there."""
    monkeypatch.setattr("arena.writer.sync.apart.DISPUTED_S", 0.02)
    monkeypatch.setattr("arena.writer.sync.apart.KNOWN_S", 0.0)
    bench, node = undivided(make)
    logs = node.logs
    indexed = [10**6]
    monkeypatch.setattr(
        node,
        "logs",
        lambda first, last, topics: logs(first, min(last, indexed[0]), topics),
    )

    async def scenario() -> None:
        await go_live(bench, node)
        async with bench.live():
            await until_known(bench, node)
            for _ in range(40):
                indexed[0] = node.tip - 2
                node.sync(node.tip + 1, "-", 5)
                await go_on(bench, node, sync(5))
                assert are_live(bench, (V2_KEY, V3_KEY))

    bench.run(scenario())
    assert "event=events_disputed" not in caplog.text


def test_blocks_that_were_passed_over_while_a_pool_was_read_are_compared_once_it_is_live(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events are missing in the stream behind the block it is read at, too."""
    monkeypatch.setattr("arena.writer.sync.apart.DISPUTED_S", 0.05)
    monkeypatch.setattr("arena.writer.sync.apart.KNOWN_S", 0.02)
    bench, node = undivided(make)
    scraper = bench.coordinator._source.scraper
    read, held = scraper.read_pools, threading.Event()
    is_reading = threading.Event()

    def slowly(keys: Sequence[bytes]) -> Scrape:
        found = read(keys)
        if V2_KEY in keys and scraper.amounts["-"] == 9:
            is_reading.set()
            held.wait(10)
        return found

    monkeypatch.setattr(scraper, "read_pools", slowly)

    async def scenario() -> None:
        await go_live(bench, node)
        async with bench.live():
            await until_known(bench, node)
            node.sync(node.tip + 1, "-", 9)
            scraper.amounts["-"] = 9
            while not is_reading.is_set():
                await go_on(bench, node)
            node.sync(node.tip + 1, "-", 77)
            scraper.amounts["-"] = 77
            missing = node.tip + 1
            while not bench.coordinator.known() or bench.coordinator.known()[-1].number <= missing:
                await go_on(bench, node)
            held.set()
            while bench.amount(V2_KEY) != 77 or not are_live(bench, (V2_KEY, V3_KEY)):
                await go_on(bench, node)

    bench.run(scenario())


def test_a_doubt_inside_half_a_reorg_is_told_again(make: Callable[..., Bench]) -> None:
    bench, _ = live_bench(make, V2_KEY)
    bench.send(block(102), REORG_START, block(102, revert=True))
    assert not bench.intake.members.doubt([V2_KEY], 102)
    bench.intake.disconnected("the rest never comes")
    assert bench.status(V2_KEY) == "live"
    assert bench.intake.members.doubt([V2_KEY], 102)
    assert bench.status(V2_KEY) == "stale"


def test_blocks_that_differ_in_time_for_long_are_told_beside_the_phase(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arena.writer.sync.apart.SAID_S", 0.05)
    bench, node = undivided(make)

    async def scenario() -> None:
        await go_live(bench, node)
        async with bench.live():
            await until_known(bench, node)
            headers = node.headers
            monkeypatch.setattr(
                node,
                "headers",
                lambda numbers: [
                    each and replace(each, timestamp=each.timestamp + 1)
                    for each in headers(numbers)
                ],
            )
            while not bench.reader.phase_reason:
                await go_on(bench, node)
            assert bench.reader.phase == "live"
            assert "others than the node's" in bench.reader.phase_reason
            bench.intake.stalled("for a moment")
            for _ in range(100):  # more blocks than are looked at in one go
                await go_on(bench, node)
            assert "others than the node's" in bench.reader.phase_reason
            monkeypatch.setattr(node, "headers", headers)
            while bench.reader.phase_reason:
                await go_on(bench, node)
            assert are_live(bench, (V2_KEY, V3_KEY))

    bench.run(scenario())


def test_what_was_read_below_a_block_that_differed_is_read_again_once_both_have_turned(
    make: Callable[..., Bench],
) -> None:
    """They turn back a block of the number it was read at; it may not have been one block."""
    bench, node = forked(make, V2_KEY, V3_KEY, fork=100)
    node.moves = True
    bench.coordinator._source.scraper.amounts["C"] = 7

    async def scenario() -> None:
        await go_live(bench, node)
        assert bench.amount(V3_KEY) == 6
        async with bench.live():
            node.sync(node.tip + 1, "B", 9)
            while not bench.coordinator._watch._places._contested:
                await go_on(bench, node)
            blocks = [fixed(n, fee=fee_of(n)) for n in range(102, node.tip + 1)]
            reverted = [each.copy() for each in reversed(blocks)]
            for records in reverted:
                records["flags"] |= lib.PSA_EVENT_IS_REVERT
            node.branch = "C"
            bench.send(REORG_START, *reverted, *blocks, REORG_COMPLETE)
            while bench.amount(V3_KEY) != 7 or not are_live(bench, (V2_KEY, V3_KEY)):
                await go_on(bench, node)

    bench.run(scenario())


def test_a_node_that_turns_while_it_is_asked_confirms_nothing() -> None:
    """The place read at is B's still, and what is compared then is A's."""
    node = ForkedNode(fork=101, tip=102)
    kept = [fixed(number) for number in (101, 102)]
    node.sync(102, "B", 6)
    branch = Branch(node)
    branch.pools = {V2_KEY: spec(V2_KEY)}
    headers = node.headers

    def turn(numbers: Sequence[int]) -> list[Header | None]:
        found = headers(numbers)
        node.branch = "A"
        return found

    node.headers = turn  # type: ignore[method-assign]
    with pytest.raises(ChainMoved, match="while it was read"):
        branch.confirm(kept, {(102, node.hash_of(102, "B")): [V2_KEY]}, {})


@pytest.mark.parametrize("turns", [False, True])
def test_blocks_before_the_stream_are_of_the_chain_that_was_compared(turns: bool) -> None:
    """The stream is compared on A; what leads to it is read on B, whose block 101 looks like A's."""
    node = ForkedNode(fork=100, tip=103, branch="A")
    for number in (102, 103):
        node.sync(number, "A", 5)
    kept = [fixed(101), *(fixed(number, sync(5)) for number in (102, 103))]
    branch = Branch(node)
    branch.pools = {V2_KEY: spec(V2_KEY)}
    agree = branch._agree

    def turn(*asked: Any) -> Agreement:
        found = agree(*asked)
        assert found.is_proven
        node.branch = "B" if turns else "A"
        return found

    branch._agree = turn  # type: ignore[method-assign]
    scraped = {(99, node.hash_of(99, "A")): [V2_KEY]}
    if turns:
        with pytest.raises(ChainMoved, match="while it was read"):
            branch.confirm(kept, scraped, {})
    else:
        earlier = branch.confirm(kept, scraped, {}).earlier
        assert [each.header.hash for each in earlier] == [node.hash_of(100, "A")]


def test_a_block_whose_filter_speaks_of_pools_is_no_empty_one() -> None:
    """A node on B whose index of logs is empty shows a block as empty as the stream's own sibling."""
    node = ForkedNode(fork=102, tip=102)
    node.moves = True
    node.sync(102, "B", 6)
    branch = Branch(node)
    branch.pools = {V2_KEY: spec(V2_KEY)}
    node.logs = lambda first, last, topics: []  # type: ignore[method-assign]
    assert branch.witness([fixed(n, fee=fee_of(n)) for n in (101, 102)], 0, {}) == 2
    assert [each.number for each in branch.sure] == [101]


@pytest.mark.slow
def test_hashes_of_blocks_that_only_look_the_same_are_not_kept(
    make: Callable[..., Bench],
) -> None:
    """What a checkpoint, the audit and the next writer go by is shown by more than time and fee."""
    bench, node, start = live_before_the_fork(make, (V2_KEY,))

    async def scenario() -> None:
        await start()
        async with bench.live():
            while not bench.coordinator.known():
                await go_on(bench, node)
            node.branch = "B"
            while node.tip < 139:
                await go_on(bench, node)
            while node.tip < 139 + UNSURE_BLOCKS // 2:
                await go_on(bench, node)
            node.branch = "A"
            while (bench.coordinator.known() or [None])[-1].number < 139 + UNSURE_BLOCKS:
                await go_on(bench, node)
            for each in bench.coordinator.known():
                assert each.hash == node.hash_of(each.number, "A")
            kept = bench.arena.undoable()
            assert all(found in (None, node.hash_of(n, "A")) for n, found in kept)

    bench.run(scenario())


def test_hashes_that_cannot_be_learned_do_not_end_a_live_writer(make: Callable[..., Bench]) -> None:
    tasks = SideTasks(first_pause_s=0.001, longest_pause_s=0.01)
    bench, _ = prepared(
        make,
        {V2_KEY: values(V2_KEY, 100, 7)},
        node=EmptyChain(),
        side_tasks=tasks,
        witness_pause_s=0.001,
    )
    bench.send(timed(101))

    async def scenario() -> None:
        await bench.coordinator.cold_start()
        witness = bench.coordinator._watch.witness

        async def fail(branch: Any) -> None:
            raise ValueError("unforeseen")

        bench.coordinator._watch.witness = fail  # type: ignore[method-assign]
        async with bench.live():
            await bench.until(lambda: tasks.failed["hashes"] >= 3)
            bench.coordinator._watch.witness = witness  # type: ignore[method-assign]
            bench.send(timed(102))
            await bench.until(lambda: bool(bench.coordinator.known()))

    bench.run(scenario())


def test_a_reorg_that_leaves_out_the_newest_blocks_is_a_loss(make: Callable[..., Bench]) -> None:
    """Their changes were not turned back, and what was read above is of another branch."""
    bench, _ = live_bench(make, V3_KEY)
    before = bench.amount(V3_KEY)
    bench.send(block(102, mint(V3_KEY, 5)), block(103, mint(V3_KEY, 7)), block(104))
    bench.send(REORG_START, block(102, mint(V3_KEY, 5), revert=True), REORG_COMPLETE)
    assert not bench.intake.stage.is_live
    assert bench.reader.phase_reason == "blocks 102 to 104 are not all reverted"
    assert (bench.reader.head_block, bench.amount(V3_KEY)) == (104, before + 12)
