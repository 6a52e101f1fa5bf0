"""arena-verify against a live arena, and against one that was started from falsified values."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chains.proof import Proof
from roles.processes import ReaderProcess, WriterProcess

import arena

pytestmark = pytest.mark.node

BIN = Path(sys.executable).parent
POOLS = 16


def run(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / program), *options], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def proof(tmp_path: Path, arena_name: str) -> Iterator[Proof]:
    with Proof(tmp_path, arena_name, seed=61, pools=4) as made:
        made.wait_live()
        for _ in range(5):
            made.block()
        yield made


def test_a_true_arena_does_not_differ(proof: Proof) -> None:
    done = run("arena-verify", proof.arena_name, "--rpc", proof.node.http)
    head = proof.node.block()["number"]
    assert done.returncode == 0, done
    assert done.stdout == f"{POOLS} pools compared at block {head}, 0 differ\n"
    for transport in (proof.node.ws, str(proof.node.ipc)):
        done = run("arena-verify", proof.arena_name, "--rpc", transport, "--sample", "3", "--json")
        assert json.loads(done.stdout) == {
            "block": head,
            "compared": 3,
            "differ": 0,
            "not_live": {},
        }


def test_a_wrong_fee_of_the_list_is_never_live_beside_a_node(
    proof: Proof, tmp_path: Path, arena_name: str
) -> None:
    listed = proof.market.pool_list()
    wrong = next(entry for entry in listed if entry["protocol"] == "uniswap_v3")
    fee, wrong["fee"] = wrong["fee"], 77
    managed = next(entry for entry in listed if entry["protocol"] == "uniswap_v4")
    managed["tick_spacing"] += 1
    (tmp_path / "wrong.json").write_text(json.dumps(listed))
    (tmp_path / "second").mkdir()
    name = f"{arena_name}-second"
    more = ("--pools", str(tmp_path / "wrong.json"), "--rpc", proof.node.http)
    with (
        WriterProcess(tmp_path / "second", name=name, socket=proof.socket, more=more) as writer,
        ReaderProcess(tmp_path, name) as reader,
    ):
        while not reader.ask(do="live", seconds=0.1)["ok"]:
            proof.market.step(0)
        with arena.attach(name, timeout=20) as pools:
            assert wrong["address"] not in pools
            assert len(pools) == POOLS - 2
        log = writer.log.read_text()
    assert f"fee_pips is {fee} by its contract, listed is 77" in log
    assert "as listed have the id 0x" in log
    done = run("arena-writer", "doctor", "--node", proof.node.http, *more[:2])
    assert f"fee_pips is {fee} by its contract, listed is 77" in done.stdout
    assert f"{POOLS - 2} of {POOLS} pools are what the list says" in done.stdout


def test_a_wrong_fee_of_a_state_file_is_found(
    proof: Proof, tmp_path: Path, arena_name: str
) -> None:
    """Without a node the file is believed: verify names the fee, and beside a node it is refused."""
    states = tmp_path / "wrong.jsonl"

    def write() -> tuple[dict[str, Any], int]:
        options = ("--rpc", proof.node.http, "--pools", str(proof.pools))
        scraped = run("arena-writer", "scrape", *options)
        lines = [json.loads(line) for line in scraped.stdout.splitlines()]
        wrong = next(line for line in lines if line.get("protocol") == "uniswap_v3")
        fee, wrong["fee_pips"] = wrong["fee_pips"], 77
        states.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return wrong, fee

    wrong, fee = write()
    (tmp_path / "second").mkdir()
    name = f"{arena_name}-second"
    with (
        WriterProcess(tmp_path / "second", name=name, socket=proof.socket, states=states) as writer,
        ReaderProcess(tmp_path, name) as reader,
    ):
        while not reader.ask(do="live", seconds=0.1)["ok"]:
            proof.market.step(0)
        assert "event=descriptions_unchecked" in writer.log.read_text()
        done = run("arena-verify", name, "--rpc", proof.node.http)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == f"{wrong['pool']} fee_pips: arena 77, node {fee}"
    write()
    (tmp_path / "third").mkdir()
    name = f"{arena_name}-third"
    more = ("--rpc", proof.node.http)
    with (
        WriterProcess(
            tmp_path / "third", name=name, socket=proof.socket, states=states, more=more
        ) as writer,
        ReaderProcess(tmp_path, name) as reader,
    ):
        while not reader.ask(do="live", seconds=0.1)["ok"]:
            proof.market.step(0)
        with arena.attach(name, timeout=20) as pools:
            assert wrong["pool"] not in pools
        assert f"fee_pips is {fee} by its contract, listed is 77" in writer.log.read_text()


def test_an_arena_without_a_live_pool_is_refused(
    proof: Proof, tmp_path: Path, arena_name: str
) -> None:
    (tmp_path / "second").mkdir()
    name = f"{arena_name}-second"
    more = ("--pools", str(proof.pools), "--rpc", proof.node.http)
    with WriterProcess(tmp_path / "second", name=name, socket=proof.socket, more=more):
        done = run("arena-verify", name, "--rpc", proof.node.http, "--timeout", "20")
        assert done.returncode == 2, done
        assert done.stderr.startswith(f"arena-verify: NotLive: the arena {name} has no live pool")


def falsified(lines: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Change one pool of each kind so that it still looks whole; the fields changed, by pool."""
    changed: dict[str, set[str]] = {}

    def first(protocol: str, **more: Any) -> dict[str, Any]:
        found = next(
            line
            for line in lines
            if line["protocol"] == protocol
            and line["pool"] not in changed
            and all(line.get(name) == value for name, value in more.items())
        )
        changed[found["pool"]] = set()
        return found

    pair = first("uniswap_v2")
    pair["reserve1"] = str(int(pair["reserve1"]) + 1)
    changed[pair["pool"]] = {"reserve1"}
    priced = first("uniswap_v3")
    priced["sqrt_price_x96"] = str(int(priced["sqrt_price_x96"]) + 1)
    changed[priced["pool"]] = {"sqrt_price_x96"}
    ranged = first("uniswap_v3")
    tick = ranged["ticks"][1]
    tick[1] = str(int(tick[1]) + 1)
    changed[ranged["pool"]] = {f"ticks[{tick[0]}]"}
    shared = first("uniswap_v4")
    shared["protocol_fee"] = 77 if shared["protocol_fee"] != 77 else 78
    changed[shared["pool"]] = {"protocol_fee"}
    return changed


def test_each_falsified_field_is_named(proof: Proof, tmp_path: Path, arena_name: str) -> None:
    head, *lines = map(json.loads, run("arena-dump", proof.arena_name).stdout.splitlines())
    changed = falsified(lines)
    states = tmp_path / "false.jsonl"
    states.write_text("\n".join(json.dumps(line) for line in [head, *lines]) + "\n")
    (tmp_path / "second").mkdir()
    name = f"{arena_name}-second"
    with (
        WriterProcess(tmp_path / "second", name=name, socket=proof.socket, states=states),
        ReaderProcess(tmp_path, name) as reader,
    ):
        while not reader.ask(do="live", seconds=0.1)["ok"]:
            proof.market.step(0)
        done = run("arena-verify", name, "--rpc", proof.node.http, "--json")
    *found, total = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 1, done
    named: dict[str, set[str]] = {}
    for each in found:
        named.setdefault(each["pool"], set()).add(each["field"])
        assert each["arena"] != each["node"]
    assert named == changed
    assert (total["compared"], total["differ"]) == (POOLS, len(changed))


def test_refusals(proof: Proof) -> None:
    for name, options in (
        ("ArenaMissing", ("nobody-made-this", "--rpc", proof.node.http)),
        ("RpcUnavailable", (proof.arena_name, "--rpc", "http://127.0.0.1:1")),
        ("ValueError", (proof.arena_name, "--rpc", "gopher://node")),
    ):
        done = run("arena-verify", *options)
        assert done.returncode == 2, done
        assert done.stderr.startswith(f"arena-verify: {name}: "), done.stderr


def test_a_node_on_another_branch_is_not_compared(proof: Proof) -> None:
    proof.kill_writer()
    proof.market.reorg(2, method="anvil_reorg", operations=8)
    proof.market.step(3)
    # anvil gives replaced blocks the times of the old ones; a later one differs.
    proof.node.call("anvil_rollback", 3)
    proof.node.call("evm_increaseTime", 1000)
    proof.market.step(3)
    proof.market.step(3)
    proof.market.step(3)
    done = run("arena-verify", proof.arena_name, "--rpc", proof.node.http)
    assert done.returncode == 2, done
    assert done.stderr.startswith("arena-verify: ChainMoved: "), done.stderr
    proof.start_writer()
    proof.wait_live()
    assert run("arena-verify", proof.arena_name, "--rpc", proof.node.http).returncode == 0
