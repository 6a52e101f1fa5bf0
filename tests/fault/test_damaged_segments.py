"""A writer that begins on a damaged segment refuses it with what is wrong, and the next source is used.

Method: a real arena is left behind with pools, ticks, a removed pool, undo entries and hashes; words of
its segments are then changed from outside, one kind of damage at a time or at random.
"""

import contextlib
import logging
import os
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders.arenas import open_small
from builders.deep_blocks import Chain, Key
from conftest import SEED

import arena
from arena.errors import ArenaBusy, ArenaDamaged, ArenaError, LayoutMismatch, SnapshotContended
from arena.layouts import header as layout
from arena.layouts import slots
from arena.layouts.slots import STATUS_LIVE, STATUS_SYNCING
from arena.values import PoolValues
from arena.writer.node.client import Header
from arena.writing import WriterArena

SHM = Path("/dev/shm")
SIZES = {"max_pools": 16, "tick_bytes": 1 << 16, "undo_blocks": 16, "undo_records": 256}
HEAD = 110


def block_hash(number: int) -> bytes:
    return number.to_bytes(32, "big")


class Node:
    """A chain on which every block is canonical."""

    def headers(self, numbers: list[int]) -> list[Header | None]:
        return [Header(number, block_hash(number), bytes(32), 0, 0, 0) for number in numbers]


NODE = Node()


class Behind(Node):
    """Has come to block `head`, of the same chain or of `others`."""

    def __init__(self, head: int, others: bool = False) -> None:
        self.head, self.others = head, others

    def headers(self, numbers: list[int]) -> list[Header | None]:
        found = super().headers([number + 999 * self.others for number in numbers])
        return [
            each if number <= self.head else None
            for number, each in zip(numbers, found, strict=True)
        ]


def leave(name: str) -> Chain:
    """An arena at block HEAD whose writer is gone: pairs, V3 pools with ticks, one of each removed."""
    with WriterArena.create(name, **SIZES) as writer:
        chain = Chain(writer, pairs=4, pools=4, block=100, seed="damage")
        for block in range(101, HEAD + 1):
            writer.apply(chain.block(events=12))
            writer.note_hash(block, block_hash(block))
        for key in (Key(0, 3), Key(1, 3)):
            writer.remove_pool(chain.slots[key])
        writer.commit()
    return chain


class Left:
    """The data segment of a dead writer, as bytes and as arrays that lead into them."""

    def __init__(self, name: str) -> None:
        (self.path,) = SHM.glob(f"{name}.*")
        self.content = np.fromfile(self.path, np.uint8)
        self.header = self.content[: layout.HEADER_NBYTES].view(layout.HEADER)
        head = self.header[0]
        self.record = head["commits"][int(head["committed"]) & 1]
        self.statics = self._table("statics_offset", slots.STATIC, head["slots_used"])
        self.slots = self._table("slots_offset", slots.SLOT, head["slots_used"])
        self.changes = self._table(
            "change_entries_offset", slots.CHANGE_ENTRY, head["change_entry_count"]
        )
        self.buckets = self._table("buckets_offset", np.dtype("<u4"), head["bucket_count"])
        self.entries = self._table(
            "undo_entries_offset", slots.UNDO_ENTRY, head["undo_entry_count"]
        )
        self.records = self._table(
            "undo_records_offset", slots.UNDO_RECORD, head["undo_record_count"]
        )
        self.heap = self._table("heap_offset", np.dtype("<u4"), int(head["heap_top"]) // 4)

    def _table(self, field: str, dtype: np.dtype, count: int) -> np.ndarray:  # type: ignore[type-arg]
        start = int(self.header[0][field])
        return self.content[start : start + int(count) * dtype.itemsize].view(dtype)

    def line(self, slot: int) -> np.ndarray:  # type: ignore[type-arg]
        """(1,) the newest line of a slot, as a view."""
        lines = self.slots["lines"][slot]
        newest = int(lines["stamp"].argmax())
        found: np.ndarray = lines[newest : newest + 1]  # type: ignore[type-arg]
        return found

    def entry(self) -> np.ndarray:  # type: ignore[type-arg]
        """(1,) the undo entry of the head block, as a view."""
        index = int(self.record["undo_top"]) % len(self.entries)
        found: np.ndarray = self.entries[index : index + 1]  # type: ignore[type-arg]
        return found

    def save(self) -> None:
        self.path.write_bytes(self.content.tobytes())


def set_line(field: str, value: int, slot: int = 5) -> Callable[[Left], None]:
    def damage(left: Left) -> None:
        left.line(slot)[field] = value

    return damage


def set_entry(field: str, value: int) -> Callable[[Left], None]:
    def damage(left: Left) -> None:
        left.entry()[field] = value

    return damage


def set_header(field: str, value: int) -> Callable[[Left], None]:
    def damage(left: Left) -> None:
        left.header[field] = value

    return damage


def set_row(field: str, value: int) -> Callable[[Left], None]:
    def damage(left: Left) -> None:
        left.statics[field][5] = value

    return damage


def bucket_leads_nowhere(left: Left) -> None:
    left.buckets[np.flatnonzero(left.buckets == 0)[0]] = 1 << 20


def bucket_named_twice(left: Left) -> None:
    left.buckets[np.flatnonzero(left.buckets == 0)[0]] = 1


def bucket_lost(left: Left) -> None:
    left.buckets[np.flatnonzero(left.buckets == 1)[0]] = 0


def key_changed(left: Left) -> None:
    left.statics["key"][0, 0] ^= 1


def slab_of_another(left: Left) -> None:
    left.line(5)["slab"] = left.line(4)["slab"][0]
    left.line(5)["slab_class"] = left.line(4)["slab_class"][0]
    left.line(5)["tick_count"] = left.line(5)["current_index"] = 0


def slab_inside_another(left: Left) -> None:
    left.line(5)["slab"] += 1
    left.line(5)["tick_count"] = left.line(5)["current_index"] = 0


def slab_of_no_class(left: Left) -> None:
    left.heap[16 * int(left.line(5)["slab"][0])] = 40


def slab_reaches_beyond(left: Left) -> None:
    left.heap[16 * int(left.line(5)["slab"][0])] = 25


def ticks_out_of_order(left: Left) -> None:
    first = 16 * int(left.line(5)["slab"][0]) + 16
    left.heap[[first, first + 1]] = left.heap[[first + 1, first]]


def both_lines_of_no_commit(left: Left) -> None:
    left.slots["lines"]["stamp"][5] = left.header["committed"][0] + 1


def record_of_another_commit(left: Left) -> None:
    left.header["commits"]["stamp"] += 2


def changes_of_another_commit(left: Left) -> None:
    left.changes["stamp"] += 1


def changes_beyond_their_end(left: Left) -> None:
    left.header["change_reserved"] = left.changes["end"].max() - 1


def set_slab(word: int, value: int) -> Callable[[Left], None]:
    def damage(left: Left) -> None:
        left.heap[16 * int(left.line(5)["slab"][0]) + word] = value

    return damage


def undo_records_of_others(left: Left) -> None:
    left.records["entry_seq"] += 1


def undo_of_no_pool(left: Left) -> None:
    left.records["slot"] = 9


KINDS: list[tuple[Callable[[Left], None], str]] = [
    (set_header("slots_used", 17), "slots in use 17"),
    (set_header("tokens_used", 33), "tokens in use 33"),
    (set_header("heap_top", 0), "end of the tick slabs 0"),
    (set_header("heap_top", 100), "end of the tick slabs 100"),
    (set_header("heap_top", 1 << 40), "end of the tick slabs"),
    (set_header("superseded", 1), "mark of an old generation"),
    (set_header("committed", 2**64 - 1), "count of commits"),
    (set_header("undo_record_reserved", 2**64 - 1), "count of commits"),
    (record_of_another_commit, "record of commit"),
    (set_header("change_reserved", 2**64 - 1), "count of commits"),
    (set_header("change_reserved", 2**61), "ring of changes"),
    (set_header("slab_serial", 2**64 - 1), "count of commits"),
    (set_header("slab_serial", 0), "tick slab of slot"),
    (changes_of_another_commit, "ring of changes"),
    (changes_beyond_their_end, "ring of changes"),
    (set_slab(3, 1), "tick slab of slot 5"),
    (set_slab(4, 0), "tick slab of slot 5"),
    (set_slab(4, 1 << 20), "tick slab of slot 5"),
    (set_row("token_count", 3), "static row 5"),
    (set_row("token0", 32), "static row 5"),
    (set_row("protocol", 3), "static row 5"),
    (set_row("generation", 2**32 - 1), "static row 5"),
    (set_row("generation", 7), "newest version of slot 5"),
    (set_row("tick_spacing", 0), "newest version of slot 5"),
    (set_line("slab", 0), "version line of slot 5"),
    (set_line("slab", 2**32 - 1), "version line of slot 5"),
    (set_line("slab_class", 40), "version line of slot 5"),
    (set_line("slab_class", 1), "slot 5"),
    (set_line("tick_count", 2**32 - 1), "version line of slot 5"),
    (set_line("current_index", 0), "newest version of slot 5"),
    (set_line("base_block", 2**64 - 1), "version line of slot 5"),
    (set_line("status", 5), "newest version of slot 5"),
    (set_line("sqrt_price_hi", 2**32 - 1), "newest version of slot 5"),
    (set_line("slab", 1, slot=1), "slot 1"),
    (both_lines_of_no_commit, "version line of slot 5"),
    (slab_of_another, "tick slab of slot"),
    (slab_inside_another, "tick slab of slot 5"),
    (slab_of_no_class, "tick slab"),
    (slab_reaches_beyond, "tick slab"),
    (ticks_out_of_order, "newest version of slot 5"),
    (bucket_leads_nowhere, "bucket of the key index"),
    (bucket_named_twice, "bucket of the key index"),
    (bucket_lost, "key index of slot 0"),
    (key_changed, "bucket of the key index"),
    (set_entry("record_count", 200), "undo entry"),
    (set_entry("first_record", 0), "undo record"),
    (set_entry("block_number", 2**64 - 1), "undo entry"),
    (undo_records_of_others, "undo record"),
    (undo_of_no_pool, "undo record"),
]


def ids(kind: tuple[Callable[[Left], None], str]) -> str:
    return kind[1]


@pytest.mark.parametrize("kind", KINDS, ids=ids)
def test_a_segment_that_contradicts_itself_is_refused_with_what_is_wrong(
    arena_name: str, kind: tuple[Callable[[Left], None], str]
) -> None:
    damage, words = kind
    leave(arena_name)
    left = Left(arena_name)
    damage(left)
    left.save()
    with pytest.raises(ArenaDamaged, match=words):
        WriterArena.take_over(arena_name)
    start = int(left.header[0]["slots_offset"])
    found = left.path.read_bytes()[start : start + left.slots.nbytes]
    assert found == left.slots.tobytes()  # readers lost nothing
    WriterArena.create(arena_name, **SIZES).close(unlink=True)


def test_a_segment_as_a_writer_leaves_it_is_gone_on_from(arena_name: str) -> None:
    chain = leave(arena_name)
    with WriterArena.take_over(arena_name) as writer:
        chain.compare(writer, without=[Key(0, 3), Key(1, 3)])
        writer.close(unlink=True)


def test_a_chain_of_undo_entries_that_leads_back_to_itself_ends(arena_name: str) -> None:
    """The entry counts as overwritten, as one older than the ring."""
    chain = leave(arena_name)
    left = Left(arena_name)
    left.entry()["prev"] = left.entry()["seq"]
    left.save()
    with WriterArena.take_over(arena_name) as writer:
        assert writer.undoable() == []
        assert not writer.note_hash(50, block_hash(50))
        writer.apply(chain.revert(events=12))
        writer.commit()
        assert len(writer.stale_slots())
        writer.close(unlink=True)


def open_with(name: str, folder: Path, node: Node | None = NODE) -> tuple[WriterArena, bool]:
    return open_small(name, folder, chain_id=1, node=node)


@pytest.mark.parametrize("head", [0, 100, HEAD - 1])
def test_a_segment_above_the_newest_block_of_the_node_is_kept_and_not_live(
    arena_name: str, tmp_path: Path, head: int
) -> None:
    """Also once more, when its writer is killed while it waits for the node."""
    leave(arena_name)
    for node in (Behind(head), Behind(head), NODE):
        found, is_warm = open_with(arena_name, tmp_path, node)
        assert is_warm
        assert found.head_block == HEAD
        live, syncing = (len(found.slots_with(status)) for status in (STATUS_LIVE, STATUS_SYNCING))
        assert (bool(live), bool(syncing)) == (node is NODE, node is not NODE)
        found.close(unlink=node is NODE)


def test_a_segment_of_another_branch_is_refused_by_a_node_that_is_behind(
    arena_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave(arena_name)
    found, is_warm = open_with(arena_name, tmp_path, Behind(HEAD - 1, others=True))
    found.close(unlink=True)
    assert not is_warm
    assert "none of its blocks is the chain's any more" in caplog.text


def test_a_start_falls_back_and_says_why(
    arena_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave(arena_name)
    left = Left(arena_name)
    bucket_leads_nowhere(left)
    left.save()
    with caplog.at_level(logging.INFO):
        found, is_warm = open_with(arena_name, tmp_path)
    with found:
        assert not is_warm
        assert found.pools() == {}
        found.close(unlink=True)
    (line,) = [each for each in caplog.messages if "segment_refused" in each]
    assert "error=ArenaDamaged" in line
    assert "bucket of the key index" in line


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("generation", 2**64 - 1),
        ("generation", 2**63),
        ("generation", 77),
        ("heartbeat_count", 2**64 - 1),
        ("phase_committed", 2**64 - 1),
        ("phase_committed", 12345),
        ("state", 99),
        ("writer_start_time", 2**64 - 1),
        ("chain_id", 2**64 - 1),
    ],
)
def test_no_word_of_the_control_segment_stops_a_start(
    arena_name: str, tmp_path: Path, field: str, value: int
) -> None:
    leave(arena_name)
    control = SHM / arena_name
    fields = layout.CONTROL.fields
    assert fields is not None
    dtype, offset = fields[field][:2]
    with control.open("r+b") as stream:
        stream.seek(offset)
        stream.write(struct.pack("<Q", value)[: dtype.itemsize])
    found, is_warm = open_with(arena_name, tmp_path)
    with found:
        assert is_warm == (
            field in ("heartbeat_count", "phase_committed", "writer_start_time", "state")
        )
        found.heartbeat()
        found.set_phase("live")
        found.close(unlink=True)
    for left in SHM.glob(f"{arena_name}.*"):  # one the control segment did not name any more
        left.unlink()


def forget(name: str) -> None:
    for path in (*SHM.glob(f"{name}.*"), *SHM.glob(name)):
        path.unlink()


def set_content(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def cut(size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, size)


@pytest.mark.parametrize("has_node", [True, False])
@pytest.mark.parametrize(
    ("damage", "is_replaced"),
    [
        (set_content(b"garbage"), True),
        (set_content(b"x"), True),
        (set_content(b"\xff" * layout.CONTROL_NBYTES), True),
        (set_content(random.Random("damage").randbytes(1 << 20)), True),
        (set_content(bytes(layout.CONTROL_NBYTES)), False),
        (set_content(bytes(1)), False),
        (set_content(bytes(1 << 20)), False),
        (cut(0), False),
        (cut(1), True),
        (cut(12), True),
        (cut(100), False),
        (cut(layout.CONTROL_NBYTES - 1), False),
        (cut(1 << 40), False),
    ],
)
def test_a_start_replaces_whatever_this_user_left_under_the_name(
    damage: Callable[[Path], None],
    is_replaced: bool,
    has_node: bool,
    arena_name: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    leave(arena_name)
    damage(SHM / arena_name)
    found, _ = open_with(arena_name, tmp_path, Node() if has_node else None)
    with found:
        with arena.attach(arena_name, timeout=0) as pools:
            assert pools.writer_alive
        (data,) = SHM.glob(f"{arena_name}.*")  # what was left takes up no memory
        assert data.name == f"{arena_name}.{found.generation}"
        found.close(unlink=True)
    said = [each for each in caplog.messages if "event=segment_replaced" in each]
    assert len(said) == is_replaced, caplog.messages
    assert all(arena_name in each and "reason=" in each for each in said)


@pytest.mark.parametrize("has_control", [True, False])
@pytest.mark.parametrize("size", [0, 1, 5000, 1 << 40, 1 << 62])
def test_no_size_of_the_data_stops_a_start(
    size: int, has_control: bool, arena_name: str, tmp_path: Path
) -> None:
    leave(arena_name)
    (data,) = SHM.glob(f"{arena_name}.*")
    os.truncate(data, size)
    if not has_control:
        (SHM / arena_name).write_bytes(b"garbage")
    found, _ = open_with(arena_name, tmp_path)
    with found:
        assert len([*SHM.glob(f"{arena_name}.*")]) == 1
        found.close(unlink=True)


@pytest.mark.parametrize(
    "put",
    [
        Path.mkdir,
        os.mkfifo,
        lambda path: path.symlink_to("/etc/hostname"),
        lambda path: path.symlink_to("nowhere"),
    ],
    ids=["folder", "pipe", "link", "dangling"],
)
def test_what_is_no_file_is_refused_with_the_remedy(
    put: Callable[[Path], None], arena_name: str, tmp_path: Path
) -> None:
    path = SHM / arena_name
    put(path)
    try:
        with pytest.raises(LayoutMismatch, match="is no file: remove it, or choose another name"):
            open_with(arena_name, tmp_path)
        with pytest.raises(LayoutMismatch, match="is no file"):
            arena.attach(arena_name, timeout=0)
    finally:
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize("is_every_bit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_bit_of_the_control_segment_stops_a_start(
    arena_name: str, tmp_path: Path, is_every_bit: bool
) -> None:
    leave(arena_name)
    (data,) = SHM.glob(f"{arena_name}.*")
    control, content = SHM / arena_name, data.read_bytes()
    whole = control.read_bytes()
    bits = range(8 * layout.CONTROL.fields["reserved5"][1])  # type: ignore[index]
    for bit in bits if is_every_bit else range(0, 8 * 64, 5):  # each byte of the identity
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        forget(arena_name)
        control.write_bytes(changed)
        data.write_bytes(content)
        found, _ = open_with(arena_name, tmp_path)
        with found:
            found.set_phase("live")
    forget(arena_name)


def test_a_damaged_control_segment_of_a_living_writer_is_left_to_it(
    arena_name: str, tmp_path: Path
) -> None:
    control = SHM / arena_name
    with WriterArena.create(arena_name, **SIZES) as writer:
        content = control.read_bytes()
        for damage in (set_content(b"garbage"), cut(100), cut(0), set_content(b"\xee" * 8192)):
            damage(control)
            with pytest.raises(ArenaBusy, match="stop it or choose another name"):
                open_with(arena_name, tmp_path)
        control.write_bytes(content)
        writer.close(unlink=True)


def test_whatever_is_changed_a_writer_goes_on_or_refuses(arena_name: str) -> None:
    rng = random.Random(f"damage {SEED}")
    refused = 0
    chain = leave(arena_name)
    left = Left(arena_name)
    path, whole = left.path, left.content
    control = (SHM / arena_name).read_bytes()
    used = np.flatnonzero(whole)
    for _ in range(400):
        content = whole.copy()
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = int(used[rng.randrange(len(used))])
            if rng.random() < 0.5:
                content[at] ^= 1 << rng.randrange(8)
            else:
                word = rng.choice((0, 1, 2**31, 2**32 - 1, rng.getrandbits(32)))
                at &= ~3
                content[at : at + 4] = np.frombuffer(struct.pack("<I", word), np.uint8)
        path.write_bytes(content.tobytes())
        (SHM / arena_name).write_bytes(control)
        try:
            writer = WriterArena.take_over(arena_name)
        except LayoutMismatch:
            refused += 1
            continue
        with writer:
            for records in chain.onwards(events=12, blocks=3):
                writer.apply(records)
            for slot in range(writer.native.arena.header.slots_used):
                with contextlib.suppress(ArenaError, ValueError):
                    writer.install(slot, PoolValues(HEAD, 500, reserve0=1, reserve1=1))
            writer.commit()
            writer.image()
    assert 0 < refused < 400
    WriterArena.create(arena_name, **SIZES).close(unlink=True)


def test_whatever_stands_in_the_ring_of_changes_readers_name_pools_or_give_up(
    arena_name: str,
) -> None:
    rng = random.Random(f"ring {SEED}")
    chain = leave(arena_name)
    with (
        WriterArena.take_over(arena_name) as writer,
        arena.attach(arena_name) as pools,
    ):
        seen = pools.wait_block(0)
        for _ in range(3):
            writer.apply(chain.block(events=12))
        assert seen is not None
        newer = pools.wait_block(seen)
        assert newer is not None
        want, keys = newer.touched, set(pools)
        assert want
        left = Left(arena_name)
        start, size = int(left.header[0]["change_entries_offset"]), left.changes.nbytes
        start_slots = int(left.header[0]["change_slots_offset"])
        size_slots = 4 * int(left.header[0]["change_slot_count"])
        values = (0, 1, 7, 15, 16, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
        whole = left.content[start : start_slots + size_slots].tobytes()
        with left.path.open("r+b", buffering=0) as stream:
            for _ in range(300):
                for _ in range(rng.choice((1, 2, 30))):
                    place = rng.choice((start, start_slots))
                    at = place + 8 * rng.randrange((size if place == start else 256) // 8)
                    stream.seek(at)
                    value = rng.choice((*values, rng.randrange(20), rng.getrandbits(64)))
                    stream.write(struct.pack("<Q", value))
                with contextlib.suppress(SnapshotContended):
                    assert set(newer.touched) <= keys
                if rng.random() < 0.3:
                    stream.seek(start)
                    stream.write(whole)
                    assert newer.touched == want
            # Without a ring all pools are looked at.
            stream.seek(start)
            stream.write(bytes(size))
            assert newer.touched == want
        writer.close(unlink=True)


@pytest.mark.parametrize("nbytes", [1, 4095, 4096, 8192, -1])
def test_a_segment_cut_short_is_refused_by_readers_and_writers(
    arena_name: str, nbytes: int
) -> None:
    leave(arena_name)
    path = Left(arena_name).path
    whole = path.stat().st_size
    os.truncate(path, nbytes % whole)
    for attempt in (
        lambda: arena.attach(arena_name, require_writer=False),
        lambda: WriterArena.take_over(arena_name),
    ):
        with pytest.raises(ArenaDamaged, match="cut it short") as caught:
            attempt()
        assert caught.value.found == nbytes % whole
    os.truncate(path, whole)  # what was cut off is zero now
    if nbytes % whole <= 8192:
        with pytest.raises(LayoutMismatch):
            WriterArena.take_over(arena_name)
    WriterArena.create(arena_name, **SIZES).close(unlink=True)


def read_all(pools: arena.Arena, keys: list[str]) -> int:
    """Read pools in every way there is for one; how many reads were refused."""
    refused = 0
    with pools.snapshot() as view:
        for key in keys:
            for read in (
                lambda key=key: pools[key].state().ticks,
                lambda key=key: pickle.dumps(pools[key].freeze().state()),
                lambda key=key: (repr(pools[key]), view[key]._repr_html_()),
                lambda key=key: pools[key].state().price,
                lambda key=key: pools.pair(pools[key].token0, pools[key].token1),
                lambda key=key: (pools[key].status, pools[key].token0, pools[key].block_number),
                lambda key=key: view[key].state().tick_arrays,
                lambda key=key: pools[key].freeze().quote_exact_in(1000, zero_for_one=True),
                lambda key=key: view[key].quote_exact_out(1000, zero_for_one=True),
                lambda key=key: pools.slots([key, pools[key], view[key]]),
                lambda key=key: len(pools.snapshot([key])[key].state().pool_key),
            ):
                try:
                    read()
                except (ArenaError, ValueError):
                    refused += 1
    with contextlib.suppress(ArenaError):
        pools.wait_block(0, timeout=0)
    return refused


def test_whatever_is_changed_a_reader_reads_or_refuses(arena_name: str) -> None:
    """In lines, rows, tokens, buckets and ticks; every byte of them may be anything."""
    rng = random.Random(f"reading damage {SEED}")
    leave(arena_name)
    left = Left(arena_name)
    head = left.header[0]
    with arena.attach(arena_name, require_writer=False) as pools:
        keys = list(pools)
        assert read_all(pools, keys) <= len(keys)  # quotes of pools without enough on one side
        whole = left.path.read_bytes()
        tables = [
            (int(head["statics_offset"]), left.statics.nbytes),
            (int(head["slots_offset"]), left.slots.nbytes),
            (int(head["tokens_offset"]), 64 * int(head["tokens_used"])),
            (int(head["buckets_offset"]), left.buckets.nbytes),
            (int(head["heap_offset"]), left.heap.nbytes),
        ]
        refused = 0
        with left.path.open("r+b", buffering=0) as stream:
            for _ in range(300):
                places = []
                for start, size in rng.choices(tables, k=rng.choice((1, 2, 8, 40))):
                    places.append(start + 4 * rng.randrange(size // 4))
                    word = rng.choice((0, 1, 255, 2**31, 2**32 - 1, rng.getrandbits(32)))
                    stream.seek(places[-1])
                    stream.write(struct.pack("<I", word))
                refused += read_all(pools, keys)
                for place in places:
                    stream.seek(place)
                    stream.write(whole[place : place + 4])
        assert refused > 300
        assert left.path.read_bytes() == whole
        assert read_all(pools, keys) <= len(keys)
    WriterArena.create(arena_name, **SIZES).close(unlink=True)
