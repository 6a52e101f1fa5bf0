"""Pools of a real node equal what the contracts' getters say: read through each way of JSON-RPC, and
out of a database that mirrors the node."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from builders.shown import scraped
from chains.market import Market, traded_market
from chains.mirror import DatabaseMirror

from arena.errors import AccountMissing, BlockUnavailable, PoolInvalid
from arena.writer.lists.pool_list import parse_pool_list
from arena.writer.node.head import block_by_number, check_chain, head_block
from arena.writer.node.jsonrpc import JsonRpc
from arena.writer.scrapers import Scrape
from arena.writer.scrapers.rethdb import RethDB
from arena.writer.scrapers.rpc import RpcScraper
from arena.writer.scrapers.rpc_ways import Way
from arena.writer.scrapers.statefile import read_state_file

pytestmark = pytest.mark.node

CHAIN_ID = 31337
KINDS = ("uniswap_v2", "uniswap_v3", "pancakeswap_v3", "uniswap_v4")
TRANSPORTS = ("http", "ws", "ipc")
WRITER = str(Path(sys.executable).parent / "arena-writer")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """300 pools of the four kinds with some trading behind them."""
    folder = tmp_path_factory.mktemp("node")
    with traded_market(folder, seed=2024, each=75, blocks=20, operations=15) as made:
        assert len(made.pools) == 300
        yield made


@pytest.fixture(scope="module")
def truth(market: Market) -> dict[str, dict[str, Any]]:
    states = market.states()
    assert sum(len(state.get("ticks", ())) for state in states.values()) > 3000
    return states


def scraper(
    market: Market, transport: str = "http", keys: list[str] | None = None, **more: Any
) -> RpcScraper:
    targets = parse_pool_list(market.pool_list(keys), name="pools").targets
    address = str(getattr(market.node, transport))
    return RpcScraper(JsonRpc(address), targets, chain_id=CHAIN_ID, **more)


def read(source: RpcScraper) -> Scrape:
    try:
        return source.read_pools([spec.key for spec in source.list_pools()])
    finally:
        source.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("way", [None, Way.storage_values, Way.code_override])
def test_300_pools_equal_the_getters(
    market: Market, truth: dict[str, Any], way: Way | None, transport: str
) -> None:
    found = read(scraper(market, transport, way=way))
    assert found.invalid == ()
    assert {pool.values.block_number for pool in found.pools} == {market.node.block()["number"]}
    assert scraped(found) == truth


@pytest.mark.slow
@pytest.mark.parametrize("way", [Way.extsload, Way.storage_at])
def test_300_pools_equal_the_getters_without_the_newer_methods(
    market: Market, truth: dict[str, Any], way: Way
) -> None:
    found = read(scraper(market, way=way))
    assert found.invalid == ()
    assert scraped(found) == truth


@pytest.mark.parametrize("transport", ["ws", "ipc"])
@pytest.mark.parametrize("way", [Way.extsload, Way.storage_at])
def test_older_methods_through_every_transport(
    market: Market, truth: dict[str, Any], way: Way, transport: str
) -> None:
    keys = [pool.key for pool in market.pools if pool.tick_spacing != 1]
    assert scraped(read(scraper(market, transport, keys, way=way))) == {
        key: truth[key] for key in keys
    }


def test_pools_come_with_v2_first_and_the_head_moves_on(market: Market) -> None:
    source = scraper(market)
    specs = source.list_pools()
    keys = [len(spec.key) for spec in specs]
    assert len(specs) == 300
    assert all(spec.tick_spacing == 0 for spec in specs[:75])
    assert keys.count(32) == 75
    assert source.get_current_block_number() == market.node.block()["number"]
    source.close()
    source.close()


def test_an_older_block_is_read_as_it_was(market: Market) -> None:
    old = market.node.block()
    before = market.states(old["hash"])
    for _ in range(3):
        market.step(20)
    assert market.states() != before
    for way in (Way.storage_values, Way.code_override, Way.extsload):
        keys = [pool.key for pool in market.pools if pool.tick_spacing != 1]
        source = scraper(market, keys=keys, way=way, block=old["number"])
        assert source.get_current_block_number() == old["number"]
        found = read(source)
        assert {pool.values.block_number for pool in found.pools} == {old["number"]}
        assert scraped(found) == {key: before[key] for key in keys}


@pytest.mark.parametrize("way", [Way.storage_values, Way.code_override, Way.storage_at])
def test_values_read_while_blocks_are_made_are_those_of_their_block(
    market: Market, way: Way
) -> None:
    """The node answers some reads of its newest block with the state of the next one."""
    keys = [pool.key for pool in market.pools if pool.tick_spacing not in (1, 7)][:40]
    source = scraper(market, keys=keys, way=way)
    found: list[Scrape] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            found.append(source.read_pools([spec.key for spec in source.list_pools()]))

    def blocks() -> set[int]:
        return {next(iter({p.values.block_number for p in scrape.pools})) for scrape in found}

    steps, limit = 0, time.monotonic() + 120
    with ThreadPoolExecutor(1) as thread:
        looking = thread.submit(look)
        try:
            while steps < 60 or len(blocks()) <= 3:
                assert time.monotonic() < limit, "the chain did not move while it was read"
                assert not looking.done(), looking.result()
                market.step(10)
                steps += 1
        finally:
            done.set()
    looking.result()
    source.close()
    for scrape in found:
        (number,) = {pool.values.block_number for pool in scrape.pools}
        assert scraped(scrape) == market.states(number, keys), f"block {number}"


def test_blocks_are_named_as_the_node_names_them(market: Market) -> None:
    with JsonRpc(market.node.http) as rpc:
        assert check_chain(rpc, None) == CHAIN_ID
        shown = market.node.block()
        head = head_block(rpc)
        assert (head.number, "0x" + head.hash.hex()) == (shown["number"], shown["hash"])
        assert head.timestamp == shown["timestamp"]
        assert block_by_number(rpc, head.number) == head
        assert block_by_number(rpc, head.number + 1) is None


def test_a_block_of_the_future_is_refused(market: Market) -> None:
    head = market.node.block()["number"]
    source = scraper(market, block=head + 10)
    with pytest.raises(BlockUnavailable, match=f"its newest is {head}"):
        source.read_pools([market.pools[0].key.encode()])
    source.close()


def spoiled(market: Market) -> dict[str, tuple[dict[str, Any], type[PoolInvalid]]]:
    """Entries that describe a pool wrongly, by the key they fail under, and how they fail."""
    entries = {
        kind: market.pool_list([next(p.key for p in market.pools if p.kind == kind)])[0]
        for kind in KINDS
    }
    nobody = "0x" + "dd" * 20
    two, three, cake = (dict(entries[kind]) for kind in KINDS[:3])
    three["tick_spacing"] = 17
    cake["protocol"] = "uniswap_v3"
    other = next(p for p in market.pools if p.kind == "uniswap_v2" and p.key != two["address"])
    two["address"] = other.key
    turned, turned_id = (dict(market.pool_list([key])[0]) for key in _second_keys(market))
    for entry in (turned, turned_id):
        entry["token0"], entry["token1"] = entry["token1"], entry["token0"]
    return {
        turned["address"]: (turned, PoolInvalid),
        turned_id["pool_id"]: (turned_id, PoolInvalid),
        other.key: (two, PoolInvalid),
        three["address"]: (three, PoolInvalid),
        cake["address"]: (cake, PoolInvalid),
        nobody: (entries["uniswap_v3"] | {"address": nobody}, AccountMissing),
    }


def _second_keys(market: Market) -> list[str]:
    return [[p.key for p in market.pools if p.kind == kind][1] for kind in (KINDS[1], KINDS[3])]


def test_pools_described_wrongly_fail_and_the_others_do_not(market: Market) -> None:
    wrong = spoiled(market)
    good = [pool.key for pool in market.pools if pool.key not in wrong][:40]
    listed = market.pool_list(good) + [entry for entry, _ in wrong.values()]
    targets = parse_pool_list(listed, name="pools").targets
    for way in Way:
        found = read(RpcScraper(JsonRpc(market.node.http), targets, way=way))
        assert {"0x" + error.key.hex(): type(error) for error in found.invalid} == {
            key: kind for key, (_, kind) in wrong.items()
        }
        assert scraped(found) == market.states(keys=good)


def test_a_key_that_is_not_listed_is_invalid(market: Market) -> None:
    source = scraper(market, keys=[market.pools[0].key])
    found = source.read_pools([bytes(20)])
    source.close()
    assert found.pools == ()
    assert found.invalid[0].key == bytes(20)


# The command


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [WRITER, "scrape", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


def lines_of(run: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def state_of(line: dict[str, Any]) -> dict[str, Any]:
    names = (
        "reserve0",
        "reserve1",
        "sqrt_price_x96",
        "tick",
        "liquidity",
        "protocol_fee",
        "lp_fee",
    )
    state: dict[str, Any] = {name: int(line[name]) for name in names if name in line}
    if "ticks" in line:
        state["ticks"] = [[int(number) for number in item] for item in line["ticks"]]
    return state


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_command_prints_a_state_file(market: Market, tmp_path: Path, transport: str) -> None:
    pools = tmp_path / "pools.json"
    pools.write_text(json.dumps({"chain": "test", "pools": market.pool_list()}))
    head = market.node.block()
    header, *lines = lines_of(
        command("--rpc", getattr(market.node, transport), "--pools", pools, "--chain-id", CHAIN_ID)
    )
    assert header == {"head_block": head["number"]}
    assert {line["block"] for line in lines} == {head["number"]}
    assert [line["pool"] for line in lines] == [pool.key for pool in market.pools]
    assert {line["pool"]: state_of(line) for line in lines} == market.states(head["hash"])


def test_the_printed_file_is_one_a_writer_starts_from(market: Market, tmp_path: Path) -> None:
    wrong = spoiled(market)
    good = [pool.key for pool in market.pools if pool.key not in wrong]
    listed = market.pool_list(good) + [entry for entry, _ in wrong.values()]
    listed.append({"address": "0x12", "protocol": "uniswap_v2"})
    listed.append({"address": "0x" + "12" * 20, "protocol": "ekubo"})
    pools = tmp_path / "pools.json"
    pools.write_text(json.dumps(listed))
    run = command("--rpc", market.node.http, "--pools", pools)
    failed = {line["pool"]: line for line in lines_of(run) if "error" in line}
    assert {key: line["error"] for key, line in failed.items()} == {
        **{key: kind.__name__ for key, (_, kind) in wrong.items()},
        None: "PoolEntryInvalid",
        "0x" + "12" * 20: "PoolEntryInvalid",
    }
    assert all(line["reason"] for line in failed.values())
    states = tmp_path / "states.jsonl"
    states.write_text(run.stdout)
    content = read_state_file(states)
    assert content.head_block == market.node.block()["number"]
    assert scraped(Scrape(tuple(content.pools.values()))) == market.states(keys=good)
    assert content.pools.keys() == content.specs.keys()


def test_the_command_reads_toml_and_an_older_block(market: Market, tmp_path: Path) -> None:
    pair = market.pools[0]
    pool = next(pool for pool in market.pools if pool.kind == "uniswap_v4")
    old = market.node.block()
    market.step(20)
    pools = tmp_path / "pools.toml"
    pools.write_text(
        f"""
        [[pools]]
        address = "{pair.key}"
        protocol = "v2"
        token0 = "{pair.token0}"
        token1 = "{pair.token1}"

        [[pools]]
        id = "{pool.key}"
        protocol = "uniswap_v4"
        address = "{pool.address}"
        hooks = "{pool.hooks}"
        fee = {pool.fee_pips}
        tick_spacing = {pool.tick_spacing}
        token0 = {{ address = "{pool.token0}", decimals = 18, symbol = "A" }}
        token1 = {{ address = "{pool.token1}", decimals = 18, symbol = "B" }}
        """
    )
    run = command("--rpc", market.node.http, "--pools", pools, "--block", old["number"])
    _, *lines = lines_of(run)
    assert {line["pool"]: state_of(line) for line in lines} == market.states(
        old["hash"], [pair.key, pool.key]
    )


def test_refusals_exit_with_2_and_name_the_class_first(market: Market, tmp_path: Path) -> None:
    pools = tmp_path / "pools.json"
    pools.write_text(json.dumps(market.pool_list([market.pools[0].key])))
    broken = tmp_path / "broken.json"
    broken.write_text("[{")
    node = ("--rpc", market.node.http)
    listed = ("--pools", pools)
    cases: list[tuple[str, tuple[Any, ...]]] = [
        ("ChainMismatch", (*node, *listed, "--chain-id", 1)),
        ("BlockUnavailable", (*node, *listed, "--block", 10**6)),
        ("RpcUnavailable", ("--rpc", tmp_path / "none.ipc", *listed)),
        ("RpcUnavailable", ("--rpc", "http://127.0.0.1:1", *listed)),
        ("PoolListError", (*node, "--pools", broken)),
        ("PoolListError", (*node, "--pools", tmp_path / "none.json")),
        ("DatabaseMissing", ("--reth-db", tmp_path / "none", *listed)),
        ("ValueError", listed),
        ("ValueError", ("--rpc", "gopher://node", *listed)),
        ("ValueError", (*node, *listed, "--way", "carrier_pigeon")),
    ]
    for expected, arguments in cases:
        run = command(*arguments)
        assert run.returncode == 2, (expected, run)
        assert run.stderr.startswith(f"{expected}: "), (expected, run.stderr)
        assert run.stdout == ""


def test_the_node_stands_in_for_a_database_that_refuses(market: Market, tmp_path: Path) -> None:
    pools = tmp_path / "pools.json"
    keys = [pool.key for pool in market.pools[:3]]
    pools.write_text(json.dumps(market.pool_list(keys)))
    run = command("--reth-db", tmp_path / "none", "--rpc", market.node.http, "--pools", pools)
    _, *lines = lines_of(run)
    assert {line["pool"]: state_of(line) for line in lines} == market.states(keys=keys)
    assert "event=scrape_fallback" in run.stderr
    assert "DatabaseMissing" in run.stderr


def test_the_command_reads_a_database_that_mirrors_the_node(market: Market, tmp_path: Path) -> None:
    pools = tmp_path / "pools.json"
    pools.write_text(json.dumps(market.pool_list()))
    with DatabaseMirror(tmp_path / "reth", market) as mirror:

        def equal(header: dict[str, Any]) -> None:
            mirror.write(header)
            first, *lines = lines_of(command("--reth-db", mirror.database, "--pools", pools))
            assert first == {"head_block": header["number"]}
            assert {line["block"] for line in lines} == {header["number"]}
            assert {line["pool"]: state_of(line) for line in lines} == market.states(header["hash"])

        lowest = market.node.block()["number"]
        mirror.write(market.node.block())
        for _ in range(8):
            mirror.write(market.step(12))
        equal(market.step(12))
        orphaned = market.reorg(3, method="anvil_reorg", operations=12)
        # The database hears of the new branch one block above the newest it replaces.
        equal(market.step(12))
        orphaned += market.reorg(2, method="anvil_rollback", operations=0)
        equal(market.node.block())
        equal(market.step(12))
        highest = market.node.block()["number"]
        with RethDB(mirror.database, ()) as database:
            for old in orphaned:
                assert not database.is_canonical(bytes.fromhex(old["hash"][2:]), old["number"])
            for number in range(lowest, highest + 1):
                kept = market.node.block(number)["hash"]
                assert database.is_canonical(bytes.fromhex(kept[2:]), number)
