"""How long do reads take, idle and under a writer at full speed?

Timed: psa_pool_read of one hot pool (in C, through one cffi call for many reads: psa_snapshot of the same
slot repeated), and a snapshot of 1,000 and 10,000 pools from Python in one call. Baseline: memcpy of the
same bytes. Under load, a writer process commits at full speed at most once a millisecond; tries are
snapshots taken per success. Excluded: resolving keys to slots.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from harness import Report, Row, against, alternate, arguments
from workload import PrivateArena, blocks

from arena.native import ffi, lib


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


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
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
