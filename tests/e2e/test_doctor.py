"""What `arena-writer doctor` says, and that its exit code agrees with whether a start works."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from oracle.feed_server import FeedServer
from oracle.history import Producer, Universe, write_states
from oracle.node_server import NodeServer

SECONDS = 60


def doctor(*options: str) -> tuple[int, list[dict[str, Any]]]:
    program = str(Path(sys.executable).parent / "arena-writer")
    done = subprocess.run(
        [program, "doctor", "--json", *options],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode in (0, 2), done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def about(findings: list[dict[str, Any]], subject: str) -> list[dict[str, Any]]:
    return [each for each in findings if each["subject"] == subject]


@pytest.fixture
def universe(tmp_path: Path) -> Universe:
    found = Universe(random.Random(3))
    write_states(tmp_path / "states.jsonl", found, found.tip)
    return found


def test_a_start_that_would_work(universe: Universe, tmp_path: Path) -> None:
    stream = Producer(universe, order="newest-first", envelope=True).mined([universe.mine()])
    with (
        FeedServer(tmp_path / "feed.sock", stream, tmp_path / "stream.bin") as server,
        NodeServer(universe.chain) as node,
    ):
        options = ("--socket", str(server.socket_path), "--states", str(tmp_path / "states.jsonl"))
        with subprocess.Popen(
            [
                str(Path(sys.executable).parent / "arena-writer"),
                *("doctor", "--json", "--wait", "30", "--rpc", node.address, *options),
            ],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            server.await_clients(1)
            server.send(0, len(stream))
            out, _ = process.communicate(timeout=SECONDS)
        findings = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 0, findings
    assert about(findings, "socket")[0]["block"] == universe.tip.number
    assert about(findings, "states")[0]["block"] == universe.tip.number - 1
    assert about(findings, "node")[0]["chain_id"] == 1
    assert {each["of"]: each["blocks"] for each in about(findings, "lag")}["states"] == 1
    assert about(findings, "start")[0]["verdict"] == "ok"


def test_a_socket_without_a_producer(universe: Universe, tmp_path: Path) -> None:
    states = str(tmp_path / "states.jsonl")
    code, findings = doctor("--socket", str(tmp_path / "none.sock"), "--states", states)
    assert code == 2
    assert about(findings, "socket")[0]["verdict"] == "fail"
    assert about(findings, "states")[0]["verdict"] == "ok"


def test_a_node_of_another_chain(universe: Universe, tmp_path: Path) -> None:
    with NodeServer(universe.chain) as node:
        code, findings = doctor(
            *("--socket", str(tmp_path / "none.sock"), "--rpc", node.address),
            *("--chain-id", "5", "--states", str(tmp_path / "states.jsonl")),
        )
    assert code == 2
    assert about(findings, "node")[0]["error"] == "ChainMismatch"


def test_a_database_that_is_missing_is_named(tmp_path: Path) -> None:
    pools = tmp_path / "pools.json"
    pools.write_text("{}")
    code, findings = doctor("--reth-db", str(tmp_path / "gone"), "--pools", str(pools))
    assert code == 2
    assert about(findings, "database")[0]["error"] == "DatabaseMissing"
    assert about(findings, "pools")[0]["error"] == "PoolListError"
    assert about(findings, "start")[-1]["found"] == "no source of pool values can be read"


def test_nothing_configured_is_no_start() -> None:
    code, findings = doctor()
    assert code == 2
    assert {each["subject"] for each in findings} >= {"memory", "socket", "nats", "start"}
