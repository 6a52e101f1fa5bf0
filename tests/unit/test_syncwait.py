"""Waiting for a node that still syncs: what readers and the log are told, and when it ends."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from arena.errors import BufferOverflow, RpcUnavailable
from arena.writer.node.head import Block, SyncState
from arena.writer.sync.syncwait import wait_until_synced


def state(reason: str | None, age_s: float = 0.0, number: int = 7) -> SyncState:
    return SyncState(Block(number, bytes(32), 0), age_s, reason)


class Played:
    """Intake and arena in one."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, str]] = []
        self.overflow: BufferOverflow | None = None
        self.drops = 0
        self.first_block: int | None = None
        self.last_block: int | None = None

    @property
    def arena(self) -> "Played":
        return self

    @property
    def standing(self) -> "Played":
        return self

    def kept_range(self) -> tuple[int | None, int | None]:
        return self.first_block, self.last_block

    def set_phase(self, phase: str, reason: str) -> None:
        self.phases.append((phase, reason))

    def drop_buffer(self) -> None:
        self.drops += 1

    async def call(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)


def wait(played: Played, *answers: SyncState | Exception, **limits: Any) -> int:
    """How often the node was asked."""
    left = list(answers)

    def ask() -> SyncState:
        found = left.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    waiting = wait_until_synced(played, played.call, ask, poll_s=0.001, **limits)  # type: ignore[arg-type]
    asyncio.run(asyncio.wait_for(waiting, 30))
    return len(answers) - len(left)


def test_a_node_that_has_its_chain_is_asked_once_and_nothing_is_said() -> None:
    played = Played()
    assert wait(played, state(None), state("late")) == 1
    assert played.phases == []


def test_the_reason_is_shown_until_the_node_has_caught_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    played = Played()
    played.overflow = BufferOverflow("more than is kept")
    with caplog.at_level(logging.INFO):
        assert wait(played, state("block 5 of 9"), state("block 6 of 9"), state(None)) == 3
    assert played.phases[:2] == [("connecting", "block 5 of 9"), ("connecting", "block 6 of 9")]
    assert played.drops == 1, "what came meanwhile is of no use"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "event=node_syncing" in caplog.text
    assert "event=node_synced block=7" in caplog.text


def test_a_node_that_does_not_answer_is_not_waited_for() -> None:
    assert wait(Played(), RpcUnavailable("away"), state(None)) == 1


def test_a_node_that_is_away_while_it_syncs_is_waited_for() -> None:
    assert wait(Played(), state("block 5 of 9"), RpcUnavailable("away"), state(None)) == 3


def test_an_old_head_is_told_and_no_hindrance(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert wait(Played(), state(None, age_s=9 * 3600), state(None)) == 1
    assert "event=old_head block=7 age_h=9" in caplog.text


@pytest.mark.parametrize(("first", "drops"), [(5, 1), (9, 1), (10, 0), (None, 0)])
def test_a_node_behind_what_was_left_is_waited_for_and_the_stream_begins_behind_it(
    first: int | None, drops: int
) -> None:
    played = Played()
    played.first_block, played.last_block = first, None if first is None else 12
    answers = (state(None, number=5), state(None, number=8), state(None, number=9))
    assert wait(played, *answers, lowest=9, patience_s=20.0) == 3
    reason = "the node is behind: its newest block is 5, what was left is of block 9 and later"
    assert played.phases[0] == ("connecting", reason)
    assert played.drops == drops


def test_a_stream_that_comes_after_its_node_is_waited_for_too() -> None:
    played = Played()
    played.first_block, played.last_block = 5, 6
    answers = [state(None, number=5), *[state(None, number=9)] * 9999]
    asked = wait(played, *answers, lowest=9, patience_s=0.05)
    assert asked > 2
    assert "its newest block is 6" in played.phases[1][1]
    assert played.drops == 0, "it did not come"


def test_a_node_that_stays_behind_is_waited_for_as_long_as_for_a_gap() -> None:
    played = Played()
    played.first_block = 5
    assert wait(played, *[state(None, number=5)] * 99, lowest=9, patience_s=0.01) < 99
    assert played.drops == 0, "what it has is all there is"
