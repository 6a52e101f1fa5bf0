"""How long do reads take: what users call, and the core, idle and under a writer at full speed?

Timed from Python, in CPU time of the thread: state(), freeze() and what is read of them on a pool of 300
ticks and on a V2 pool; 1,000 V2 pools in at_one_block, looked up by their keys; references of 1,000 pools;
a wait for a block that is there. Baselines: a copy of as many bytes; LMDB, if it is installed, which
gives the same bytes as a numpy array; the release before took 463 us for state() of that pool, 42 us for
that of a V2 pool and 79 us a pool in at_one_block (29 us with a quote instead), on the machine of docs.

Timed in the core: psa_pool_read of one hot pool (in C, through one cffi call for many reads: psa_snapshot
of the same slot repeated), and a snapshot of 1,000 and 10,000 pools from Python in one call. Baseline:
memcpy of the same bytes. Under load, a writer process commits at full speed at most once a millisecond;
tries are snapshots taken per success. Excluded: resolving keys to slots.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from harness import Report, Row, against, alternate, arguments
from workload import PrivateArena, blocks

import arena
from arena.native import ffi, lib
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

TICKS = 300
PAIRS = 1_000


def shared_arena(pools: int) -> tuple[PrivateArena, object]:
    """The private arena moved to an anonymous shared mapping, so that a forked writer is seen."""
    import mmap

    arena = PrivateArena(pools)
    nbytes = int(arena.arena.nbytes)
    shared = mmap.mmap(-1, nbytes + 4096)
    base = ffi.from_buffer("uint8_t *", shared)
    start = ffi.cast(
        "uint8_t *", -int(ffi.cast("uintptr_t", base)) % 4096 + int(ffi.cast("uintptr_t", base))
    )
    ffi.memmove(start, arena.base, nbytes)
    arena.base = start
    arena.writer = ffi.new("psa_writer *")
    assert lib.psa_writer_open(arena.writer, start, nbytes, -1, arena.touched, arena.dirty) == 0
    arena.arena = ffi.addressof(arena.writer.arena)
    return arena, shared


def write_for_ever(arena: PrivateArena, share: float) -> None:
    first = int(arena.writer.record.block_number) + 1
    laps = [blocks(arena.keys, 60_000, share, first=first + 200 * n, seed=n) for n in range(4)]
    while True:
        for lap in laps:
            arena.apply(lap)
            lap["block_number"] += 800


def snapshots(arena: PrivateArena, count: int, seconds: float) -> tuple[list[float], int]:
    """Times of successful snapshots of the first `count` pools, and the tries they took."""
    slots = np.arange(count, dtype="<u8")
    lines = np.zeros((count, 128), dtype="u1")
    pointers = ffi.cast("uint64_t *", slots.ctypes.data), ffi.cast("psa_line *", lines.ctypes.data)
    record = ffi.new("psa_commit_record *")
    failed = ffi.new("uint32_t *")
    times, tries = [], 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        while True:
            tries += 1
            assert lib.psa_pin(arena.arena, record) == lib.PSA_OK
            status = lib.psa_snapshot(
                arena.arena, pointers[0], count, record.stamp, pointers[1], failed
            )
            if status == lib.PSA_OK:
                break
            assert status == lib.PSA_SNAPSHOT_TOO_OLD
        times.append(time.perf_counter() - begin)
    return times, tries


def fill(writer: WriterArena) -> tuple[bytes, list[str]]:
    """A V3 pool of TICKS ticks and PAIRS V2 pools; the key of one, the others' as text."""
    tokens = (TokenSpec(b"\1" * 20, 18, "ONE"), TokenSpec(b"\2" * 20, 18, "TWO"))
    half, amount = TICKS // 2, 10**15
    ticks = tuple((10 * n, amount, amount if n < 0 else -amount) for n in range(-half, half))
    big = PoolSpec(b"\xff" * 20, 1, *tokens, 3000, 10)
    values = PoolValues(
        1, 3000, sqrt_price_x96=(1 << 96) - 1, tick=-1, liquidity=half * amount, ticks=ticks
    )
    writer.install(writer.add_pool(big), values, 2)
    keys = [(n + 1).to_bytes(20, "big") for n in range(PAIRS)]
    for key in keys:
        pair = PoolValues(1, 3000, reserve0=10**12, reserve1=10**12)
        writer.install(writer.add_pool(PoolSpec(key, 0, *tokens, 3000)), pair, 2)
    writer.set_head(1)
    writer.commit()
    return big.key, ["0x" + key.hex() for key in keys]


def from_lmdb(folder: str, nbytes: int) -> Callable[[], object] | None:
    """A read of so many bytes from LMDB as an array; None where it is not installed."""
    try:
        import lmdb
    except ImportError:
        return None
    environment = lmdb.open(folder, map_size=1 << 26, sync=False, writemap=True)
    with environment.begin(write=True) as transaction:
        transaction.put(b"pool", bytes(nbytes))

    def read() -> object:
        with environment.begin(buffers=True) as transaction:
            return np.frombuffer(bytes(transaction.get(b"pool")), "u1")

    return read


def times(count: int, function: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(count):
            function()

    return run


def users_calls(report: Report, repeat: int, smoke: bool) -> None:
    name = f"psa-bench-read-{os.getpid()}"
    count = 10 if smoke else 1_000
    with WriterArena.create(name, max_pools=2 * PAIRS) as writer, TemporaryDirectory() as folder:
        try:
            big_key, keys = fill(writer)
            with arena.attach(name) as pools:
                measure(report, repeat, count, pools, pools[big_key], keys, folder)
        finally:
            writer.close(unlink=True)


def measure(
    report: Report,
    repeat: int,
    count: int,
    pools: arena.Arena,
    big: arena.Pool,
    keys: list[str],
    folder: str,
) -> None:
    pair, handles = pools[keys[0]], [pools[key] for key in keys]
    data = bytes(int(ffi.sizeof("psa_copy_head")) + 36 * TICKS)

    def price() -> object:
        state = big.state()
        return state.sqrt_price_x96, state.tick, state.liquidity

    def reserves() -> object:
        state = pair.state()
        return state.reserve0, state.reserve1

    def of_each(use: Callable[[arena.Pool], object]) -> Callable[[], object]:
        return lambda: pools.at_one_block(lambda view: [use(view[key]) for key in keys])

    cases: list[tuple[str, int, Callable[[], object], str]] = [
        (f"V3, {TICKS} ticks: copy of as many bytes", count, lambda: bytearray(data), ""),
        ("  state(), price, tick and liquidity", count, price, "<= 70 us (0.15 x before)"),
        ("  freeze()", count, big.freeze, "<= LMDB"),
        ("  state().tick_arrays", count, lambda: big.state().tick_arrays, ""),
        ("  state().ticks", count // 10, lambda: big.state().ticks, "<= 60 us"),
        ("V2: state(), both reserves", count, reserves, "<= 1 us"),
        ("1,000 V2 at one block: state(), a pool", 1, of_each(arena.Pool.state), "<= 1 us"),
        (
            "1,000 V2 at one block: a quote, a pool",
            1,
            of_each(lambda pool: pool.quote_exact_in(10**6, zero_for_one=True)),
            "<= 0.4 us",
        ),
        ("references of 1,000 keys, a pool", 1, lambda: pools.slots(keys), ""),
        ("references of 1,000 handles, a pool", 1, lambda: pools.slots(handles), ""),
        ("wait_block, the block is there", count, lambda: pools.wait_block(0), ""),
    ]
    lmdb = from_lmdb(folder, len(data))
    if lmdb is not None:
        cases.insert(1, ("  LMDB: those bytes, as an array", count, lmdb, ""))
    rows = alternate(
        [
            (name, calls * (PAIRS if name.endswith("a pool") else 1), times(calls, function))
            for name, calls, function, _ in cases
        ],
        repeat,
        timer=time.thread_time,
    )
    for row, (_, _, _, target) in zip(rows, cases, strict=True):
        row.target = target
        report.add(against(row, rows[0]) if row is not rows[0] and "  " in row.name[:2] else row)


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    users_calls(report, options.repeat, options.smoke)
    pools = 1_000 if options.smoke else 10_000
    seconds = 0.2 if options.smoke else 3.0
    arena, shared = shared_arena(pools)
    record = ffi.new("psa_commit_record *")
    assert lib.psa_pin(arena.arena, record) == lib.PSA_OK
    failed = ffi.new("uint32_t *")

    # One hot pool, many reads in one call; the baseline copies the same 128 bytes as often.
    reads = 100_000
    same = np.zeros(reads, dtype="<u8")
    lines = np.zeros((reads, 128), dtype="u1")
    source = np.ascontiguousarray(np.broadcast_to(np.arange(128, dtype="u1"), (reads, 128)))
    same_pointer = ffi.cast("uint64_t *", same.ctypes.data)
    lines_pointer = ffi.cast("psa_line *", lines.ctypes.data)

    def hot() -> None:
        status = lib.psa_snapshot(
            arena.arena, same_pointer, reads, record.stamp, lines_pointer, failed
        )
        assert status == lib.PSA_OK

    def copy() -> None:
        np.copyto(lines, source)

    read, base = alternate(
        [("read of one hot pool, 128 bytes", reads, hot), ("memcpy of 128 bytes", reads, copy)],
        options.repeat,
    )
    read.target = "<= 2.5 x memcpy"
    report.add(base)
    report.add(against(read, base))

    # Snapshots, idle and contended.
    for count in (pools // 10, pools):
        idle, _ = snapshots(arena, count, seconds / 3)
        row = report.add(Row(f"snapshot of {count:,} pools, idle", count, idle))
        row.target = "<= 12 ns a pool" if count == 1_000 else ""
        row.ratio = float(np.median(row.per_item_ns) / np.median(base.per_item_ns))
        row.note = "ratio to memcpy of as many lines"
    for share in (0.0, 0.1):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                write_for_ever(arena, share)
            finally:
                os._exit(1)
        try:
            time.sleep(0.3)
            header = arena.arena.header
            events, began = header.counters[lib.PSA_COUNTER_EVENTS_APPLIED], time.perf_counter()
            for count in (pools // 10, pools):
                times, tries = snapshots(arena, count, seconds)
                rate = header.counters[lib.PSA_COUNTER_EVENTS_APPLIED] - events
                rate /= time.perf_counter() - began
                row = report.add(
                    Row(f"snapshot of {count:,} pools, writer {share:.0%} liquidity", count, times)
                )
                row.note = f"{tries / len(times):.3f} tries, writer {rate / 1e6:.1f} M events/s"
                row.target = "<= 1.3 tries" if count == pools else ""
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        # The killed writer may have left a half-built commit; the next fork starts from a clean one.
        nbytes = int(arena.arena.nbytes)
        assert (
            lib.psa_writer_open(arena.writer, arena.base, nbytes, -1, arena.touched, arena.dirty)
            == 0
        )
    report.show(options)
    assert Path("/proc/self").exists()
    del shared


if __name__ == "__main__":
    main()
