"""The feed thread: work between blocks, faults of the stream, and an end that is never silent."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arena.errors import Connection, Deserialization, InvalidMessage, PoolNotFound
from arena.layouts.events import EVENT
from arena.native import lib
from arena.values import Fault
from arena.writer.host.room import Capacities
from arena.writer.host.sidetasks import SideTasks
from arena.writer.scrapers.statefile import StateFile
from arena.writer.service import service
from arena.writer.service.feed_thread import FeedThread
from arena.writer.stream.history import EventBuffer
from arena.writer.stream.socket import Batch
from arena.writer.sync.applying import Processor
from arena.writer.sync.faultlog import FAULT_LOG_INTERVAL_S, FaultLog
from arena.writer.sync.intake import Intake
from arena.writing import WriterArena

SECONDS = 30


class ScriptedFeed:
    """Gives the batches it was told, then nothing; waiting ends with wake."""

    def __init__(self, *batches: Batch | Exception) -> None:
        self.batches = list(batches)
        self.is_connected = True
        self.frames = self.bytes = self.connections = 1
        self.received_ns = 1
        self._woken = threading.Event()

    def connect(self, timeout: float | None = None) -> bool:
        self._woken.wait(timeout)
        return False

    def receive(self, timeout: float | None = None) -> Batch:
        if self.batches:
            batch = self.batches.pop(0)
            if isinstance(batch, Exception):
                raise batch
            if batch.faults and not isinstance(batch.faults[0], InvalidMessage):
                self.is_connected = False
            return batch
        self._woken.wait(timeout)
        self._woken.clear()
        return Batch(np.empty(0, EVENT), [])

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        self.is_connected = False


@pytest.fixture
def writer(arena_name: str) -> Iterator[WriterArena]:
    arena = WriterArena.create(arena_name, max_pools=4, tick_bytes=1 << 16)
    yield arena
    arena.close(unlink=True)


def started(writer: WriterArena, feed: Any) -> tuple[FeedThread, Intake, list[Any]]:
    intake = Intake(Processor(writer), EventBuffer(100), notify=lambda what: None)
    intake.connected()  # the scripted feed begins connected
    ends: list[Any] = []
    thread = FeedThread(feed, intake, ends.append)
    thread.start()
    return thread, intake, ends


def in_thread(thread: FeedThread, work: Callable[[], Any]) -> Any:
    """Run `work` in the feed thread and give its result."""
    done = threading.Event()
    result: list[Any] = []

    def run() -> None:
        result.append(work())
        done.set()

    thread.submit(run)
    assert done.wait(SECONDS)
    return result[0]


def test_work_runs_in_the_feed_thread_and_stop_ends_it_cleanly(writer: WriterArena) -> None:
    thread, _intake, ends = started(writer, ScriptedFeed())
    assert in_thread(thread, lambda: threading.current_thread().name) == "arena-feed"
    assert thread.stop()
    assert ends == [None]


def test_a_failure_in_the_feed_thread_is_handed_on(writer: WriterArena) -> None:
    failure = MemoryError("no more")
    thread, _intake, ends = started(writer, ScriptedFeed(failure))
    assert thread.stop()
    assert ends == [failure]


@pytest.mark.parametrize(
    ("fault", "phase", "begins_again"),
    [
        (Connection("end of stream", resync=True), "connecting", True),
        (Deserialization("bad frame", resync=True), "connecting", True),
        (InvalidMessage("count differs", resync=True, block=7), "buffering", True),
        (InvalidMessage("epilogue outside a reorg", resync=False, block=None), "buffering", False),
    ],
)
def test_each_class_of_fault_has_its_effect(
    writer: WriterArena, fault: Any, phase: str, begins_again: bool
) -> None:
    feed = ScriptedFeed(Batch(np.empty(0, EVENT), [fault]))
    thread, intake, ends = started(writer, feed)
    while in_thread(thread, lambda: len(feed.batches)):
        pass  # between two receives, so what is no longer there has had its effect
    epoch_after = in_thread(thread, lambda: intake.standing.epoch)
    shown = in_thread(thread, lambda: arena_phase(writer))
    assert thread.stop()
    assert ends == [None]
    assert shown == phase
    assert epoch_after == (2 if begins_again else 1)


def test_the_service_ends_with_what_ended_its_feed_thread(
    arena_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scripted(path: Path, dialect: str, peer_uid: int | None) -> Any:
        return ScriptedFeed(MemoryError("no more"))

    monkeypatch.setattr(service, "Feed", scripted)
    settings = service.Settings(
        arena_name, tmp_path / "feed.sock", capacities=Capacities(4, 1 << 16)
    )
    running = service.Service(settings, StateFile(tmp_path / "states.jsonl")).run()
    with pytest.raises(MemoryError, match="no more"):
        asyncio.run(running)
    assert not list(Path("/dev/shm").glob(f"{arena_name}*"))


def arena_phase(writer: WriterArena) -> str:
    from arena.writer.service.status import read_status

    return str(read_status(writer.name)["phase"])


def fault(key: bytes, error: type[Exception] = PoolNotFound) -> Fault:
    return Fault(
        status=lib.PSA_INVALID_EVENT_DATA,
        error=error,
        slot=1,
        key=key,
        block_number=5,
        tx_index=0,
        log_index=2,
        kind=lib.PSA_EVENT_CL_SWAP,
        protocol=lib.PSA_UNISWAP_V3,
        made_stale=True,
    )


def test_faults_are_logged_once_for_each_pool_class_and_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    log = FaultLog(clock=lambda: now)
    for _ in range(3):
        log.write(fault(b"\1" * 20))
    log.write(fault(b"\2" * 20))
    log.write(fault(b"\1" * 20, ValueError))
    now = FAULT_LOG_INTERVAL_S - 0.001
    log.write(fault(b"\1" * 20))
    now = FAULT_LOG_INTERVAL_S
    log.write(fault(b"\1" * 20))
    lines = [record.getMessage() for record in caplog.records]
    assert [(line.split()[1], line.split()[2][7:9]) for line in lines] == [
        ("error=PoolNotFound", "01"),
        ("error=PoolNotFound", "02"),
        ("error=ValueError", "01"),
        ("error=PoolNotFound", "01"),
    ]
    assert lines[0].endswith("made_stale=yes held_back=0")
    assert "protocol=uniswap_v3 type=swap block=5 tx=0 log=2" in lines[0]
    assert lines[3].endswith("held_back=3")


def test_a_side_task_that_fails_with_anything_is_counted_and_begins_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = SideTasks(first_pause_s=0.001, longest_pause_s=0.01)
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries <= 5:
            raise ValueError("could not convert string to float: '²'")
        await asyncio.Event().wait()

    async def play() -> None:
        keeping = asyncio.ensure_future(tasks.keep("audit", work))
        while tries < 6:
            assert not keeping.done()
            await asyncio.sleep(0.001)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        assert keeping.cancelled()

    asyncio.run(asyncio.wait_for(play(), SECONDS))
    assert tasks.counts() == {"audit_failed_total": 5}
    said = [each for each in caplog.records if "event=side_task_failed" in each.getMessage()]
    assert len(said) == 5
    assert "error=ValueError" in said[0].getMessage()
