"""What can be wrong with a segment: missing, half made, foreign, forbidden, dead, of another layout, full.

Each fault is made for real, in processes of their own where it needs one.
"""

import math
import os
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from roles.child import one_pool_writer, run_python

from arena import errors
from arena.layouts import header, slots
from arena.readers import attach
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writer.service.status import read_status
from arena.writing import WriterArena

SHM = Path("/dev/shm")
SMALL = {"max_pools": 16, "tick_bytes": 65536, "undo_blocks": 16, "undo_records": 64}
KEY = b"\x11" * 20


def remove(name: str) -> None:
    for path in SHM.glob(name + "*"):
        path.unlink()


def make(name: str) -> WriterArena:
    return WriterArena.create(name, **SMALL)


def patch(name: str, offset: int, data: bytes) -> None:
    """Overwrite bytes of a segment."""
    with open(SHM / name, "r+b") as file:
        file.seek(offset)
        file.write(data)


def offset_of(field: str, dtype: Any = header.CONTROL) -> int:
    return int(dtype.fields[field][1])


# Attaching


def test_missing_arena(arena_name: str) -> None:
    with pytest.raises(errors.ArenaMissing, match=arena_name) as caught:
        attach(arena_name, timeout=0)
    assert caught.value.name == "/" + arena_name


def test_data_segment_missing(arena_name: str) -> None:
    with make(arena_name) as writer:
        (SHM / f"{arena_name}.1").unlink()
        with pytest.raises(errors.ArenaMissing, match=rf"{arena_name}\.1"):
            attach(arena_name, timeout=0)
        writer.close(unlink=True)


def test_not_ready_while_the_control_segment_is_empty_short_or_blank(arena_name: str) -> None:
    for size in (0, 100, 4096):
        (SHM / arena_name).write_bytes(bytes(size))
        with pytest.raises(errors.ArenaNotReady, match=arena_name):
            attach(arena_name, timeout=0.02)
        assert (SHM / arena_name).stat().st_size == size
    remove(arena_name)


def test_not_ready_while_a_writer_is_creating(arena_name: str) -> None:
    with make(arena_name) as writer:
        patch(arena_name, offset_of("state"), struct.pack("<I", header.STATE_CREATING))
        with pytest.raises(errors.ArenaNotReady, match="created"):
            attach(arena_name, timeout=0)
        patch(arena_name, offset_of("state"), struct.pack("<I", header.STATE_READY))
        attach(arena_name, timeout=0).close()
        generation = offset_of("generation")
        patch(arena_name, generation, struct.pack("<Q", 0))
        with pytest.raises(errors.ArenaNotReady, match="no data yet"):
            attach(arena_name, timeout=0)
        patch(arena_name, generation, struct.pack("<Q", 1))
        writer.close(unlink=True)


def test_closed_arena_whose_next_writer_starts_is_not_ready(arena_name: str) -> None:
    with make(arena_name) as writer:
        patch(arena_name, offset_of("state"), struct.pack("<I", header.STATE_CLOSED))
        with pytest.raises(errors.ArenaNotReady):
            attach(arena_name, timeout=0)
        writer.close(unlink=True)


def test_killed_writer_is_dead_to_new_readers_and_its_state_readable(arena_name: str) -> None:
    with one_pool_writer(arena_name) as child, attach(arena_name) as before:
        assert before.writer_alive
        assert before.writer_pid == child.pid
        assert before.wait_live(0) == 5
        child.kill()
        assert before.writer_pid is None
        assert not before.writer_alive
        assert before[KEY].quote_exact_in(10, zero_for_one=True).amount_out == 19
        with pytest.raises(errors.WriterDead, match=f"process {child.pid} died") as caught:
            attach(arena_name, timeout=0.05)
        assert caught.value.pid == child.pid
        with attach(arena_name, timeout=0, require_writer=False) as after:
            assert after.head_block == 5
            assert after[KEY].state().reserve1 == 2000
            assert after.phase == "live"
            assert not after.writer_alive
            assert after.wait_live(0) == 5
        with pytest.raises(errors.ArenaNotReady, match="is live after 0.05 s: its writer died"):
            before.wait_live(0.05)
        writer = WriterArena.take_over(arena_name)
        with pytest.raises(errors.ArenaNotReady, match="is starting after 0 s"):
            before.wait_live(0)
        writer.set_phase("live")
        assert before.wait_live(0) == 5
        writer.close(unlink=False)
    remove(arena_name)


def test_cleanly_closed_writer_is_named_so(arena_name: str) -> None:
    make(arena_name).close(unlink=False)
    with pytest.raises(errors.WriterDead, match="closed it"):
        attach(arena_name, timeout=0)
    remove(arena_name)


# Permission


OPEN = """
import json, os, sys
from arena import errors
from arena.readers import attach
from arena.writer.service.status import read_status
from arena.writing import WriterArena
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
owner = sys.argv[2] if sys.argv[2:] else None
found = []
for opening in (lambda: attach(sys.argv[1], timeout=0, owner=owner), lambda: WriterArena.create(sys.argv[1])):
    try:
        opening()
        found.append(None)
    except errors.ArenaError as error:
        found.append([type(error).__name__, str(error)])
print(json.dumps(found))
"""


def open_as_nobody(name: str, *owner: str) -> Any:
    """What attaching and creating do for a user without rights (for ourselves, unless root)."""
    return run_python(OPEN, name, *owner)


@pytest.mark.slow
def test_permission_is_its_own_error_and_shows_the_mode(arena_name: str) -> None:
    with make(arena_name) as writer:
        # Only root can become nobody; others take their own rights away.
        mode = 0o600 if os.geteuid() == 0 else 0o000
        for path in SHM.glob(arena_name + "*"):
            path.chmod(mode)
        for name, text in open_as_nobody(arena_name):
            assert name == "ArenaPermission"
            assert f"mode {mode:#o}" in text
            assert "--mode" in text
        if os.geteuid() == 0:
            # Readable, not writable: attaching works, a second writer is refused before it locks.
            for path in SHM.glob(arena_name + "*"):
                path.chmod(0o644)
            reader, second = open_as_nobody(arena_name, "0")
            assert reader is None
            assert open_as_nobody(arena_name)[0][0] == "OwnerMismatch"
            assert second[0] == "ArenaPermission"
            assert "write" in second[1]
            (SHM / f"{arena_name}.1").chmod(0o600)
            assert open_as_nobody(arena_name, "0")[0][0] == "ArenaPermission"
        for path in SHM.glob(arena_name + "*"):
            path.chmod(0o600)
        writer.heartbeat()  # on a slow machine the last one is long ago by now
        with attach(arena_name, timeout=0) as pools:
            assert pools.writer_alive
        writer.close(unlink=True)


# Another layout


VERSION = f"{header.LAYOUT_VERSION >> 16}.{header.LAYOUT_VERSION & 0xFFFF}"


def other_layout(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """Be a build with another layout."""
    if field == "digest":
        monkeypatch.setattr(header, "LAYOUT_DIGEST", b"\xab" * 32)
    else:
        monkeypatch.setattr(header, "LAYOUT_VERSION", 7 << 16 | 3)


@pytest.mark.parametrize("field", ["digest", "version"])
def test_other_layout_is_refused_with_both_named(
    arena_name: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(arena_name) as writer, monkeypatch.context() as patched:
        ours = header.LAYOUT_DIGEST.hex()
        other_layout(patched, field)
        for opening in (
            lambda: attach(arena_name, timeout=0),
            lambda: attach(arena_name, timeout=0, require_writer=False),
        ):
            with pytest.raises(errors.LayoutMismatch) as caught:
                opening()
            text = str(caught.value)
            assert ours in text
            assert ("ab" * 32 if field == "digest" else "7.3") in text
            assert VERSION in text
        # A living writer of another layout is not disturbed either.
        with pytest.raises(errors.ArenaBusy):
            make(arena_name)
        patched.undo()
        with attach(arena_name, timeout=0) as pools:
            assert pools.writer_alive
        writer.close(unlink=True)


def test_dead_arena_of_another_layout_is_replaced_but_never_taken_over(
    arena_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        other_layout(patched, "digest")
        make(arena_name).close(unlink=False)
    before = (SHM / arena_name).stat().st_ino
    with pytest.raises(errors.LayoutMismatch, match="abababab"):
        WriterArena.take_over(arena_name)
    assert (SHM / arena_name).stat().st_ino == before
    with make(arena_name) as writer:
        assert (SHM / arena_name).stat().st_ino != before
        assert sorted(path.name for path in SHM.glob(arena_name + "*")) == [
            arena_name,
            f"{arena_name}.1",
        ]
        attach(arena_name, timeout=0).close()
        writer.close(unlink=True)


@pytest.mark.parametrize(
    ("field", "data"),
    [
        ("magic", b"notarena"),
        ("layout_version", struct.pack("<I", 9 << 16)),
        ("byte_order", struct.pack(">I", header.BYTE_ORDER)),
        ("layout_digest", b"\xcd" * 32),
        ("generation", struct.pack("<Q", 5)),
        ("nbytes", struct.pack("<Q", 1 << 40)),
        ("max_pools", struct.pack("<I", 1 << 27)),
        ("bucket_count", struct.pack("<I", 31)),
        ("heap_offset", struct.pack("<Q", 1 << 62)),
        ("slots_offset", struct.pack("<Q", 0)),
    ],
)
def test_damaged_data_header_is_refused_by_readers_and_writers(
    arena_name: str, field: str, data: bytes
) -> None:
    make(arena_name).close(unlink=False)
    patch(f"{arena_name}.1", offset_of(field, header.HEADER), data)
    with pytest.raises(errors.LayoutMismatch, match=rf"{arena_name}\.1"):
        attach(arena_name, timeout=0, require_writer=False)
    with pytest.raises(errors.LayoutMismatch, match=rf"{arena_name}\.1"):
        WriterArena.take_over(arena_name)
    with make(arena_name) as writer:
        assert writer.generation == 2
        writer.close(unlink=True)


def test_truncated_data_segment_is_refused(arena_name: str) -> None:
    make(arena_name).close(unlink=False)
    path = SHM / f"{arena_name}.1"
    for size in (path.stat().st_size - 1, 4096, 100, 0):
        os.truncate(path, size)
        for opening in (
            lambda: attach(arena_name, timeout=0, require_writer=False),
            lambda: WriterArena.take_over(arena_name),
        ):
            with pytest.raises((errors.LayoutMismatch, errors.ArenaNotReady)) as caught:
                opening()
            assert type(caught.value) is (errors.ArenaDamaged if size else errors.ArenaNotReady)
            assert path.name in str(caught.value)
    remove(arena_name)


# Names of other programs


def test_segment_of_another_program_is_refused_by_all_but_a_new_writer(arena_name: str) -> None:
    path = SHM / arena_name
    content = b"data of another program".ljust(8192, b".")
    path.write_bytes(content)
    openings: list[Callable[[], Any]] = [
        lambda: attach(arena_name, timeout=0),
        lambda: WriterArena.take_over(arena_name),
    ]
    for opening in openings:
        with pytest.raises(errors.LayoutMismatch, match="not a segment of this program"):
            opening()
        assert path.read_bytes() == content
    with path.open("rb") as used, make(arena_name) as writer:
        assert used.read() == content, "whoever has it open keeps it"
        writer.close(unlink=True)


# Creators that died


@pytest.mark.parametrize("size", [0, 4096])
def test_control_segment_of_a_dead_creator_is_used(arena_name: str, size: int) -> None:
    (SHM / arena_name).write_bytes(bytes(size))
    with pytest.raises(errors.ArenaNotReady):
        WriterArena.take_over(arena_name)
    with make(arena_name) as writer:
        assert writer.generation == 1
        with attach(arena_name, timeout=0) as pools:
            assert pools.head_block == 0
        writer.close(unlink=True)


def test_arena_of_a_creator_that_died_half_way_is_made_anew(arena_name: str) -> None:
    """Killed between the data segment and the control segment that names it."""
    make(arena_name).close(unlink=False)
    patch(arena_name, offset_of("state"), struct.pack("<I", header.STATE_CREATING))
    patch(arena_name, offset_of("generation"), struct.pack("<Q", 0))
    with pytest.raises(errors.ArenaNotReady, match="never finished"):
        WriterArena.take_over(arena_name)
    with make(arena_name) as writer:
        attach(arena_name, timeout=0).close()
        writer.close(unlink=True)


def test_writer_killed_while_publishing_a_phase_leaves_the_one_before(arena_name: str) -> None:
    with make(arena_name) as writer:
        writer.set_phase("live", "fine")
        with attach(arena_name, timeout=0) as pools:
            committed = pools._shared.phase_committed
            other = (committed + 1) & 1
            size = header.PHASE.itemsize
            offset = offset_of("phases") + other * size
            patch(arena_name, offset, struct.pack("<Q", committed + 1) + b"\xff" * (size - 8))
            assert (pools.phase, pools.phase_reason) == ("live", "fine")
            # A record being rewritten under every try is refused, not shown.
            patch(arena_name, offset_of("phases") + (1 - other) * size, struct.pack("<Q", 0))
            with pytest.raises(errors.SnapshotContended):
                _ = pools.phase
        writer.set_phase("gap")
        with attach(arena_name, timeout=0) as pools:
            assert pools.phase == "gap"
        writer.close(unlink=True)


# Full


FULL = """
import json, sys
from arena import errors
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena
found = {}
name = sys.argv[1]
try:
    WriterArena.create(name, max_pools=1 << 16)
except errors.ArenaFull as error:
    found["create"] = [str(error), error.requested_bytes, error.available_bytes]
import os
found["left"] = [entry for entry in os.listdir("/dev/shm") if entry.startswith(name)]
if sys.argv[2] == "limited":  # a limit on file sizes refuses sparse files too: nothing more to see
    print(json.dumps(found))
    sys.exit()
w = WriterArena.create(
    name, max_pools=64, max_tokens=64, tick_bytes=1 << 30, undo_blocks=64, undo_records=64
)
t = TokenSpec(bytes(20), 18, "T")
ticks = tuple((n, 5, 5 if n < 0 else -5) for n in (*range(-4000, 0), *range(1, 4001)))
values = PoolValues(5, 500, sqrt_price_x96=1 << 96, liquidity=20000, ticks=ticks)
first = w.add_pool(PoolSpec(b"\\x22" * 20, 0, t, t, 3000))
w.install(first, PoolValues(5, 3000, reserve0=10, reserve1=10), 2)
w.set_head(5)
w.commit()
installed = 0
try:
    while installed < 60:
        w.install(w.add_pool(PoolSpec(bytes([installed]) * 20, 1, t, t, 500, 1)), values, 2)
        w.commit()
        installed += 1
except errors.ArenaFull as error:
    w.abort()
    found["ticks"] = [str(error), error.table]
found["installed"] = installed
w.install(first, PoolValues(6, 3000, reserve0=20, reserve1=10), 2)
w.set_head(6)
w.commit()
from arena.readers import attach
from arena.writer.service.status import read_status
with attach(name, timeout=0) as pools:
    found["after"] = [pools.head_block, pools["0x" + "22" * 20].state().reserve0, len(pools)]
w.close(unlink=True)
print(json.dumps(found))
"""


def test_full_shared_memory_is_an_error_with_numbers_not_a_crash(arena_name: str) -> None:
    """A private /dev/shm of two megabytes; the limit on file sizes where mounting is forbidden."""
    mounted = (
        *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
        'mount -t tmpfs -o size=2m none /dev/shm && exec "$@"',
        "sh",
    )
    may_mount = subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode == 0
    limited = ("bash", "-c", 'ulimit -f 2048 && exec "$@"', "bash")  # in KiB
    if may_mount:
        found = run_python(FULL, arena_name, "mounted", prefix=mounted)
    else:
        found = run_python(FULL, arena_name, "limited", prefix=limited)
    text, requested, available = found["create"]
    assert requested > 2 << 20
    assert str(requested) in text
    assert str(available) in text
    assert "/dev/shm" in text
    assert "--max-pools" in text
    assert "--tick-bytes" in text
    assert found["left"] == []
    assert available <= 2 << 20
    if may_mount:
        text, table = found["ticks"]
        assert table == "pages of /dev/shm"
        assert 0 < found["installed"] < 60
        assert found["after"] == [6, 20, found["installed"] + 1]


def test_file_size_limit_is_arena_full_too(arena_name: str) -> None:
    code = """
import json, resource, sys
from arena import errors
from arena.writing import WriterArena
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    WriterArena.create(sys.argv[1])
except errors.ArenaFull as error:
    print(json.dumps(error.requested_bytes))
"""
    assert run_python(code, arena_name) > 1 << 20
    assert not list(SHM.glob(arena_name + "*"))


# Kills


def test_writers_killed_one_after_the_other_leave_a_usable_arena(arena_name: str) -> None:
    """Each next writer gets the lock at once and finds what the one before committed."""
    token = TokenSpec(bytes(20), 18, "T")
    with one_pool_writer(arena_name):
        pass
    for turn in range(5):
        child = os.fork()
        if child == 0:
            try:
                writer = WriterArena.take_over(arena_name)
                slot = writer.add_pool(PoolSpec(bytes([turn]) * 20, 0, token, token, 3000))
                writer.install(slot, PoolValues(turn, 3000, reserve0=turn + 1, reserve1=1), 2)
                writer.set_head(10 + turn)
                writer.commit()
                writer.install(slot, PoolValues(turn, 3000, reserve0=99, reserve1=99), 2)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with attach(arena_name, timeout=0, require_writer=False) as pools:
            assert pools.head_block == 10 + turn
            assert len(pools) == 2 + turn
            for earlier in range(turn + 1):
                assert pools[bytes([earlier]) * 20].state().reserve0 == earlier + 1
    with WriterArena.take_over(arena_name) as writer:
        assert len(writer.pools()) == 6
        assert writer.stale_slots().tolist() == []
        writer.set_status(0, slots.STATUS_STALE, slots.UNSURE_ALL)
        writer.commit()
        assert writer.stale_slots().tolist() == [0]
        writer.close(unlink=True)


def test_a_hung_writer_keeps_the_lock_and_loses_its_pulse(arena_name: str) -> None:
    with one_pool_writer(arena_name) as child:
        child.process.send_signal(signal.SIGSTOP)
        with attach(arena_name, timeout=0, heartbeat_limit=0.0) as pools:
            assert pools.writer_pid == child.pid
            assert not pools.writer_alive
            assert pools.heartbeat_age > 0
        with pytest.raises(errors.ArenaBusy, match=str(child.pid)):
            make(arena_name)
    remove(arena_name)


# A clock that is not the reader's


@pytest.mark.parametrize("beats", [True, False])
def test_a_heartbeat_from_the_future_counts_only_while_it_beats(
    arena_name: str, beats: bool
) -> None:
    """What a reader sees whose time namespace is an hour behind the writer's."""
    done = threading.Event()

    def beat(later_ns: int) -> None:
        ahead_ns = time.monotonic_ns() + 3600 * 10**9 + later_ns
        patch(arena_name, offset_of("heartbeat_ns"), struct.pack("<Q", ahead_ns))

    def keep_beating() -> None:
        while not done.wait(0.01):
            beat(0)

    thread = threading.Thread(target=keep_beating)
    with make(arena_name) as writer, attach(arena_name, timeout=0) as pools:
        beat(0)
        if beats:
            thread.start()
        try:
            assert pools.heartbeat_age == (0 if beats else math.inf)
            assert pools.writer_alive is beats
            assert read_status(arena_name)["heartbeat_age_ms"] == (0 if beats else None)
        finally:
            done.set()
            if beats:
                thread.join()
        writer.heartbeat()
        assert pools.writer_alive
        writer.close(unlink=True)
