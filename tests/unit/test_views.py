"""Pools of snapshots whose handles are kept, handles and keys turned into references, and waits in C.

Each test has a real writer, whose values name the pool and the block they are of; what was true before is
asked again while pools go, come back, and their slots serve others.
"""

import gc
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from builders.arenas import unlinked
from roles.child import Child

from arena import errors
from arena.readers import Arena, HeadBlock, Pool, attach
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

TOKENS = (TokenSpec(b"\1" * 20, 18, "ONE"), TokenSpec(b"\2" * 20, None, "TWO"))
START = 100
TICKS = tuple((10 * n, 5, 5 if n < 0 else -5) for n in (*range(-40, 0), *range(1, 41)))


def spec_of(index: int) -> PoolSpec:
    """Even ones are V2, odd ones V3."""
    return PoolSpec(bytes([index + 1]) * 20, index % 2, *TOKENS, 3000, 10 * (index % 2))


def key_of(index: int) -> str:
    return "0x" + spec_of(index).key.hex()


def add(writer: WriterArena, index: int, block: int = START) -> None:
    number = 1000 * (index + 1) + block
    values: dict[str, Any] = {"reserve0": number, "reserve1": number}
    if index % 2:
        values = {"sqrt_price_x96": (1 << 96) + number, "liquidity": 200, "ticks": TICKS}
    writer.install(writer.add_pool(spec_of(index)), PoolValues(block, 3000, **values), 2)


def number_of(pool: Pool) -> int:
    """1000 times the pool, and the block."""
    state = pool.state()
    if state.sqrt_price_x96 is not None:
        assert state.ticks == TICKS
        return state.sqrt_price_x96 - (1 << 96)
    assert state.reserve0 == state.reserve1
    return state.reserve0 or 0


def step(writer: WriterArena, block: int, *indices: int) -> None:
    """One commit that sets those pools to `block`."""
    for index in indices:
        add(writer, index, block)
    writer.set_head(block)
    writer.commit()


def remove(writer: WriterArena, index: int) -> None:
    slot = writer.find(spec_of(index).key)
    assert slot is not None
    writer.remove_pool(slot)
    writer.commit()


def make(name: str) -> WriterArena:
    found = WriterArena.create(name, max_pools=4, tick_bytes=1 << 18)
    step(found, START, 0, 1, 2, 3)
    found.set_phase("live")
    return found


@pytest.fixture
def writer(arena_name: str) -> Iterator[WriterArena]:
    """Pools 0 to 3 in an arena for four."""
    with unlinked(make(arena_name)) as found:
        yield found


# Pools of a view


@pytest.mark.parametrize(
    "form",
    [
        str,
        str.upper,
        lambda key: bytes.fromhex(key[2:]),
        lambda key: bytearray.fromhex(key[2:]),
        lambda key: memoryview(bytes.fromhex(key[2:])),
        lambda key: type("Text", (str,), {})(key),
    ],
)
def test_each_form_of_a_key_leads_to_the_pool_at_once_and_once_more(
    pools: Arena, form: Callable[[str], Any]
) -> None:
    for _ in range(3):
        with pools.snapshot() as view:
            for index in range(4):
                found = view[form(key_of(index))]
                assert type(found) is Pool
                assert found.key == key_of(index)
                assert number_of(found) == 1000 * (index + 1) + START
                assert found.slot == index
                assert found.token1.symbol == "TWO"


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("0x12", ValueError),
        (b"x" * 21, ValueError),
        (5, TypeError),
        (None, TypeError),
        ([1], TypeError),
        (slice(3), TypeError),
        ("0x" + "99" * 20, errors.UnknownPool),
        (bytes(32), errors.UnknownPool),
        (bytearray(20), errors.UnknownPool),
    ],
)
def test_what_leads_to_no_pool_is_refused_each_time(
    pools: Arena, key: Any, error: type[Exception]
) -> None:
    with pools.snapshot() as view:
        for _ in range(2):
            with pytest.raises(error):
                view[key]


def test_views_of_each_commit_show_their_own_through_the_same_kept_handles(
    writer: WriterArena, pools: Arena
) -> None:
    views = [pools.snapshot()]
    assert [number_of(views[0][key_of(index)]) for index in (0, 1)] == [1100, 2100]
    step(writer, 101, 0, 1)
    views.append(pools.snapshot())
    for _ in range(2):
        for block, view in enumerate(views, START):
            assert number_of(view[key_of(0)]) == 1000 + block
            assert number_of(view[key_of(1)]) == 2000 + block
            assert view[key_of(0)].block_number == block
            quote = view[key_of(0)].quote_exact_in(10, zero_for_one=True)
            assert quote.block_number == block
    step(writer, 102, 0)
    with pytest.raises(errors.SnapshotTooOld):
        views[0][key_of(0)]
    assert number_of(views[0][key_of(1)]) == 2100
    assert number_of(views[1][key_of(0)]) == 1101


def test_a_pool_taken_from_a_view_before_it_got_too_old_says_so(
    writer: WriterArena, pools: Arena
) -> None:
    view = pools.snapshot()
    pool, other = view[key_of(1)], view[key_of(1)]
    step(writer, 101, 1)
    assert number_of(pool) == 2100
    step(writer, 102, 1)
    for use in (pool.state, pool.freeze, lambda: other.status, lambda: other.token0):
        with pytest.raises(errors.SnapshotTooOld):
            use()


def test_a_removed_pool_is_seen_by_views_that_had_it_and_by_no_other(
    writer: WriterArena, pools: Arena
) -> None:
    before = pools.snapshot()
    assert number_of(before[key_of(0)]) == 1100
    remove(writer, 0)
    after = pools.snapshot()
    for _ in range(2):
        assert number_of(before[key_of(0)]) == 1100
        with pytest.raises(errors.UnknownPool):
            after[key_of(0)]
        assert key_of(0) not in after
    # It comes back, in the same slot: another pool, which neither of those views has.
    step(writer, 103, 0)
    with pools.snapshot() as view:
        assert number_of(view[key_of(0)]) == 1103
    for view in (before, after):
        for _ in range(2):
            with pytest.raises((errors.SnapshotTooOld, errors.UnknownPool)):
                view[key_of(0)]


def test_a_slot_used_again_shows_the_old_pool_to_nobody(writer: WriterArena, pools: Arena) -> None:
    old = pools.snapshot()
    assert number_of(old[key_of(2)]) == 3100
    remove(writer, 2)
    step(writer, 104, 5)
    with pools.snapshot() as view:
        assert number_of(view[key_of(5)]) == 6104
        with pytest.raises(errors.UnknownPool):
            view[key_of(2)]
    with pytest.raises(errors.SnapshotTooOld):
        old[key_of(2)]
    with pytest.raises(errors.SnapshotTooOld):
        old[key_of(5)]


def test_a_closed_view_closes_its_pools_and_no_other_views(pools: Arena) -> None:
    first, second = pools.snapshot(), pools.snapshot()
    mine, other = first[key_of(1)], second[key_of(1)]
    first.close()
    first.close()
    for use in (
        lambda: first[key_of(1)],
        lambda: key_of(1) in first,
        mine.state,
        mine.freeze,
        lambda: mine.status,
        lambda: mine.quote_exact_in(10, zero_for_one=True),
    ):
        with pytest.raises(errors.ArenaClosed):
            use()
    assert number_of(other) == number_of(second[key_of(1)]) == 2100


def test_views_stay_with_their_generation_and_new_ones_do_not(arena_name: str) -> None:
    first = make(arena_name)
    with attach(arena_name) as pools:
        old = pools.snapshot()
        assert number_of(old[key_of(0)]) == 1100
        first.close(unlink=True)
        second = make(arena_name)
        step(second, 200, 0)
        with pools.snapshot() as view:
            assert number_of(view[key_of(0)]) == 1200
        assert number_of(old[key_of(0)]) == 1100
        assert number_of(pickle.loads(pickle.dumps(pools.snapshot()))[key_of(0)]) == 1200
        second.close(unlink=True)


def test_kept_handles_keep_nothing_mapped(arena_name: str) -> None:
    def mapped() -> int:
        with open("/proc/self/maps") as maps:
            return sum(arena_name in line for line in maps)

    with unlinked(make(arena_name)):
        attach(arena_name).close()
        before = mapped()
        gc.disable()  # what a cycle held would stay
        try:
            with attach(arena_name) as pools:
                assert mapped() > before
                for _ in range(3):
                    with pools.snapshot() as view:
                        assert number_of(view[key_of(0)]) == 1100
                del view
            assert mapped() == before
        finally:
            gc.enable()


# Many pools


def test_handles_and_keys_give_the_same_references(pools: Arena) -> None:
    handles = [pools[key_of(index)] for index in range(4)]
    expected = [index | int(pools.slots([key_of(index)])[0]) >> 32 << 32 for index in range(4)]
    with pools.snapshot() as view:
        mixed = [key_of(0), handles[1], spec_of(2).key, view[key_of(3)]]
        for asked in (handles, mixed, tuple(mixed), [view[each.key] for each in handles]):
            found = pools.slots(asked)
            assert found.dtype == np.uint64
            assert found.tolist() == expected
            assert list(pools.snapshot(asked)) == [key_of(n) for n in range(4)]
            for where in (pools, view):
                batch = where.quote_batch(asked, 50, zero_for_one=True)
                assert [quote.amount_in for quote in batch] == [50] * 4
        assert pools.slots([]).shape == (0,)


def test_a_handle_of_a_removed_pool_is_missing_until_its_key_is_back(
    writer: WriterArena, pools: Arena
) -> None:
    handle = pools[key_of(0)]
    view = pools.snapshot()
    remove(writer, 0)
    for ask in (pools.slots, pools.snapshot):
        with pytest.raises(errors.UnknownPool, match=key_of(0)):
            ask([key_of(1), handle])
    assert view.quote_batch([handle], 50, zero_for_one=True)[0].amount_in == 50
    step(writer, 103, 0)
    assert number_of(pools[key_of(0)]) == 1103
    kept = pools.snapshot([handle])
    assert kept[key_of(0)].state().reserve0 == 1103
    with pytest.raises(errors.PoolRemoved):
        handle.state()


def test_handles_of_other_arenas_go_by_their_keys(writer: WriterArena, pools: Arena) -> None:
    name = writer.name + "-other"
    with unlinked(WriterArena.create(name, max_pools=4, tick_bytes=1 << 18)) as other:
        step(other, 300, 3, 2, 1)  # in other slots
        with attach(name) as theirs:
            handles = [pools[key_of(index)] for index in (1, 2)]
            assert theirs.slots(handles).tolist() == theirs.slots([key_of(1), key_of(2)]).tolist()
            with pytest.raises(errors.UnknownPool, match=key_of(0)):
                theirs.slots([pools[key_of(0)]])


@pytest.mark.parametrize("wrong", [["0x12"], [b""], [5], [None], ["0x" + "zz" * 20], "0x12"])
def test_keys_among_many_are_refused_as_alone(pools: Arena, wrong: Any) -> None:
    for ask in (
        pools.slots,
        pools.snapshot,
        lambda keys: pools.quote_batch(keys, 1, zero_for_one=True),
    ):
        with pytest.raises((ValueError, TypeError), match="key"):
            ask([*[key_of(0)], *wrong])


def test_names_in_errors_of_a_batch_are_those_asked_for(pools: Arena) -> None:
    asked = [pools[key_of(0)], spec_of(2).key, key_of(1).upper()]
    batch = pools.quote_batch(asked, 0, zero_for_one=True)
    for index, key in enumerate((key_of(0), key_of(2))):
        assert key in str(batch.error(index))
    assert key_of(2) in str(pickle.loads(pickle.dumps(batch)).error(1))


# Waiting


@pytest.mark.parametrize("spin_us", [0, 50, 10**6])
def test_a_wait_ends_with_a_block_or_in_time(
    writer: WriterArena, pools: Arena, spin_us: int
) -> None:
    for timeout in (0, -1.5, 0.03):
        begin = time.monotonic()
        assert pools.wait_block(START, timeout, spin_us=spin_us) is None
        assert time.monotonic() - begin >= timeout
    for after in (START - 1, -1, -(10**30), np.int64(3)):
        found = pools.wait_block(after, spin_us=spin_us)  # type: ignore[arg-type]
        assert (found, type(found), found and found.commit) == (START, HeadBlock, 1)
    assert pools.wait_block(10**30, 0.01, spin_us=spin_us) is None
    for timeout in (float("inf"), None, 10**12):
        thread = threading.Timer(0.03, step, (writer, writer.head_block + 1, 0))
        thread.start()
        found = pools.wait_block(pools.head_block, timeout, spin_us=spin_us)
        thread.join()
        assert found == writer.head_block
        assert found is not None
        assert found.touched == [key_of(0)]


def test_impossible_waits_are_refused(pools: Arena) -> None:
    with pytest.raises(ValueError, match="spin_us"):
        pools.wait_block(0, spin_us=-1)
    for after, timeout in ((None, 0), ("5", 0), (1.5, 0), (START, "1")):
        with pytest.raises(TypeError):
            pools.wait_block(after, timeout)  # type: ignore[arg-type]


@pytest.mark.parametrize("spin_us", [0, 10**7])
def test_a_signal_ends_a_wait_with_what_its_handler_raises(pools: Arena, spin_us: int) -> None:
    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    former = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Alarm):
            pools.wait_block(START, 60, spin_us=spin_us)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def test_closing_ends_the_wait_of_another_thread(writer: WriterArena) -> None:
    with attach(writer.name) as pools:
        closing = threading.Timer(0.05, pools.close)
        closing.start()
        with pytest.raises(errors.ArenaClosed):
            pools.wait_block(START)
        closing.join()


def test_other_threads_run_while_one_waits(pools: Arena) -> None:
    seen: list[Any] = []
    waiting = threading.Thread(target=lambda: seen.append(pools.wait_block(START, 0.3)))
    waiting.start()
    turns = 0
    while waiting.is_alive():
        turns += 1
        time.sleep(0.001)
    assert seen == [None]
    assert turns > 5


# A writer in another process

BUSY_WRITER = """
import sys
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena
w = WriterArena.create(sys.argv[1], max_pools=16, tick_bytes=1 << 22)
t = TokenSpec(b"\\1" * 20, 18, "T")
specs = [PoolSpec(bytes([n + 1]) * 20, n % 2, t, t, 3000, 10 * (n % 2)) for n in range(4)]
pools = [w.add_pool(spec) for spec in specs]
n = 0
while True:
    n += 1
    for slot in pools[n % 2 :: 2] if n > 1 else pools:
        reach = 10 * (5 + n % 90)
        ticks = [(at, n, n if at < 0 else -n) for at in range(-reach, reach + 1, 10) if at]
        values = dict(sqrt_price_x96=(1 << 96) + n, liquidity=n * (5 + n % 90), ticks=tuple(ticks))
        if slot % 2 == 0:
            values = dict(reserve0=n, reserve1=7 * n)
        w.install(slot, PoolValues(n, 3000, **values), 2)
    w.set_head(n)
    w.commit()
    if n == 2:
        print("ready", flush=True)
"""


def check(state: Any, head: int) -> None:
    """Whether all of a state is of one block, the newest up to `head` that had the pool."""
    block = state.block_number
    assert head == 0 or block in (head, head - 1)
    if state.protocol == "uniswap_v2":
        assert (state.reserve0, state.reserve1) == (block, 7 * block)
        return
    assert state.sqrt_price_x96 == (1 << 96) + block
    reach = 5 + block % 90
    assert state.liquidity == block * reach
    arrays = state.tick_arrays
    assert len(state.ticks) == len(arrays.tick) == 2 * reach
    assert arrays.tick.tolist() == [tick for tick, _, _ in state.ticks]
    for tick, gross, net in state.ticks:
        assert (gross, net) == (block, block if tick < 0 else -block)


def test_nothing_read_is_torn_and_a_kill_leaves_the_last_block(arena_name: str) -> None:
    keys = [key_of(index) for index in range(4)]
    with Child("-c", BUSY_WRITER, arena_name) as child:
        assert child.answer() == "ready"
        with attach(arena_name) as pools:
            handles = [pools[key] for key in keys]
            refused = 0
            head: Any = 0
            end = time.monotonic() + 2
            while time.monotonic() < end:
                for handle in handles:
                    check(handle.state(), 0)
                    check(handle.freeze().state(), 0)
                with pools.snapshot() as view:
                    for key in keys:
                        try:
                            pool = view[key]
                            block = pool.quote_exact_in(3, zero_for_one=True).block_number
                            state = pool.state()
                        except errors.SnapshotTooOld:
                            refused += 1
                            continue
                        assert state.block_number == block
                        check(state, view.block_number)
                newer = pools.wait_block(head, 30)
                assert newer is not None
                assert newer > head
                head = newer
            child.process.kill()
            child.process.wait(30)
            last = pools.head_block
            with pools.snapshot() as view:
                for _ in range(3):
                    states = [view[key].state() for key in keys]
                    for state in states:
                        check(state, last)
                    assert [pool.state() for pool in handles] == states
            assert pools.wait_block(last, 0.01) is None
    with WriterArena.create(arena_name, max_pools=4) as writer:
        writer.close(unlink=True)
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(arena_name)]


def test_a_tuple_is_no_key(pools: Arena) -> None:
    with pools.snapshot() as view:
        for key in ((key_of(0),), (key_of(0), key_of(1)), ()):
            with pytest.raises(TypeError, match="a pool key is"):
                view[key]  # type: ignore[index]


def test_a_signal_ends_a_spin_as_it_ends_a_sleep(pools: Arena) -> None:
    class Late(Exception):
        pass

    def tell(*_: object) -> None:
        raise Late

    former = signal.signal(signal.SIGALRM, tell)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    began = time.monotonic()
    try:
        with pytest.raises(Late):
            pools.wait_block(10**9, timeout=60, spin_us=60_000_000)
    finally:
        signal.signal(signal.SIGALRM, former)
    assert time.monotonic() - began < 30
