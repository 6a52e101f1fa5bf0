"""When a bridge says that it cannot get on, and to whom."""

from collections.abc import Sequence
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
