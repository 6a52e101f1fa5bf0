"""Pools of a file that changes, and the list that is saved on disk.

Files are real ones, changed in place and by rename while the source runs in an event loop.
"""

import json
import logging
import os
import random
import stat
from pathlib import Path
from typing import Any

import pytest
from roles.running_source import RunningSource

from arena.errors import PoolListError
from arena.writer.lists.files import FilePools
from arena.writer.lists.pool_list import parse_pool_list, read_pool_list
from arena.writer.lists.saved import SavedList
from arena.writer.lists.source import Origin
from arena.writer.protocols.storage import PoolTarget

A, B, C = (bytes([number]) * 20 for number in (1, 2, 3))
ORIGIN = Origin("nats", "nats://127.0.0.1:4222", "whitelist.pools.ethereum.full", 1767323045.5)


def record(key: bytes, **changed: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"address": "0x" + key.hex(), "protocol": "v3", "fee": 500}
    made |= {"tick_spacing": 10, "token0": "0x" + "11" * 20, "token1": "0x" + "22" * 20}
    return made | changed


def targets(*records: dict[str, Any]) -> tuple[PoolTarget, ...]:
    return parse_pool_list(list(records), name="test").targets


def write(path: Path, *records: dict[str, Any]) -> None:
    path.write_text(json.dumps(records))


def replace(path: Path, content: str) -> None:
    """As careful editors do: a new file takes the name."""
    other = path.with_name("new")
    other.write_text(content)
    other.rename(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "pools.json"
    write(path, record(A), record(B))
    return path


def running(path: Path) -> RunningSource:
    source = FilePools(path)
    return RunningSource(source, source.first())


# ---- files


def test_a_file_that_is_no_list_is_an_error_at_the_start(path: Path) -> None:
    path.write_text("{")
    with pytest.raises(PoolListError, match="not valid JSON"):
        FilePools(path).first()


def test_the_chain_of_the_file_is_checked(path: Path) -> None:
    path.write_text(json.dumps({"chain": "base", "pools": [record(A)]}))
    with pytest.raises(PoolListError, match="'base'"):
        FilePools(path, chain="ethereum").first()


def test_a_changed_file_is_taken(path: Path) -> None:
    with running(path) as run:
        assert set(run.pools) == {A, B}
        write(path, record(B), record(C))
        run.wait_pools(B, C)
        assert [(step.removed, len(step.added)) for step in run.steps] == [((A,), 1)]
        assert run.source.counts == {"files_read": 2, "files_refused": 0, "pools_refused": 0}


def test_a_replaced_file_is_taken(path: Path) -> None:
    with running(path) as run:
        replace(path, json.dumps([record(C)]))
        run.wait_pools(C)
        replace(path, json.dumps([record(A)]))
        run.wait_pools(A)


def test_toml_is_taken_too(tmp_path: Path) -> None:
    path = tmp_path / "pools.toml"
    entry = '[[pools]]\naddress = "0x{}"\nprotocol = "v2"\ntoken0 = "0x{}"\ntoken1 = "0x{}"\n'
    path.write_text(entry.format(A.hex(), "11" * 20, "22" * 20))
    with running(path) as run:
        path.write_text(entry.format(B.hex(), "11" * 20, "22" * 20))
        run.wait_pools(B)


@pytest.mark.parametrize(
    "changed",
    [
        {"fee": 3000},
        {"tick_spacing": 60},
        {"token1": "0x" + "33" * 20},
        {"protocol": "pancakeswap_v3"},
        {"factory": "0x" + "44" * 20},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_description_removes_and_adds(path: Path, changed: dict[str, Any]) -> None:
    with running(path) as run:
        write(path, record(A, **changed), record(B))
        run.wait(lambda: run.steps)
        (step,) = run.steps
        assert step.removed == (A,)
        assert step.added == targets(record(A, **changed))


def test_other_decimals_and_symbols_leave_the_pool_alone(path: Path) -> None:
    with running(path) as run:
        write(path, record(A, token0_decimals=6), record(B), record(C))
        run.wait(lambda: run.steps)
        (step,) = run.steps
        assert (step.removed, step.added) == ((), targets(record(C)))


@pytest.mark.slow
def test_a_bad_file_leaves_the_list_and_is_logged_once_for_each_version(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def errors() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]

    with running(path) as run:
        source = run.source
        path.write_text("[")
        run.wait(lambda: len(errors()) == 1)
        assert "not valid JSON" in errors()[0]
        assert source.status()["connected"] is False
        path.write_text("[]")
        run.wait(lambda: len(errors()) == 2)
        assert "no usable pool" in errors()[1]
        path.unlink()
        run.wait(lambda: len(errors()) == 3)
        assert "cannot be read" in errors()[2]
        # Many looks later there is no further line, and asking makes one.
        source.reload()
        run.wait(lambda: len(errors()) == 4)
        assert source.counts["files_refused"] == 4
        assert (set(run.pools), run.steps) == ({A, B}, [])
        write(path, record(C))
        run.wait_pools(C)
        assert source.status()["connected"] is True
        assert len(errors()) == 4


def test_refused_entries_are_counted_and_the_others_stand(path: Path) -> None:
    with running(path) as run:
        write(path, record(A), record(C), record(B, protocol="ekubo"))
        run.wait_pools(A, C)
        assert run.source.counts["pools_refused"] == 1


def test_a_file_touched_without_a_change_makes_no_step(path: Path) -> None:
    with running(path) as run:
        replace(path, json.dumps([record(B), record(A)]))
        run.wait(lambda: run.source.counts["files_read"] == 2)
        assert run.steps == []


def test_reload_reads_a_file_that_looks_the_same(path: Path) -> None:
    found = path.stat()
    with running(path) as run:
        content = path.read_text().replace(B.hex(), C.hex())
        path.write_text(content)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        assert path.stat().st_size == found.st_size
        run.source.reload()
        run.wait_pools(A, C)


@pytest.mark.slow
def test_a_file_that_never_rests_is_read_all_the_same(path: Path) -> None:
    with running(path) as run:
        number = 0

        def write_again() -> bool:
            nonlocal number
            number += 1
            replace(path, json.dumps([record(C)]) + " " * number)
            return C in run.pools

        run.wait(write_again)


def test_what_take_raises_ends_the_source(path: Path) -> None:
    source = FilePools(path)
    run = RunningSource(source, ())  # it does not know the pools that are removed
    source.first()
    run.start()
    write(path, record(C))
    run.wait_end()
    assert isinstance(run.failure, KeyError)


def test_status_says_what_is_in_force(path: Path) -> None:
    source = FilePools(path)
    assert source.status()["origin"] is None
    source.first()
    status = source.status()
    assert (status["source"], status["address"], status["pools"]) == ("file", str(path), 2)
    assert status["origin"]["kind"] == "file"
    assert status["last_change_s"] == status["origin"]["time_s"]
    json.dumps(status)


# ---- the saved list


def test_a_saved_list_is_read_back_and_is_a_pool_list(tmp_path: Path) -> None:
    saved = SavedList(tmp_path / "state" / "pools.json")
    pools = targets(record(A), record(B, fee=3000))
    saved.save(pools, ORIGIN, chain="ethereum")
    loaded = saved.load(chain="ethereum")
    assert (loaded.targets, loaded.origin) == (pools, ORIGIN)
    assert read_pool_list(saved.path, chain="ethereum").targets == pools
    assert stat.S_IMODE(saved.path.stat().st_mode) == 0o600
    assert [each.name for each in saved.path.parent.iterdir()] == ["pools.json"]
    saved.save(pools[:1], ORIGIN, chain="ethereum")
    assert saved.load(chain="ethereum").targets == pools[:1]


def test_a_missing_saved_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PoolListError, match="cannot be read: No such file"):
        SavedList(tmp_path / "none.json").load(chain="ethereum")


def test_a_saved_list_of_another_chain_is_refused(tmp_path: Path) -> None:
    saved = SavedList(tmp_path / "pools.json")
    saved.save(targets(record(A)), ORIGIN, chain="base")
    with pytest.raises(PoolListError, match="'base'"):
        saved.load(chain="ethereum")


def test_an_empty_list_is_saved_and_refused(tmp_path: Path) -> None:
    """What was removed must not come back with the next start."""
    saved = SavedList(tmp_path / "pools.json")
    saved.save(targets(record(A)), ORIGIN, chain="ethereum")
    saved.save((), ORIGIN, chain="ethereum")
    with pytest.raises(PoolListError, match="no usable pool"):
        saved.load(chain="ethereum")


def test_a_cut_anywhere_and_a_flipped_bit_anywhere_are_refused(
    tmp_path: Path, rng: random.Random
) -> None:
    saved = SavedList(tmp_path / "pools.json")
    saved.save(targets(record(A)), ORIGIN, chain="ethereum")
    whole = saved.path.read_bytes()
    for size in range(len(whole)):
        saved.path.write_bytes(whole[:size])
        with pytest.raises(PoolListError, match="is damaged"):
            saved.load(chain="ethereum")
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.randrange(8)
        saved.path.write_bytes(damaged)
        with pytest.raises(PoolListError, match="is damaged"):
            saved.load(chain="ethereum")


@pytest.mark.parametrize(
    "content",
    [b"[]", b"null", b"7", b"{}", b'{"sha256":1}', b'{"sha256":"x","format":1,"pools":[]}'],
)
def test_what_is_no_saved_list_is_refused(tmp_path: Path, content: bytes) -> None:
    saved = SavedList(tmp_path / "pools.json")
    saved.path.write_bytes(content)
    with pytest.raises(PoolListError, match="is damaged") as caught:
        saved.load(chain="ethereum")
    assert "delete it" in str(caught.value)


def test_a_saved_list_with_pools_this_build_does_not_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from arena.writer.lists import saved as saved_module

    saved = SavedList(tmp_path / "pools.json")
    monkeypatch.setattr(
        saved_module,
        "pool_record",
        lambda target: record(target.spec.key, protocol=PROTOCOL[target]),
    )
    pools = targets(record(A), record(B))
    PROTOCOL = dict(zip(pools, ("v3", "v9"), strict=True))
    saved.save(pools, ORIGIN, chain="ethereum")
    with pytest.raises(PoolListError, match="1 of its pools are refused"):
        saved.load(chain="ethereum")


def test_a_save_that_fails_leaves_the_last_one(tmp_path: Path) -> None:
    saved = SavedList(tmp_path / "pools.json")
    pools = targets(record(A))
    saved.save(pools, ORIGIN, chain="ethereum")
    # A folder in the place of the temporary file: also root cannot open it for writing.
    blocked = tmp_path / ".pools.json.new"
    blocked.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        saved.save(targets(record(B)), ORIGIN, chain="ethereum")
    assert saved.load(chain="ethereum").targets == pools
    blocked.rmdir()
    # What a crash left there is overwritten; a link there is not followed.
    blocked.write_text("half")
    saved.save(targets(record(B)), ORIGIN, chain="ethereum")
    assert saved.load(chain="ethereum").targets == targets(record(B))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    blocked.symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic link"):
        saved.save(pools, ORIGIN, chain="ethereum")
    assert elsewhere.read_text() == "mine"
