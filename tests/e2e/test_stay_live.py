"""Pools come and go beside a trading chain, and values that are wrong are found, all others staying live.

The chain trades all the time; every block's first view of the pools that stay is compared, so a pause
or a stale moment of theirs would fail. What is added is compared at each block from its first live one.
"""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chains.market import Market
from chains.proof import Proof
from doubles.nats_server import NatsServer, Publisher
from roles.processes import ReaderProcess

import arena
from arena.layouts import slots

pytestmark = pytest.mark.node

SECONDS = 60.0
DISPUTED_S = 2.0  # after which a pool whose events node and stream tell differently is stale


@pytest.fixture(params=["embedded", "bridge"])
def proof(request: pytest.FixtureRequest, tmp_path: Path, arena_name: str) -> Iterator[Proof]:
    embedded = request.param == "embedded"
    with Proof(tmp_path, arena_name, seed=41, pools=5, embedded=embedded) as made:
        made.wait_live()
        made.block(settle=True)
        yield made


@contextlib.contextmanager
def small_proof(folder: Path, arena_name: str, seed: int, *options: str) -> Iterator[Proof]:
    """Three pools of each kind, live; `options` are the writer's."""
    with Proof(
        folder, arena_name, seed=seed, pools=3, embedded=True, writer_options=options
    ) as proof:
        proof.wait_live()
        proof.block(settle=True)
        yield proof


def wait_for(proof: Proof, statuses: dict[str, str | None]) -> None:
    """Trade until a reader of our own sees these statuses; None is an unknown pool."""
    limit = time.monotonic() + SECONDS
    with arena.attach(proof.arena_name) as pools:
        while True:
            found = {key: pools[key].status if key in pools else None for key in statuses}
            if found == statuses:
                return
            assert time.monotonic() < limit, (found, proof.writer_log()[-4000:])
            proof.block()


def test_pools_are_added_and_removed_while_the_others_stay_live(proof: Proof) -> None:
    old = [pool.key for pool in proof.market.pools]
    proof.watched = old
    new = [pool.key for pool in proof.market.create_pools(v2=3, v3=3, v4=2, cake=2)]
    proof.equal(settle=True)
    with arena.attach(proof.arena_name) as pools:
        assert not any(key in pools for key in new)
    with ReaderProcess(proof.folder, proof.arena_name) as follower:
        follower.wait_live()
        follower.tell(do="follow", keys=new, blocks=8, seconds=SECONDS)
        proof.list_pools()
        wait_for(proof, dict.fromkeys(new, "live"))
        limit = time.monotonic() + SECONDS
        while not follower.has_answered() and time.monotonic() < limit:
            proof.block()
        found = follower.answer()
    assert found["ok"], found["statuses"]
    compared = 0
    for number, states in found["seen"]:
        truth = proof.market.states(number, list(states))
        for key, state in states.items():
            expected = truth[key]
            assert {name: expected[name] for name in state} == state, (number, key)
            compared += 1
    assert compared >= 8 * len(new)
    order = ["unknown", "syncing", "live"]
    for each in found["statuses"].values():  # a busy machine may pass over one, never exchange them
        assert each[-1] == "live", each
        assert each == [status for status in order if status in each]
    assert "event=pools_announced" in proof.writer_log()
    proof.watched = None
    proof.reorg(4, "anvil_reorg")
    proof.quotes(60)
    proof.equal(every_word=True)

    gone = [*old[::6], *new[:3]]
    with ReaderProcess(proof.folder, proof.arena_name) as quoting:
        assert quoting.ask(do="hold", key=gone[0])["ok"]
        quoting.tell(do="until_removed", seconds=SECONDS)
        proof.watched = [key for key in (*old, *new) if key not in gone]
        proof.list_pools(proof.watched)
        wait_for(proof, dict.fromkeys(gone))
        answer = quoting.answer()
    assert answer["ok"], answer
    assert answer["quotes"] > 0
    assert set(answer["errors"]) <= {"InsufficientLiquidity", "SwapReverts", "HookedPool"}
    proof.reorg(3, "anvil_reorg")
    for _ in range(5):
        proof.block()

    proof.list_pools()  # and back again
    wait_for(proof, dict.fromkeys(gone, "live"))
    proof.watched = None
    proof.equal(every_word=True)
    assert proof.undisturbed(), proof.writer_log()[-4000:]


def test_a_pool_that_leaves_and_returns_at_once_is_read_anew(
    tmp_path: Path, arena_name: str
) -> None:
    with small_proof(tmp_path, arena_name, 42) as proof:
        keys = [pool.key for pool in proof.market.pools]
        proof.watched = keys[::4]
        for index in range(4):
            leaving = [key for key in keys[index % 2 :: 2] if key not in proof.watched]
            proof.list_pools(key for key in keys if key not in leaving)
            until = time.monotonic() + 0.7 + 0.2 * index  # the file is looked at twice
            limit = until + SECONDS
            while (
                time.monotonic() < until or proof.writer_log().count("event=pools_removed") <= index
            ):
                assert time.monotonic() < limit, proof.writer_log()[-4000:]
                proof.block()
            proof.list_pools()
            proof.block()
        wait_for(proof, dict.fromkeys(keys, "live"))
        proof.watched = None
        for _ in range(5):
            proof.block()
        proof.equal(every_word=True)
        log = proof.writer_log()
        assert log.count("event=pools_removed") == 4, log[-4000:]
        assert log.count("event=pools_announced") == 4, log[-4000:]
        assert proof.undisturbed(), log[-4000:]


def test_more_pools_than_fit_lead_to_a_larger_generation(tmp_path: Path, arena_name: str) -> None:
    options = ("--max-pools", "8", "--tick-bytes", "16K")
    with small_proof(tmp_path, arena_name, 44, *options) as proof:
        with arena.attach(arena_name) as pools:
            first = pools.generation
            assert first > 1
            old = [pool.key for pool in proof.market.pools]
            handles = [pools[key] for key in old]
            proof.watched = old
            new = [pool.key for pool in proof.market.create_pools(v2=3, v3=3, v4=2, cake=2)]
            proof.list_pools()
            wait_for(proof, dict.fromkeys(new, "live"))
            assert pools.generation > first
            assert {handle.status for handle in handles} == {"live"}
        proof.watched = None
        for _ in range(5):
            proof.block(settle=True)
        proof.equal(every_word=True)
        log = proof.writer_log()
        assert "event=arena_grown table='pools'" in log
        assert "event=arena_grown table='tick heap'" in log


def test_the_list_comes_from_nats(tmp_path: Path, arena_name: str) -> None:
    with contextlib.ExitStack() as stack:
        server = NatsServer(tmp_path)
        stack.callback(server.kill)
        publisher = Publisher(server.url, "anvil")

        def name_pools(market: Market) -> tuple[str, ...]:
            publisher.records = {key_of(each): each for each in market.pool_list()}

            def begin() -> None:
                server.start()
                stack.enter_context(publisher)

            late = threading.Timer(1.0, begin)
            late.start()
            stack.callback(late.join)
            return ("--nats", server.url, "--chain", "anvil", "--nats-wait", "30")

        proof = stack.enter_context(
            Proof(tmp_path, arena_name, seed=45, pools=3, embedded=True, name_pools=name_pools)
        )
        proof.wait_live()
        proof.block(settle=True)
        old = [pool.key for pool in proof.market.pools]
        proof.watched = old[4:]

        def add(count: int) -> list[str]:
            new = proof.market.create_pools(v2=count, v3=count, v4=count, cake=count)
            keys = [pool.key for pool in new]
            for each in proof.market.pool_list(keys):
                publisher.records[key_of(each)] = each
            return keys

        first = add(1)
        publisher.say("add", pools=[publisher.records[key] for key in first])
        publisher.send("whitelist.pools.anvil.add", b"{garbage")
        publisher.send("whitelist.pools.anvil.full", {"chain": "anvil", "pools": []})
        publisher.send("whitelist.pools.other.remove", {"chain": "other", "pool_addresses": old})
        wait_for(proof, dict.fromkeys(first, "live"))
        server.kill()
        second = add(1)
        for key in old[:3]:
            del publisher.records[key]
        for _ in range(20):  # the last list stays in force
            proof.block()
        with arena.attach(arena_name) as pools:
            assert {pools[key].status for key in (*old, *first)} == {"live"}
        server.start()
        wait_for(proof, dict.fromkeys(second, "live") | dict.fromkeys(old[:3]))
        publisher.say("remove", pool_addresses=old[3:4])
        wait_for(proof, dict.fromkeys(old[3:4]))
        proof.watched = [*old[4:], *first, *second]
        proof.reorg(3, "anvil_reorg")
        for _ in range(5):
            proof.block()
        proof.equal(every_word=True)
        assert proof.undisturbed(), proof.writer_log()[-4000:]
        # The list in force is on disk, for a start while the server is away.
        server.kill()
        proof.kill_writer()
        proof.list_options = (*proof.list_options[:-1], "0.5")
        proof.start_writer()
        proof.wait_live()
        proof.equal(every_word=True)


def key_of(record: dict[str, Any]) -> str:
    return str(record.get("pool_id") or record["address"])


def corrupt(name: str, key: str) -> None:
    """Change the price of a pool where it lies, in both versions, as no event would."""
    with arena.attach(name) as pools:
        slot, generation = pools[key].slot, pools.generation
        offset = int(pools._current().header.slots_offset)
    with open(f"/dev/shm/{name}.{generation}", "r+b") as shared:
        for line in range(2):
            place = offset + slot * slots.SLOT.itemsize + line * slots.LINE.itemsize + 16
            shared.seek(place)
            low = shared.read(1)
            shared.seek(place)
            shared.write(bytes([low[0] ^ 1]))


def test_the_audit_finds_a_wrong_pool_and_heals_it(tmp_path: Path, arena_name: str) -> None:
    options = ("--audit-every", "3", "--audit-pools", "12")
    with small_proof(tmp_path, arena_name, 43, *options) as proof:
        keys = [pool.key for pool in proof.market.pools]
        # The trader trades elsewhere, so that no event corrects the price by itself.
        wrong = next(p for p in proof.market.pools if p.kind == "uniswap_v3")
        proof.market.pools.remove(wrong)
        proof.watched = [key for key in keys if key != wrong.key]
        corrupt(arena_name, wrong.key)
        limit = time.monotonic() + SECONDS
        with arena.attach(arena_name) as pools:
            while not pools.counters["audit_differences"]:
                assert time.monotonic() < limit, proof.writer_log()[-4000:]
                proof.block()
            wait_for(proof, {wrong.key: "live"})
            assert pools.counters["audit_differences"] == 1
            assert pools.counters["audited"] >= 12
        proof.market.pools.append(wrong)
        proof.watched = None
        proof.equal(every_word=True, settle=True)
        log = proof.writer_log()
        assert "event=audit_difference" in log
        assert f"pool={wrong.key} field=sqrt_price_x96" in log
        assert "event=pool_live_again" in log


def test_a_pool_that_the_bridge_leaves_out_goes_stale_and_no_other(
    tmp_path: Path, arena_name: str
) -> None:
    """Its list is another than the writer's: nothing but the node tells of the events that are missing."""

    def own_list(market: Market) -> tuple[str, ...]:
        path = tmp_path / "writer.json"
        path.write_text(json.dumps(market.pool_list(None)))
        return ("--pools", str(path))

    more: dict[str, Any] = {"name_pools": own_list, "writer_options": ("--audit-every", "0")}
    with Proof(tmp_path, arena_name, seed=44, pools=3, **more) as proof:
        proof.wait_live()
        proof.block(settle=True)
        left_out = next(pool.key for pool in proof.market.pools if pool.kind == "uniswap_v3")
        proof.watched = [pool.key for pool in proof.market.pools if pool.key != left_out]
        proof.list_pools(proof.watched)
        wait_for(proof, {left_out: "stale"})
        assert "event=events_disputed" in proof.writer_log()
        for _ in range(10):
            proof.block()
        with arena.attach(arena_name) as pools:
            assert {pools[key].status for key in proof.watched} == {"live"}
        proof.list_pools()
        # Values read between two events that are missing are live till the second is disputed, and a
        # chain that stands still behind a disputed block shows nothing: it goes on until it is over.
        since, limit = time.monotonic(), time.monotonic() + SECONDS
        with arena.attach(arena_name) as pools:
            while time.monotonic() < since + 2 * DISPUTED_S:
                assert time.monotonic() < limit, proof.writer_log()[-4000:]
                proof.block()
                if pools[left_out].status != "live":
                    since = time.monotonic()
        proof.watched = None
        proof.equal(every_word=True, settle=True)
