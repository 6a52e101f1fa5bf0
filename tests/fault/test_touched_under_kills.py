"""kill -9 of a writer that commits as fast as it can: a reader that waits for blocks misses no pool they
touched, names each once, and names none that no block touched.

Method: a process forks writers that take over the same segment, apply blocks one commit each and give up
parts of others; each is killed after a random short while. Another process waits for blocks and compares
what they touched with what follows from their numbers.
"""

import random

import pytest
from conftest import SEED
from roles import touched as roles
from roles.nursery import Nursery, Watcher

import arena
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena


def create(name: str) -> None:
    tokens = [TokenSpec(address=bytes([n]) * 20, decimals=18, symbol=f"T{n}") for n in (1, 2)]
    with WriterArena.create(name, max_pools=roles.POOLS, tick_bytes=1 << 16) as owner:
        for index in range(roles.POOLS):
            spec = PoolSpec(roles.key(index), 0, *tokens, 3000, 0, bytes(20), bytes(20))
            values = PoolValues(roles.FIRST, 3000, reserve0=1, reserve1=1)
            owner.install(owner.add_pool(spec), values, status=2)
        owner.set_head(roles.FIRST)
        owner.commit()
        owner.set_phase("live")
        owner.close(unlink=False)


@pytest.mark.parametrize("rounds", [25, pytest.param(400, marks=pytest.mark.slow)])
def test_no_pool_is_missed_while_writers_are_killed(rounds: int, arena_name: str) -> None:
    create(arena_name)
    chance = random.Random(f"touched {SEED}")
    with (
        Nursery(roles.__file__, arena_name) as nursery,
        Watcher(roles.__file__, arena_name) as reader,
        arena.attach(arena_name, timeout=10, require_writer=False) as pools,
    ):
        started = pools.head_block
        for _ in range(rounds):
            nursery.kill_a_writer(chance.uniform(0, 0.02))
        blocks = pools.head_block - started
        counts = reader.counts()
    print(f"{blocks} blocks; {counts}")
    assert blocks > rounds
    assert counts["missed"] == counts["extra"] == counts["twice"] == 0
    assert counts["waits"] > 0
    with WriterArena.take_over(arena_name) as owner:
        owner.close(unlink=True)
