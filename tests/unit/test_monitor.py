"""What a view collects, held against the states and counts that readers get by themselves."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from builders.market import Market, make_market
from builders.watched import HEAD, KEYS, SPECS, make, values_of, watched
from roles.processes import remove_segments

import arena
from arena.layouts import slots
from arena.readers.views import monitor as monitoring
from arena.readers.views.depth_bars import bars, price_tick
from arena.readers.views.listing import Pools
from arena.readers.views.monitor import Monitor, View
from arena.readers.views.order import COLUMNS, Choice, arrange
from arena.specs import PoolSpec

TESTS = Path(__file__).resolve().parents[1]
SECONDS = 30.0
KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from builders.watched import make
writer = make({name!r})
print("ready", flush=True)
while True:
    writer.heartbeat()
    time.sleep(0.02)
"""
ATTACHED = """
import sys, arena
reader = arena.attach({name!r}, timeout=10)
print("ready", flush=True)
sys.stdin.read()
"""


def true_price(state: arena.PoolState) -> float:
    """From the integers of the state, exactly until the end; NaN without values."""
    if state.sqrt_price_x96:
        ratio = Fraction(state.sqrt_price_x96, 1 << 96) ** 2
    elif state.reserve0:
        ratio = Fraction(state.reserve1 or 0, state.reserve0)
    else:
        return math.nan
    if state.token0.decimals is not None and state.token1.decimals is not None:
        ratio *= Fraction(10) ** (state.token0.decimals - state.token1.decimals)
    return float(ratio)


def check_pools(pools: Pools, name: str) -> None:
    """Every column is what the pool's own state says, and no pool is missing."""
    with arena.attach(name) as reader:
        states = {key: reader[key].state() for key in reader}
        head = reader.head_block
        references = dict(zip(states, reader.slots(list(states)), strict=True))
    shown = {key for key, there in zip(pools.listing.keys, pools.is_there, strict=True) if there}
    assert shown == set(states)
    for place, key in enumerate(pools.listing.keys):
        if key not in states:
            continue
        state = states[key]
        assert pools.listing.references[place] == references[key]
        price = true_price(state)
        assert pools.price[place] == pytest.approx(price, rel=1e-12, nan_ok=True)
        assert slots.STATUS_NAMES[pools.status[place]] == state.status
        assert pools.block[place] == state.block_number
        has_event = state.log_index or state.tx_index or state.block_number > state.base_block
        assert pools.is_touched[place] == bool(has_event and state.block_number == head)
        if not math.isnan(price):
            fee = state.lp_fee if state.lp_fee is not None else state.fee_pips
            assert pools.fee[place] == fee


def until(monitor: Monitor, condition: Callable[[View], bool]) -> View:
    limit = time.monotonic() + SECONDS
    while not condition(view := monitor.look()):
        assert time.monotonic() < limit, f"not in time: {view.trouble!r}, {view.block_number}"
        time.sleep(0.02)
    return view


@contextlib.contextmanager
def running(code: str):  # type: ignore[no-untyped-def]
    """A Python process that has said that it is ready; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


# ---- pools


def wander(market: Market, step: int) -> None:
    """A step in the life of a market: mostly blocks, else what changes the set of pools."""
    if step % 7 == 3:
        market.reorg(min(2, step))
    elif step % 7 == 4:
        market.add_pool()
        market.announce_pool()
    elif step % 7 == 5:
        market.remove_pool(market.live()[step])
    elif step % 7 == 6:
        market.make_stale(market.live()[step])
    else:
        market.block(20, liquidity=3)


def test_columns_follow_blocks_reorgs_and_pools_that_come_and_go(
    arena_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "SHARE", math.inf)  # lists anew at once
    with make_market(arena_name, 60, 5) as market, Monitor(arena_name) as monitor:
        check_pools(monitor.look().pools, arena_name)
        for step in range(1, 22):
            wander(market, step)
            view = monitor.look()
            check_pools(view.pools, arena_name)
            assert view.block_number == market.head
            assert sum(view.pools.counts().values()) == len(
                [pool for pool in market.pools if not pool.is_removed]
            )


def test_the_newest_block_marks_the_pools_it_touched(arena_name: str) -> None:
    with make_market(arena_name, 60, 5) as market, Monitor(arena_name) as monitor:
        assert not monitor.look().pools.is_touched.any()
        for _ in range(3):
            mined = market.block(15)
            market_keys = {pool.key for pool in mined.touched}
            for _ in range(2):  # it stays so while nothing comes
                pools = monitor.look().pools
                marked = {pools.listing.keys[place] for place in pools.is_touched.nonzero()[0]}
                assert marked == market_keys


def test_a_view_does_not_change_and_cannot_be_changed(arena_name: str) -> None:
    with make_market(arena_name, 60, 5) as market, Monitor(arena_name) as monitor:
        first = monitor.look()
        before = (first.pools.price.copy(), first.pools.lines.copy(), first.block_number)
        market.block(40)
        assert monitor.look().block_number == before[2] + 1
        assert (first.pools.price == before[0]).all()
        assert (first.pools.lines == before[1]).all()
        for name in ("price", "lines", "status", "block", "fee", "is_touched", "is_there"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(first.pools, name)[0] = 0


def test_nothing_is_copied_while_nothing_happens(arena_name: str) -> None:
    with make_market(arena_name, 60, 5) as market, Monitor(arena_name) as monitor:
        first = monitor.look()
        assert monitor.look().pools is first.pools
        market.block(1)
        assert monitor.look().pools is not first.pools


def test_changes_of_a_pool_are_those_that_were_seen_newest_first(arena_name: str) -> None:
    with make_market(arena_name, 60, 5) as market, Monitor(arena_name) as monitor:
        pool = next(each for each in market.pools if each.protocol == slots.UNISWAP_V3)
        monitor.look()
        expected = []
        for _ in range(4):
            market.mint(pool)
            view = monitor.look(pool.key)
            assert view.opened is not None
            assert view.opened.state is not None
            expected.insert(0, (market.head, true_price(view.opened.state)))
            found = [(each.block_number, each.price) for each in view.opened.changes]
            assert found == [(block, pytest.approx(price)) for block, price in expected]
        market.remove_pool(pool)
        view = monitor.look(pool.key)
        assert view.opened is not None
        assert view.opened.state is None


def test_kept_changes_are_bounded(arena_name: str) -> None:
    with (
        make_market(arena_name, 60, 5) as market,
        Monitor(arena_name, kept_changes=8) as monitor,
    ):
        pool = next(each for each in market.pools if each.protocol == slots.UNISWAP_V3)
        monitor.look()
        for _ in range(12):
            market.mint(pool)
            view = monitor.look(pool.key)
        assert view.opened is not None
        blocks = [each.block_number for each in view.opened.changes]
        assert blocks == list(range(market.head, market.head - 8, -1))
        market.block(60)  # more than there is room for
        assert len(monitor.look(pool.key).pools) == 60


def test_a_pool_that_nobody_knows_is_said_to_be_away(arena_name: str) -> None:
    with watched(arena_name), Monitor(arena_name) as monitor:
        opened = monitor.look("0x" + "77" * 20).opened
        assert opened is not None
        assert (opened.state, opened.changes) == (None, ())


def test_an_arena_without_pools_is_shown(arena_name: str) -> None:
    with make_market(arena_name, 0, 5), Monitor(arena_name) as monitor:
        view = monitor.look()
        assert len(view.pools) == 0
        assert view.pools.counts() == {"syncing": 0, "live": 0, "stale": 0}
        for column in (None, *COLUMNS):
            assert len(arrange(view.pools, Choice(column=column, search="x"))) == 0


# ---- order


def test_every_column_sorts_as_python_sorts(arena_name: str) -> None:
    with make_market(arena_name, 120, 5) as market, Monitor(arena_name) as monitor:
        market.block(40)
        market.announce_pool()
        market.make_stale(market.live()[3])
        pools = monitor.look().pools
        with arena.attach(arena_name) as reader:
            states = [reader[key].state() for key in pools.listing.keys]
        keys: dict[str, Callable[[arena.PoolState], object]] = {
            "pair": lambda state: f"{state.token0.symbol}/{state.token1.symbol}".casefold(),
            "protocol": lambda state: state.protocol,
            "fee": lambda state: state.fee_pips,
            "price": true_price,
            "block": lambda state: -state.block_number,  # the newest first
            "status": lambda state: ("syncing", "live", "stale").index(state.status),
        }
        assert set(keys) == set(COLUMNS)
        for column, key in keys.items():
            for is_reversed in (False, True):
                places = arrange(pools, Choice(column=column, is_reversed=is_reversed)).tolist()
                assert sorted(places) == list(range(len(states)))
                found = [key(states[place]) for place in places]
                known = [each for each in found if each == each]
                assert all(each != each for each in found[len(known) :]), "no price comes last"
                assert known == sorted(known, reverse=is_reversed), column  # type: ignore[type-var]


def test_touched_pools_come_first_in_the_order_asked_for(arena_name: str) -> None:
    with make_market(arena_name, 120, 5) as market, Monitor(arena_name) as monitor:
        mined = market.block(40)
        pools = monitor.look().pools
        plain = arrange(pools, Choice(column="price")).tolist()
        touched = {pool.key for pool in mined.touched}
        first = [place for place in plain if pools.listing.keys[place] in touched]
        others = [place for place in plain if pools.listing.keys[place] not in touched]
        assert arrange(pools, Choice("price", touched_first=True)).tolist() == first + others


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice(search="weth"), (0, 1, 2, 4)),
        (Choice(search="WETH usdc"), (0, 1)),
        (Choice(search="usdc uniswap_v3"), (1,)),
        (Choice(search="0xA3A3"), (2,)),
        (Choice(search="4444444444"), (3, 5)),  # a token's address
        (Choice(search="nothing"), ()),
        (Choice(status="live"), (0, 1, 2, 3)),
        (Choice(status="stale"), (4,)),
        (Choice(status="syncing"), (5,)),
        (Choice(protocol="uniswap_v3", status="stale"), (4,)),
        (Choice(protocol="solidly"), ()),
    ],
)
def test_search_and_filters(arena_name: str, choice: Choice, expected: tuple[int, ...]) -> None:
    with watched(arena_name), Monitor(arena_name) as monitor:
        pools = monitor.look().pools
        found = {pools.listing.keys[place] for place in arrange(pools, choice)}
        assert found == {KEYS[index] for index in expected}


@pytest.mark.parametrize(
    "wrong", [{"column": "tick"}, {"status": "removed"}, {"protocol": "curve"}]
)
def test_a_choice_that_there_is_not_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is none of"):
        Choice(**wrong)  # type: ignore[arg-type]


# ---- liquidity


def test_bars_pay_out_what_the_pool_quotes_up_to_their_ends(arena_name: str) -> None:
    with make_market(arena_name, 60, 5) as market, arena.attach(arena_name) as reader:
        market.block(60)
        checked = 0
        for pool in market.live()[:40]:
            if pool.protocol == slots.UNISWAP_V2:
                continue
            handle = reader[pool.key]
            for zoom in (-2, 0, 2):
                found = bars(handle.state(), 5, zoom)
                for is_above in (True, False):
                    side = [each for each in found if each.is_above is is_above]
                    side.sort(key=lambda each: each.lower, reverse=not is_above)
                    total = sum(each.amount for each in side)
                    end = side[-1].upper if is_above else side[-1].lower
                    quote = handle.quote_exact_in(
                        2**120,
                        zero_for_one=not is_above,
                        sqrt_price_limit_x96=int(math.exp(end / 2 * math.log(1.0001)) * 2**96),
                    )
                    # The contract rounds down at every tick it crosses, and at ends of words.
                    rounds = quote.ticks_crossed + 10
                    assert total == pytest.approx(quote.amount_out, rel=1e-9, abs=rounds)
                    checked += 1
        assert checked > 60


def test_bars_of_a_pair_are_what_its_product_gives(arena_name: str) -> None:
    with watched(arena_name), arena.attach(arena_name) as reader:
        state = reader[KEYS[0]].state()
        assert state.reserve0 is not None
        assert state.reserve1 is not None
        found = bars(state, 4)
        assert len(found) == 8
        place = price_tick(state)
        assert place is not None
        for sign, total in (
            (1, sum(each.amount for each in found if each.is_above)),
            (-1, sum(each.amount for each in found if not each.is_above)),
        ):
            root = 1.0001 ** (4 * found_width(found) / 2)
            reserve = state.reserve0 if sign > 0 else state.reserve1
            assert total == pytest.approx(reserve * (1 - 1 / root), rel=1e-9)


def found_width(found: tuple) -> float:  # type: ignore[type-arg]
    return float(found[0].upper - found[0].lower)


def test_liquidity_of_a_bar_is_the_mean_over_its_ticks(arena_name: str) -> None:
    with watched(arena_name), arena.attach(arena_name) as reader:
        found = bars(reader[KEYS[1]].state(), 2, zoom=-3)  # 800 ticks each, 600 with liquidity
        ends = [(each.lower, each.upper) for each in found]
        assert ends == [(800, 1600), (0, 800), (-800, 0), (-1600, -800)]
        assert [each.liquidity for each in found] == pytest.approx([0, 0.75e18, 0.75e18, 0])


def test_an_announced_pool_has_no_bars(arena_name: str) -> None:
    with watched(arena_name), arena.attach(arena_name) as reader:
        assert bars(reader[KEYS[-1]].state(), 5) == ()


# ---- time, writers, readers


def test_rates_and_lag_are_of_what_was_seen(
    arena_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = {"now": 1_000.0, "unix": 0.0}
    real = time.time
    with make_market(arena_name, 60, 5) as market, Monitor(arena_name) as monitor:
        monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
        monkeypatch.setattr(time, "time", lambda: clock["unix"])
        clock["unix"] = 12 * market.head + 100
        first = monitor.look()
        assert (first.events_per_s, first.commits_per_s, first.lag) == (None, None, None)
        assert first.age == 100
        events = 0
        for _ in range(5):
            events += len(market.block(20).touched)
            clock["now"] += 2
            clock["unix"] = 12 * market.head + 3.5
            view = monitor.look()
        assert view.lag == 3.5
        assert view.rate_s == 10
        assert view.events_per_s == pytest.approx(events / 10)
        assert view.commits_per_s == pytest.approx(5 / 10)
        clock["unix"] += 7
        clock["now"] += 100
        view = monitor.look()
        assert (view.lag, view.age) == (3.5, 10.5)
        assert view.events_per_s is None  # nothing older is kept than RATE_S
    assert real() > 1e9


def test_a_writer_that_was_killed_is_said_to_be_gone_and_its_successor_is_followed(
    arena_name: str,
) -> None:
    try:
        code = KILLED.format(tests=str(TESTS), name=arena_name)
        with running(code) as process, Monitor(arena_name) as monitor:
            view = until(monitor, lambda view: view.writer_alive)
            assert (view.trouble, view.writer_pid) == ("", process.pid)
            assert view.mappers is not None
            assert view.mappers.pids == ()  # neither the writer nor this process
            process.send_signal(signal.SIGKILL)
            process.wait()
            view = until(monitor, lambda view: view.writer_pid is None)
            assert "is gone: killed, or crashed" in view.trouble
            assert view.phase.name == "live"  # the last it said
            assert (view.block_number, len(view.pools)) == (HEAD, len(SPECS))
            with watched(arena_name, block=HEAD + 5):
                view = until(monitor, lambda view: view.block_number == HEAD + 5)
                assert (view.trouble, view.writer_pid) == ("", os.getpid())
                check_pools(view.pools, arena_name)
    finally:
        remove_segments(arena_name)


def test_an_arena_that_ended_and_was_made_anew_is_followed(arena_name: str) -> None:
    with watched(arena_name), Monitor(arena_name) as monitor:
        monitor.look()
    # Closed and unlinked: a monitor that is still attached says so, and goes on with the next one.
    writer = make(arena_name)
    monitor = Monitor(arena_name)
    try:
        monitor.look()
        writer.close(unlink=True)
        view = until(monitor, lambda view: view.writer_pid is None)
        assert "the writer has ended" in view.trouble
        assert len(view.pools) == len(SPECS)
        with make_market(arena_name, 30, 5) as market:
            view = until(monitor, lambda view: len(view.pools) == 30)
            assert view.trouble == ""
            check_pools(view.pools, arena_name)
            market.block(10)
            check_pools(monitor.look().pools, arena_name)
    finally:
        monitor.close()
        remove_segments(arena_name)


@pytest.mark.parametrize("specs", [SPECS, SPECS[::-1]], ids=["same", "turned"])
def test_nothing_of_an_arena_before_is_taken_for_the_present_one(
    arena_name: str, specs: tuple[PoolSpec, ...]
) -> None:
    """Between two looks, so that no writer is missed and the number of changes of the list is the same."""
    writer = make(arena_name)
    try:
        with Monitor(arena_name) as monitor:
            before = monitor.look(KEYS[0])
            writer.close(unlink=True)
            writer = make(arena_name, block=HEAD + 9, specs=specs)
            view = until(monitor, lambda view: view.block_number == HEAD + 9)
            assert view.trouble == ""
            assert view.pools.listing.topology == before.pools.listing.topology
            check_pools(view.pools, arena_name)
            assert view.lag is None
    finally:
        writer.close(unlink=True)


def test_changes_of_an_arena_before_are_no_changes_of_the_present_one(arena_name: str) -> None:
    """Their pools stand in the same slots, so the same references name them."""
    with make_market(arena_name, 30, 5) as market, Monitor(arena_name) as monitor:
        monitor.look()
        (pool, *_) = market.block(30).touched
        monitor.look()
        assert monitor.changes(pool.key)
        market.close()
        with make_market(arena_name, 30, 5):
            until(monitor, lambda view: view.writer_pid is not None and view.block_number == 1_000)
            assert monitor.changes(pool.key) == ()


def test_rates_begin_again_with_a_writer_that_counts_from_nothing(arena_name: str) -> None:
    with after_a_market(arena_name) as monitor, make_market(arena_name, 60, 5) as market:
        view = until(monitor, lambda view: view.trouble == "")
        market.block(1)
        for _ in range(3):
            view = monitor.look()
            assert view.events_per_s is None or view.events_per_s >= 0
            assert view.commits_per_s is None or view.commits_per_s >= 0
    assert view.commits_per_s is not None


@contextlib.contextmanager
def after_a_market(name: str) -> Iterator[Monitor]:
    """One that has looked at a market which counted much, and is gone."""
    with make_market(name, 60, 5) as market:
        monitor = Monitor(name)
        for _ in range(5):
            market.block(50)
            monitor.look()
    with monitor:
        yield monitor


def test_an_arena_whose_segments_were_deleted_is_left_for_the_next(arena_name: str) -> None:
    """Nothing tells a handle on the old one; the name leads to the new one."""
    try:
        code = KILLED.format(tests=str(TESTS), name=arena_name)
        with running(code) as process, Monitor(arena_name) as monitor:
            until(monitor, lambda view: view.writer_alive)
            process.kill()
            process.wait()
            remove_segments(arena_name)
            view = until(monitor, lambda view: view.writer_pid is None)
            assert len(view.pools) == len(SPECS)
            with watched(arena_name, block=HEAD + 5, specs=SPECS[::-1]):
                view = until(monitor, lambda view: view.block_number == HEAD + 5)
                assert (view.trouble, view.writer_pid) == ("", os.getpid())
                check_pools(view.pools, arena_name)
    finally:
        remove_segments(arena_name)


def test_a_grown_arena_is_followed_without_a_break(arena_name: str) -> None:
    with watched(arena_name) as writer, Monitor(arena_name) as monitor:
        first = monitor.look()
        writer.grow(max_pools=64)
        slot = writer.slot_of(SPECS[0].key)
        assert slot is not None
        writer.install(slot, values_of(SPECS[0], HEAD + 1), slots.STATUS_LIVE)
        writer.set_head(HEAD + 1)
        writer.commit()
        writer.heartbeat()
        view = until(monitor, lambda view: view.generation > first.generation)
        assert (view.trouble, view.block_number) == ("", HEAD + 1)
        check_pools(view.pools, arena_name)


def test_a_silent_writer_is_told_from_a_gone_one(
    arena_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(arena_name), Monitor(arena_name) as monitor:
        monkeypatch.setattr(monitor._arena, "heartbeat_limit", -1.0)
        view = monitor.look()
        assert "gives no sign of life" in view.trouble
        assert view.writer_pid == os.getpid()
        assert not view.writer_alive


def test_what_cannot_be_read_leaves_the_last_values_and_says_why(
    arena_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(arena_name), Monitor(arena_name) as monitor:
        before = monitor.look()

        def contended(*_: object) -> None:
            raise arena.SnapshotContended("too busy")

        with monkeypatch.context() as patch:
            patch.setattr(monitoring, "read_pools", contended)
            view = monitor.look()
        assert view.trouble == "not readable now: SnapshotContended: too busy"
        assert view.pools is before.pools
        assert monitor.look().trouble == ""


def test_there_has_to_be_an_arena_at_first(arena_name: str) -> None:
    with pytest.raises(arena.ArenaMissing):
        Monitor(arena_name, timeout=0)


def test_other_processes_that_map_the_arena_are_counted(
    arena_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "SCAN_S", 0.0)
    monkeypatch.setattr(monitoring, "SHARE", math.inf)
    with watched(arena_name), Monitor(arena_name) as monitor:
        found = monitor.look().mappers
        assert found is not None
        assert found.pids == ()  # neither this process nor the writer
        with running(ATTACHED.format(name=arena_name)) as process:
            found = monitor.look().mappers
            assert found is not None
            assert found.pids == (process.pid,)
        found = monitor.look().mappers
        assert found is not None
        assert found.pids == ()
