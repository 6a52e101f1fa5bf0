"""Damaged and foreign checkpoints are refused with a reason, and the next older one is used.

Method: a real arena's image is written; the file is then cut, flipped and rewritten from outside.
"""

import errno
import hashlib
import io
import json
import logging
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.arenas import open_small
from conftest import SEED

import arena
from arena.errors import ArenaMissing, CheckpointRefused
from arena.images import ArenaImage
from arena.layouts import slots
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writer.node.client import Header
from arena.writer.sync import checkpoint_file as checkpoint_module
from arena.writer.sync.checkpoint_file import (
    KEEP,
    Checkpoint,
    checkpoint_files,
    read_header,
    read_image,
    usable_checkpoints,
    write_checkpoint,
)
from arena.writer.sync.restart import state_folder
from arena.writing import WriterArena

CHAIN = 31337
HASHES = {number: hashlib.sha256(str(number).encode()).digest() for number in range(90, 140)}
TOKEN0, TOKEN1 = TokenSpec(b"\1" * 20, 18, "ONE"), TokenSpec(b"\2" * 20, 6, "TWO")
V2_KEY, V3_KEY = b"\x22" * 20, b"\x33" * 20
SHM = Path("/dev/shm")


def fill(writer: WriterArena, block: int) -> None:
    """A pair and a V3 pool at `block`, with `block` in their numbers."""
    v2 = writer.add_pool(PoolSpec(V2_KEY, slots.UNISWAP_V2, TOKEN0, TOKEN1, 3000))
    v3 = writer.add_pool(PoolSpec(V3_KEY, slots.UNISWAP_V3, TOKEN0, TOKEN1, 500, 10))
    pair = PoolValues(block, 3000, reserve0=block, reserve1=10**20)
    ticks = ((-100, block, block), (100, block, -block))
    pool = PoolValues(block, 500, sqrt_price_x96=1 << 96, tick=0, liquidity=block, ticks=ticks)
    writer.install(v2, pair, slots.STATUS_LIVE)
    writer.install(v3, pool, slots.STATUS_LIVE)
    writer.set_head(block)
    writer.commit()


class Node:
    """A chain of blocks by number."""

    def __init__(self, hashes: dict[int, bytes]) -> None:
        self.hashes = hashes

    def headers(self, numbers: list[int]) -> list[Header | None]:
        return [
            Header(n, self.hashes[n], bytes(32), 0, 0, 0) if n in self.hashes else None
            for n in numbers
        ]


@pytest.fixture
def image(arena_name: str) -> ArenaImage:
    with WriterArena.create(arena_name, max_pools=256, tick_bytes=1 << 20) as writer:
        fill(writer, 100)
        rng = random.Random(0)
        for _ in range(200):  # so that the file has some size
            key = rng.randbytes(20)
            slot = writer.add_pool(PoolSpec(key, slots.UNISWAP_V3, TOKEN0, TOKEN1, 500, 10))
            amounts = [rng.getrandbits(100) for _ in range(20)]
            low = [(10 * index - 1000, each, each) for index, each in enumerate(amounts)]
            high = [(10 * index + 1000, each, -each) for index, each in enumerate(amounts)]
            writer.install(
                slot,
                PoolValues(
                    100,
                    500,
                    sqrt_price_x96=1 << 96,
                    liquidity=sum(amounts),
                    ticks=(*low, *high),
                ),
            )
            writer.commit()
            writer.remove_pool(slot)
        writer.commit()
        found = writer.image()
        writer.close(unlink=True)
    assert found is not None
    return found


def write(folder: Path, image: ArenaImage, *, chain_id: int = CHAIN, number: int = 100) -> Path:
    return write_checkpoint(folder, image, chain_id=chain_id, hashes=[(number, HASHES[number])])


def is_canonical(checkpoint: Checkpoint) -> bool:
    return checkpoint.block_hash == HASHES[checkpoint.block_number]


def test_what_was_written_is_read(tmp_path: Path, image: ArenaImage) -> None:
    path = write(tmp_path, image)
    checkpoint, _, _ = read_header(path)
    assert (checkpoint.chain_id, checkpoint.block_number) == (CHAIN, 100)
    assert checkpoint.block_hash == HASHES[100]
    found = read_image(path)
    assert found.pieces == image.pieces


def test_the_newest_few_are_kept(tmp_path: Path, image: ArenaImage) -> None:
    paths = [write(tmp_path, image) for _ in range(5)]
    assert checkpoint_files(tmp_path) == paths[:1:-1]
    assert sorted(tmp_path.iterdir()) == sorted(paths[2:])


def test_two_written_at_once_are_both_written(tmp_path: Path, image: ArenaImage) -> None:
    """As at a stop while the one of an interval is under way."""
    with ThreadPoolExecutor(4) as threads:
        written = [threads.submit(write, tmp_path, image) for _ in range(40)]
    paths = sorted((each.result() for each in written), reverse=True)
    assert checkpoint_files(tmp_path) == paths[:KEEP]
    for path in paths[:KEEP]:
        assert read_image(path).pieces == image.pieces


def test_cut_anywhere_it_is_refused(tmp_path: Path, image: ArenaImage) -> None:
    path = write(tmp_path, image)
    content = path.read_bytes()
    lengths = {*range(0, len(content), 1000), *range(0, 200, 7), len(content) - 1}
    assert len(lengths) > 100
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointRefused, match="next source is used"):
            read_image(path)
    path.write_bytes(content + b"x")
    with pytest.raises(CheckpointRefused, match="bytes of"):
        read_image(path)


def test_each_flipped_bit_is_refused(tmp_path: Path, image: ArenaImage) -> None:
    path = write(tmp_path, image)
    content = path.read_bytes()
    rng = random.Random(f"flips {SEED}")
    header_nbytes = content.index(b"\n")
    bits = [rng.randrange(8 * len(content)) for _ in range(400)]
    bits += [rng.randrange(8 * header_nbytes) for _ in range(100)]
    for bit in bits:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(CheckpointRefused):
            read_image(path)


def rewrite_header(path: Path, **fields: object) -> None:
    """A header that says something else, with a right checksum."""
    line, payload = path.read_bytes().split(b"\n", 1)
    changed = json.dumps({**json.loads(line[65:]), **fields}).encode()
    path.write_bytes(
        hashlib.sha256(changed).hexdigest().encode() + b" " + changed + b"\n" + payload
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"layout_digest": "00" * 32, "layout_version": 1 << 16 | 1}, "it has layout 1.1"),
        ({"format": 2}, "format 2"),
        ({"magic": "something else"}, "something else"),
        ({"hashes": "none"}, "no checkpoint's"),
        ({"pieces": [[0, 4096]]}, "not 4096"),
        ({"nbytes": 100}, "does not hold its pieces"),
        ({"payload_nbytes": 5}, "bytes of 5"),
    ],
)
def test_a_header_of_something_else_is_refused(
    tmp_path: Path, image: ArenaImage, fields: dict[str, object], reason: str
) -> None:
    path = write(tmp_path, image)
    rewrite_header(path, **fields)
    with pytest.raises(CheckpointRefused, match=reason):
        read_image(path)


HEADER_FIELDS = (
    *("magic", "format", "layout_version", "layout_digest", "chain_id", "block_number", "hashes"),
    *("written_unix", "nbytes", "pieces", "payload_nbytes", "payload_sha256"),
)
WRONG = (None, True, -1, 1.5, "", "1", [], {}, [[]], 2**63, 2**64 - 1, 2**64, -(2**70), "x" * 5000)
WRONG_INSIDE: list[dict[str, object]] = [
    {"hashes": [[100]]},
    {"hashes": [[100, "zz"]]},
    {"hashes": [[100, "00"]]},
    {"hashes": [["100", "00" * 32]]},
    {"hashes": [[-1, "00" * 32]]},
    {"hashes": [[2**64, "00" * 32]]},
    {"hashes": [[100, None]]},
    {"pieces": [[0, 4096, 1]]},
    {"pieces": [[4096, 4096]]},
    {"pieces": [[0, 4096], [0, 4096]]},
    {"pieces": [[0, 4096], [8192, -1]]},
    {"pieces": [[0, 4096], [-8, 8]]},
    {"pieces": [[0, "4096"]]},
    {"pieces": [[0, 2**62]]},
    {"pieces": [[0, 10]]},
    {"written_unix": 1e400},
    {"block_number": 101},
]


@pytest.mark.parametrize("field", HEADER_FIELDS)
def test_a_field_of_another_type_or_size_is_refused(
    tmp_path: Path, image: ArenaImage, field: str
) -> None:
    path = write(tmp_path, image)
    whole = path.read_bytes()
    for value in WRONG:
        if value == json.loads(whole.split(b"\n", 1)[0][65:])[field]:
            continue
        if field == "hashes" and value == []:
            continue  # a checkpoint of which no hash is known
        if field == "chain_id" and value in (2**63, 2**64 - 1):
            continue  # fits, and is another chain's
        path.write_bytes(whole)
        rewrite_header(path, **{field: value})
        if field == "written_unix" and value in (-1, 1.5, 2**63, 2**64 - 1, 2**64, -(2**70)):
            continue  # nothing hangs on it
        with pytest.raises(CheckpointRefused, match="next source is used"):
            read_image(path)
    line, payload = whole.split(b"\n", 1)
    header = json.loads(line[65:])
    del header[field]
    changed = json.dumps(header).encode()
    path.write_bytes(
        hashlib.sha256(changed).hexdigest().encode() + b" " + changed + b"\n" + payload
    )
    with pytest.raises(CheckpointRefused, match="no checkpoint's"):
        read_header(path)


@pytest.mark.parametrize("fields", WRONG_INSIDE, ids=str)
def test_a_field_wrong_inside_is_refused(
    tmp_path: Path, image: ArenaImage, fields: dict[str, object]
) -> None:
    path = write(tmp_path, image)
    rewrite_header(path, **fields)
    with pytest.raises(CheckpointRefused, match="next source is used"):
        read_image(path)


@pytest.mark.parametrize("header", [b"[]", b"7", b"null", b'"x"', b"{}", b"{", b"\xff"])
def test_a_header_that_is_no_object_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "00000000000000000001.checkpoint"
    path.write_bytes(hashlib.sha256(header).hexdigest().encode() + b" " + header + b"\n")
    with pytest.raises(CheckpointRefused):
        read_header(path)


def test_what_is_no_file_is_refused_without_waiting(
    tmp_path: Path, image: ArenaImage, caplog: pytest.LogCaptureFixture
) -> None:
    good = write(tmp_path, image)
    os.mkfifo(tmp_path / "00000000000000000008.checkpoint")
    (tmp_path / "00000000000000000009.checkpoint").mkdir()
    usable = list(usable_checkpoints(tmp_path, chain_id=CHAIN, is_canonical=is_canonical))
    assert [checkpoint.path for checkpoint, _ in usable] == [good]
    assert len(caplog.messages) == 2
    assert list(usable_checkpoints(good, chain_id=CHAIN, is_canonical=is_canonical)) == []
    assert "checkpoints_unreadable" in caplog.text


def test_an_image_that_contradicts_itself_gives_way_to_an_older_one(
    tmp_path: Path, image: ArenaImage, arena_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The file's checksum is right: whoever wrote it wrote this."""
    write(tmp_path, image)
    pieces = [(start, bytearray(piece)) for start, piece in image.pieces]
    lines = next(piece for start, piece in pieces if start == int(image.header["slots_offset"]))
    table = np.frombuffer(lines, slots.SLOT)
    newest = int(table["lines"]["stamp"][1].argmax())
    table["lines"]["slab"][1, newest] = 5  # inside the heap
    write(tmp_path, ArenaImage(image.nbytes, tuple((at, bytes(piece)) for at, piece in pieces)))
    found, is_warm = open_with(arena_name, tmp_path, HASHES)
    with found:
        assert is_warm
        found.close(unlink=True)
    assert "error=ArenaDamaged" in caplog.text
    assert "newest version of slot 1" in caplog.text


def test_names_count_on_whatever_the_clock_says(
    tmp_path: Path, image: ArenaImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after files of a former version, whose names are nanoseconds since 1970."""
    former = write(tmp_path, image)
    former = former.rename(tmp_path / f"{time.time_ns():020d}.checkpoint")
    written = [former]
    for now in (0.0, 4e9, 1.0, -5.0, 2e9):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        monkeypatch.setattr(time, "time_ns", lambda now=now: int(now * 1e9))
        written.append(write(tmp_path, image))
        assert checkpoint_files(tmp_path) == written[: -KEEP - 1 : -1]
    assert read_header(written[-1])[0].written_unix == 2e9


def test_what_was_written_last_stays_when_one_is_kept(tmp_path: Path, image: ArenaImage) -> None:
    highest = tmp_path / f"{10**20 - 1}.checkpoint"
    highest.write_bytes(b"of another program")
    for _ in range(2):
        path = write_checkpoint(
            tmp_path, image, chain_id=CHAIN, hashes=[(100, HASHES[100])], keep=1
        )
        assert checkpoint_files(tmp_path) == [path]


def test_the_next_older_one_is_used(
    tmp_path: Path, image: ArenaImage, caplog: pytest.LogCaptureFixture
) -> None:
    good = write(tmp_path, image)
    other_chain = write(tmp_path, image, chain_id=1)
    orphaned = write_checkpoint(
        tmp_path, image, chain_id=CHAIN, hashes=[(100, b"\xee" * 32)], keep=9
    )
    damaged = write_checkpoint(tmp_path, image, chain_id=CHAIN, hashes=[(100, HASHES[100])], keep=9)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        usable = list(usable_checkpoints(tmp_path, chain_id=CHAIN, is_canonical=is_canonical))
    assert [checkpoint.path for checkpoint, _ in usable] == [good]
    reasons = [record.getMessage() for record in caplog.records]
    assert len(reasons) == 3
    for path, reason in (
        (damaged, "bytes of"),
        (orphaned, "not the chain's any more"),
        (other_chain, "it is of chain 1, not of 31337"),
    ):
        assert any(str(path) in each and reason in each for each in reasons)


def open_with(name: str, folder: Path, hashes: dict[int, bytes]) -> tuple[WriterArena, bool]:
    return open_small(name, folder, chain_id=CHAIN, node=Node(hashes))


def test_an_arena_begins_with_a_checkpoint_and_readers_follow(
    tmp_path: Path, image: ArenaImage, arena_name: str
) -> None:
    write(tmp_path, image)
    old = WriterArena.create(arena_name, max_pools=16, tick_bytes=1 << 16)
    fill(old, 90)
    with arena.attach(arena_name) as pools:
        handle = pools[V2_KEY]
        assert handle.state().reserve0 == 90
        old.close(unlink=False)
        # Its segment keeps no hash of any block, so nothing ties it to the chain.
        with (found := open_with(arena_name, tmp_path, HASHES)[0]):
            assert found.generation == 2
            assert handle.state().reserve0 == 100
            assert pools[V3_KEY].state().ticks == ((-100, 100, 100), (100, 100, -100))
            assert pools.head_block == 100
            assert len(pools) == 2
            found.close(unlink=True)


def test_without_any_usable_source_the_arena_begins_empty(
    tmp_path: Path, image: ArenaImage, arena_name: str
) -> None:
    write(tmp_path, image)
    found, is_warm = open_with(arena_name, tmp_path, {100: b"\xee" * 32})
    with found:
        assert not is_warm
        assert found.pools() == {}
        found.close(unlink=True)
    with pytest.raises(ArenaMissing):
        arena.attach(arena_name, timeout=0)


def test_a_checkpoint_above_the_newest_block_of_the_node_is_used_and_not_live(
    tmp_path: Path, image: ArenaImage, arena_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The node syncs, or is restored from a snapshot: that says nothing against the checkpoint."""
    write(tmp_path, image)
    with caplog.at_level(logging.INFO):
        found, is_warm = open_with(arena_name, tmp_path, {})
    with found, arena.attach(arena_name) as pools:
        assert is_warm
        assert found.head_block == 100
        assert pools.phase == "connecting"
        assert "the node does not have block 100 yet" in pools.phase_reason
        assert pools[V2_KEY].status == "syncing"
        found.close(unlink=True)
    assert "event=node_behind block=100" in caplog.text
    assert "refused" not in caplog.text


@pytest.mark.parametrize(("hash_of_99", "is_used"), [(b"\x99" * 32, True), (b"\xee" * 32, False)])
def test_below_a_head_that_the_node_lacks_its_newest_block_decides(
    tmp_path: Path, image: ArenaImage, arena_name: str, hash_of_99: bytes, is_used: bool
) -> None:
    hashes = [(100, HASHES[100]), (99, b"\x99" * 32), (98, b"\x98" * 32)]
    write_checkpoint(tmp_path, image, chain_id=CHAIN, hashes=hashes)
    found, is_warm = open_with(arena_name, tmp_path, {99: hash_of_99, 98: b"\x98" * 32})
    with found:
        assert is_warm == is_used
        found.close(unlink=True)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EMFILE])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
def test_a_disk_that_fails_leaves_no_part_of_a_file(
    tmp_path: Path, image: ArenaImage, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    kept = write(tmp_path, image)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    class Short(io.RawIOBase):
        """A file that takes some bytes and then no more."""

        def __init__(self, path: str, mode: str) -> None:
            self.file = io.FileIO(path, mode.replace("b", ""))
            self.room = 5000

        def writable(self) -> bool:
            return True

        def fileno(self) -> int:
            return self.file.fileno()

        def write(self, data: Any) -> int:
            if self.room == 0:
                refuse()
            taken = self.file.write(bytes(data[: self.room]))
            assert taken is not None
            self.room -= taken
            return taken

    if call == "open":
        monkeypatch.setattr(checkpoint_module, "open", refuse, raising=False)
    elif call == "write":
        monkeypatch.setattr(
            checkpoint_module,
            "open",
            lambda path, mode: io.BufferedWriter(Short(path, mode)),
            raising=False,
        )
    else:
        monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match=os.strerror(error)):
        write(tmp_path, image)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [kept]
    assert read_image(kept).pieces == image.pieces
    assert write(tmp_path, image) in tmp_path.iterdir()


def test_state_is_kept_where_the_system_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/a:{tmp_path}/b")
    assert state_folder("/pools") == tmp_path / "a" / "pools"
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "x"))
    assert state_folder("pools") == tmp_path / "x" / "pool-state-arena" / "pools"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    expected = tmp_path / "home" / ".local" / "state" / "pool-state-arena" / "pools"
    assert state_folder("pools") == expected


def test_what_a_killed_writer_left_of_a_file_goes_with_the_next(
    tmp_path: Path, image: ArenaImage
) -> None:
    left = tmp_path / "00000000000000000001.partial"
    left.write_bytes(b"part")
    kept = write(tmp_path, image)
    assert list(tmp_path.iterdir()) == [kept]


def test_a_damaged_control_segment_gives_way_to_a_checkpoint(
    tmp_path: Path, image: ArenaImage, arena_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, image)
    damaged = write(tmp_path, image)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (SHM / arena_name).write_bytes(b"\xee" * 4096)
    found, is_warm = open_with(arena_name, tmp_path, HASHES)
    with found:
        assert is_warm
        assert found.head_block == 100
        found.close(unlink=True)
    for event in ("event=segment_refused", "event=checkpoint_refused", "event=segment_replaced"):
        assert event in caplog.text
