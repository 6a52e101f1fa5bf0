"""When a bridge says that it cannot get on, and to whom."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from arena.errors import ChainMoved, LogInvalid, NodeBehind, RpcUnavailable
from arena.writer.bridge import STALLED_S, Bridge, BridgeSettings


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
    monkeypatch.setattr("arena.writer.bridge.time.monotonic", lambda: found[0])
    monkeypatch.setattr("arena.writer.bridge.check_synced", lambda rpc: None)
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
