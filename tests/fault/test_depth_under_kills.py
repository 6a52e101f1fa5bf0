"""kill -9 of a writer that swaps, mints and burns as fast as it can: every quote over 100 ticks is that of a
walk through the pool as it was after the quote's own block.

Method: a process forks writers that take over the same segment; each is killed after a random short while.
Another process quotes through one handle, which makes depth tables and replaces them all the time; what
it finds is compared with walks through private pools, made from the block's number alone.
"""

import random

import pytest
from conftest import SEED
from roles import deep as roles
from roles.nursery import Nursery, Watcher

import arena
from arena.specs import PoolSpec, TokenSpec
from arena.writing import WriterArena


def create(name: str) -> None:
    tokens = [TokenSpec(address=bytes([n]) * 20, decimals=18, symbol=f"T{n}") for n in (1, 2)]
    with WriterArena.create(name, max_pools=4, tick_bytes=1 << 20) as owner:
        spec = PoolSpec(roles.KEY, 1, *tokens, roles.FEE, roles.SPACING, bytes(20), bytes(20))
        owner.install(owner.add_pool(spec), roles.values(), status=2)
        owner.set_head(roles.FIRST)
        owner.commit()
        owner.set_phase("live")
        owner.close(unlink=False)


@pytest.mark.parametrize("rounds", [25, pytest.param(100, marks=pytest.mark.slow)])
def test_no_quote_mixes_tables_and_ticks(rounds: int, arena_name: str) -> None:
    create(arena_name)
    chance = random.Random(f"deep {SEED}")
    with (
        Nursery(roles.__file__, arena_name) as nursery,
        Watcher(roles.__file__, arena_name) as reader,
        arena.attach(arena_name, timeout=10, require_writer=False) as pools,
    ):
        started = pools.head_block
        for _ in range(rounds):
            nursery.kill_a_writer(chance.uniform(0, 0.04))
        blocks = pools.head_block - started
        counts = reader.counts()
    print(f"{blocks} blocks; {counts}")
    assert blocks > rounds
    assert counts["wrong"] == 0
    assert counts["quotes"] > rounds
    assert counts["blocks"] > rounds // 5
    assert counts["crossed"] > 4 * counts["quotes"]  # on the average as many as are worth a table
    assert counts["nbytes"] > 0
    with WriterArena.take_over(arena_name) as owner:
        owner.close(unlink=True)
