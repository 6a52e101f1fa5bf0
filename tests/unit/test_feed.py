"""The socket client against real Unix sockets, and the buffer of canonical blocks.

Frames come from the oracle's codec. Waiting is observed through an injected clock and sleep.
"""

import errno
import itertools
import os
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import wire_oracle as oracle

from arena import errors
from arena.layouts.events import EVENT
from arena.native import lib
from arena.writer.stream import history
from arena.writer.stream.history import EventBuffer
from arena.writer.stream.socket import FIRST_EVENTS, RECEIVE_NBYTES, Feed

WAIT_S = 10.0


class Clock:
    """Time that passes only while sleeping."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []
        self.on_sleep: list[Any] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> bool:
        self.now += seconds
        self.pauses.append(seconds)
        return bool(self.on_sleep and self.on_sleep.pop(0)())


class Producer:
    """A listening socket and the connection of its one client."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.server = socket.socket(socket.AF_UNIX)
        self.server.settimeout(WAIT_S)
        self.server.bind(str(path))
        self.server.listen()
        self.client: socket.socket | None = None

    def accept(self) -> socket.socket:
        self.client, _ = self.server.accept()
        self.client.settimeout(WAIT_S)
        return self.client

    def close(self) -> None:
        if self.client is not None:
            self.client.close()
        self.server.close()


@pytest.fixture
def producer(tmp_path: Path) -> Iterator[Producer]:
    found = Producer(tmp_path / "feed.sock")
    yield found
    found.close()


def update(number: int, *, is_revert: bool = False, log_index: int = 0) -> dict[str, Any]:
    return {
        "type": "PoolUpdate",
        "event": {
            "block_number": number,
            "transaction_index": 0,
            "log_index": log_index,
            "pool_address": "0x" + "11" * 20,
            "pool_id": None,
            "protocol": "uniswap_v2",
            "event_type": "Swap",
            **dict.fromkeys(oracle.SEED_OPTIONS),
            "amount0": 5,
            "amount1": -7,
            "is_revert": is_revert,
        },
    }


def block(number: int, count: int = 1, *, is_revert: bool = False) -> bytes:
    """One block of the seed's indexed form."""
    messages = [{"type": "BeginBlock", "block_number": number, "is_revert": is_revert}]
    messages += [update(number, is_revert=is_revert, log_index=i) for i in range(count)]
    messages.append({"type": "EndBlock", "block_number": number, "num_updates": count})
    return oracle.stream_of(messages, "seed_indexed")


def units(feed: Feed, count: int) -> np.ndarray:
    """Receive until `count` blocks are there."""
    found = np.empty(0, EVENT)
    while np.count_nonzero(found["kind"] == lib.PSA_EVENT_END_BLOCK) < count:
        batch = feed.receive(WAIT_S)
        assert not batch.faults
        found = np.concatenate([found, batch.records])
    return found


def numbers(records: np.ndarray) -> list[int]:
    begins = records[records["kind"] == lib.PSA_EVENT_BEGIN_BLOCK]
    return [int(number) for number in begins["block_number"]]


# ---- connecting --------------------------------------------------------------------------------


def test_refused_attempts_back_off_from_100_ms_doubling_to_10_s(tmp_path: Path) -> None:
    clock = Clock()
    clock.on_sleep = [lambda: False] * 11 + [lambda: True]
    with Feed(tmp_path / "none.sock", clock=clock, sleep=clock.sleep, uniform=lambda: 1.0) as feed:
        assert not feed.connect()
        assert feed.connections == 0
    want = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10, 10, 10]
    assert clock.pauses == pytest.approx(want)


def test_jitter_leaves_out_up_to_half_of_each_pause(tmp_path: Path) -> None:
    clock = Clock()
    clock.on_sleep = [lambda: False] * 3 + [lambda: True]
    draws = iter([0.0, 0.5, 0.25, 1.0])
    with Feed(
        tmp_path / "none.sock", clock=clock, sleep=clock.sleep, uniform=lambda: next(draws)
    ) as feed:
        assert not feed.connect()
    assert clock.pauses == pytest.approx([0.05, 0.15, 0.25, 0.8])


def test_stale_socket_file_counts_as_refused(tmp_path: Path) -> None:
    path = tmp_path / "stale.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.close()
    clock = Clock()
    clock.on_sleep = [lambda: True]
    with Feed(path, clock=clock, sleep=clock.sleep) as feed:
        assert not feed.connect()
        assert len(clock.pauses) == 1


def test_connect_succeeds_once_the_producer_listens(tmp_path: Path) -> None:
    path = tmp_path / "late.sock"
    made: list[Producer] = []
    clock = Clock()

    def listen() -> bool:
        made.append(Producer(path))
        return False

    clock.on_sleep = [lambda: False, listen]
    with Feed(path, clock=clock, sleep=clock.sleep) as feed:
        assert feed.connect()
        assert (len(clock.pauses), feed.connections) == (2, 1)
        assert feed.connect(), "connecting a connected feed changes nothing"
        assert feed.connections == 1
    made[0].close()


def test_connect_timeout_keeps_the_place_in_the_backoff(tmp_path: Path) -> None:
    clock = Clock()
    with Feed(tmp_path / "none.sock", clock=clock, sleep=clock.sleep, uniform=lambda: 1.0) as feed:
        assert not feed.connect(timeout=0.0625)
        assert not feed.connect(timeout=0.0)
        assert not feed.connect(timeout=0.0625)
    # 0.1 s after the first attempt, in two parts, and the beginning of the 0.2 s after the second.
    assert clock.pauses == pytest.approx([0.0625, 0.0375, 0.025])


def test_reconnect_pauses_until_a_connection_delivered_a_unit(producer: Producer) -> None:
    clock = Clock()
    with Feed(producer.path, clock=clock, sleep=clock.sleep, uniform=lambda: 1.0) as feed:
        for _ in range(3):
            assert feed.connect()
            producer.accept().close()
            [fault] = feed.receive(WAIT_S).faults
            assert isinstance(fault, errors.Connection)
            assert fault.frame == 0
            assert fault.resync
        assert clock.pauses == pytest.approx([0.1, 0.2])
        assert feed.connect()
        client = producer.accept()
        client.sendall(block(7))
        units(feed, 1)
        client.close()
        assert feed.receive(WAIT_S).faults
        clock.pauses.clear()
        assert feed.connect()
        assert clock.pauses == []
        assert feed.connections == 5


def test_wake_interrupts_connect(tmp_path: Path) -> None:
    with Feed(tmp_path / "none.sock", uniform=lambda: 1.0) as feed:
        thread = threading.Thread(target=feed.connect)
        thread.start()
        while thread.is_alive():
            feed.wake()
            thread.join(0.01)
        assert not feed.is_connected


# ---- receiving ---------------------------------------------------------------------------------


def test_slow_drip_yields_only_whole_blocks(producer: Producer) -> None:
    with Feed(producer.path) as feed:
        assert feed.connect(WAIT_S)
        client = producer.accept()
        data = block(5, 2) + block(6, 0)
        boundary = len(block(5, 2))
        for at in range(len(data)):
            client.sendall(data[at : at + 1])
            batch = feed.receive(WAIT_S)
            want = {boundary - 1: [5], len(data) - 1: [6]}.get(at, [])
            assert numbers(batch.records) == want
            assert not batch.faults
        assert (feed.frames, feed.bytes) == (6, len(data))
        assert feed.open_block is None


def test_records_are_views_of_one_array(producer: Producer) -> None:
    with Feed(producer.path) as feed:
        assert feed.connect(WAIT_S)
        client = producer.accept()
        client.sendall(block(5, 3))
        first = feed.receive(WAIT_S).records
        client.sendall(block(6, 3))
        second = feed.receive(WAIT_S).records
        assert np.shares_memory(first, second)
        assert second.dtype == EVENT
        assert numbers(second) == [6]


def test_end_in_mid_frame_drops_the_open_block(producer: Producer) -> None:
    with Feed(producer.path) as feed:
        assert feed.connect(WAIT_S)
        client = producer.accept()
        client.sendall(block(5) + block(6, 2)[:-3])
        client.close()
        batch = feed.receive(WAIT_S)
        assert numbers(batch.records) == [5]
        assert feed.open_block == 6
        [fault] = feed.receive(WAIT_S).faults
        assert isinstance(fault, errors.Connection)
        assert (fault.block, fault.frame, fault.resync) == (6, 6, True)
        assert fault.reason == "end of stream inside a payload"
        assert fault.pending_nbytes == 21
        assert not feed.is_connected
        with pytest.raises(errors.Connection):
            feed.receive(0)
        # The next connection starts afresh: no record of block 6, frames counted from 0.
        assert feed.connect(WAIT_S)
        client = producer.accept()
        client.sendall(update_only := block(8)[17:])
        client.sendall(block(9))
        assert len(update_only) < len(block(8))
        assert numbers(units(feed, 1)) == [9]
        assert feed.frames == 6 + 5


def test_receive_times_out_and_is_woken(producer: Producer) -> None:
    with Feed(producer.path) as feed:
        assert feed.connect(WAIT_S)
        producer.accept()
        batch = feed.receive(0)
        assert (len(batch.records), batch.faults) == (0, [])
        feed.wake()
        feed.wake()
        batch = feed.receive(None)  # would hang without the wake
        assert (len(batch.records), batch.faults) == (0, [])
        timer = threading.Timer(0.05, feed.wake)
        timer.start()
        batch = feed.receive(None)
        timer.join()
        assert (len(batch.records), batch.faults) == (0, [])
        assert feed.is_connected


def test_records_before_a_fault_come_with_it_and_those_after_come_next(producer: Producer) -> None:
    with Feed(producer.path) as feed:
        assert feed.connect(WAIT_S)
        client = producer.accept()
        stray = oracle.stream_of([update(7)], "seed_indexed")
        client.sendall(block(5) + block(6) + stray + block(8))
        batch = feed.receive(WAIT_S)
        assert numbers(batch.records) == [5, 6]
        [fault] = batch.faults
        assert isinstance(fault, errors.InvalidMessage)
        assert (fault.frame, fault.block, fault.found, fault.expected) == (6, 7, 7, 0)
        assert fault.code == lib.PSA_FAULT_OUTSIDE_BLOCK
        batch = feed.receive(0)
        assert numbers(batch.records) == [8]
        assert feed.is_connected


@pytest.mark.parametrize("late", ["ReorgComplete", "ReorgEpilogue"])
def test_the_end_of_a_reorg_that_lost_messages_comes_after_the_fault(
    producer: Producer, late: str
) -> None:
    """Whoever takes the records first must not take the end of the reorg for what came before."""
    no_range = {"first_block": None, "last_block": None, "block_count": 0}
    start = {"type": "ReorgStart", "stream_seq": 1, "old_range": no_range, "new_range": no_range}
    end = {"type": late, "stream_seq": 5, "final_tip_block": 3}
    if late == "ReorgEpilogue":
        pool = {"type": "Address", "value": "0x" + "11" * 20}
        update = {"type": "V2ReservesFinal", "pool_id": pool, "reserve0": 4, "reserve1": 5}
        end |= {"final_tip_timestamp": 9, "update": update}
    with Feed(producer.path, dialect="exex") as feed:
        assert feed.connect(WAIT_S)
        client = producer.accept()
        client.sendall(oracle.stream_of([start, end], "g15"))
        records, [fault] = feed.receive(WAIT_S)
        assert records["kind"].tolist() == [lib.PSA_EVENT_REORG_START]
        assert (type(fault), fault.code) == (errors.InvalidMessage, lib.PSA_FAULT_SEQUENCE)
        records, faults = feed.receive(0)
        assert len(records) == 1
        assert records["stream_seq"].tolist() == [5]
        assert not faults
        assert len(feed.receive(0).records) == 0


def test_deserialization_error_ends_the_connection(producer: Producer) -> None:
    with Feed(producer.path) as feed:
        assert feed.connect(WAIT_S)
        client = producer.accept()
        client.sendall(block(5) + b"\xff\xff\xff\xff")
        batch = feed.receive(WAIT_S)
        assert numbers(batch.records) == [5]
        [fault] = batch.faults
        assert type(fault) is errors.Deserialization
        assert (fault.frame, fault.found) == (3, 2**32 - 1)
        assert not feed.is_connected
        assert client.recv(1) == b"", "the producer sees the connection closed"


def test_refused_generation_is_its_own_class(producer: Producer) -> None:
    with Feed(producer.path) as feed:
        assert feed.connect(WAIT_S)
        client = producer.accept()
        client.sendall(oracle.frame(bytes([6, 0, 0, 0]) + bytes(25)))
        [fault] = feed.receive(WAIT_S).faults
        assert type(fault) is errors.UnsupportedGeneration
        assert not feed.is_connected


def test_nothing_is_written_to_the_socket(producer: Producer) -> None:
    with Feed(producer.path) as feed:
        assert feed.connect(WAIT_S)
        client = producer.accept()
        client.sendall(block(5))
        units(feed, 1)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)


@pytest.mark.parametrize("nbytes", [28, 256 * 1024, 3_000_000])
def test_frames_larger_than_the_buffer_are_taken(producer: Producer, nbytes: int) -> None:
    """An UpdateWhitelist, ignored by its length; the buffer grows for it and shrinks again."""
    begin = {
        "type": "BeginBlock",
        "stream_seq": 1,
        "block_number": 5,
        "block_timestamp": 0,
        "base_fee_per_gas": 0,
        "is_revert": False,
    }
    end = {"type": "EndBlock", "stream_seq": 2, "block_number": 5, "num_updates": 0}
    data = oracle.stream_of([begin], "g15") + oracle.frame(bytes(nbytes))
    data += oracle.stream_of([end], "g15")
    with Feed(producer.path) as feed:
        assert feed.connect(WAIT_S)
        client = producer.accept()
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        found = units(feed, 1)
        sender.join(WAIT_S)
        assert numbers(found) == [5]
        assert feed.frames == 3
        assert feed.bytes == len(data)
        feed.receive(0)
        assert len(feed._buffer) == RECEIVE_NBYTES


def test_claimed_length_reserves_no_memory(producer: Producer) -> None:
    """The largest allowed length is announced, and little of it ever sent."""
    with Feed(producer.path) as feed:
        assert feed.connect(WAIT_S)
        client = producer.accept()
        client.sendall(block(5) + (16 * 1024 * 1024).to_bytes(4, "little") + bytes(1000))
        assert numbers(units(feed, 1)) == [5]
        client.close()
        [fault] = feed.receive(WAIT_S).faults
        assert fault.pending_nbytes == 1004
        assert len(feed._buffer) == RECEIVE_NBYTES


@pytest.mark.parametrize("count", [1, 98, 99])
def test_block_of_up_to_the_limit_is_taken(producer: Producer, count: int) -> None:
    """A limit of 101 records: BeginBlock, 99 updates, EndBlock."""
    with Feed(producer.path, max_block_events=101) as feed:
        assert feed.connect(WAIT_S)
        producer.accept().sendall(block(5, count))
        assert len(units(feed, 1)) == count + 2


def test_block_above_the_limit_is_an_overflow(producer: Producer) -> None:
    with Feed(producer.path, max_block_events=101) as feed:
        assert feed.connect(WAIT_S)
        producer.accept().sendall(block(4) + block(5, 100))
        found = numbers(feed.receive(WAIT_S).records)
        batch = feed.receive(0)
        while not batch.faults:
            batch = feed.receive(WAIT_S)
        assert found == [4]
        [fault] = batch.faults
        assert type(fault) is errors.BufferOverflow
        assert (fault.capacity, fault.attempted, fault.block) == (101, 102, 5)
        assert not feed.is_connected


def test_large_block_makes_the_record_array_grow(producer: Producer) -> None:
    count = FIRST_EVENTS + 10
    with Feed(producer.path) as feed:
        assert feed.connect(WAIT_S)
        client = producer.accept()
        sender = threading.Thread(target=client.sendall, args=(block(5, count),))
        sender.start()
        found = units(feed, 1)
        sender.join(WAIT_S)
        assert found["log_index"][1:-1].tolist() == list(range(count))


def test_use_after_close_raises(tmp_path: Path) -> None:
    feed = Feed(tmp_path / "none.sock")
    feed.close()
    feed.close()
    feed.wake()
    with pytest.raises(errors.ArenaClosed):
        feed.connect(0)
    with pytest.raises(errors.ArenaClosed):
        feed.receive(0)


def test_wrong_arguments_are_value_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dialect"):
        Feed(tmp_path / "x", dialect="g04")
    with pytest.raises(ValueError, match="max_block_events"):
        Feed(tmp_path / "x", max_block_events=1)
    with pytest.raises(ValueError, match="capacity"):
        EventBuffer(-1)


# ---- the buffer ---------------------------------------------------------------------------------


def records_of(*blocks: tuple[int, int, bool]) -> np.ndarray:
    """Blocks (number, events, is_revert) as records, made by hand."""
    found = []
    for number, count, is_revert in blocks:
        one = np.zeros(count + 2, EVENT)
        one["block_number"] = number
        one["kind"][0] = lib.PSA_EVENT_BEGIN_BLOCK
        one["kind"][1:-1] = lib.PSA_EVENT_V2_SYNC
        one["kind"][-1] = lib.PSA_EVENT_END_BLOCK
        one["flags"] = int(is_revert)
        found.append(one)
    return np.concatenate(found) if found else np.zeros(0, EVENT)


def new(number: int, count: int = 1) -> tuple[int, int, bool]:
    return number, count, False


def old(number: int, count: int = 1) -> tuple[int, int, bool]:
    return number, count, True


def kept(buffer: EventBuffer) -> list[int]:
    return [int(one["block_number"][0]) for one in buffer.blocks()]


def test_buffer_keeps_copies_in_order() -> None:
    buffer = EventBuffer(100)
    records = records_of(new(5, 2), new(6, 0), new(7, 3))
    buffer.append(records)
    want = records.copy()
    records["block_number"] = 0
    assert kept(buffer) == [5, 6, 7]
    assert (buffer.first_block, buffer.last_block, buffer.tip) == (5, 7, 7)
    assert (buffer.event_count, len(buffer)) == (5, 3)
    assert buffer.records().tobytes() == want.tobytes()
    assert numbers(buffer.records(after=5)) == [6, 7]
    assert len(buffer.records(after=7)) == 0


def test_marks_and_epilogues_are_not_kept() -> None:
    marks = np.zeros(4, EVENT)
    marks["kind"] = [
        lib.PSA_EVENT_REORG_START,
        lib.PSA_EVENT_SLOT0_FINAL,
        lib.PSA_EVENT_RESYNC_POOL,
        lib.PSA_EVENT_REORG_COMPLETE,
    ]
    buffer = EventBuffer(2)
    buffer.append(np.concatenate([marks, records_of(new(5)), marks, records_of(new(6)), marks]))
    assert buffer.event_count == 2
    assert buffer.records().tobytes() == records_of(new(5), new(6)).tobytes()


@pytest.mark.parametrize(("capacity", "fits"), [(12, False), (13, True), (14, True)])
def test_capacity_counts_events_and_is_never_exceeded(capacity: int, fits: bool) -> None:
    buffer = EventBuffer(capacity)
    batch = records_of(new(1, 3), new(2, 10), new(3, 0))
    if fits:
        buffer.append(batch)
        assert kept(buffer) == [1, 2, 3]
        return
    with pytest.raises(errors.BufferOverflow) as raised:
        buffer.append(batch)
    assert (raised.value.capacity, raised.value.attempted, raised.value.block) == (12, 13, 2)
    assert kept(buffer) == [1]
    assert buffer.tip == 1


@pytest.mark.parametrize(("count", "fits"), [(2, True), (3, True), (4, False)])
def test_empty_blocks_are_limited_too(count: int, fits: bool) -> None:
    buffer = EventBuffer(100, max_blocks=3)
    batch = records_of(*(new(number, 0) for number in range(count)))
    if fits:
        buffer.append(batch)
    else:
        with pytest.raises(errors.BufferOverflow) as raised:
            buffer.append(batch)
        assert (raised.value.capacity, raised.value.attempted) == (3, 4)
    assert len(buffer) == min(count, 3)


@pytest.mark.parametrize("reverted", [(7, 6), (6, 7)], ids=["newest first", "oldest first"])
def test_reverts_in_either_order_take_blocks_out(reverted: tuple[int, int]) -> None:
    buffer = EventBuffer(100)
    buffer.append(records_of(new(5), new(6, 2), new(7, 3), *map(old, reverted)))
    assert (kept(buffer), buffer.event_count, buffer.tip) == ([5], 1, 5)
    buffer.append(records_of(new(6), new(7), new(8)))
    assert kept(buffer) == [5, 6, 7, 8]


def test_reverts_free_capacity() -> None:
    buffer = EventBuffer(2)
    buffer.append(records_of(new(5), new(6), old(6), new(6), old(6), new(6)))
    assert kept(buffer) == [5, 6]


def test_reverts_below_the_first_block_empty_the_buffer() -> None:
    buffer = EventBuffer(100)
    buffer.append(records_of(new(5), new(6)))
    buffer.append(records_of(old(6), old(5), old(4), new(4), new(5)))
    assert kept(buffer) == [4, 5]


def test_a_block_after_missing_ones_is_kept() -> None:
    buffer = EventBuffer(100)
    buffer.append(records_of(new(5)))
    buffer.append(records_of(new(8), new(9)))
    assert (kept(buffer), buffer.tip) == ([5, 8, 9], 9)


def test_a_block_replaced_without_a_revert_is_a_revert() -> None:
    buffer = EventBuffer(100)
    mark = buffer.mark()
    buffer.append(records_of(new(5), new(6), new(7), new(6, 4)))
    assert (kept(buffer), buffer.event_count) == ([5, 6], 5)
    assert buffer.reverts_since(mark) == 6


def test_reverts_since_a_mark() -> None:
    buffer = EventBuffer(100)
    first = buffer.mark()
    assert buffer.reverts_since(first) is None
    buffer.append(records_of(new(5), new(6), new(7), old(7)))
    second = buffer.mark()
    buffer.append(records_of(old(6), old(5), new(5), new(6)))
    third = buffer.mark()
    buffer.append(records_of(new(7), old(7)))
    assert [buffer.reverts_since(mark) for mark in (first, second, third)] == [5, 5, 7]
    assert buffer.reverts_since(buffer.mark()) is None
    buffer.clear()
    assert buffer.reverts_since(third) == 7
    with pytest.raises(ValueError, match="mark"):
        buffer.reverts_since(buffer.mark() + 1)


def test_revert_marks_stay_bounded_and_err_on_the_low_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_REVERT_MARKS", 8)
    rng = random.Random(1)
    buffer = EventBuffer(10, keep_blocks=3)
    reverted: list[int] = []
    for number in range(100):
        buffer.append(records_of(new(number), old(number), new(number)))
        reverted.append(number)
        assert len(buffer._reverts) <= 8
        mark = rng.randint(0, len(reverted))
        found = buffer.reverts_since(mark)
        exact = min(reverted[mark:], default=None)
        assert (found is None) == (exact is None)
        assert found is None or exact is None or found <= exact
    assert buffer.reverts_since(96) == 96, "recent marks are exact"


def test_revert_watermarks_equal_a_list_of_all_reverts() -> None:
    rng = random.Random(2)
    buffer = EventBuffer(10_000)
    reverted: list[int] = []
    marks = [(buffer.mark(), 0)]
    tip = 50
    for _ in range(300):
        depth = rng.randint(1, 6)
        buffer.append(records_of(*(old(tip - i, 0) for i in range(depth))))
        reverted += [tip - i for i in range(depth)]
        marks.append((buffer.mark(), len(reverted)))
        tip += rng.randint(-depth + 1, 3) if tip > 10 else 6
        buffer.clear()
        buffer.append(records_of(new(tip, 0)))
        for mark, length in rng.sample(marks, min(5, len(marks))):
            assert buffer.reverts_since(mark) == min(reverted[length:], default=None)


def test_history_drops_the_oldest() -> None:
    history = EventBuffer(10, keep_blocks=3)
    history.append(records_of(*(new(number) for number in range(1, 6))))
    assert kept(history) == [3, 4, 5]
    history.append(records_of(new(6, 8)))
    assert (kept(history), history.event_count) == ([4, 5, 6], 10)
    history.append(records_of(new(7, 3)))
    assert (kept(history), history.event_count) == ([7], 3)
    history.append(records_of(new(8, 11)))
    assert (kept(history), history.tip) == ([], 8)
    history.append(records_of(new(9, 10)))
    assert kept(history) == [9]


def test_what_a_start_may_buffer_is_not_kept_once_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "HISTORY_EVENTS", 10)
    buffer = EventBuffer(1000)
    buffer.append(records_of(*(new(number, 4) for number in range(1, 101))))
    assert buffer.event_count == 400
    buffer.keep_blocks = 64
    buffer.append(records_of(new(101, 2)))
    assert (kept(buffer), buffer.event_count) == ([99, 100, 101], 10)


def test_history_follows_reverts() -> None:
    history = EventBuffer(100, keep_blocks=4)
    history.append(records_of(new(1), new(2), new(3), new(4), new(5), old(5), old(4)))
    assert kept(history) == [2, 3]
    history.append(records_of(new(4)))
    assert kept(history) == [2, 3, 4]


def test_incomplete_units_are_refused() -> None:
    for cut in (slice(1, None), slice(None, -1)):
        with pytest.raises(ValueError, match="complete"):
            EventBuffer(10).append(records_of(new(1))[cut])
    with pytest.raises(ValueError, match="complete"):
        EventBuffer(10).append(records_of(new(1), new(2))[[0, 3, 2, 5]])


@pytest.mark.parametrize("newest_first", [True, False])
def test_buffer_is_the_canonical_chain(newest_first: bool) -> None:
    """Random reorgs against a dictionary of the chain."""
    rng = random.Random(3)
    buffer = EventBuffer(10_000)
    chain: dict[int, int] = {}
    serial = itertools.count(1)
    tip = 100
    for _ in range(200):
        if chain and rng.random() < 0.4:
            depth = rng.randint(1, min(5, len(chain)))
            gone = list(range(tip - depth + 1, tip + 1))
            order = gone[::-1] if newest_first else gone
            buffer.append(records_of(*(old(number) for number in order)))
            for number in gone:
                del chain[number]
            tip -= depth
        tip += 1
        chain[tip] = next(serial) % 50
        buffer.append(records_of(new(tip, chain[tip])))
        assert kept(buffer) == sorted(chain)
        assert buffer.event_count == sum(chain.values())
    for one, number in zip(buffer.blocks(), sorted(chain), strict=True):
        assert len(one) == chain[number] + 2


# ---- who answers -------------------------------------------------------------------------------


def test_who_answers_is_known_and_logged(
    producer: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with Feed(producer.path, peer_uid=os.geteuid()) as feed:
        assert feed.peer is None
        assert feed.connect(WAIT_S)
        assert feed.peer == (os.getpid(), os.geteuid(), os.getegid())
    assert f"peer_pid={os.getpid()} peer_uid={os.geteuid()}" in caplog.text


def test_another_users_process_is_refused_and_nothing_of_it_read(producer: Producer) -> None:
    with Feed(producer.path, peer_uid=os.geteuid() + 1) as feed:
        with pytest.raises(errors.PeerRefused, match="--feed-uid") as caught:
            feed.connect(WAIT_S)
        assert not feed.is_connected
        assert (caught.value.found, caught.value.expected) == (os.geteuid(), os.geteuid() + 1)
        assert caught.value.pid == os.getpid()
        client = producer.accept()
        assert client.recv(1) == b""  # it has left
        with pytest.raises(errors.Connection):
            feed.receive(0)


@pytest.mark.parametrize(("nbytes", "fits"), [(107, True), (108, False), (4000, False)])
def test_a_path_no_socket_can_have_is_refused_at_once(nbytes: int, fits: bool) -> None:
    path = "/" + "a" * (nbytes - 1)
    if fits:
        with Feed(path) as feed:
            assert not feed.connect(0)
        return
    with pytest.raises(ValueError, match=rf"{nbytes} bytes.* at most 107"):
        Feed(path)


def test_a_shortage_of_descriptors_is_a_refused_attempt(
    producer: Producer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left(*arguments: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    clock = Clock()
    with Feed(producer.path, clock=clock, sleep=clock.sleep) as feed:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", none_left)
            clock.on_sleep = [lambda: True]
            assert not feed.connect()
        assert len(clock.pauses) == 1
        assert "LimitNOFILE" in caplog.text
        assert feed.connect()
