"""kill -9 of the writer at 500 random instants: readers keep the last block, the next writer goes on.

Method: a process forks writers that take over the same segment and apply a repeating stream flat
out; each is killed after a random short while. After every kill the whole arena must equal the state
that the stream has at its head block. Another process takes snapshots all the time.
"""

import os
import random

import pytest
from roles import kill as roles
from roles.nursery import Nursery, Watcher

import arena
from arena.writing import WriterArena

ROUNDS = [20, 500]


@pytest.mark.slow
@pytest.mark.parametrize("rounds", ROUNDS)
def test_killed_writers_leave_every_committed_block_intact(rounds: int, arena_name: str) -> None:
    roles.create(arena_name)
    seed = int(os.environ.get("PSA_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {seed}")
    chance = random.Random(seed)
    states = roles.expected()
    inside = advanced = 0
    with (
        Nursery(roles.__file__, arena_name) as nursery,
        Watcher(roles.__file__, arena_name) as reader,
        arena.attach(arena_name, timeout=10, require_writer=False) as pools,
    ):
        for kills in range(20 * rounds):
            # Beside other work most are killed before they begin: on until enough were at work.
            if kills >= rounds and min(inside, advanced) > rounds // 10:
                break
            before = pools.head_block
            nursery.kill_a_writer(chance.uniform(0, 0.004))
            with pools.snapshot() as view:
                head = view.block_number
                found = [roles.shown(view[roles.key(n)].state()) for n in range(roles.POOLS)]
            position = (head - roles.FIRST - 1) % roles.LAP
            want = states[position] if head > roles.FIRST else roles.start_state()
            assert found == want, f"block {head}"
            assert head >= before
            advanced += head > before
            inside += bool((pools.versions["lines"]["stamp"] > view.commit).any())
        assert not pools.writer_alive
        counts = reader.counts()
    print(f"killed inside a block: {inside} of {kills}, head advanced in {advanced}; {counts}")
    assert inside > rounds // 10, "the kills did not hit writers at work"
    assert advanced > rounds // 10
    assert counts["wrong"] == 0
    assert counts["snapshots"] > rounds
    with WriterArena.take_over(arena_name) as owner:
        owner.close(unlink=True)
