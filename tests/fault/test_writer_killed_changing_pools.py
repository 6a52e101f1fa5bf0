"""kill -9 of a writer that removes pools, uses their slots again and grows the arena, 200 times.

Method: as test_writer_killed.py, with the writers of roles/churn.py. After every kill the pools there are,
and their values, are those of the head block, whatever the dead writer was at; the next writer can fill
every slot that shows no pool.
"""

import os
import random
from pathlib import Path

import pytest
from roles import churn as roles
from roles.nursery import Nursery, Watcher

import arena
from arena.layouts import slots
from arena.specs import PoolSpec, TokenSpec
from arena.writing import WriterArena

ROUNDS = [20, 200]


def check(pools: arena.Arena) -> int:
    """Compare the whole arena with what its head block must have; the head."""
    with pools.snapshot() as view:
        want = roles.expected(view.block_number)
        assert set(view) == set(want), f"block {view.block_number}"
        for key, values in want.items():
            assert roles.shows(view[key].state(), values), f"pool {key}, block {view.block_number}"
        return view.block_number


def extra(index: int) -> PoolSpec:
    tokens = [TokenSpec(bytes([n]) * 20, 18, f"T{n}") for n in (1, 2)]
    return PoolSpec(bytes([100 + index]) * 20, slots.UNISWAP_V2, *tokens, 3000)


def free_slots(owner: WriterArena) -> int:
    """How many pools still fit; they are given up again."""
    for count in range(roles.SLOTS + 1):
        try:
            owner.add_pool(extra(count))
        except arena.ArenaFull:
            owner.abort()
            return count
    raise AssertionError("more pools fit than there are slots")


@pytest.mark.slow
@pytest.mark.parametrize("rounds", ROUNDS)
def test_killed_writers_leave_each_pool_whole_or_gone_and_lose_no_slot(
    rounds: int, arena_name: str
) -> None:
    with WriterArena.create(
        arena_name, max_pools=roles.SLOTS, tick_bytes=1 << 17, undo_blocks=4, undo_records=64
    ) as owner:
        roles.fill(owner)
        owner.close(unlink=False)
    seed = int(os.environ.get("PSA_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {seed}")
    chance = random.Random(seed)
    advanced = in_growth = inside = 0
    with (
        Nursery(roles.__file__, arena_name) as nursery,
        Watcher(roles.__file__, arena_name) as reader,
        arena.attach(arena_name, timeout=10, require_writer=False) as pools,
    ):
        for turn in range(20 * rounds):
            # Beside other work most are killed before they begin: on until enough were at work.
            if turn >= rounds and advanced > rounds // 10 and (in_growth or rounds < 100):
                break
            before = check(pools)
            nursery.kill_a_writer(chance.uniform(0, 0.02))
            head = check(pools)
            assert head >= before
            advanced += head > before
            inside += bool((pools.versions["lines"]["stamp"] > pools.committed).any())
            left = len(list(Path("/dev/shm").glob(f"{arena_name}.*")))
            assert left in (1, 2)
            in_growth += left == 2
            if turn % 10 == 0:
                with WriterArena.take_over(arena_name) as owner:
                    assert check(pools) == owner.head_block
                    assert free_slots(owner) == roles.SLOTS - len(pools)
                    assert len(owner.pools()) == len(pools)
                    assert owner.native.arena.header.pool_count == len(pools)
                    owner.close(unlink=False)
                assert len(list(Path("/dev/shm").glob(f"{arena_name}.*"))) == 1
        counts = reader.counts()
    print(f"of {turn} kills {in_growth} in a growth, {inside} in a commit; {advanced}; {counts}")
    assert advanced > rounds // 10
    assert in_growth > 0 or rounds < 100
    assert counts["wrong"] == 0
    assert counts["views"] > rounds
    assert counts["answers"] > rounds
    assert counts["generation"] > rounds // 20
    with WriterArena.take_over(arena_name) as owner:
        owner.close(unlink=True)
