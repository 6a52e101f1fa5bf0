"""The node's database while it is written, and every way it can refuse to be read.

The node is played by `oracle/reth_database.py` in a process of its own, through ctypes. Where rights
matter a child of this process drops to another user; containers are namespaces the child enters.
"""

import contextlib
import ctypes
import json
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from builders import reth_database
from builders.reth_database import (
    NodeDatabase,
    factor,
    header_hash,
    keccak,
    moving_reserves,
    unpack,
)
from builders.reth_pools import from_hex, state_of, targets_of, true_state
from roles.child import Child
from roles.reth_children import die, hold_a_transaction, open_segments, signal_facts

from arena import errors
from arena.errors import DatabaseRefused
from arena.values import PoolValues
from arena.writer.protocols.storage import SlotList, slot_key
from arena.writer.scrapers import mdbx, reth_tables, rethdb
from arena.writer.scrapers.reth_tables import DatabaseAccess
from arena.writer.scrapers.rethdb import RethDB, read_batch, read_block_number
from arena.writing import WriterArena

TRUTH = reth_database.truth()
BLOCK = int(TRUTH["block"]["number"])
MOVING = reth_database.moving_pools(TRUTH["pools"])
NOBODY = 65534
SECONDS = 60.0
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096


class Node(Child):
    """The process that writes."""

    def __init__(self, database: Path, seed: int = 1) -> None:
        super().__init__(reth_database.__file__, database, str(seed))
        assert self.answer().startswith("ready")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder every user may enter; pytest's own are closed to others."""
    with TemporaryDirectory(prefix="psa-rethdb-") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture
def database(folder: Path) -> Path:
    """`db` of an unpacked fixture."""
    return unpack("v2_rest", folder)


def in_child(work: Callable[[], Any]) -> Any:
    """Result or exception of `work` in a forked child; no environment is open here meanwhile."""
    mdbx._load(mdbx.find_library())  # another user need not be able to read the library's folder
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            try:
                result = (True, work())
            except BaseException as error:
                result = (False, error)
            with os.fdopen(writing, "wb") as stream:
                pickle.dump(result, stream)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        content = stream.read()
    os.waitpid(child, 0)
    assert content, "the child died"
    fine, result = pickle.loads(content)
    if not fine:
        raise result
    return result


def as_nobody(work: Callable[[], Any]) -> Any:
    """`in_child` without root's rights. A test run by another user has none to drop."""

    def unprivileged() -> Any:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        return work()

    return in_child(unprivileged)


def call(name: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}{arguments}")


def enter_namespace(kind: int) -> None:
    call("unshare", kind if os.geteuid() == 0 else kind | CLONE_NEWUSER)


def access(folder: Path) -> DatabaseAccess:
    return DatabaseAccess(str(folder))


def refused(work: Callable[[], Any], kind: type[DatabaseRefused], *words: str) -> DatabaseRefused:
    """`work` raises exactly `kind`, and its message holds each of `words`."""
    with pytest.raises(DatabaseRefused) as refusal:
        work()
    assert type(refusal.value) is kind, repr(refusal.value)
    for word in words:
        assert word in str(refusal.value)
    return refusal.value


# Reading while the node writes


def moved_state(pool: dict[str, Any], block_number: int) -> dict[str, Any]:
    """The true state of a moving pool at a block the node of these tests has written."""
    if block_number == BLOCK:
        return true_state(pool, pool["state"])
    if pool["protocol"] == "v2":
        reserves = moving_reserves(block_number, MOVING.index(pool))
        return {"reserve0": str(reserves[0]), "reserve1": str(reserves[1])}
    by = factor(block_number)
    return true_state(pool, pool["state"]) | {
        "liquidity": str(int(pool["state"]["liquidity"]) * by),
        "ticks": [
            [tick, str(int(gross) * by), str(int(net) * by)]
            for tick, gross, net in pool["state"]["ticks"]
        ],
    }


@pytest.mark.slow
def test_every_scrape_beside_a_writing_node_is_one_consistent_block(
    database: Path, folder: Path
) -> None:
    """200 blocks that change 33 pools whole; two threads scrape all of them all the time."""
    by_key = {from_hex(pool["key"]): pool for pool in MOVING}
    scrapes: list[tuple[set[int], int]] = []
    wrong: list[object] = []
    done = threading.Event()

    def scrape(reader: RethDB) -> None:
        while not done.is_set():
            try:
                found = reader.read_pools(list(by_key))
                wrong.extend(found.invalid)
                for each in found.pools:
                    pool = by_key[each.spec.key]
                    block = each.values.block_number
                    if state_of(pool, each.values) != moved_state(pool, block):
                        wrong.append((pool["key"], block))
                scrapes.append(
                    ({each.values.block_number for each in found.pools}, len(found.pools))
                )
            except errors.ArenaError as error:
                wrong.append(error)

    with (
        Node(database) as node,
        RethDB(folder, targets_of(MOVING), scraping_concurrency=2) as reader,
    ):
        assert reader.get_current_block_number() == BLOCK
        threads = [threading.Thread(target=scrape, args=(reader,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        answer = node.do("run 200")
        done.set()
        for thread in threads:
            thread.join(SECONDS)
        assert answer == f"at {BLOCK + 200}"
        assert reader.get_current_block_number() == BLOCK + 200
        assert reader.is_canonical(header_hash(BLOCK + 200), BLOCK + 200)
        assert not reader.is_canonical(header_hash(BLOCK + 201), BLOCK + 201)
    assert wrong == []
    assert all(count == len(MOVING) for _, count in scrapes)
    seen = set().union(*(blocks for blocks, _ in scrapes))
    assert len(seen) > 10, "the scraper did not run beside the writer"
    assert seen <= set(range(BLOCK, BLOCK + 201))


@pytest.mark.slow
def test_a_transaction_sees_one_block_and_its_header_but_not_the_next(
    database: Path, folder: Path
) -> None:
    with Node(database) as node:
        node.tell("run 60")
        seen = set()
        while len(seen) < 20 and read_block_number(access(folder)) < BLOCK + 60:
            with access(folder).open() as environment, environment.read() as txn:
                number = rethdb.state_block(txn)
                checkpoints = {
                    reth_tables.checkpoint_of(txn, stage) for stage in reth_tables.STAGES
                }
                assert {each and each.block_number for each in checkpoints} == {number}
                if number > BLOCK:
                    assert reth_tables.block_number_of(txn, header_hash(number)) == number
                assert reth_tables.block_number_of(txn, header_hash(number + 1)) is None
                seen.add(number)
        assert node.answer() == f"at {BLOCK + 60}"
    assert len(seen) > 5


@pytest.mark.slow
def test_each_pool_lies_whole_in_one_transaction_where_a_batch_takes_several(
    database: Path, folder: Path
) -> None:
    with Node(database) as node:
        node.tell("run 60")
        seen: set[int] = set()
        for _ in range(5):
            batch = read_batch(access(folder), targets_of(MOVING), transaction_s=0)
            assert batch.transactions == len(MOVING)
            for pool, values in zip(MOVING, batch.outcomes, strict=True):
                assert isinstance(values, PoolValues)
                assert state_of(pool, values) == moved_state(pool, values.block_number)
                seen.add(values.block_number)
        node.answer()
    assert len(seen) > 1


@pytest.mark.slow
def test_uneven_stages_are_refused_until_the_next_whole_block(database: Path, folder: Path) -> None:
    with Node(database) as node, RethDB(folder, targets_of(MOVING)) as reader:
        assert node.do("uneven") == f"at {BLOCK + 1}"
        refusal = refused(
            lambda: reader.read_pools([from_hex(MOVING[0]["key"])]), errors.NotAtRest, "--rpc"
        )
        assert refusal.stages == {"StorageHashing": BLOCK}
        node.do("run 1")
        (pool,) = reader.read_pools([from_hex(MOVING[0]["key"])]).pools
        assert pool.values.block_number == BLOCK + 2


def test_a_node_killed_inside_a_transaction_leaves_its_last_block(
    database: Path, folder: Path
) -> None:
    with Node(database) as node:
        node.do("run 3")
        assert node.do("half") == f"open {BLOCK + 4}"
        assert read_block_number(access(folder)) == BLOCK + 3
        node.kill()
    batch = read_batch(access(folder), targets_of(MOVING))
    for pool, values in zip(MOVING, batch.outcomes, strict=True):
        assert isinstance(values, PoolValues)
        assert values.block_number == BLOCK + 3
        assert state_of(pool, values) == moved_state(pool, BLOCK + 3)
    with Node(database) as node:
        assert node.do("run 1") == f"at {BLOCK + 1}", "a new node can write again"


@pytest.fixture
def holder(database: Path, folder: Path) -> Iterator[tuple[Node, Any, Any]]:
    """(node, process that holds a transaction open, connection to it)."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    with Node(database) as node:
        process = spawn.Process(target=hold_a_transaction, args=(folder, theirs))
        process.start()
        try:
            assert ours.poll(SECONDS)
            assert ours.recv() == BLOCK
            yield node, process, ours
        finally:
            process.kill()
            process.join()
            ours.close()
            theirs.close()


def test_a_killed_reader_harms_nobody(holder: tuple[Node, Any, Any], folder: Path) -> None:
    node, process, _ = holder
    process.kill()
    process.join()
    assert node.do("run 5") == f"at {BLOCK + 5}"
    assert read_block_number(access(folder)) == BLOCK + 5


@pytest.mark.slow
def test_a_long_transaction_keeps_its_block_while_the_node_goes_on(
    holder: tuple[Node, Any, Any], database: Path, folder: Path
) -> None:
    node, _, connection = holder
    before = (database / "mdbx.dat").stat().st_size
    assert node.do("run 100") == f"at {BLOCK + 100}"
    assert (database / "mdbx.dat").stat().st_size > before
    assert read_block_number(access(folder)) == BLOCK + 100
    connection.send("now")
    assert connection.poll(SECONDS)
    assert connection.recv()[0] == BLOCK


# Which chain


@pytest.mark.slow
def test_pools_are_read_only_from_a_block_the_chain_still_has(folder: Path) -> None:
    database = unpack("v2_rest", folder)
    orphan = from_hex(TRUTH["orphan"]["hash"])
    known = from_hex(TRUTH["block"]["hash"])
    hashes: list[dict[int, bytes]] = [{BLOCK: orphan}, {}, {BLOCK + 1: known}, {BLOCK: known}]
    with RethDB(
        folder, targets_of(MOVING), scraping_concurrency=1, canonical_hashes=lambda: hashes.pop(0)
    ) as reader:
        scrape = reader.read_pools([from_hex(pool["key"]) for pool in MOVING])
        assert hashes == []
        assert {each.values.block_number for each in scrape.pools} == {BLOCK}
    with RethDB(
        database,
        targets_of(MOVING),
        canonical_hashes=lambda: {BLOCK: orphan},
        fork_wait_s=0,
        scraping_concurrency=1,
    ) as reader:
        refusal = refused(
            lambda: reader.read_pools([from_hex(MOVING[0]["key"])]), errors.OtherFork, str(BLOCK)
        )
        assert refusal.wanted == orphan


# The failure matrix


def test_a_lock_file_of_another_user_is_named(database: Path, folder: Path) -> None:
    with Node(database):
        (database / "mdbx.lck").chmod(0o444)
        refused(
            lambda: as_nobody(lambda: read_block_number(access(folder))),
            errors.DatabasePermission,
            "write access to mdbx.lck",
            "0664",
        )
        (database / "mdbx.lck").chmod(0o666)
        (database / "mdbx.dat").chmod(0o444)
        assert as_nobody(lambda: read_block_number(access(folder))) == BLOCK


def test_members_of_the_files_group_can_read_beside_a_live_node(
    database: Path, folder: Path
) -> None:
    """As the how-to sets it up: directory 2750, data file 0640, lock file 0660, one group."""
    group = 61234 if os.geteuid() == 0 else os.getegid()

    def as_member() -> int:
        if os.geteuid() == 0:
            os.setgroups([group])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        return read_block_number(access(folder))

    with Node(database):
        for path, mode in (("", 0o2750), ("mdbx.dat", 0o640), ("mdbx.lck", 0o660)):
            os.chown(database / path, -1, group)
            (database / path).chmod(mode)
        assert in_child(as_member) == BLOCK


def test_a_lock_file_made_by_the_reader_does_not_shut_the_node_out(
    database: Path, folder: Path
) -> None:
    """Root reads a copy whose owner is another user, who opens it read-write afterwards."""
    node_user = NOBODY if os.geteuid() == 0 else os.geteuid()
    for path in (database, database / "mdbx.dat"):
        os.chown(path, node_user, -1)
    before = os.umask(0o077)
    try:
        assert read_block_number(access(folder)) == BLOCK
    finally:
        os.umask(before)
    assert (database / "mdbx.lck").stat().st_mode & 0o777 == 0o660

    def write() -> None:
        opened = NodeDatabase(database)
        with opened.write() as txn:
            txn.set_checkpoints(BLOCK + 1)
        opened.close()

    reth_database.load()
    as_nobody(write)
    assert read_block_number(access(folder)) == BLOCK + 1


def test_a_missing_lock_file_that_cannot_be_made_is_named(database: Path, folder: Path) -> None:
    database.chmod(0o555)
    refused(
        lambda: as_nobody(lambda: read_block_number(access(folder))),
        errors.DatabasePermission,
        "there is no mdbx.lck",
        "start the node first",
    )
    database.chmod(0o755)


def test_an_unreadable_data_file_is_named(database: Path, folder: Path) -> None:
    (database / "mdbx.dat").chmod(0)
    refused(
        lambda: as_nobody(lambda: read_block_number(access(folder))),
        errors.DatabasePermission,
        "may not read mdbx.dat",
    )


def test_a_closed_directory_is_named(database: Path, folder: Path) -> None:
    database.chmod(0)
    refused(
        lambda: as_nobody(lambda: read_block_number(access(folder))),
        errors.DatabasePermission,
        "may not enter",
    )
    database.chmod(0o755)


def mount_read_only(path: Path) -> None:
    """In a mount namespace of this process's own; undone by its end."""
    enter_namespace(CLONE_NEWNS)
    place = os.fsencode(path)
    call("mount", place, place, None, MS_BIND, None)
    call("mount", None, place, None, MS_BIND | MS_REMOUNT | MS_RDONLY, None)


def test_a_read_only_mount_beside_a_live_node_is_refused(database: Path, folder: Path) -> None:
    def read() -> int:
        mount_read_only(folder)
        return read_block_number(access(folder))

    with Node(database):
        refused(lambda: in_child(read), errors.DatabaseLocked, "mounted read-only", "mdbx.lck")


def test_a_read_only_mount_without_a_node_is_read_and_warned_of(
    database: Path, folder: Path
) -> None:
    def read() -> tuple[int, list[str]]:
        mount_read_only(folder)
        warned: list[str] = []
        rethdb.log.warning = lambda *arguments: warned.append(arguments[0])  # type: ignore[method-assign]
        with RethDB(folder, targets_of(MOVING[:1]), scraping_concurrency=1) as reader:
            (pool,) = reader.read_pools([from_hex(MOVING[0]["key"])]).pools
        return pool.values.block_number, warned

    block_number, warned = in_child(read)
    assert block_number == BLOCK
    assert len(warned) == 1
    assert "database_mounted_read_only" in warned[0]


def test_two_containers_with_the_same_pid_are_told_apart_by_the_remedy(
    database: Path, folder: Path
) -> None:
    """Both processes are pid 1 of a namespace of their own."""

    def as_pid_1(work: Callable[[], Any]) -> Callable[[], Any]:
        def inside() -> Any:
            enter_namespace(CLONE_NEWPID)
            return in_child(work)

        return inside

    reading, writing = os.pipe()
    ready, go = os.pipe()

    def node() -> int:
        opened = NodeDatabase(database)
        with opened.write() as txn:
            txn.set_checkpoints(BLOCK)
        os.write(go, b"r")
        os.read(reading, 1)
        opened.close()
        return os.getpid()

    def read() -> int:
        assert os.getpid() == 1
        return read_block_number(access(folder))

    pids: list[int] = []
    thread = threading.Thread(target=lambda: pids.append(in_child(as_pid_1(node))))
    thread.start()
    try:
        os.read(ready, 1)
        refused(
            lambda: in_child(as_pid_1(read)), errors.DatabaseLocked, "pid 1", "run under an init"
        )
    finally:
        os.write(writing, b"e")
        thread.join(SECONDS)
        for descriptor in (reading, writing, ready, go):
            os.close(descriptor)
    assert pids == [1]


def test_a_database_held_exclusively_is_locked(database: Path, folder: Path) -> None:
    def hold() -> None:
        opened = NodeDatabase(database, flags=reth_database.EXCLUSIVE)
        try:
            refused(
                lambda: in_child(lambda: read_block_number(access(folder))),
                errors.DatabaseLocked,
                "exclusively",
            )
        finally:
            opened.close()

    in_child(hold)
    assert read_block_number(access(folder)) == BLOCK


def test_a_second_environment_in_one_process_is_refused(database: Path, folder: Path) -> None:
    def twice() -> None:
        with access(folder).open(), access(folder).open():
            pass

    refused(lambda: in_child(twice), errors.DatabaseLocked, "once in each process")


def test_a_lock_file_of_another_version_is_refused_and_clean_when_restored(
    database: Path, folder: Path
) -> None:
    with Node(database):
        lock = database / "mdbx.lck"
        first = lock.read_bytes()[0]

        def set_first(byte: int) -> None:
            with lock.open("r+b") as stream:
                stream.write(bytes([byte]))

        set_first(first ^ 1)
        refused(
            lambda: in_child(lambda: read_block_number(access(folder))),
            errors.DatabaseVersion,
            "-30794",
            "Reth 1.4",
        )
        set_first(first)
        assert in_child(lambda: read_block_number(access(folder))) == BLOCK


@pytest.mark.parametrize("content", ["1", "3\n", ""])
def test_another_database_version_is_refused(content: str, database: Path, folder: Path) -> None:
    (database / "database.version").write_text(content)
    refused(
        lambda: read_block_number(access(folder)), errors.DatabaseVersion, "database.version", "'2'"
    )


def test_a_copy_without_a_version_file_is_read(database: Path, folder: Path) -> None:
    (database / "database.version").unlink()
    assert read_block_number(access(folder)) == BLOCK
    assert read_block_number(access(database)) == BLOCK


def test_a_path_without_a_database_is_named(folder: Path) -> None:
    for path in (folder, folder / "nowhere"):
        refused(
            lambda path=path: read_block_number(access(path)),
            errors.DatabaseMissing,
            str(path / "db" / "mdbx.dat"),
        )


@pytest.mark.parametrize("kept", [0, 1, 100, 4096, 3 * 4096, 64 * 4096, 190 * 4096])
def test_a_truncated_file_is_damaged(kept: int, database: Path, folder: Path) -> None:
    os.truncate(database / "mdbx.dat", kept)
    refused(
        lambda: in_child(lambda: read_batch(access(folder), targets_of(MOVING))),
        errors.DatabaseDamaged,
        "mdbx_copy",
    )


@pytest.mark.parametrize("content", [b"no database", bytes(1 << 20), b"\xa5" * (1 << 20)])
def test_another_file_is_not_a_database(content: bytes, database: Path, folder: Path) -> None:
    (database / "mdbx.dat").write_bytes(content)
    refused(lambda: read_block_number(access(folder)), errors.DatabaseDamaged, str(database))


@contextlib.contextmanager
def written(folder: Path) -> Iterator[Any]:
    """A new database in `folder`, and the one transaction that is committed into it."""
    (folder / "db").mkdir()
    opened = NodeDatabase(folder / "db", upper_nbytes=1 << 28)
    with opened.write() as txn:
        yield txn
    opened.close()


def test_a_database_of_something_else_is_named(folder: Path) -> None:
    with written(folder) as txn:
        txn.put("Metadata", b"key", b"value")
    refused(
        lambda: read_block_number(access(folder)), errors.DatabaseDamaged, "not a Reth database"
    )


def test_a_node_before_its_first_sync_is_not_at_rest(folder: Path) -> None:
    with written(folder) as txn:
        txn.put("StageCheckpoints", b"Headers", b"\x01\x05")
    refused(lambda: read_block_number(access(folder)), errors.NotAtRest, "first sync")


@pytest.mark.parametrize("row", [b"", b"\x09" + bytes(9), b"\x04\x01"])
def test_a_checkpoint_of_unknown_form_is_damaged(row: bytes) -> None:
    with pytest.raises(errors.DatabaseDamaged):
        reth_tables.parse_checkpoint(row)


@pytest.mark.parametrize("excess", [b"", bytes(33)])
def test_a_storage_row_of_unknown_size_is_damaged(
    excess: bytes, database: Path, folder: Path
) -> None:
    pair = from_hex(TRUTH["pools"][0]["key"])
    opened = NodeDatabase(database)
    slot_hash = keccak(slot_key(1234))
    with opened.write() as txn:
        txn.put("HashedStorages", keccak(pair), slot_hash + excess)
    opened.close()
    refused(
        lambda: rethdb.read_words(access(folder), [(pair, [slot_key(1234)])]),
        errors.DatabaseDamaged,
        "33 to 64",
    )


def test_too_little_address_space_is_named(folder: Path) -> None:
    unpack("v2_rest_8tib", folder)

    def read() -> int:
        resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
        return read_block_number(access(folder))

    refused(lambda: in_child(read), errors.DatabaseUnreadable, "ulimit -v", "8 TiB")
    assert read_block_number(access(folder)) == BLOCK


def test_a_network_file_system_points_to_the_rpc_back_end(tmp_path: Path) -> None:
    """Its code cannot be provoked without such a file system."""
    refused(lambda: mdbx.refuse(121, "", tmp_path), errors.DatabaseUnreadable, "--rpc")


def test_an_unknown_code_is_shown(tmp_path: Path) -> None:
    refusal = refused(lambda: mdbx.refuse(-1, "?", tmp_path), errors.DatabaseUnreadable, "-1")
    assert refusal.code == -1


def test_the_library_can_be_named_and_a_wrong_one_is_refused(
    database: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = folder / "another-libmdbx.so"
    copy.write_bytes(Path(mdbx.find_library()).read_bytes())
    monkeypatch.setenv(mdbx.LIBRARY_VARIABLE, str(copy))
    assert mdbx.find_library() == str(copy)
    with RethDB(folder, [], scraping_concurrency=1) as reader:
        assert reader.get_current_block_number() == BLOCK
    for wrong in (folder / "absent.so", database / "mdbx.dat", "libc.so.6"):
        with pytest.raises(errors.DatabaseUnreadable, match=mdbx.LIBRARY_VARIABLE):
            read_block_number(DatabaseAccess(str(folder), str(wrong)))


def test_no_library_at_all_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdbx.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv(mdbx.LIBRARY_VARIABLE, raising=False)
    with pytest.raises(errors.DatabaseUnreadable, match="writer"):
        mdbx.find_library()


def test_the_wheels_python_package_is_never_imported(database: Path, folder: Path) -> None:
    program = f"""
import sys
from arena.writer.scrapers.rethdb import DatabaseAccess, read_block_number
assert read_block_number(DatabaseAccess({str(folder)!r})) == {BLOCK}
assert 'mdbx' not in sys.modules
"""
    subprocess.run([sys.executable, "-P", "-c", program], check=True, timeout=SECONDS)


# The reader processes


def reader_processes(reader: RethDB) -> list[int]:
    assert reader._executor is not None
    return list(reader._executor._processes)


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < limit, "the condition did not come true"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.slow
def test_a_killed_reader_process_is_replaced(database: Path, folder: Path) -> None:
    with RethDB(folder, targets_of(MOVING), scraping_concurrency=1) as reader:
        reader.get_current_block_number()
        (pid,) = reader_processes(reader)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid))
        scrape = reader.read_pools([from_hex(pool["key"]) for pool in MOVING])
        assert len(scrape.pools) == len(MOVING)
        assert pid not in reader_processes(reader)


@pytest.mark.slow
def test_a_reader_process_that_dies_again_is_an_error(database: Path, folder: Path) -> None:
    with RethDB(folder, [], scraping_concurrency=1) as reader:
        refused(lambda: reader._run(die), errors.DatabaseUnreadable, "died twice", "--rpc")
        assert reader.get_current_block_number() == BLOCK


def test_a_read_that_hangs_is_given_up(database: Path, folder: Path) -> None:
    with RethDB(folder, [], scraping_concurrency=1) as reader:
        reader.get_current_block_number()
        (pid,) = reader_processes(reader)
        reader._batch_timeout_s = 0.2
        refused(lambda: reader._run(time.sleep, 600), errors.DatabaseUnreadable, "0.2 s")
        assert not is_alive(pid)


def test_close_ends_a_read_and_every_process(database: Path, folder: Path) -> None:
    reader = RethDB(folder, [], scraping_concurrency=2)
    reader.get_current_block_number()
    pids = reader_processes(reader)
    failures: list[BaseException] = []

    def read() -> None:
        try:
            reader._run(time.sleep, 600)
        except errors.Scraper as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: bool(reader._executor and reader._executor._pending_work_items))
    reader.close()
    reader.close()
    thread.join(SECONDS)
    assert len(failures) == 1
    assert not any(is_alive(pid) for pid in pids)
    with pytest.raises(errors.Scraper, match="closed"):
        reader.get_current_block_number()


def test_reader_processes_end_with_a_killed_writer(database: Path, folder: Path) -> None:
    program = f"""
import time
from arena.writer.scrapers.rethdb import RethDB
if __name__ == "__main__":
    reader = RethDB({str(folder)!r}, [], scraping_concurrency=2)
    reader.get_current_block_number()
    print(*reader._executor._processes, flush=True)
    time.sleep(600)
"""
    script = folder / "owner.py"
    script.write_text(program)
    with Child(script) as owner:
        pids = [int(pid) for pid in owner.answer().split()]
        assert pids
        assert all(is_alive(pid) for pid in pids)
        owner.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_reader_processes_inherit_neither_signals_nor_the_arena(
    database: Path, folder: Path, arena_name: str
) -> None:
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    try:
        with (
            WriterArena.create(arena_name, max_pools=4, tick_bytes=1 << 16) as owner,
            RethDB(folder, [], scraping_concurrency=1) as reader,
        ):
            assert open_segments()
            assert reader._run(open_segments) == []
            assert reader._run(signal_facts) == (True, set())
            owner.close(unlink=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def test_a_slot_below_the_row_found_last_is_absent_without_a_look_up(folder: Path) -> None:
    """Accounts of 0, 1, 2 and many rows, words of every size, asked in any order."""
    stored: dict[tuple[bytes, bytes], int] = {}
    with written(folder) as txn:
        txn.set_checkpoints(7)
        for account, count in enumerate((0, 1, 2, 300, 5000)):
            for slot in range(0, 3 * count, 3):
                word = int.from_bytes(keccak(b"%d %d" % (account, slot))[: 1 + slot % 32], "big")
                stored[bytes([account]) * 20, slot_key(slot)] = word
                txn.set_word(keccak(bytes([account]) * 20), keccak(slot_key(slot)), word)
    with access(folder).open() as environment, environment.read() as txn:
        for account in range(5):
            address = bytes([account]) * 20
            for first, last, step in ((0, 1200, 1), (14990, 0, -7), (1, 2, 1), (0, 15000, 3)):
                slots = [slot_key(slot) for slot in range(first, last, step)]
                found = txn.read_words("HashedStorages", keccak(address), SlotList(slots))
                assert found == [stored.get((address, slot), 0) for slot in slots]


# The failure matrix through the command line


def command(*words: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; by root without its right to pass over file modes."""
    without = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    program = str(Path(sys.executable).parent / "arena-writer")
    done = subprocess.run(
        [*(without if os.geteuid() == 0 else ()), program, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@contextlib.contextmanager
def held_exclusively(database: Path) -> Iterator[None]:
    """Held open alone by another process."""
    source = (
        "import sys; from pathlib import Path; from builders import reth_database as r\n"
        "opened = r.NodeDatabase(Path(sys.argv[1]), flags=r.EXCLUSIVE)\n"
        "print('held', flush=True); sys.stdin.read(); opened.close()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source, database],
        cwd=Path(reth_database.__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
        assert holder.stdin is not None
        holder.stdin.close()


@contextlib.contextmanager
def with_closed_lock(database: Path) -> Iterator[None]:
    """Beside a node of another user, whose lock file only that user may write."""
    with Node(database):
        if os.geteuid() == 0:
            os.chown(database / "mdbx.lck", NOBODY, -1)
        (database / "mdbx.lck").chmod(0o444)
        yield


@contextlib.contextmanager
def changed(change: Callable[[Path], object], database: Path) -> Iterator[None]:
    change(database)
    yield


REFUSALS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "missing": (
        partial(changed, lambda database: database.rename(database.parent / "away")),
        "DatabaseMissing",
        "data directory",
    ),
    "unreadable lock": (with_closed_lock, "DatabasePermission", "write access to mdbx.lck"),
    "unreadable data": (
        partial(changed, lambda database: close_to_all(database / "mdbx.dat")),
        "DatabasePermission",
        "may not read mdbx.dat",
    ),
    "locked": (held_exclusively, "DatabaseLocked", "exclusively"),
    "version": (
        partial(changed, lambda database: (database / "database.version").write_text("3")),
        "DatabaseVersion",
        "upgrade",
    ),
    "truncated": (
        partial(changed, lambda database: os.truncate(database / "mdbx.dat", 3 * 4096)),
        "DatabaseDamaged",
        "mdbx_copy",
    ),
    "garbage": (
        partial(changed, lambda database: (database / "mdbx.dat").write_bytes(b"\xa5" * (1 << 20))),
        "DatabaseDamaged",
        "mdbx.dat",
    ),
}


def close_to_all(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, NOBODY, -1)
    path.chmod(0)


@pytest.fixture
def pool_file(tmp_path: Path) -> Path:
    """A list of one pool of the fixture."""
    pool = MOVING[0]
    entry = {"address": pool["key"], "protocol": "uniswap_v2"}
    entry |= {name: pool[name] for name in ("token0", "token1")}
    path = tmp_path / "pools.json"
    path.write_text(json.dumps([entry]))
    return path


@pytest.mark.slow
def test_the_commands_read_a_good_database(folder: Path, database: Path, pool_file: Path) -> None:
    """As every refusal below is asked for, so none of them comes from how it is asked."""
    options = ("--reth-db", folder, "--pools", pool_file)
    code, out, err = command("scrape", *options)
    assert (code, err) == (0, "")
    _, line = map(json.loads, out.splitlines())
    assert (line["block"], line["reserve0"]) == (
        BLOCK,
        true_state(MOVING[0], MOVING[0]["state"])["reserve0"],
    )
    _, out, _ = command("doctor", *options)
    assert [line.split()[0] for line in out.splitlines() if line.split()[1] == "database"] == ["ok"]


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusing_database_ends_the_commands_with_its_class_and_a_remedy(
    name: str, folder: Path, database: Path, pool_file: Path
) -> None:
    make, kind, remedy = REFUSALS[name]
    options = ("--reth-db", folder, "--pools", pool_file)
    with make(database):
        code, out, err = command("scrape", *options)
        assert (code, out) == (2, "")
        assert err.startswith(f"{kind}: "), err
        assert remedy in err
        assert err.count("\n") == 1
        code, out, err = command("doctor", *options)
    assert (code, err) == (2, "")
    (found,) = (line for line in out.splitlines() if line.split()[1] == "database")
    assert found.split()[0] == "fail"
    assert kind in found
    assert remedy in found
