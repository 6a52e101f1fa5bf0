"""What does it cost to have 1,000 pools at one block, again and again?

Timed: Group.read of 1,000 V2 pools (whole lines, and reserves alone) and of 1,000 V3 pools (prices), each
one call from Python: every value copied, then none since nothing was written, both hot; then after a block
that wrote one pool in ten, by Python in this process, which is not timed but empties the caches. CPU time
of the thread. Baselines in the same run: memcpy of the bytes, Snapshot.lines into an array at hand,
snapshot(references), and LMDB's read of one blob of the same size when it is installed. At last the same
reads, each 0.4 ms after the one before, beside a writer process that commits 1,000 updates a second.
"""

import importlib.util
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from harness import Report, Row, against, arguments
from workload import symmetric_ticks

import arena
from arena.layouts import slots
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

POOLS = 1_000
TOKENS = [TokenSpec(address=bytes([n]) * 20, decimals=18, symbol="T") for n in (1, 2)]
RATE = 1_000  # updates a second of the writer beside
Case = tuple[str, int, Callable[[], object]]


def key(index: int) -> bytes:
    return index.to_bytes(4, "big") * 5


def values(index: int, number: int) -> PoolValues:
    if index < POOLS:
        return PoolValues(number, 3000, 10**24 + number, 3 * 10**24)
    ticks, liquidity = symmetric_ticks(20)
    return PoolValues(
        number, 3000, sqrt_price_x96=(1 << 96) + number, liquidity=liquidity, ticks=ticks
    )


def write(owner: WriterArena, members: range, number: int) -> None:
    """A block that writes these pools; the first POOLS are V2, then come as many V3."""
    for index in members:
        spec = PoolSpec(key(index), index // POOLS, *TOKENS, 3000, 10 * (index // POOLS))
        owner.install(owner.add_pool(spec), values(index, number), slots.STATUS_LIVE)
    owner.set_head(number)
    owner.commit()


def write_at_rate(name: str) -> None:
    """Blocks of one pool each, RATE a second, until killed."""
    with WriterArena.take_over(name) as owner:
        number, due = 10**6, time.monotonic()
        while True:
            number += 1
            due += 1 / RATE
            write(owner, range(number % POOLS, number % POOLS + 1), number)
            if (left := due - time.monotonic()) > 0:
                time.sleep(left)


def lmdb_blob(folder: str, nbytes: int) -> Callable[[], object] | None:
    """Read of one value of that size in a transaction; None without lmdb."""
    if importlib.util.find_spec("lmdb") is None:
        return None
    lmdb: Any = importlib.import_module("lmdb")
    environment = lmdb.open(folder, map_size=1 << 24, sync=False)
    with environment.begin(write=True) as transaction:
        transaction.put(b"k", os.urandom(nbytes))

    def read() -> object:
        with environment.begin() as transaction:
            return np.frombuffer(transaction.get(b"k"), np.uint8)

    return read


def copy_of(nbytes: int) -> Callable[[], object]:
    source, target = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
    return lambda: np.copyto(target, source)


def alternate(
    cases: list[Case], between: Callable[[], object], rounds: int, timer: Callable[[], float]
) -> list[Row]:
    """As the harness's, with `between` before each case, untimed."""
    samples: list[list[float]] = [[] for _ in cases]
    for turn in range(rounds + 1):
        for index, (_, _, run) in enumerate(cases):
            between()
            begin = timer()
            run()
            elapsed = timer() - begin
            if turn:
                samples[index].append(elapsed)
    return [Row(name, items, times) for (name, items, _), times in zip(cases, samples, strict=True)]


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0], facts={"unit": "a read of 1,000 pools"})
    rounds = 5 if options.smoke else 10 * options.repeat
    name = f"psa-bench-group-{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        blob = lmdb_blob(folder, POOLS * slots.LINE.itemsize)
        report.facts["lmdb"] = "not installed" if blob is None else "installed"
        owner = WriterArena.create(name, max_pools=2 * POOLS, tick_bytes=64 << 20)
        try:
            write(owner, range(2 * POOLS), 1)
            with arena.attach(name, require_writer=False) as pools:
                quiet(report, owner, pools, rounds, blob)
                owner.close(unlink=False)
                beside_a_writer(report, pools, rounds, blob)
            owner = WriterArena.take_over(name)
        finally:
            owner.close(unlink=True)
    report.show(options)


def again(group: arena.Group) -> Callable[[], object]:
    """A read that finds nothing it holds to be of a present version, so it copies every value."""

    def read() -> object:
        group._stamps.fill(0)
        return group.read()

    return read


def reads(pools: arena.Arena, blob: Callable[[], object] | None, *, whole: bool) -> list[Case]:
    """`whole`: groups copy everything each time."""
    pairs = [key(index) for index in range(POOLS)]
    priced = [key(index) for index in range(POOLS, 2 * POOLS)]
    references = pools.slots(pairs)
    out = np.empty(POOLS, slots.LINE)

    def read(group: arena.Group) -> Callable[[], object]:
        return again(group) if whole else group.read

    def lines() -> object:
        return pools.at_one_block(lambda view: view.lines(references, out))

    cases: list[Case] = [
        ("memcpy of 128,000 bytes", 1, copy_of(POOLS * slots.LINE.itemsize)),
        ("group, lines of V2", 1, read(pools.group(pairs))),
        ("group, reserves of V2", 1, read(pools.group(pairs, fields="reserves"))),
        ("group, prices of V3", 1, read(pools.group(priced, fields="price"))),
        ("Snapshot.lines of references", 1, lines),
        ("snapshot(references)", 1, lambda: pools.snapshot(references)),
    ]
    return cases if blob is None else [*cases, ("LMDB, one blob of as many bytes", 1, blob)]


def hot(cases: list[Case]) -> list[Case]:
    """Each case several times in a row."""

    def repeated(run: Callable[[], object]) -> Callable[[], object]:
        def loop() -> None:
            for _ in range(20):
                run()

        return loop

    return [(name, 20 * items, repeated(run)) for name, items, run in cases]


TARGETS = {"group, lines of V2": "<= 25 us", "group, reserves of V2": "<= 10 us"}
TARGETS["group, prices of V3"] = "<= 10 us"


def add_rows(report: Report, rows: list[Row], what: str) -> None:
    base = rows[0]
    for row in rows:
        row.target = TARGETS.get(row.name, "")
        row.name = f"{row.name}, {what}"
        report.add(row if row is base else against(row, base))


def quiet(
    report: Report,
    owner: WriterArena,
    pools: arena.Arena,
    rounds: int,
    blob: Callable[[], object] | None,
) -> None:
    number = 1

    def tenth() -> None:
        nonlocal number
        number += 1
        write(owner, range(number % 10, 2 * POOLS, 10), number)

    def nothing() -> None:
        pass

    every, changed = hot(reads(pools, blob, whole=True)), reads(pools, blob, whole=False)
    timer = time.thread_time
    add_rows(report, alternate(every, nothing, rounds, timer), "all copied, hot")
    add_rows(report, alternate(hot(changed), nothing, rounds, timer), "nothing written, hot")
    add_rows(report, alternate(changed, tenth, rounds, timer), "one in ten written, cold")


def beside_a_writer(
    report: Report, pools: arena.Arena, rounds: int, blob: Callable[[], object] | None
) -> None:
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            write_at_rate(pools.name)
        finally:
            os._exit(1)
    try:
        pools.wait_commit(pools.committed, timeout=10)
        cases = reads(pools, blob, whole=False)
        rows = alternate(cases, lambda: time.sleep(0.0004), rounds, time.perf_counter)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    add_rows(report, rows, f"{RATE:,} writes/s")


if __name__ == "__main__":
    main()
