"""What `arena-writer doctor` says, and that its exit code agrees with whether a start works."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders.history import Producer, Universe, write_states
from chains.market import Market, traded_market
from chains.mirror import DatabaseMirror
from chains.producer import NodeProducer
from doubles.feed_server import FeedServer
from doubles.node_server import NodeServer
from doubles.proxy import FaultyServer, node_answer

SECONDS = 60


PROGRAM = str(Path(sys.executable).parent / "arena-writer")


def doctor(*options: str) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(
        [PROGRAM, "doctor", "--json", *options],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode in (0, 2), done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def doctor_of_a_stream(
    server: FeedServer, stream: bytes, *options: str
) -> tuple[int, list[dict[str, Any]]]:
    """The same, of a server that sends `stream` once the doctor is connected."""
    words = ["doctor", "--json", "--wait", "30", "--socket", str(server.socket_path), *options]
    with subprocess.Popen([PROGRAM, *words], stdout=subprocess.PIPE, text=True) as process:
        server.await_clients(1)
        server.send_bytes(stream)
        out, _ = process.communicate(timeout=SECONDS)
    return process.returncode, [json.loads(line) for line in out.splitlines()]


def about(findings: list[dict[str, Any]], subject: str) -> list[dict[str, Any]]:
    return [each for each in findings if each["subject"] == subject]


@pytest.fixture
def universe(tmp_path: Path) -> Universe:
    found = Universe(random.Random(3))
    write_states(tmp_path / "states.jsonl", found, found.tip)
    return found


@pytest.mark.slow
def test_a_start_that_would_work(universe: Universe, tmp_path: Path) -> None:
    stream = Producer(universe, order="newest-first", envelope=True).mined([universe.mine()])
    with (
        FeedServer(tmp_path / "feed.sock", stream, tmp_path / "stream.bin") as server,
        NodeServer(universe.chain) as node,
    ):
        options = ("--states", str(tmp_path / "states.jsonl"), "--rpc", node.address)
        code, findings = doctor_of_a_stream(server, stream, *options)
    assert code == 0, findings
    assert about(findings, "socket")[0]["block"] == universe.tip.number
    assert about(findings, "states")[0]["block"] == universe.tip.number - 1
    assert about(findings, "node")[0]["chain_id"] == 1
    assert {each["of"]: each["blocks"] for each in about(findings, "lag")}["states"] == 1
    assert about(findings, "start")[0]["verdict"] == "ok"


@pytest.mark.slow
def test_a_socket_without_a_producer(universe: Universe, tmp_path: Path) -> None:
    states = str(tmp_path / "states.jsonl")
    code, findings = doctor("--socket", str(tmp_path / "none.sock"), "--states", states)
    assert code == 2
    assert about(findings, "socket")[0]["verdict"] == "fail"
    assert about(findings, "states")[0]["verdict"] == "ok"


@pytest.mark.slow
def test_a_node_of_another_chain(universe: Universe, tmp_path: Path) -> None:
    with NodeServer(universe.chain) as node:
        code, findings = doctor(
            *("--socket", str(tmp_path / "none.sock"), "--rpc", node.address),
            *("--chain-id", "5", "--states", str(tmp_path / "states.jsonl")),
        )
    assert code == 2
    assert about(findings, "node")[0]["error"] == "ChainMismatch"


@pytest.mark.slow
def test_a_database_that_is_missing_is_named(tmp_path: Path) -> None:
    pools = tmp_path / "pools.json"
    pools.write_text("{}")
    code, findings = doctor("--reth-db", str(tmp_path / "gone"), "--pools", str(pools))
    assert code == 2
    assert about(findings, "database")[0]["error"] == "DatabaseMissing"
    assert about(findings, "pools")[0]["error"] == "PoolListError"
    assert about(findings, "start")[-1]["found"] == "no source of pool values can be read"


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    with traded_market(tmp_path, seed=9, each=5) as made:
        (tmp_path / "pools.json").write_text(json.dumps(made.pool_list()))
        yield made


def beside(market: Market, mirror: DatabaseMirror, folder: Path) -> list[str]:
    pools = str(folder / "pools.json")
    return ["--reth-db", str(mirror.database), "--rpc", market.node.http, "--pools", pools]


@pytest.mark.node
def test_database_and_node_agree(market: Market, tmp_path: Path) -> None:
    producer = NodeProducer(market)
    old = market.step(5)
    with (
        DatabaseMirror(tmp_path / "reth", market) as mirror,
        FeedServer(tmp_path / "feed.sock", b"", tmp_path / "stream.bin") as server,
    ):
        mirror.write(old)
        for _ in range(3):
            market.step(5)
        options = beside(market, mirror, tmp_path)
        code, findings = doctor_of_a_stream(server, producer.follow(), *options)
        assert code == 0, findings
        (database,) = about(findings, "database")
        assert (database["layout"], database["block"]) == ("v2", old["number"])
        assert set(database["stages"].values()) == {old["number"]}
        assert about(findings, "access")[0]["verdict"] == "ok"
        (compared,) = about(findings, "compare")
        assert (compared["verdict"], compared["block"]) == ("ok", old["number"])
        assert (compared["slots"], compared["different"]) == (25, 0)
        lag = {each["of"]: each["blocks"] for each in about(findings, "lag")}
        assert lag == {"database": 3, "node": 0}


@pytest.mark.node
@pytest.mark.parametrize("kind", ["uniswap_v2", "uniswap_v3", "pancakeswap_v3", "uniswap_v4"])
def test_words_of_another_state_stop_a_start(market: Market, tmp_path: Path, kind: str) -> None:
    (tmp_path / "pools.json").write_text(
        json.dumps(market.pool_list([pool.key for pool in market.pools if pool.kind == kind]))
    )
    with DatabaseMirror(tmp_path / "reth", market) as mirror:
        mirror.write(market.node.block())
        for pool in market.pools:
            if pool.kind == kind:
                mirror.falsify(pool.key)
        code, findings = doctor(*beside(market, mirror, tmp_path))
    (compared,) = about(findings, "compare")
    assert compared["verdict"] == "fail"
    assert compared["different"] >= 5
    shown = compared["found"].split(" differ at block ")[1].split()
    assert shown[1] in {pool.address for pool in market.pools if pool.kind == kind}
    assert shown[2] == "slot"
    assert code == 2


@pytest.mark.node
def test_words_of_the_block_a_node_is_making_are_asked_for_again(
    market: Market, tmp_path: Path
) -> None:
    """They are other ones at first, though asked for by the hash of the block before."""
    forward = node_answer(market.node.port)
    asked = []

    def early(body: bytes) -> bytes:
        if body.count(b"eth_getStorageAt") < 25:  # the words that are compared
            return forward(body)
        asked.append(body)
        answers = json.loads(forward(body))
        if len(asked) == 1:
            answers[0]["result"] = hex(int(answers[0]["result"], 16) ^ 1)
        return json.dumps(answers).encode()

    with DatabaseMirror(tmp_path / "reth", market) as mirror, FaultyServer(early) as server:
        mirror.write(market.node.block())
        options = beside(market, mirror, tmp_path)
        _, findings = doctor(
            *(server.http if each == market.node.http else each for each in options)
        )
    (compared,) = about(findings, "compare")
    assert (compared["verdict"], compared["different"]) == ("ok", 0)
    assert len(asked) == 2


@pytest.mark.node
def test_few_pools_of_a_layout_are_not_lost_among_many(market: Market, tmp_path: Path) -> None:
    market.create_pools(v2=60)
    keys = [pool.key for pool in market.pools if pool.kind in ("uniswap_v2", "uniswap_v4")]
    (tmp_path / "pools.json").write_text(json.dumps(market.pool_list(keys)))
    with DatabaseMirror(tmp_path / "reth", market) as mirror:
        mirror.write(market.node.block())
        for pool in market.pools:
            if pool.kind == "uniswap_v4":
                mirror.falsify(pool.key)
        _, findings = doctor(*beside(market, mirror, tmp_path))
    (compared,) = about(findings, "compare")
    assert compared["different"] == 10, "half of the 20 words are of V4"


@pytest.mark.node
def test_a_database_of_a_replaced_block_is_not_compared(market: Market, tmp_path: Path) -> None:
    with DatabaseMirror(tmp_path / "reth", market) as mirror:
        mirror.write(market.step(5))
        market.reorg(1, method="anvil_reorg", operations=5)
        _, findings = doctor(*beside(market, mirror, tmp_path))
    (compared,) = about(findings, "compare")
    assert compared["verdict"] == "note"
    assert "no common block" in compared["found"]


def test_nothing_configured_is_no_start() -> None:
    code, findings = doctor()
    assert code == 2
    assert {each["subject"] for each in findings} >= {"memory", "socket", "nats", "start"}
