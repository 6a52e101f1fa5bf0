"""Segments another user owns: nobody reads them without having named that user, no writer touches them.

Ownership is changed for real, which only root may do; what needs no other user runs for everybody.
"""

import os
import pickle
import pwd
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from arena import errors
from arena.layouts import slots
from arena.owner import user_id
from arena.readers import Arena, attach
from arena.segment import Segment
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writer.service.status import read_status
from arena.writing import WriterArena

SHM = Path("/dev/shm")
OTHER = 61_234  # a user this machine has no name for
KEY = b"\x11" * 20
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def make(name: str) -> WriterArena:
    made = WriterArena.create(name, max_pools=16, tick_bytes=65536)
    token = TokenSpec(bytes(20), 18, "T")
    slot = made.add_pool(PoolSpec(KEY, slots.UNISWAP_V2, token, token, 3000))
    made.install(slot, PoolValues(5, 3000, reserve0=1000, reserve1=2000), slots.STATUS_LIVE)
    made.set_head(5)
    made.commit()
    made.set_phase("live")
    made.heartbeat()
    return made


@pytest.fixture
def writer(arena_name: str) -> Iterator[WriterArena]:
    with make(arena_name) as found:
        yield found
        for path in SHM.glob(arena_name + "*"):
            os.chown(path, os.geteuid(), -1)
        found.close(unlink=True)


def give(name: str, uid: int = OTHER) -> None:
    os.chown(SHM / name.removeprefix("/"), uid, -1)


def owners(name: str) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_uid, path.stat().st_ino) for path in SHM.glob(name + "*")}


# Whose


def test_users_are_named_by_id_digits_or_name() -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert user_id(None) == user_id(me) == user_id(os.geteuid()) == os.geteuid()
    assert user_id("61234") == user_id(61_234) == 61_234
    for wrong in ("", "no such user", "-1", "²", -1, 1 << 32, True):
        with pytest.raises(ValueError, match="user"):
            user_id(wrong)


def test_an_arena_of_another_user_than_named_is_refused_at_once(writer: WriterArena) -> None:
    with pytest.raises(errors.OwnerMismatch, match=rf"expected is uid {OTHER}") as caught:
        attach(writer.name, owner=OTHER, timeout=3600)
    assert (caught.value.found, caught.value.expected) == (os.geteuid(), OTHER)
    assert f"--owner {os.geteuid()}" in str(caught.value)
    with pytest.raises(errors.OwnerMismatch):
        read_status(writer.name, owner=OTHER)
    with attach(writer.name, owner=os.geteuid()) as pools:  # the refusals left nothing behind
        assert len(pools) == 1
        assert read_status(writer.name, owner=str(os.geteuid()))["head_block"] == 5
    with pytest.raises(ValueError, match="no user named"):
        attach(writer.name, owner="no such user")


def test_a_handle_keeps_whom_it_believes(writer: WriterArena) -> None:
    with attach(writer.name, owner=os.geteuid()) as pools:
        again = pickle.loads(pickle.dumps(pools[KEY]))
        assert again._arena.owner == os.geteuid()
        assert again.state().reserve1 == 2000
        again._arena.close()


# Reading


@as_root
@pytest.mark.parametrize("given", ["", ".1"], ids=["control", "data"])
def test_one_foreign_segment_is_enough_to_refuse(writer: WriterArena, given: str) -> None:
    give(writer.name + given)
    for owner in (None, OTHER):  # with the owner named, the other segment is foreign
        with pytest.raises(errors.OwnerMismatch) as caught:
            attach(writer.name, owner=owner, timeout=0)
        with pytest.raises(errors.OwnerMismatch):
            read_status(writer.name, owner=owner)
        named = caught.value.name.removeprefix(writer.name)
        assert named == (given if owner is None else {"": ".1", ".1": ""}[given])


@as_root
def test_whoever_names_the_owner_may_read(writer: WriterArena) -> None:
    give(writer.name)
    give(writer.name + ".1")
    for owner in (OTHER, str(OTHER)):
        with attach(writer.name, owner=owner, timeout=0) as pools:
            assert pools[KEY].state().reserve0 == 1000
        assert read_status(writer.name, owner=owner)["head_block"] == 5


@as_root
def test_a_handle_does_not_follow_to_a_foreign_generation(writer: WriterArena) -> None:
    with attach(writer.name) as pools:
        assert len(pools) == 1
        writer.grow(max_pools=64)
        give(writer.name + ".2")
        for _ in range(2):
            with pytest.raises(errors.OwnerMismatch, match=r"\.2 belongs to uid 61234"):
                pools[KEY].state()
            pools._look_again = 0.0
        give(writer.name + ".2", os.geteuid())
        assert len(pools) == 1
        assert pools.generation == 2


@as_root
def test_a_handle_does_not_follow_to_a_foreign_arena_of_the_name(arena_name: str) -> None:
    first = make(arena_name)
    with attach(arena_name) as pools:
        first.close(unlink=True)
        with make(arena_name) as second:
            give(arena_name)
            pools._look_again = 0.0
            with pytest.raises(errors.OwnerMismatch):
                len(pools)
            give(arena_name, os.geteuid())
            pools._look_again = 0.0
            assert len(pools) == 1
            second.close(unlink=True)


# Writing


@as_root
@pytest.mark.parametrize("given", ["", ".1"], ids=["control", "data"])
@pytest.mark.parametrize("opening", [WriterArena.take_over, WriterArena.create])
def test_no_writer_takes_over_what_another_user_left(arena_name: str, given: str, opening) -> None:  # type: ignore[no-untyped-def]
    make(arena_name).close(unlink=False)
    give(arena_name + given)
    content = (SHM / f"{arena_name}.1").read_bytes()
    before = owners(arena_name)
    with pytest.raises(errors.OwnerMismatch, match="another name") as caught:
        opening(arena_name)
    assert (caught.value.found, caught.value.expected) == (OTHER, 0)
    if opening is WriterArena.take_over or given == "":
        assert owners(arena_name) == before
    assert (SHM / f"{arena_name}.1").read_bytes() == content
    for path in SHM.glob(arena_name + "*"):
        path.unlink()


@as_root
def test_a_name_taken_by_another_user_is_not_freed(arena_name: str) -> None:
    (SHM / f"{arena_name}.1").write_bytes(b"theirs")
    give(f"{arena_name}.1")
    with pytest.raises(errors.OwnerMismatch, match=r"\.1 belongs"):
        make(arena_name)
    with pytest.raises(errors.OwnerMismatch):
        Segment.create(f"/{arena_name}.1", 4096, reserve_bytes=4096)
    assert owners(arena_name).keys() == {f"{arena_name}.1"}
    assert (SHM / f"{arena_name}.1").read_bytes() == b"theirs"
    (SHM / f"{arena_name}.1").unlink()


@as_root
def test_a_writer_goes_on_when_its_next_generation_is_taken(writer: WriterArena) -> None:
    taken = SHM / f"{writer.name.removeprefix('/')}.2"
    taken.write_bytes(b"theirs")
    give(taken.name)
    with pytest.raises(errors.OwnerMismatch):
        writer.grow(max_pools=64)
    writer.set_head(6)
    writer.commit()
    with attach(writer.name) as pools:
        assert (pools.head_block, pools.generation) == (6, 1)
    taken.unlink()


# Command lines


def command(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sysconfig.get_path("scripts"), name)
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("arena-dump", "{}"),
        pytest.param(("arena-quote", "{}", "0x" + KEY.hex(), "10"), marks=pytest.mark.slow),
        ("arena-writer", "status", "{}", "--json"),
        pytest.param(("arena-verify", "{}", "--rpc", "http://127.0.0.1:9"), marks=pytest.mark.slow),
    ],
    ids=lambda words: words[0],
)
def test_commands_refuse_a_foreign_arena_unless_told(
    writer: WriterArena, words: tuple[str, ...]
) -> None:
    program, *arguments = (word.format(writer.name.removeprefix("/")) for word in words)
    refused = command(program, *arguments, "--owner", str(OTHER))
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith(f"{program}: OwnerMismatch: ")
    assert refused.stderr.count("\n") == 1
    for owner in ((), ("--owner", pwd.getpwuid(os.geteuid()).pw_name)):
        told = command(program, *arguments, *owner)
        assert "OwnerMismatch" not in told.stderr
        # there is no node at that address
        assert told.returncode == (2 if program == "arena-verify" else 0), told.stderr


def test_the_arena_to_record_must_belong_to_a_user_there_is(tmp_path: Path) -> None:
    where = (str(tmp_path / "out.rec"), "--socket", str(tmp_path / "feed.sock"))
    found = command("arena-record", *where, "--arena", "any", "--owner", "no such user")
    assert found.returncode == 2
    assert "no user named" in found.stderr
    assert not (tmp_path / "out.rec").exists()


def test_arena_says_whom_it_believes(writer: WriterArena) -> None:
    with attach(writer.name) as pools:
        assert isinstance(pools, Arena)
        assert pools.owner is None
