"""What dies or falls silent beside a trading chain comes back without a difference."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chains.proof import Proof
from doubles.proxy import Swallower

pytestmark = pytest.mark.node


@pytest.fixture
def proof(tmp_path: Path, arena_name: str) -> Iterator[Proof]:
    keep = ("--state", str(tmp_path / "chain.json"), "--preserve-historical-states")
    with Proof(tmp_path, arena_name, seed=31, pools=4, node_options=keep) as made:
        made.wait_live()
        made.block(settle=True)
        yield made


def go_on(proof: Proof, blocks: int = 5) -> None:
    """Trading goes on and all readers come back and follow, through a reorg too."""
    proof.wait_live()
    for _ in range(blocks):
        proof.block(settle=True)
    proof.reorg(2, "anvil_reorg")
    proof.quotes(60)
    proof.equal(every_word=True)


def test_the_node_is_restarted(proof: Proof) -> None:
    proof.trade(3)
    proof.restart_node()
    proof.trade(5)
    go_on(proof)
    assert proof.bridge is not None
    assert "event=node_fails" in proof.bridge.log.read_text()


def test_the_bridge_is_killed_and_restarted(proof: Proof) -> None:
    proof.trade(3)
    assert proof.bridge is not None
    proof.bridge.kill()
    proof.trade(5)
    proof.market.reorg(3, method="anvil_reorg", operations=6)
    proof.start_bridge()
    proof.trade(3)
    go_on(proof)
    assert "event=gap_closed" in proof.writer_log()


def test_the_writer_is_killed_and_restarted(proof: Proof) -> None:
    proof.trade(3)
    proof.kill_writer()
    proof.trade(5)
    proof.start_writer()
    go_on(proof)


def test_everything_is_killed_at_once(proof: Proof) -> None:
    assert proof.bridge is not None
    proof.kill_writer()
    proof.bridge.kill()
    proof.restart_node()
    proof.trade(2)
    proof.start_bridge()
    proof.start_writer()
    go_on(proof)


@pytest.mark.parametrize("only_subscriptions", [True, False])
def test_the_node_falls_silent(tmp_path: Path, arena_name: str, only_subscriptions: bool) -> None:
    path = tmp_path / "silent.ipc"
    folder = tmp_path / "node"
    folder.mkdir()
    with Proof(folder, arena_name, seed=32, pools=4, transport="ipc") as proof:
        proof.wait_live()
        assert proof.bridge is not None
        proof.bridge.__exit__(None, None, None)
        with Swallower(path, proof.node.ipc) as swallower:
            proof.start_bridge(str(path))
            proof.wait_live()
            proof.block(settle=True)
            swallower.swallow(only_subscriptions=only_subscriptions)
            for _ in range(4):
                proof.block(settle=True)
            proof.reorg(3, "evm_revert")
            assert swallower.swallowed > 0
            go_on(proof)
            text = proof.bridge.log.read_text()
            assert "event=subscription_silent" in text
            assert only_subscriptions or "event=node_fails" in text
            proof.bridge.__exit__(None, None, None)
            proof.bridge = None


def test_one_command_with_a_node(tmp_path: Path, arena_name: str) -> None:
    with Proof(tmp_path, arena_name, seed=33, pools=4, embedded=True) as proof:
        go_on(proof, 20)
        proof.kill_writer()
        proof.trade(3)
        proof.start_writer()
        go_on(proof)
