"""The short cut from a real Unix socket to a commit: what it applies, what it leaves, and when it ends.

Blocks are empty: what events do is told apart in tests/differential/test_pump_vs_python.py.
"""

import gc
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builders.frames import Exex

from arena import errors
from arena.native import lib
from arena.writer.service import feed_thread
from arena.writer.service.feed_thread import FeedThread
from arena.writer.stream import pump as module
from arena.writer.stream.history import EventBuffer
from arena.writer.stream.pump import Pump
from arena.writer.stream.socket import Batch, Feed
from arena.writer.sync.applying import Processor
from arena.writer.sync.intake import Intake
from arena.writing import WriterArena

SECONDS = 30.0
FIRST = 101


class Line:
    """A feed, its producer's end, and an arena at block FIRST - 1."""

    def __init__(self, arena: WriterArena, path: Path) -> None:
        self.arena = arena
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen()
        self.feed = Feed(path)
        assert self.feed.connect(SECONDS)
        self.client, _ = self.server.accept()
        self.exex = Exex()
        self.pump = Pump()
        self.tip = FIRST - 1
        arena.set_head(self.tip)
        arena.commit()

    def blocks(self, first: int, count: int) -> bytes:
        return b"".join(
            self.exex.begin(number, 7) + self.exex.end(number, 0)
            for number in range(first, first + count)
        )

    def run(self, seconds: float = 0.0, min_commit_ns: int = 0) -> Batch:
        batch = self.pump.run(
            self.feed,
            self.arena,
            tip=self.tip,
            min_commit_ns=min_commit_ns,
            tells_tight=False,
            unseen=(0, 0),
            seconds=seconds,
        )
        self.tip += len(self.pump.ends)
        return batch

    def beats(self) -> int:
        return int(self.arena._hold.office.shared.heartbeat_count)

    def close(self) -> None:
        self.client.close()
        self.feed.close()
        self.server.close()


@pytest.fixture
def line(arena_name: str, tmp_path: Path) -> Iterator[Line]:
    arena = WriterArena.create(arena_name, max_pools=4, tick_bytes=1 << 16)
    found = Line(arena, tmp_path / "feed.sock")
    yield found
    found.close()
    arena.close(unlink=True)


def numbers(records: np.ndarray) -> list[int]:
    begins = records[records["kind"] == lib.PSA_EVENT_BEGIN_BLOCK]
    return [int(number) for number in begins["block_number"]]


def test_blocks_that_follow_are_published_and_kept(line: Line) -> None:
    line.client.sendall(line.blocks(FIRST, 3))
    batch = line.run()
    assert len(batch.records) == 0
    assert not batch.faults
    assert line.arena.head_block == FIRST + 2
    assert numbers(line.pump.records) == [FIRST, FIRST + 1, FIRST + 2]
    assert line.pump.ends == [2, 4, 6]
    assert len(line.pump.latencies) == 1
    assert not line.pump.has_read_all
    assert line.arena.counters[lib.PSA_COUNTER_FRAMES] == line.feed.frames == 6


def test_a_block_cut_anywhere_is_whole_in_the_end(line: Line) -> None:
    data = line.blocks(FIRST, 2)
    for at in range(len(data)):
        line.client.sendall(data[at : at + 1])
        assert not line.run().faults
    assert line.arena.head_block == FIRST + 1


def test_a_group_is_published_when_nothing_more_is_there(line: Line) -> None:
    line.client.sendall(line.blocks(FIRST, 2))
    line.run(min_commit_ns=1 << 62)
    assert line.arena.head_block == FIRST - 1
    assert line.pump.unseen[0] > 0
    line.run(min_commit_ns=1 << 62)
    assert line.arena.head_block == FIRST + 1
    assert line.pump.has_read_all


@pytest.mark.parametrize("first", [FIRST - 1, FIRST + 1])
def test_a_block_that_does_not_follow_is_left(line: Line, first: int) -> None:
    line.client.sendall(line.blocks(first, 1))
    batch = line.run()
    assert numbers(batch.records) == [first]
    assert line.pump.ends == []
    assert line.arena.head_block == FIRST - 1
    line.client.sendall(line.blocks(FIRST, 1))
    line.run()
    assert line.arena.head_block == FIRST


def test_a_reorg_mark_leaves_all_that_came_with_it(line: Line) -> None:
    data = line.blocks(FIRST, 1) + line.exex.reorg_start([], []) + line.exex.begin(FIRST + 1, 7)
    line.client.sendall(data)
    batch = line.run()
    kinds = batch.records["kind"].tolist()
    assert kinds == [
        lib.PSA_EVENT_BEGIN_BLOCK,
        lib.PSA_EVENT_END_BLOCK,
        lib.PSA_EVENT_REORG_START,
    ]
    assert line.arena.head_block == FIRST - 1
    line.client.sendall(line.exex.end(FIRST + 1, 0))
    assert numbers(line.feed.receive(SECONDS).records) == [FIRST + 1]


def test_a_fault_comes_with_the_blocks_before_it(line: Line) -> None:
    line.client.sendall(line.blocks(FIRST, 1) + line.exex.end(FIRST + 1, 0))
    batch = line.run()
    assert numbers(batch.records) == [FIRST]
    assert [type(fault) for fault in batch.faults] == [errors.InvalidMessage]
    assert line.arena.head_block == FIRST - 1


def test_the_end_of_the_stream_is_a_lost_connection(line: Line) -> None:
    line.client.sendall(line.blocks(FIRST, 1) + b"\7")
    line.run()
    line.client.close()
    [fault] = line.run(SECONDS).faults
    assert type(fault) is errors.Connection
    assert fault.pending_nbytes == 1
    assert not line.feed.is_connected
    assert line.arena.head_block == FIRST


def test_a_reset_connection_names_the_error(line: Line) -> None:
    assert line.feed._socket is not None
    line.feed._socket.send(b"what nobody reads")
    line.client.close()
    [fault] = line.run(SECONDS).faults
    assert type(fault) is errors.Connection
    assert "Connection reset by peer" in str(fault)


def test_waking_ends_the_wait(line: Line) -> None:
    timer = threading.Timer(0.05, line.feed.wake)
    timer.start()
    line.run(SECONDS)
    timer.join()
    assert line.pump.has_read_all
    begin = time.monotonic()
    line.run(0.01)  # it was one wake
    assert time.monotonic() - begin >= 0.01


def test_what_is_there_is_taken_before_a_wake_ends_the_call(line: Line) -> None:
    line.feed.wake()
    line.client.sendall(line.blocks(FIRST, 1))
    line.run(SECONDS)
    assert line.arena.head_block == FIRST


@pytest.mark.parametrize(("count", "taken"), [(4, 4), (5, 0)])
def test_more_blocks_than_can_be_noted_are_left(
    line: Line, count: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BLOCKS", 4)
    line.pump = Pump()
    line.client.sendall(line.blocks(FIRST, count))
    batch = line.run(SECONDS if taken else 0.0)
    assert len(line.pump.ends) == taken
    assert len(numbers(batch.records)) == count - taken
    assert line.arena.head_block == FIRST - 1 + taken


def test_a_full_list_of_latencies_is_the_callers_turn(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LATENCIES", 2)
    line.pump = Pump()
    for number in range(FIRST, FIRST + 4):
        line.client.sendall(line.blocks(number, 1))
        line.run(SECONDS)
        assert len(line.pump.latencies) == 1
    assert line.arena.head_block == FIRST + 3


def test_arrays_are_used_again_once_nobody_holds_their_blocks(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_EVENTS", 1)
    line.pump = Pump()
    held = []
    for _ in range(3):
        line.client.sendall(line.blocks(line.tip + 1, 1))
        line.run()
        held.append(line.pump.records)
    first = [each.copy() for each in held]
    addresses = {each.ctypes.data for each in held}
    assert len(addresses) == 3
    assert all((one == other).all() for one, other in zip(held, first, strict=True))
    held.clear()
    gc.collect()
    line.client.sendall(line.blocks(line.tip + 1, 1))
    line.run()
    assert line.pump.records.ctypes.data in addresses
    assert len(line.pump._arrays) <= 2


# ---- in its thread


@pytest.fixture
def live(line: Line) -> Iterator[tuple[FeedThread, Intake]]:
    """A feed thread that is live at FIRST, and waits for FIRST + 1."""
    intake = Intake(Processor(line.arena), EventBuffer(100), notify=lambda what: None)
    intake.connected()
    line.client.sendall(line.blocks(FIRST, 1))
    intake.take(line.feed.receive(SECONDS).records)
    assert intake.go_live(intake.standing.epoch, []).is_clear
    thread = FeedThread(line.feed, intake, lambda failure: None)
    assert intake.is_plain
    thread.start()
    yield thread, intake
    assert thread.stop()


def until(line: Line, head: int) -> None:
    limit = time.monotonic() + SECONDS
    while line.arena.head_block < head:
        assert time.monotonic() < limit
        time.sleep(0.001)


def test_the_thread_beats_and_works_while_it_waits(
    line: Line, live: tuple[FeedThread, Intake]
) -> None:
    thread, intake = live
    line.client.sendall(line.blocks(FIRST + 1, 2))
    until(line, FIRST + 2)
    before = line.beats()
    kept: list[object] = []
    done = threading.Event()
    thread.submit(lambda: (kept.extend(intake.buffer.blocks()), done.set()))
    assert done.wait(SECONDS)
    assert len(kept) == 3
    limit = time.monotonic() + SECONDS
    while line.beats() < before + 3:
        assert time.monotonic() < limit
        time.sleep(0.01)
    assert int(thread.latency.counts.sum()) >= 1


def test_a_realtime_thread_is_asked_for_once(
    line: Line, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def refuse(pid: int, policy: int, param: os.sched_param) -> None:
        asked.append((pid, policy & ~os.SCHED_RESET_ON_FORK, param.sched_priority))
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(feed_thread.os, "sched_setscheduler", refuse)
    intake = Intake(Processor(line.arena), EventBuffer(100), notify=lambda what: None)
    ends: list[BaseException | None] = []
    thread = FeedThread(line.feed, intake, ends.append, is_realtime=True)
    thread.start()
    done = threading.Event()
    thread.submit(done.set)
    assert done.wait(SECONDS)
    assert thread.stop()
    assert ends == [None]
    assert asked == [(0, os.SCHED_FIFO, 1)]
    assert [r.levelname for r in caplog.records if "not_realtime" in r.message] == ["WARNING"]
