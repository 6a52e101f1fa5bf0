"""The undo ring keeps 64 blocks at ten times mainnet's load, in no more memory than that takes.

Method: blocks of generated events through WriterArena.apply and back again; each pool is then compared
with a copy kept by tests/builders/deep_blocks.py.
"""

import os
from pathlib import Path

import pytest
from builders.deep_blocks import Chain

from arena.images import UNDO_BLOCKS_KEPT
from arena.layouts import slots
from arena.writing import WriterArena

SHM = Path("/dev/shm")
DEPTH = 64


def pages(name: str) -> int:
    """Bytes of memory the data segment takes."""
    (path,) = SHM.glob(f"{name}.*")
    return os.stat(path).st_blocks * 512


@pytest.mark.slow
def test_64_blocks_of_5000_events_are_turned_back_exactly(arena_name: str) -> None:
    with WriterArena.create(arena_name, max_pools=4096) as writer:
        chain = Chain(writer, pairs=1500, pools=500, block=100, seed="deep")
        for _ in range(DEPTH):
            writer.apply(chain.block(events=5000))
        chain.compare(writer)
        for _ in range(DEPTH):
            writer.apply(chain.revert())
        writer.commit()
        assert writer.head_block == chain.head == 100
        assert not len(writer.stale_slots())
        chain.compare(writer)
        writer.close(unlink=True)


def test_what_is_deeper_than_the_ring_is_stale(arena_name: str) -> None:
    with WriterArena.create(arena_name, max_pools=16, undo_records=64) as writer:
        chain = Chain(writer, pairs=8, pools=0, block=100, seed="too deep")
        for _ in range(20):  # 8 records each at most: at least 8 blocks are kept
            writer.apply(chain.block(events=40))
        for _ in range(7):
            writer.apply(chain.revert())
        writer.commit()
        chain.compare(writer)
        for _ in range(10):
            writer.apply(chain.revert())
        writer.commit()
        assert len(writer.stale_slots()) == 8  # to be read anew, none is shown with wrong numbers
        writer.close(unlink=True)


@pytest.mark.slow
def test_memory_is_taken_for_what_64_blocks_need(arena_name: str) -> None:
    """A small load goes on in the part of the ring that has pages; a large one takes more, and a revert
    across both is exact."""
    with WriterArena.create(arena_name, max_pools=4096) as writer:
        chain = Chain(writer, pairs=1000, pools=0, block=100, seed="laps")
        begun = pages(arena_name)
        assert begun < 16 << 20
        writer.apply(chain.block(events=1000))
        for _ in range(1500):  # some 950,000 records
            writer.apply(chain.again())
        for _ in range(DEPTH):
            writer.apply(chain.block(events=1000))
        small = pages(arena_name)
        assert begun < small <= begun + (36 << 20)
        for _ in range(DEPTH):
            writer.apply(chain.revert())
        writer.commit()
        chain.compare(writer)
        for _ in range(DEPTH):
            writer.apply(chain.block(events=1000))
        writer.close(unlink=True)


def test_without_more_pages_the_ring_makes_do_with_those_it_has(arena_name: str) -> None:
    """As with a full /dev/shm: the descriptor pages are taken through is one that gives none."""
    with WriterArena.create(arena_name, max_pools=256) as writer:
        chain = Chain(writer, pairs=40, pools=10, block=100, seed="no pages")
        own, none = writer.native.fd, os.open("/dev/null", os.O_RDWR)
        writer.native.fd = none
        writer.native.undo_paged = 1000
        try:
            for _ in range(100):  # some 60 records each
                writer.apply(chain.block(events=60))
            assert pages(arena_name) < 32 << 20
            depth = len(writer.undoable())
            assert 5 < depth < 30
            for _ in range(depth):
                writer.apply(chain.revert())
            writer.commit()
            chain.compare(writer)
            writer.apply(chain.block(events=12000))  # more than there are pages for
            writer.apply(chain.revert())
            writer.commit()
            assert len(writer.stale_slots()) > 40
        finally:
            writer.native.fd = own
            os.close(none)
        writer.close(unlink=True)


@pytest.mark.slow
def test_a_restored_image_can_undo_its_newest_blocks(arena_name: str) -> None:
    sizes = {"max_pools": 256, "tick_bytes": 1 << 20}
    with WriterArena.create(arena_name, undo_records=20_000, **sizes) as writer:
        chain = Chain(writer, pairs=100, pools=50, block=100, seed="image")
        for _ in range(200):  # around the ring more than once
            writer.apply(chain.block(events=300))
        image = writer.image()
        assert image is not None
        writer.close(unlink=True)
    for records in (20_000, 50_000):
        there = dict(chain.state), dict(chain.before), dict(chain.sent), chain.head
        with WriterArena.create(arena_name, undo_records=records, image=image, **sizes) as writer:
            chain.compare(writer)
            depth = len(writer.undoable())
            assert 30 < depth <= UNDO_BLOCKS_KEPT
            for _ in range(depth):
                writer.apply(chain.revert())
            for _ in range(3):
                writer.apply(chain.block(events=300))
            writer.apply(chain.revert())
            writer.commit()
            chain.compare(writer)
            writer.apply(chain.revert())
            writer.apply(chain.revert())
            writer.apply(chain.revert())  # below what the image holds
            writer.commit()
            assert len(writer.stale_slots())
            writer.close(unlink=True)
        chain.state, chain.before, chain.sent, chain.head = there


def test_an_arena_that_grows_keeps_what_can_be_undone(arena_name: str) -> None:
    with WriterArena.create(arena_name, max_pools=256, undo_records=20_000) as writer:
        chain = Chain(writer, pairs=100, pools=50, block=100, seed="growth")
        for _ in range(100):
            writer.apply(chain.block(events=300))
        depth = len(writer.undoable())
        writer.grow(undo_bytes=3 * writer.undo_bytes)
        assert writer.undo_bytes == 60_000 * slots.UNDO_RECORD.itemsize
        assert len(writer.undoable()) == depth
        for _ in range(50):
            writer.apply(chain.block(events=300))
        for _ in range(depth + 50):
            writer.apply(chain.revert())
        writer.commit()
        chain.compare(writer)
        writer.close(unlink=True)
