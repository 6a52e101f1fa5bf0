"""Groups and batches beside a writer process at full speed, killed and followed by the next.

Method: as test_writer_killed.py; the block number of a read alone tells what every member has to hold, and
the blocks between two reads which members have to be among the touched.
"""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest
from roles import kill as roles
from roles.nursery import Nursery

import arena
from arena.layouts import slots
from arena.layouts.words import from_limbs
from arena.native import lib
from arena.writing import WriterArena

KEYS = ["0x" + roles.key(index).hex() for index in range(roles.POOLS)]
PAIRS = list(range(0, roles.POOLS, 3))
PRICED = [index for index in range(roles.POOLS) if index % 3]
STATES = roles.expected()
WRITTEN = [{event[0] for event in block} for block in roles.plan()]


def state_at(block: int, pool: int) -> list[int]:
    """[reserve0, reserve1], or [sqrt_price_x96, tick, liquidity]."""
    states = STATES[(block - roles.FIRST - 1) % roles.LAP]
    found: list[int] = (states if block > roles.FIRST else roles.start_state())[pool][:3]
    return found


def written_between(first: int, last: int) -> set[int]:
    """Pools that blocks after `first`, up to `last`, have events of."""
    blocks = range(first + 1, min(last, first + roles.LAP) + 1)
    return set().union(*(WRITTEN[(block - roles.FIRST - 1) % roles.LAP] for block in blocks))


@contextmanager
def writers_at_work(name: str) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Writers that are killed, one after the other. Set the first event when there were enough; the second
    is set once the last of them is dead."""
    enough, over = threading.Event(), threading.Event()
    with Nursery(roles.__file__, name) as nursery:

        def kill() -> None:
            try:
                for turn in range(300):
                    if turn > 2 and enough.is_set():
                        break
                    nursery.kill_a_writer(0.2)
            finally:
                over.set()

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            yield enough, over
        finally:
            enough.set()
            thread.join(60)


@pytest.fixture
def pools(arena_name: str) -> Iterator[arena.Arena]:
    roles.create(arena_name)
    try:
        with arena.attach(arena_name, timeout=10, require_writer=False) as found:
            yield found
    finally:
        with WriterArena.take_over(arena_name) as owner:
            owner.close(unlink=True)


def shown(values: npt.NDArray[np.void], fields: str | None, member: int) -> list[int]:
    entry = values[member]
    if fields == "reserves":
        return [from_limbs(entry["reserve0"]), from_limbs(entry["reserve1"])]
    if fields == "price":
        price, liquidity = from_limbs(entry["sqrt_price_x96"]), from_limbs(entry["liquidity"])
        return [price, int(entry["tick"]), liquidity]
    if member in PAIRS:
        return [from_limbs(entry["a"]), from_limbs(entry["b"])]
    price = from_limbs(entry["a"]) | int(entry["sqrt_price_hi"]) << 128
    return [price, int(entry["tick"]), from_limbs(entry["b"])]


def test_every_read_is_of_one_block_and_tells_what_that_touched(pools: arena.Arena) -> None:
    groups = [
        (pools.group(KEYS), list(range(roles.POOLS))),
        (pools.group([KEYS[n] for n in PAIRS], fields="reserves"), PAIRS),
        (pools.group([KEYS[n] for n in PRICED], fields="price"), PRICED),
    ]
    seen = [roles.FIRST] * len(groups)
    for group, _ in groups:
        group.read()
    moved = 0
    with writers_at_work(pools.name) as (enough, over):
        last = False
        while not last:
            last = over.is_set()  # one more turn once nobody writes
            for turn, (group, members) in enumerate(groups):
                values = group.read()
                block = group.block_number
                for at, pool in enumerate(members):
                    assert shown(values, group.fields, at) == state_at(block, pool), block
                touched = {members[at] for at in group.touched}
                assert touched == written_between(seen[turn], block) & set(members)
                assert (group.statuses == slots.STATUS_LIVE).all()
                moved += block > seen[turn]
                assert block >= seen[turn]
                seen[turn] = block
            if moved > 20:
                enough.set()
    assert moved > 20, "the writers wrote nothing between the reads"
    assert not pools.writer_alive


def test_every_answer_of_a_batch_is_of_its_pools_state(pools: arena.Arena) -> None:
    """Many amounts on one pair, in chunks that the writer overtakes, and a group at one block."""
    chance = random.Random(5)
    amounts = [chance.randrange(1, 10**12) for _ in range(200)]
    pair = pools[KEYS[0]]
    group = pools.group([KEYS[n] for n in PAIRS])
    blocks = set()
    with writers_at_work(pools.name) as (enough, over):
        while not over.is_set():
            found = pair.quote_many(amounts, zero_for_one=True)
            shown_blocks = found.results["block_number"].tolist()
            blocks.update(shown_blocks)
            for amount, answer, status, block in zip(
                amounts, found.amounts_out, found.statuses.tolist(), shown_blocks, strict=True
            ):
                assert (status, answer) == expected(state_at(block, 0), amount), block
            batch = group.quote_batch(10**12, zero_for_one=True)
            told = batch.results["block_number"].tolist()
            assert batch.block_number is not None
            for member, block in enumerate(told):
                # No event between the member's last one and the head: it is of that block.
                between = written_between(block, batch.block_number)
                assert PAIRS[member] not in between, "members of two blocks"
                want = expected(state_at(block, PAIRS[member]), 10**12)
                assert (batch.statuses[member], batch.amounts_out[member]) == want
            if len(blocks) > 20:
                enough.set()
    assert len(blocks) > 20, "the writers wrote nothing between the batches"


def expected(reserves: list[int], amount: int) -> tuple[int, int]:
    """Status and UniswapV2Library.getAmountOut."""
    if 0 in reserves:
        return lib.PSA_NOT_INITIALIZED, 0
    paid = amount * 997
    return 0, paid * reserves[1] // (reserves[0] * 1000 + paid)
