"""The list of pools from a real NATS server: asked for, followed through lost connections, saved.

The publisher (tests/doubles/nats_server.py) speaks both dialects. Conditions are waited for; what must
not happen is looked for after something later has happened.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from doubles.nats_server import NatsServer, Publisher
from roles.running_source import SECONDS, RunningSource

from arena.errors import PoolListError
from arena.writer.lists import asking, natslink
from arena.writer.lists import nats as natspools
from arena.writer.lists.nats import NatsPools
from arena.writer.lists.pool_list import parse_pool_list, read_pool_list
from arena.writer.lists.saved import SavedList
from arena.writer.lists.source import Origin, PoolChange

pytestmark = pytest.mark.nats

A, B, C, D = (f"0x{number:02x}" + "11" * 19 for number in (0xA, 0xB, 0xC, 0xD))


def key(identity: str) -> bytes:
    return bytes.fromhex(identity[2:])


def record(identity: str, **changed: Any) -> dict[str, Any]:
    """A V3 pool in the arena dialect."""
    made: dict[str, Any] = {"id": identity, "protocol": "uniswap_v3", "fee": 500}
    made |= {"tick_spacing": 10, "token0": "0x" + "11" * 20, "token1": "0x" + "22" * 20}
    return made | changed


def save(path: Path, *identities: str, age_s: float = 0.0) -> SavedList:
    saved = SavedList(path)
    origin = Origin("nats", "nats://before:4222", "whitelist.pools.x.full", time.time() - age_s)
    listed = parse_pool_list([record(each) for each in identities], name="test")
    saved.save(listed.targets, origin, chain="ethereum")
    return saved


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path) as made:
        yield made


@pytest.fixture
def publisher(server: NatsServer) -> Iterator[Publisher]:
    """Holds A and B, answers both questions."""
    with Publisher(server.url, "ethereum") as made:
        made.records = {each: record(each) for each in (A, B)}
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits of the product, shortened."""
    monkeypatch.setattr(natspools, "FIRST_RETRY_S", 0.1)
    monkeypatch.setattr(asking, "FIRST_ASK_S", 0.1)
    monkeypatch.setattr(natspools, "LONGEST_RETRY_S", 0.5)
    monkeypatch.setattr(asking, "LONGEST_ASK_S", 0.5)


def running(source: NatsPools) -> RunningSource:
    return RunningSource(source, source.first())


def wait_answered(run: RunningSource, *, connects: int = 2) -> None:
    """Until the question on this connection, counted from that of `first`, is answered."""

    def is_answered() -> bool:
        status = run.source.status()
        counted = run.source.counts["connects"] == connects
        return counted and status["connected"] and not status["asking"]

    run.wait(is_answered)


# ---- the start


def test_the_answer_of_a_publisher_is_the_list(
    server: NatsServer, publisher: Publisher, tmp_path: Path
) -> None:
    saved = SavedList(tmp_path / "saved.json")
    source = NatsPools(server.url, "ethereum", wait_s=30, saved=saved)
    assert {target.spec.key for target in source.first()} == {key(A), key(B)}
    assert publisher.asked["reseed"] >= 1
    assert publisher.asked["request"] >= 1
    assert source.counts["replies"] >= 1
    loaded = saved.load(chain="ethereum")
    assert {target.spec.key for target in loaded.targets} == {key(A), key(B)}
    assert (loaded.origin.kind, loaded.origin.address) == ("nats", server.url)


def test_a_canonical_publisher_needs_no_reply(server: NatsServer, publisher: Publisher) -> None:
    publisher.replies = False
    source = NatsPools(server.url, "ethereum", wait_s=30, canonical_publisher=True)
    assert {target.spec.key for target in source.first()} == {key(A), key(B)}
    assert source.counts["replies"] == 0


def test_a_full_list_of_a_kind_nobody_said_is_taken_after_the_wait(
    server: NatsServer, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be an addition, so a whole list is waited for; without one it is better than none."""
    publisher.replies = False
    source = NatsPools(server.url, "ethereum", wait_s=3.0)
    assert {target.spec.key for target in source.first()} == {key(A), key(B)}
    assert "event=pools_perhaps_not_all" in caplog.text


def test_a_reply_of_ids_alone_is_joined_to_saved_descriptions(
    server: NatsServer, publisher: Publisher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publisher.reseed = False
    publisher.records = {each: {} for each in (A, B)}
    saved = save(tmp_path / "saved.json", B, C)
    source = NatsPools(server.url, "ethereum", wait_s=3.0, saved=saved)
    began = time.monotonic()
    assert {target.spec.key for target in source.first()} == {key(B)}
    assert time.monotonic() - began >= 3.0  # it waited for the other description
    assert source.status()["waiting"] == 1
    assert "event=pools_not_described pools=1 waiting=1" in caplog.text
    assert "pools_from_saved_list" not in caplog.text


def test_a_reply_of_ids_nobody_describes_is_an_error(
    server: NatsServer, publisher: Publisher
) -> None:
    publisher.reseed = False
    with pytest.raises(PoolListError, match="named 2 pools for 'ethereum' and described none"):
        NatsPools(server.url, "ethereum", wait_s=3.0).first()


def test_without_an_answer_the_saved_list_is_taken(
    server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = save(tmp_path / "saved.json", A, C, age_s=5000)
    source = NatsPools(server.url, "ethereum", wait_s=0.5, saved=saved)
    assert {target.spec.key for target in source.first()} == {key(A), key(C)}
    (line,) = [r.getMessage() for r in caplog.records if "from_saved_list" in r.getMessage()]
    assert "pools=2 age_s=500" in line
    assert "kind=nats address=nats://before:4222 subject=whitelist.pools.x.full" in line
    assert source.status()["is_saved_list"] is True
    assert source.status()["origin"]["address"] == "nats://before:4222"


def test_without_an_answer_and_without_a_saved_list_there_is_no_start(
    server: NatsServer, tmp_path: Path
) -> None:
    saved = SavedList(tmp_path / "saved.json")
    with pytest.raises(PoolListError) as caught:
        NatsPools(server.url, "ethereum", wait_s=0.5, saved=saved).first()
    for part in (
        server.url,
        "whitelist.reseed",
        "whitelist.snapshot.request.ethereum",
        str(saved.path),
        "No such file",
        "start a publisher",
    ):
        assert part in str(caught.value)


def test_a_damaged_saved_list_is_refused_and_replaced(
    server: NatsServer, publisher: Publisher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = save(tmp_path / "saved.json", C)
    saved.path.write_bytes(saved.path.read_bytes()[:-20])
    source = NatsPools(server.url, "ethereum", wait_s=30, saved=saved)
    assert {target.spec.key for target in source.first()} == {key(A), key(B)}
    assert "event=saved_list_refused" in caplog.text
    assert len(saved.load(chain="ethereum").targets) == 2


def test_without_a_server_the_saved_list_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = NatsServer(tmp_path)
    saved = save(tmp_path / "saved.json", A)
    source = NatsPools(away.url, "ethereum", wait_s=3.0, saved=saved)
    assert {target.spec.key for target in source.first()} == {key(A)}
    assert source.counts["connects_failed"] >= 2
    # One line, not one for each try.
    lines = [r for r in caplog.records if "nats_unreachable" in r.getMessage()]
    assert len([r for r in lines if r.levelno >= logging.WARNING]) == 1


# ---- changes


def test_additions_and_removals_are_taken_in_order(
    server: NatsServer, publisher: Publisher, tmp_path: Path
) -> None:
    saved = SavedList(tmp_path / "saved.json")
    with running(NatsPools(server.url, "ethereum", wait_s=30, saved=saved)) as run:
        wait_answered(run)
        publisher.say("add", pools=[record(C)])
        publisher.say("remove", pool_addresses=[A])
        run.wait_pools(key(B), key(C))
        # Removed and added again in one breath, by two dialects.
        publisher.say("minimal", type="remove", pools=[B])
        publisher.say("minimal", type="add", pools=[B], protocols=["v3"])
        run.wait(lambda: len(run.steps) == 4)
        (again,) = run.steps[3].added
        assert run.steps[2:] == [PoolChange(removed=(key(B),)), PoolChange(added=(again,))]
        assert again.spec.key == key(B)
        run.wait(
            lambda: {t.spec.key for t in saved.load(chain="ethereum").targets} == set(run.pools)
        )
    assert read_pool_list(saved.path, chain="ethereum").refused == ()


def test_halves_of_a_message_are_joined(server: NatsServer, publisher: Publisher) -> None:
    with running(NatsPools(server.url, "ethereum", wait_s=30)) as run:
        source = run.source
        wait_answered(run)
        publisher.say("minimal", type="add", pools=[C], protocols=["v3"])
        run.wait(lambda: source.status()["waiting"] == 1)
        publisher.say("full", pools=[record(C)])
        run.wait_pools(key(A), key(B), key(C))
        assert source.status()["waiting"] == 0
        publisher.say("minimal", type="full", pools=[C], protocols=["v3"])
        run.wait_pools(key(C))


def test_garbage_changes_nothing(
    server: NatsServer, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    with running(NatsPools(server.url, "ethereum", wait_s=30)) as run:
        counts = run.source.counts
        wait_answered(run)
        publisher.reseed = publisher.replies = False
        publisher.say("other")  # behind all that was sent before
        run.wait(lambda: counts["messages_other_subject"] == 1)
        before = dict(counts)
        subject = "whitelist.pools.ethereum.full"
        publisher.send(subject, b"\x00\xff")
        publisher.send(subject, b"")
        publisher.send(subject, [1])
        publisher.send(subject, {"pools": [record(D)]})
        publisher.send(subject, {"chain": "base", "pools": [record(D)]})
        publisher.send("whitelist.pools.base.full", {"chain": "base", "pools": [record(D)]})
        publisher.say("other", pools=[record(D)])
        publisher.say("full", type="full", pools=[])
        publisher.say("minimal", type="full", pools=[])
        publisher.say("minimal", type="add", pools=[D], protocols=[])
        publisher.say("minimal", type="all", pools=[D])
        publisher.say("remove")
        publisher.say("add", pools=[record(D, protocol="ekubo"), record(D, fee=None), record(C)])
        run.wait_pools(key(A), key(B), key(C))
        changed = {
            name: counts[name] - before[name] for name in counts if counts[name] != before[name]
        }
        changed.pop("saves", None)
        assert changed == {
            "messages_add": 1,
            "messages_other_chain": 1,
            "messages_other_subject": 1,
            "malformed_not_json": 2,
            "malformed_not_an_object": 1,
            "malformed_no_chain": 1,
            "malformed_empty_full_list": 2,
            "malformed_protocols_do_not_match": 1,
            "malformed_unknown_type": 1,
            "malformed_no_pools": 1,
            "pools_refused": 2,
        }
        assert len([r for r in caplog.records if "pool_message_refused" in r.getMessage()]) == 9
        assert "event=pools_refused" in caplog.text


def test_reload_asks_again(server: NatsServer, publisher: Publisher) -> None:
    with running(NatsPools(server.url, "ethereum", wait_s=30)) as run:
        wait_answered(run)
        publisher.records = {each: record(each) for each in (B, C)}  # and tells nobody
        run.source.reload()
        run.wait_pools(key(B), key(C))


def test_what_was_answered_is_not_asked_again(server: NatsServer, publisher: Publisher) -> None:
    with running(NatsPools(server.url, "ethereum", wait_s=30)) as run:
        wait_answered(run)
        asked = run.source.counts["asked"]
        time.sleep(5 * asking.LONGEST_ASK_S)
        assert run.source.counts["asked"] == asked


def test_a_question_is_repeated_until_it_is_answered(server: NatsServer, tmp_path: Path) -> None:
    saved = save(tmp_path / "saved.json", A)
    with running(NatsPools(server.url, "ethereum", wait_s=0.3, saved=saved)) as run:
        run.wait(lambda: run.source.counts["asked"] >= 6)
        assert set(run.pools) == {key(A)}
        with Publisher(server.url, "ethereum") as publisher:
            publisher.records = {each: record(each) for each in (B, C)}
            run.wait_pools(key(B), key(C))
        assert run.source.status()["is_saved_list"] is False


def test_a_flood_that_is_not_taken_in_time_is_asked_for(
    server: NatsServer, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(natslink.Client):
        async def subscribe(self, *arguments: Any, **named: Any) -> Any:
            return await super().subscribe(*arguments, **named | {"pending_msgs_limit": 2})

    ids = [f"0x{number:040x}" for number in range(1, 101)]
    monkeypatch.setattr(natslink, "Client", Impatient)
    monkeypatch.setattr(natslink, "MAX_INBOX", 1)
    with running(NatsPools(server.url, "ethereum", wait_s=30)) as run:
        wait_answered(run)
        publisher.records |= {each: record(each) for each in ids}
        publisher.flood("add", [{"pools": [record(each)]} for each in ids])
        run.wait(lambda: run.source.counts["messages_dropped"])
        run.wait_pools(*map(key, [A, B, *ids]))


# ---- lost connections


def test_a_server_that_starts_late_is_found(tmp_path: Path) -> None:
    late = NatsServer(tmp_path)
    saved = save(tmp_path / "saved.json", A)
    with running(NatsPools(late.url, "ethereum", wait_s=0.2, saved=saved)) as run:
        run.wait(lambda: run.source.counts["connects_failed"] >= 4)
        assert run.source.status()["connected"] is False
        with late, Publisher(late.url, "ethereum") as publisher:
            publisher.records = {each: record(each) for each in (A, C)}
            run.wait_pools(key(A), key(C))
            assert run.source.status()["connected"] is True


def test_changes_while_the_connection_was_lost_are_asked_for(
    server: NatsServer, publisher: Publisher, tmp_path: Path
) -> None:
    saved = SavedList(tmp_path / "saved.json")
    with running(NatsPools(server.url, "ethereum", wait_s=30, saved=saved)) as run:
        source = run.source
        for round_number, wanted in enumerate([(B, C), (A, B, C, D), (D,)], 1):
            run.wait(lambda: source.status()["connected"])
            server.kill()
            run.wait(lambda: not source.status()["connected"])
            before = set(run.pools)
            publisher.records = {each: record(each) for each in wanted}
            assert set(run.pools) == before  # the last list stays in force
            server.start()
            run.wait_pools(*map(key, wanted))
            run.wait(lambda n=round_number: source.counts["reconnects"] == n)  # type: ignore[misc]
        # Messages arrive as before.
        publisher.say("add", pools=[record(A)])
        run.wait_pools(key(A), key(D))
    loaded = saved.load(chain="ethereum")
    assert {target.spec.key for target in loaded.targets} == {key(A), key(D)}


def test_what_came_just_before_the_end_is_saved(
    server: NatsServer, publisher: Publisher, tmp_path: Path
) -> None:
    """Also when no thread was free to save it until then."""
    saved, ended = SavedList(tmp_path / "saved.json"), threading.Event()
    with running(NatsPools(server.url, "ethereum", wait_s=30, saved=saved)) as run:
        wait_answered(run)
        busy = ThreadPoolExecutor(1)
        busy.submit(ended.wait)
        assert run.task is not None
        run.task.add_done_callback(lambda task: ended.set())
        run.loop.call_soon_threadsafe(run.loop.set_default_executor, busy)
        publisher.say("add", pools=[record(D)])
        run.wait_pools(key(A), key(B), key(D))
    loaded = saved.load(chain="ethereum")
    assert {target.spec.key for target in loaded.targets} == {key(A), key(B), key(D)}


def test_a_publisher_that_comes_back_after_the_server_is_found(
    server: NatsServer, tmp_path: Path
) -> None:
    source = NatsPools(server.url, "ethereum", wait_s=30)
    with Publisher(server.url, "ethereum") as publisher:
        publisher.records = {A: record(A)}
        run = running(source)
        with run:
            wait_answered(run)
            server.kill()
            run.wait(lambda: not source.status()["connected"])
            publisher.close()
            server.start()
            asked = source.counts["asked"]
            run.wait(lambda: source.counts["asked"] >= asked + 3)
            assert set(run.pools) == {key(A)}
            with Publisher(server.url, "ethereum") as next_one:
                next_one.records = {B: record(B)}
                run.wait_pools(key(B))


# ---- secrets


def test_passwords_stay_out_of_logs_and_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    saved = SavedList(tmp_path / "saved.json")
    with NatsServer(tmp_path, "--user", "hunter", "--pass", "s3cret") as server:
        url = server.url.replace("://", "://hunter:s3cret@")
        wrong = server.url.replace("://", "://hunter:wr0ng@")
        limit = time.monotonic() + SECONDS
        while "Authorization" not in caplog.text:  # the server's reset may overtake its reason
            assert time.monotonic() < limit, caplog.text
            with pytest.raises(PoolListError, match="cannot be reached") as caught:
                NatsPools(wrong, "ethereum", wait_s=0.5).first()
        with Publisher(url, "ethereum") as publisher:
            publisher.records = {A: record(A)}
            with running(NatsPools(url, "ethereum", wait_s=30, saved=saved)) as run:
                wait_answered(run)
                server.kill()
                run.wait(lambda: not run.source.status()["connected"])
                server.start()
                run.wait(lambda: run.source.counts["reconnects"])
                status = json.dumps(run.source.status())
    assert server.url in caplog.text
    written = caplog.text + saved.path.read_text() + status + str(caught.value)
    for secret in ("hunter", "s3cret", "wr0ng"):
        assert secret not in written
