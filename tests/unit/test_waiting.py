"""Coroutines that wait for blocks: no worker thread of their loop's, and a clean end in every way."""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from builders.arenas import unlinked

from arena import errors
from arena.readers import Arena, attach, waiting
from arena.writing import WriterArena

HEAD = 100
SECONDS = 30.0


@pytest.fixture
def writer(arena_name: str) -> Iterator[WriterArena]:
    with unlinked(WriterArena.create(arena_name, max_pools=4, tick_bytes=1 << 20)) as found:
        mine(found, HEAD)
        yield found


def mine(writer: WriterArena, number: int) -> None:
    writer.set_head(number)
    writer.commit()
    writer.heartbeat()


def waiter_threads(name: str) -> list[threading.Thread]:
    bare = name.removeprefix("/")
    return [each for each in threading.enumerate() if each.name == f"arena-waiter-{bare}"]


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


async def waiting_count(pools: Arena, count: int) -> None:
    """Return once that many coroutines wait."""
    async with asyncio.timeout(SECONDS):
        while pools._waiters is None or len(pools._waiters._waiting) != count:
            await asyncio.sleep(0.005)


class _NoThreads(ThreadPoolExecutor):
    def submit(self, *work: Any, **more: Any) -> Future[Any]:
        raise AssertionError("a worker thread of the loop was asked for")


def test_no_thread_of_the_loop_is_taken(writer: WriterArena, pools: Arena) -> None:
    async def story() -> list[int | None]:
        asyncio.get_running_loop().set_default_executor(_NoThreads())
        tasks = [asyncio.create_task(pools.await_block(HEAD, SECONDS)) for _ in range(50)]
        await waiting_count(pools, 50)
        assert len(waiter_threads(writer.name)) == 1
        mine(writer, HEAD + 1)
        return await asyncio.gather(*tasks)

    assert asyncio.run(story()) == [HEAD + 1] * 50


def test_name_lookups_go_on_beside_more_waiters_than_worker_threads(pools: Arena) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        tasks = [asyncio.create_task(pools.await_block(HEAD)) for _ in range(4)]
        await waiting_count(pools, 4)
        async with asyncio.timeout(SECONDS):
            assert await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(story())


def test_waiters_of_several_loops_see_every_block(writer: WriterArena, pools: Arena) -> None:
    last = HEAD + 20

    async def strategy() -> list[int]:
        seen: list[int] = [HEAD]
        while seen[-1] < last:
            found = await pools.await_block(seen[-1], SECONDS)
            assert found is not None
            seen.append(int(found))
        return seen

    async def several() -> list[list[int]]:
        return list(await asyncio.gather(*(strategy() for _ in range(20))))

    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(asyncio.run, several()) for _ in range(3)]
        for number in range(HEAD + 1, last + 1):
            until(lambda: pools._waiters is not None and pools._waiters._waiting)
            mine(writer, number)
        for each in running:
            for seen in each.result(SECONDS):
                assert seen == sorted(set(seen))
                assert (seen[0], seen[-1]) == (HEAD, last)
    assert len(waiter_threads(writer.name)) == 1


def test_cancelled_waiters_are_forgotten_and_the_thread_ends(
    writer: WriterArena, pools: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_LINGER_S", 0.01)

    async def story() -> None:
        kept = asyncio.create_task(pools.await_block(HEAD, SECONDS))
        tasks = [asyncio.create_task(pools.await_block(HEAD)) for _ in range(3)]
        await waiting_count(pools, 4)
        for task in tasks:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in found)
        await waiting_count(pools, 1)
        mine(writer, HEAD + 1)
        assert await kept == HEAD + 1

    asyncio.run(story())
    until(lambda: not waiter_threads(writer.name))
    # and a new one comes when it is needed
    assert asyncio.run(pools.await_block(HEAD + 1, 0.02)) is None


def test_the_timeout_ends_a_wait(pools: Arena) -> None:
    for timeout in (0.0, -1.0, 0, 0.03):
        assert asyncio.run(pools.await_block(HEAD, timeout)) is None
    assert asyncio.run(pools.await_block(HEAD - 1, 0.0)) == HEAD


def test_what_is_no_time_or_number_is_refused(pools: Arena) -> None:
    """Also where the block is there already, so that it does not depend on the chain."""
    wrong: list[tuple[Any, type[Exception]]] = [
        (float("nan"), ValueError),
        *((value, TypeError) for value in ("1", b"1", [], True, 1j, object())),
    ]
    for after in (HEAD, HEAD - 1):
        for timeout, error in wrong:
            with pytest.raises(error, match="timeout is"):
                asyncio.run(pools.await_block(after, timeout))
    for number in ("100", 100.0, float("nan"), None, b"100"):
        with pytest.raises(TypeError):
            asyncio.run(pools.await_block(number, 0.0))  # type: ignore[arg-type]


def test_waits_that_need_not_wait_let_other_tasks_run(pools: Arena) -> None:
    async def story() -> None:
        async def spin() -> None:
            while True:
                await pools.await_block(HEAD - 1)

        task = asyncio.create_task(spin())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())


def test_closing_the_arena_ends_every_wait(pools: Arena) -> None:
    async def story() -> list[Any]:
        tasks = [asyncio.create_task(pools.await_block(HEAD)) for _ in range(5)]
        await waiting_count(pools, 5)
        pools.close()
        async with asyncio.timeout(SECONDS):
            return await asyncio.gather(*tasks, return_exceptions=True)

    assert {type(each) for each in asyncio.run(story())} == {errors.ArenaClosed}
    with pytest.raises(errors.ArenaClosed):
        asyncio.run(pools.await_block(HEAD))


def test_a_loop_that_ended_in_mid_wait_harms_no_other(writer: WriterArena, pools: Arena) -> None:
    loop = asyncio.new_event_loop()
    abandoned = loop.create_task(pools.await_block(HEAD))
    loop.run_until_complete(waiting_count(pools, 1))
    loop.close()

    async def story() -> int | None:
        task = asyncio.create_task(pools.await_block(HEAD, SECONDS))
        await waiting_count(pools, 2)
        mine(writer, HEAD + 1)
        return await task

    assert asyncio.run(story()) == HEAD + 1
    abandoned._log_destroy_pending = False  # type: ignore[attr-defined]


def test_waiters_follow_a_recreated_arena(arena_name: str) -> None:
    first = WriterArena.create(arena_name, max_pools=4, tick_bytes=1 << 20)
    mine(first, HEAD)

    async def story(pools: Arena) -> int | None:
        tasks = [asyncio.create_task(pools.await_block(HEAD, SECONDS)) for _ in range(3)]
        await waiting_count(pools, 3)
        first.close(unlink=False)
        with WriterArena.create(arena_name, max_pools=4, tick_bytes=1 << 20) as second:
            mine(second, HEAD + 5)
            found = await asyncio.gather(*tasks)
            second.close(unlink=True)
        assert found == [HEAD + 5] * 3
        return found[0]

    with attach(arena_name) as pools:
        asyncio.run(story(pools))


def test_a_forked_child_waits_with_a_thread_of_its_own(writer: WriterArena, pools: Arena) -> None:
    async def story() -> int:
        task = asyncio.create_task(pools.await_block(HEAD, SECONDS))
        await waiting_count(pools, 1)
        assert pools._waiters is not None
        with pools._waiters._condition:  # held by nobody in the child
            pid = os.fork()
        if pid == 0:
            signal.alarm(int(SECONDS))
            try:
                asyncio.events._set_running_loop(None)
                assert not pools._waiters._waiting
                seen = asyncio.run(pools.await_block(HEAD, SECONDS))
                os._exit(0 if seen == HEAD + 1 else 3)
            finally:
                os._exit(4)
        mine(writer, HEAD + 1)
        assert await task == HEAD + 1
        return pid

    pid = asyncio.run(story())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
