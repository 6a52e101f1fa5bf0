"""Segments, the writer lock and the two handles on them, on real shared memory and real processes."""

import gc
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import posix_ipc
import pytest
from roles.child import one_pool_writer, run_python

from arena import errors
from arena.control import control_pointer
from arena.layouts import header, slots
from arena.lock import ControlSegment
from arena.mapping import MappedArena
from arena.native import ffi
from arena.readers import PoolState, SharedSnapshot, attach
from arena.segment import Access, Segment, data_name, segment_name, unlink
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

SHM = Path("/dev/shm")
SMALL = {"max_pools": 16, "tick_bytes": 65536, "undo_blocks": 16, "undo_records": 64}
TOKEN = TokenSpec(bytes(19) + b"\1", 18, "ONE")
OTHER = TokenSpec(bytes(19) + b"\2", None, "TWO")
V2 = PoolSpec(b"\x11" * 20, slots.UNISWAP_V2, TOKEN, OTHER, 3000)


HOLDER = """
import json, sys
from arena.lock import ControlSegment
control = ControlSegment.attach(sys.argv[1], 4096)
print(json.dumps(control.holder()))
"""


# Names


@pytest.mark.parametrize("name", ["pools", "/pools", "a", "x" * 200, "with.dot", "p.1a", "1", "ä"])
def test_names_are_accepted_with_or_without_slash(name: str) -> None:
    assert segment_name(name) == "/" + name.removeprefix("/")


@pytest.mark.parametrize(
    "name", ["", "/", "a/b", "//a", "x" * 201, "ä" * 101, ".", "..", "a\0b", "pools.1", "p.00"]
)
def test_impossible_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="segment"):
        segment_name(name)


def test_a_name_that_is_no_string_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        segment_name(5)  # type: ignore[arg-type]


def test_data_names_carry_the_generation() -> None:
    assert data_name("pools", 12) == "/pools.12"


# Segments


def test_segment_is_created_zeroed_with_its_size_and_reserved_pages(arena_name: str) -> None:
    segment = Segment.create("/" + arena_name, 1 << 20, reserve_bytes=8192)
    try:
        assert os.fstat(segment.fd).st_size == segment.nbytes == len(segment.map) == 1 << 20
        assert os.fstat(segment.fd).st_blocks * 512 == 8192
        assert not any(segment.map[:8192])
    finally:
        segment.close()
        unlink("/" + arena_name)


@contextmanager
def created(name: str, nbytes: int = 4096) -> Iterator[Segment]:
    """A segment that is gone afterwards."""
    segment = Segment.create("/" + name, nbytes, reserve_bytes=4096)
    try:
        yield segment
    finally:
        segment.close()
        unlink("/" + name)


def test_segment_left_behind_is_replaced_not_reused(arena_name: str) -> None:
    with created(arena_name) as first:
        first.map[:4] = b"left"
        with created(arena_name) as second:
            assert second.map[:4] == bytes(4)
            assert first.map[:4] == b"left"


def test_attaching_maps_the_whole_segment_and_never_resizes_it(arena_name: str) -> None:
    with created(arena_name, 12345) as owner:
        owner.map[12344] = 7
        for writable in (False, True):
            found = Segment.attach("/" + arena_name, writable=writable)
            assert found.nbytes == len(found.map) == 12345
            assert found.map[12344] == 7
            found.close()
        assert (SHM / arena_name).stat().st_size == 12345


def test_read_only_mapping_refuses_python_writes(arena_name: str) -> None:
    with created(arena_name), closing(Segment.attach("/" + arena_name)) as found:
        with pytest.raises(TypeError):
            found.map[0] = 1
        with pytest.raises(BufferError):
            ffi.from_buffer("char *", found.map, require_writable=True)


def test_read_only_mapping_cannot_be_written_at_all(arena_name: str) -> None:
    """A store through a raw pointer ends the process: the protection is the kernel's."""
    code = """
import sys
from arena.native import ffi
from arena.segment import Segment
segment = Segment.attach("/" + sys.argv[1])
pointer = ffi.from_buffer("char *", segment.map)
assert pointer[0] == b"\\0"
pointer[0] = b"x"
"""
    with created(arena_name) as owner:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, arena_name], check=False, timeout=60
        )
        assert done.returncode == -signal.SIGSEGV
        assert owner.map[0] == 0


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_mode_is_what_was_asked_whatever_the_umask(arena_name: str, mode: int) -> None:
    before = os.umask(0o077)
    try:
        writer = WriterArena.create(arena_name, access=Access(mode), **SMALL)
    finally:
        os.umask(before)
    with writer:
        for name in (arena_name, f"{arena_name}.1"):
            assert stat.S_IMODE((SHM / name).stat().st_mode) == mode
        writer.close(unlink=True)


def test_group_is_given_to_both_segments(arena_name: str) -> None:
    group = 12 if os.geteuid() == 0 else os.getgid()
    with WriterArena.create(arena_name, access=Access(0o640, group), **SMALL) as writer:
        for name in (arena_name, f"{arena_name}.1"):
            assert (SHM / name).stat().st_gid == group
        writer.close(unlink=True)


def test_unknown_group_is_refused_and_leaves_nothing(arena_name: str) -> None:
    with pytest.raises(ValueError, match="no group"):
        WriterArena.create(arena_name, access=Access(group="no-such-group-here"), **SMALL)
    assert not list(SHM.glob(arena_name + "*"))


def test_unlinking_a_missing_name_is_fine(arena_name: str) -> None:
    unlink("/" + arena_name)


# The writer lock


@pytest.fixture
def control(arena_name: str) -> Iterator[ControlSegment]:
    found = ControlSegment.create(arena_name, 4096)
    yield found
    found.close()
    unlink("/" + arena_name)


def test_lock_excludes_other_processes_and_names_the_holder(
    control: ControlSegment, arena_name: str
) -> None:
    control.lock()
    assert control.holder() == os.getpid()
    assert run_python(HOLDER, arena_name) == os.getpid()
    refused = """
import json, sys
from arena.errors import ArenaBusy
from arena.lock import ControlSegment
control = ControlSegment.attach_writable(sys.argv[1], 4096)
try:
    control.lock()
    print(json.dumps("got it"))
except ArenaBusy as error:
    print(json.dumps([error.pid, str(error)]))
"""
    pid, text = run_python(refused, arena_name)
    assert pid == os.getpid()
    assert str(pid) in text
    control.unlock()
    assert control.holder() is None
    assert run_python(HOLDER, arena_name) is None
    assert run_python(refused, arena_name) == "got it"


def test_lock_excludes_a_second_writer_in_the_same_process(
    control: ControlSegment, arena_name: str
) -> None:
    control.lock()
    second = ControlSegment.attach_writable(arena_name, 4096)
    with pytest.raises(errors.ArenaBusy, match=str(os.getpid())):
        second.lock()
    second.close()
    assert run_python(HOLDER, arena_name) == os.getpid()


def test_closing_other_handles_in_the_process_keeps_the_lock(
    control: ControlSegment, arena_name: str
) -> None:
    """The kernel drops the lock when any descriptor of the file is closed, an mmap's too."""
    control.lock()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        for opening in (ControlSegment.attach, ControlSegment.attach_writable):
            other = opening(arena_name, 4096)
            assert other.map[:8] == bytes(8)
            other.close()
        assert run_python(HOLDER, arena_name) == os.getpid()
    # One more descriptor and its duplicate inside mmap, however often it is opened.
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_dropped_handles_let_go_without_close(arena_name: str) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    found = ControlSegment.create(arena_name, 4096)
    del found
    ControlSegment.create(arena_name + "x", 4096).close()  # purges what is not used
    unlink("/" + arena_name)
    unlink("/" + arena_name + "x")
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_reader_opened_before_the_writer_does_not_cost_it_the_lock(
    control: ControlSegment, arena_name: str
) -> None:
    reader = ControlSegment.attach(arena_name, 4096)
    control.lock()
    reader.close()
    assert run_python(HOLDER, arena_name) == os.getpid()


def test_forked_child_does_not_hold_the_lock(control: ControlSegment) -> None:
    """A child that outlives its parent must not keep the arena looking alive."""
    control.lock()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if control.holder() == parent else 2
            control.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert control.holder() == parent


def test_lock_is_gone_after_kill(arena_name: str) -> None:
    with one_pool_writer(arena_name) as child:
        reader = ControlSegment.attach(arena_name, 4096)
        assert reader.holder() == child.pid
        child.kill()
        assert reader.holder() is None
        reader.close()
    unlink("/" + arena_name)
    unlink(f"/{arena_name}.1")


def test_closed_control_segment_refuses_use(arena_name: str) -> None:
    control = ControlSegment.create(arena_name, 4096)
    control.close()
    control.close()
    unlink("/" + arena_name)
    with pytest.raises(ValueError, match="closed"):
        control.lock()


def test_creating_an_existing_control_segment_is_refused(control: ControlSegment) -> None:
    with pytest.raises(FileExistsError):
        ControlSegment.create(control.name, 4096)


# The writing handle


def test_second_writer_is_refused_and_the_first_unharmed(arena_name: str) -> None:
    with WriterArena.create(arena_name, **SMALL) as writer:
        for opening in (
            lambda: WriterArena.create(arena_name, **SMALL),
            lambda: WriterArena.take_over(arena_name),
        ):
            with pytest.raises(errors.ArenaBusy) as caught:
                opening()
            assert caught.value.pid == os.getpid()
        other = """
import json, sys
from arena.writing import WriterArena
from arena.errors import ArenaBusy
found = []
for opening in (WriterArena.create, WriterArena.take_over):
    try:
        opening(sys.argv[1])
    except ArenaBusy as error:
        found.append(error.pid)
print(json.dumps(found))
"""
        assert run_python(other, arena_name) == [os.getpid()] * 2
        assert run_python(HOLDER, arena_name) == os.getpid()
        slot = writer.add_pool(V2)
        writer.install(slot, PoolValues(1, 3000, reserve0=1, reserve1=2))
        writer.commit()
        assert writer.native.arena.header.committed == 1
        writer.close(unlink=True)


def test_new_generation_replaces_a_dead_writers(arena_name: str) -> None:
    with one_pool_writer(arena_name):
        pass  # killed
    with WriterArena.create(arena_name, **SMALL) as writer:
        assert writer.generation == 2
        assert writer.find(V2.key) is None
        assert sorted(path.name for path in SHM.glob(arena_name + "*")) == [
            arena_name,
            f"{arena_name}.2",
        ]
        writer.close(unlink=True)


def seen(name: str) -> tuple[PoolState, int]:
    """The V2 pool's state and the head, as a reader has them."""
    with attach(name) as pools:
        return pools[V2.key].state(), pools.head_block


def test_take_over_continues_at_the_last_commit(arena_name: str) -> None:
    with one_pool_writer(arena_name):
        pass  # killed
    with WriterArena.take_over(arena_name) as writer:
        assert (writer.generation, writer.head_block) == (1, 5)
        assert writer.native.arena.header.committed == 1
        slot = writer.find(V2.key)
        assert slot == 0
        writer.install(slot, PoolValues(6, 3000, reserve0=7, reserve1=8), slots.STATUS_LIVE)
        writer.set_head(6)
        writer.commit()
        state, head = seen(arena_name)
        assert (state.reserve0, state.reserve1, head) == (7, 8, 6)
        writer.close(unlink=True)


def test_take_over_after_a_clean_close(arena_name: str) -> None:
    with WriterArena.create(arena_name, **SMALL) as writer:
        writer.set_head(9)
        writer.commit()
    with WriterArena.take_over(arena_name) as writer:
        assert writer.head_block == 9
        writer.close(unlink=True)


def test_take_over_of_nothing_is_missing(arena_name: str) -> None:
    with pytest.raises(errors.ArenaMissing):
        WriterArena.take_over(arena_name)


def test_spec_reads_back_what_was_added(arena_name: str) -> None:
    long_symbol = TokenSpec(b"\x33" * 20, 0, "é" * 40)
    specs = [
        V2,
        PoolSpec(b"\x22" * 20, slots.UNISWAP_V3, TOKEN, OTHER, 500, 10, b"\xfa" * 20),
        PoolSpec(
            b"\x23" * 32, slots.UNISWAP_V4, OTHER, TOKEN, 0x800000, 60, b"\xfb" * 20, b"\xee" * 20
        ),
    ]
    with WriterArena.create(arena_name, **SMALL) as writer:
        for index, spec in enumerate(specs):
            assert writer.add_pool(spec) == index
            assert writer.add_pool(spec) == index
            assert writer.spec(index) == spec
            assert writer.find(spec.key) == index
        cut = writer.add_pool(PoolSpec(b"\x24" * 20, slots.UNISWAP_V2, long_symbol, OTHER, 3000))
        assert writer.spec(cut).token0.symbol == "é" * 16
        assert writer.native.arena.header.slots_used == 4
        with pytest.raises(IndexError):
            writer.spec(4)
        assert writer.find(b"\x99" * 20) is None
        with pytest.raises(ValueError, match="20 or 32"):
            writer.find(b"\x99" * 21)
        writer.close(unlink=True)


@pytest.mark.parametrize(
    ("hooks", "fee", "flags"),
    [
        (0, 3000, 0),
        (0, 0x800000, slots.POOL_DYNAMIC_FEE),
        (1 << 7, 3000, slots.POOL_HOOKED),
        (1 << 6, 3000, slots.POOL_HOOKED),
        (1 << 3, 3000, slots.POOL_HOOKED),
        (1 << 2, 0x800000, slots.POOL_HOOKED | slots.POOL_DYNAMIC_FEE),
        (0x3FFF & ~0b11001100, 3000, 0),
        (1 << 8, 3000, 0),
    ],
)
def test_v4_flags_follow_fee_and_hooks_address(
    arena_name: str, hooks: int, fee: int, flags: int
) -> None:
    address = (hooks | 0xABCD << 100).to_bytes(20, "big")
    spec = PoolSpec(b"\x23" * 32, slots.UNISWAP_V4, TOKEN, OTHER, fee, 60, bytes(20), address)
    with WriterArena.create(arena_name, **SMALL) as writer:
        slot = writer.add_pool(spec)
        with attach(arena_name) as arena:
            assert arena.statics["flags"][slot] == flags
        writer.close(unlink=True)


@pytest.mark.parametrize(
    "values",
    [
        {"reserve0": 1 << 112},
        {"reserve1": -1},
        {"fee_pips": 1 << 24},
        {"block_number": -1},
    ],
)
def test_values_that_do_not_fit_are_invalid_and_change_nothing(
    arena_name: str, values: dict[str, int]
) -> None:
    with WriterArena.create(arena_name, **SMALL) as writer:
        slot = writer.add_pool(V2)
        writer.install(slot, PoolValues(1, 3000, reserve0=5, reserve1=6))
        writer.commit()
        with pytest.raises(errors.InvalidEventData):
            writer.install(slot, PoolValues(**{"block_number": 2, "fee_pips": 1, **values}))
        writer.commit()
        state, _ = seen(arena_name)
        assert (state.reserve0, state.reserve1, state.block_number) == (5, 6, 1)
        writer.close(unlink=True)


def test_ticks_that_contradict_liquidity_are_invalid(arena_name: str) -> None:
    spec = PoolSpec(b"\x22" * 20, slots.UNISWAP_V3, TOKEN, OTHER, 500, 10)
    with WriterArena.create(arena_name, **SMALL) as writer:
        slot = writer.add_pool(spec)
        ticks = ((-10, 5, 5), (10, 5, -5))
        values = PoolValues(1, 500, sqrt_price_x96=1 << 96, liquidity=6, ticks=ticks)
        with pytest.raises(errors.InvalidEventData, match="22222222"):
            writer.install(slot, values)
        writer.close(unlink=True)


def test_capacities_are_errors_that_name_numbers_and_remedy(arena_name: str) -> None:
    small = {**SMALL, "max_pools": 2, "max_tokens": 3, "tick_bytes": 4096}
    with WriterArena.create(arena_name, **small) as writer:
        first = writer.add_pool(V2)
        writer.add_pool(PoolSpec(b"\x12" * 20, slots.UNISWAP_V3, TOKEN, OTHER, 500, 1))
        with pytest.raises(errors.ArenaFull, match="2 of 2 pools.*--max-pools"):
            writer.add_pool(PoolSpec(b"\x13" * 20, slots.UNISWAP_V2, TOKEN, OTHER, 3000))
        third, fourth = TokenSpec(b"\3" * 20, 1, "3"), TokenSpec(b"\4" * 20, 1, "4")
        with pytest.raises(errors.ArenaFull, match="3 of 3 tokens.*--max-pools"):
            writer.add_pool(PoolSpec(b"\x14" * 20, slots.UNISWAP_V2, third, fourth, 3000))
        ticks = tuple((n, 1, 1 if n < 0 else -1) for n in (*range(-200, 0), *range(1, 201)))
        values = PoolValues(1, 500, sqrt_price_x96=1 << 96, liquidity=200, ticks=ticks)
        with pytest.raises(errors.ArenaFull, match="of 4096 tick bytes.*--tick-bytes"):
            writer.install(1, values)
        writer.install(first, PoolValues(1, 3000, reserve0=1, reserve1=1))
        writer.commit()
        with attach(arena_name) as arena:
            assert list(arena) == ["0x" + "11" * 20]
        writer.close(unlink=True)


@pytest.mark.parametrize(
    "capacities",
    [{"max_pools": 0}, {"max_pools": -1}, {"tick_bytes": 0}, {"undo_blocks": 0}, {"max_tokens": 0}],
)
def test_capacities_out_of_range_are_value_errors(
    arena_name: str, capacities: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="out of range"):
        WriterArena.create(arena_name, **{**SMALL, **capacities})
    assert not list(SHM.glob(arena_name + "*"))


def test_phase_heartbeat_and_identity_are_visible(arena_name: str) -> None:
    with WriterArena.create(arena_name, chain_id=31337, **SMALL) as writer:
        with attach(arena_name) as arena:
            assert arena.phase == "starting"
            beat = arena._shared.heartbeat_count
            writer.heartbeat()
            assert arena._shared.heartbeat_count == beat + 1
            for number, name in enumerate(header.PHASE_NAMES):
                writer.set_phase(name, f"reason {number}", (number, number + 1))
                found = arena.phase_record
                assert (found.name, found.reason) == (name, f"reason {number}")
                assert found.gap == (number, number + 1)
            writer.set_phase(header.PHASE_NUMBERS["gap"], "ü" * 200)
            assert arena.phase_reason == "ü" * 108
            with pytest.raises(ValueError, match="no phase"):
                writer.set_phase("sleeping")
            with pytest.raises(ValueError, match="no phase"):
                writer.set_phase(len(header.PHASE_NAMES))
            assert arena.chain_id == writer.chain_id == 31337
            shared = control_pointer(ControlSegment.attach(arena_name, 4096))
            assert shared.writer_pid == os.getpid()
            stat_fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
            assert shared.writer_start_time == int(stat_fields[19])
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
            assert bytes(ffi.buffer(shared.boot_id)).hex() == boot
            del shared
        writer.close(unlink=True)


def test_close_keeps_or_unlinks_as_told(arena_name: str) -> None:
    writer = WriterArena.create(arena_name, **SMALL)
    writer.close(unlink=False)
    writer.close(unlink=True)  # a second close does nothing
    assert sorted(path.name for path in SHM.glob(arena_name + "*")) == [
        arena_name,
        f"{arena_name}.1",
    ]
    WriterArena.take_over(arena_name).close(unlink=True)
    assert not list(SHM.glob(arena_name + "*"))


def test_closed_writer_refuses_use(arena_name: str) -> None:
    writer = WriterArena.create(arena_name, **SMALL)
    writer.close(unlink=True)
    for use in (
        lambda: writer.commit(),
        lambda: writer.add_pool(V2),
        lambda: writer.heartbeat(),
        lambda: writer.set_phase("live"),
        lambda: writer.head_block,
        lambda: writer.counters,
    ):
        with pytest.raises(errors.ArenaClosed):
            use()


def test_uncommitted_changes_are_dropped_at_close(arena_name: str) -> None:
    with WriterArena.create(arena_name, **SMALL) as writer:
        slot = writer.add_pool(V2)
        writer.install(slot, PoolValues(1, 3000, reserve0=1, reserve1=2), slots.STATUS_LIVE)
        writer.commit()
        writer.install(slot, PoolValues(2, 3000, reserve0=8, reserve1=9), slots.STATUS_LIVE)
    with attach(arena_name, require_writer=False) as arena:
        assert arena[V2.key].state().reserve0 == 1
    with WriterArena.take_over(arena_name) as writer:
        writer.close(unlink=True)


def test_forked_child_closing_the_writer_harms_nothing(arena_name: str) -> None:
    with WriterArena.create(arena_name, **SMALL) as writer:
        writer.set_phase("live")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                writer.close(unlink=True)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with attach(arena_name, timeout=0) as arena:
            assert arena.phase == "live"
            assert arena.writer_alive
        assert run_python(HOLDER, arena_name) == os.getpid()
        writer.close(unlink=True)


def test_mapped_arena_refuses_a_segment_of_another_generation(arena_name: str) -> None:
    with WriterArena.create(arena_name, **SMALL) as writer:
        segment = Segment.attach(f"/{arena_name}.1")
        with pytest.raises(errors.LayoutMismatch, match="generation 1, expected 2"):
            MappedArena(segment, 2)
        writer.close(unlink=True)


def test_posix_ipc_objects_do_not_close_our_descriptors(arena_name: str) -> None:
    """_open keeps the number and drops the object: collecting it must leave the descriptor open."""
    shm = posix_ipc.SharedMemory("/" + arena_name, flags=posix_ipc.O_CREX, size=4096)
    fd = shm.fd
    del shm
    assert os.fstat(fd).st_size == 4096
    os.close(fd)
    unlink("/" + arena_name)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", [Segment, ControlSegment, SharedSnapshot])
def test_an_object_that_was_not_made_to_the_end_goes_quietly(kind: Any) -> None:
    """Its `__del__` runs whatever became of `__init__`."""
    failed: list[object] = []
    before, sys.unraisablehook = sys.unraisablehook, failed.append
    try:
        with pytest.raises(TypeError):
            kind()
        kind.__new__(kind)
        gc.collect()
    finally:
        sys.unraisablehook = before
    assert failed == []
