"""When a bridge says that it cannot get on, and to whom."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arena.errors import ChainMoved, LogInvalid, NodeBehind, RpcUnavailable
from arena.writer.node.client import Header
from arena.writer.producers.bridge import Bridge, BridgeSettings
from arena.writer.producers.stalls import STALLED_S
from arena.writer.stream.evidence import WholeBlock


class Told:
    """The program around it."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def stalled(self, reason: str) -> None:
        self.reasons.append(reason)

    def doubted(self, keys: frozenset[bytes], block_number: int) -> None:
        raise AssertionError


class FailingNode:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def head(self) -> Any:
        raise self.error


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found = [1000.0]
    monkeypatch.setattr("arena.writer.producers.bridge.time.monotonic", lambda: found[0])
    monkeypatch.setattr("arena.writer.producers.bridge.check_synced", lambda rpc: None)
    return found


@pytest.fixture
def bridge(tmp_path: Path) -> Bridge:
    return Bridge(BridgeSettings("http://127.0.0.1:1", None, tmp_path / "b.sock"), ())


ERRORS: Sequence[Exception] = (
    NodeBehind("the node gave 3 logs of block 77: they are not all", block=77),
    ChainMoved("block 77 changed while its logs were read", block=77),
    LogInvalid("log 4 of block 77 came twice", block=77),
    RpcUnavailable("no answer"),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_hinders_for_long_is_told_once_with_its_cause(
    bridge: Bridge, now: list[float], error: Exception
) -> None:
    told = Told()
    bridge._host = told
    bridge._node = FailingNode(error)  # type: ignore[assignment]
    bridge._step(None)
    now[0] += STALLED_S - 0.1
    bridge._step(None)
    assert told.reasons == []
    assert bridge.counts()["stalled_seconds"] == int(STALLED_S - 0.1)
    for _ in range(3):
        now[0] += 0.1
        bridge._step(None)
    assert told.reasons == [f"no block: {type(error).__name__}: {error}"]
    assert bridge.counts()["stalls_total"] == 1


def test_a_bridge_of_its_own_closes_its_connections(
    bridge: Bridge, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    monkeypatch.setattr(bridge, "_call_soon", lambda work, *more: called.append((work, more)))
    bridge._node = FailingNode(ERRORS[0])  # type: ignore[assignment]
    bridge._step(None)
    now[0] += STALLED_S
    bridge._step(None)
    assert called == [(bridge._drop_clients, (f"no block: NodeBehind: {ERRORS[0]}",))]


class LackingNode:
    """Tells of blocks that it never has, while its newest block stands."""

    def __init__(self, head: Header) -> None:
        self.newest = head

    def head(self) -> Header:
        return self.newest

    def block(self, block_hash: bytes, *, with_receipts: bool) -> tuple[None, None, None]:
        return None, None, None


@pytest.mark.parametrize("hints", [1, 100])
def test_blocks_that_were_told_and_never_come_are_named_while_the_newest_one_stands(
    bridge: Bridge, now: list[float], monkeypatch: pytest.MonkeyPatch, hints: int
) -> None:
    told = Told()
    bridge._host = told
    tip = Header(77, bytes([77]) * 32, bytes(32), 0, 0)
    bridge._node = LackingNode(tip)  # type: ignore[assignment]
    bridge._follower._kept = [WholeBlock(tip, (), {})]
    last = b""
    for index in range(10):
        if index < hints:
            last = bytes([index + 1]) * 32
            bridge._step(last)
        bridge._step(None)
        now[0] += STALLED_S / 8
    (reason,) = told.reasons
    assert reason.startswith("no block after block 77: NodeBehind: the node told of block 0x")
    assert reason.endswith(" and does not have it yet")
    assert bridge.counts()["stalls_total"] == 1
    assert bridge.counts()["stalled_seconds"] >= STALLED_S
    bridge._node.newest = Header(78, bytes([78]) * 32, tip.hash, 0, 0)  # type: ignore[attr-defined]
    following = [WholeBlock(bridge._node.newest, (), {})]  # type: ignore[attr-defined]
    monkeypatch.setattr(bridge._follower._reader, "read", lambda headers, pools: following)
    monkeypatch.setattr(bridge, "_call_soon", lambda work, *more: None)
    bridge._step(None)
    bridge._step(None)
    assert bridge.counts()["stalled_seconds"] == 0


class ForkedNode:
    """Knows a block that was replaced by its hash, and names another by its number."""

    def __init__(self, newest: Header, replaced: Header) -> None:
        self.newest, self.replaced = newest, replaced
        self.heads: list[Header] = []  # told in turn, before the newest

    def head(self) -> Header:
        return self.heads.pop(0) if self.heads else self.newest

    def block(self, block_hash: bytes, *, with_receipts: bool) -> tuple[Header, list[Any], None]:
        return {each.hash: each for each in (self.newest, self.replaced)}[block_hash], [], None

    def headers(self, numbers: Sequence[int]) -> list[Header | None]:
        return [self.newest if number == self.newest.number else None for number in numbers]


def header(number: int, name: str = "A", parent: str = "A") -> Header:
    hashes = [bytes([n]) * 31 + mark.encode() for n, mark in ((number, name), (number - 1, parent))]
    return Header(number, *hashes, 0, 0)


@pytest.fixture
def following(bridge: Bridge, now: list[float], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is done in the loop while the bridge follows a ForkedNode at block 77."""
    called: list[Any] = []
    monkeypatch.setattr(bridge, "_call_soon", lambda work, *more: called.append(work))
    monkeypatch.setattr("arena.writer.producers.bridge.check_chain", lambda rpc, expected: 1)
    bridge._node = ForkedNode(header(77), header(77, "B"))  # type: ignore[assignment]
    bridge._follower._node = bridge._node
    bridge._follower._kept = [WholeBlock(header(n), (), {}) for n in (75, 76, 77)]
    return called


@pytest.mark.parametrize("is_first", [False, True])
def test_a_block_that_was_replaced_and_is_told_late_turns_nothing_back(
    bridge: Bridge, following: list[Any], monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    read: list[Header] = []

    def whole(headers: Sequence[Header], pools: Any) -> list[WholeBlock]:
        read.extend(headers)
        return [WholeBlock(each, (), {}) for each in headers]

    monkeypatch.setattr(bridge._follower._reader, "read", whole)
    if is_first:
        bridge._follower.forget()
    bridge._step(header(77, "B").hash)
    assert bridge._follower.tip == header(77)
    assert read == ([header(77)] if is_first else [])
    if not is_first:
        bridge._node.newest = header(77, "B")  # type: ignore[attr-defined]
        bridge._step(header(77, "B").hash)
        assert bridge._follower.tip == header(77, "B"), "now it is the node's own"


def test_one_answer_about_a_head_far_away_lets_nobody_begin_again(
    bridge: Bridge, now: list[float], following: list[Any]
) -> None:
    node: Any = bridge._node
    for _ in range(20):
        node.heads = [replace(header(77, "C"), number=10**7)]
        bridge._step(None)
        now[0] += 0.02
        bridge._step(None)
        now[0] += 0.3
    assert bridge._drop_clients not in following
    node.heads = [replace(header(77, "C"), number=10**7)] * 100
    for _ in range(20):
        bridge._step(None)
        now[0] += 0.1
    assert following.count(bridge._drop_clients) >= 1, "it stays there"


def test_the_newest_block_is_asked_for_whatever_is_told(
    bridge: Bridge, now: list[float], following: list[Any]
) -> None:
    """Heads of a branch that is not the node's, or old ones, and always more of them."""
    for failures in (0, 3):
        bridge._failures = failures
        bridge._stopping.set()  # no pause
        for told_s in (0.2, 0.5, 1.1, 3.0):
            bridge._newest()
            asked = 0
            for _ in range(40):
                bridge._heads._hints.put(bytes(32))
                now[0] += told_s
                if bridge._next_hint() is None:
                    asked += 1
                    bridge._newest()
            assert asked >= 40 * min(1.0, told_s / (1.0 + told_s)) - 1


def test_steps_of_seconds_take_what_was_told_and_keep_the_subscription(
    bridge: Bridge, now: list[float], following: list[Any]
) -> None:
    heads = bridge._heads
    heads._unsubscribe = lambda: None
    node: Any = bridge._node
    for _ in range(8):
        bridge._newest()
        heads._hints.put(header(77).hash)
        heads._hints.put(header(77).hash)
        now[0] += 1.1
        hint = bridge._next_hint()
        node.heads = [header(77)]
        bridge._step(hint)
        heads.note_untold()
    assert heads.is_subscribed
    assert heads._hints.empty()


def test_a_block_that_one_node_of_two_cannot_give_is_told(
    bridge: Bridge, now: list[float], following: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each other answer is of a node that has not come to it."""
    told = Told()
    bridge._host = told
    node: Any = bridge._node
    why = NodeBehind("the node gave 3 logs of block 78: they are not all", block=78)

    def refuse(headers: Sequence[Header], pools: Any) -> list[WholeBlock]:
        raise why

    monkeypatch.setattr(bridge._follower._reader, "read", refuse)
    began = now[0]
    while not told.reasons and now[0] < began + 60:
        for head in (header(78), header(77)):
            node.heads = [head]
            now[0] += 0.3
            bridge._step(None)
    assert told.reasons == [f"no block after block 77: NodeBehind: {why}"]
    assert now[0] - began < 10
    while bridge.counts()["stalled_seconds"] and now[0] < began + 60:
        node.heads = [header(77)]
        now[0] += 0.3
        bridge._step(None)
    assert now[0] < began + 20, "that block is gone"


def test_the_cause_that_is_told_is_what_the_last_step_failed_of(
    bridge: Bridge, now: list[float], following: list[Any]
) -> None:
    told = Told()
    bridge._host = told
    bridge._node = FailingNode(ERRORS[0])  # type: ignore[assignment]
    bridge._step(None)
    now[0] += STALLED_S + 0.1
    bridge._stalls.begins()
    bridge._stalls.look("answers take seconds")
    assert told.reasons == [f"no block after block 77: NodeBehind: {ERRORS[0]}"]


def test_answers_that_take_seconds_each_are_told_while_they_are_waited_for(
    bridge: Bridge, now: list[float], following: list[Any]
) -> None:
    told = Told()
    bridge._host = told
    node: Any = bridge._node

    def slow() -> Header:
        for seconds in (3.5, 3.5, 0.9):
            now[0] += seconds
            bridge._stalls.look("answers take seconds")
        assert told.reasons == []
        now[0] += 0.2
        for _ in range(3):
            bridge._stalls.look("answers take seconds")
        return header(77)

    node.head = slow
    bridge._step(None)
    assert told.reasons == ["no block after block 77: answers take seconds"]
    now[0] += 100
    bridge._stalls.look("answers take seconds")
    assert len(told.reasons) == 1, "between two steps nothing is waited for"
