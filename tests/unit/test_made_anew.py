"""Readers that stay attached while a writer ends, unlinks its arena, and another one makes it anew."""

import pickle
from collections.abc import Sequence

import pytest

import arena
from arena.layouts import slots
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

TOKENS = (TokenSpec(b"\1" * 20, 18, "ONE"), TokenSpec(b"\2" * 20, 18, "TWO"))
FIRST, SECOND = (PoolSpec(bytes([n]) * 20, slots.UNISWAP_V2, *TOKENS, 3000, 0) for n in (1, 2))
KEYS = ["0x" + spec.key.hex() for spec in (FIRST, SECOND)]


def make(name: str, block: int, specs: Sequence[PoolSpec] = (FIRST, SECOND)) -> WriterArena:
    """Both pools read at `block`: reserve0 is the block above the pool's first byte."""
    writer = WriterArena.create(name, max_pools=8, tick_bytes=1 << 20)
    for spec in specs:
        reserves = {"reserve0": block << 8 | spec.key[0], "reserve1": 10**20}
        writer.install(
            writer.add_pool(spec), PoolValues(block, 3000, **reserves), slots.STATUS_LIVE
        )
    writer.set_head(block)
    writer.commit()
    return writer


@pytest.mark.parametrize("specs", [(FIRST, SECOND), (SECOND, FIRST)], ids=["same", "turned"])
def test_nothing_of_an_arena_before_is_taken_for_the_present_one(
    arena_name: str, specs: Sequence[PoolSpec]
) -> None:
    writer = make(arena_name, 100)
    with arena.attach(arena_name, timeout=10) as reader:
        handles = [reader[key] for key in KEYS]
        group, references = reader.group(KEYS, fields="reserves"), reader.slots(KEYS)
        head = reader.wait_block(0)
        assert head is not None
        snapshot = pickle.dumps(reader.snapshot())
        assert group.read()["reserve0"][:, 0].tolist() == [100 << 8 | 1, 100 << 8 | 2]
        writer.close(unlink=True)
        writer = make(arena_name, 200, specs)
        try:
            assert [handle.state().reserve0 for handle in handles] == [200 << 8 | 1, 200 << 8 | 2]
            assert group.read()["reserve0"][:, 0].tolist() == [200 << 8 | 1, 200 << 8 | 2]
            assert (group.block_number, group.touched.tolist()) == (200, [0, 1])
            after = reader.wait_block(head, timeout=10)
            assert after is not None
            assert sorted(after.touched) == KEYS
            with pytest.raises(arena.SnapshotTooOld, match="re-created"):
                pickle.loads(snapshot)
            found = reader.quote_batch(references, 10**6, zero_for_one=True)
            assert found.statuses.all(), "a reference of the arena before leads to a pool"
        finally:
            writer.close(unlink=True)


def test_a_grown_arena_is_the_same_one(arena_name: str) -> None:
    writer = make(arena_name, 100)
    try:
        with arena.attach(arena_name, timeout=10) as reader:
            group, references = reader.group(KEYS), reader.slots(KEYS)
            group.read()
            writer.grow(max_pools=16)
            group.read()
            assert group.touched.tolist() == []
            assert not reader.quote_batch(references, 10**6, zero_for_one=True).statuses.any()
    finally:
        writer.close(unlink=True)
