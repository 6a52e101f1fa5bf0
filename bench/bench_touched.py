"""What does it cost to learn which pools a block touched, in arenas of a thousand to a million pools?

Timed: psa_changed and HeadBlock.touched, for the pools that one block touched since the last wait. Baseline:
the same answer by a look at all pools, which is what a wait after a plain number asks for. Thread time.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from harness import Report, against, alternate, arguments

import arena
from arena.layouts.events import EVENT
from arena.native import ffi, lib
from arena.writing import WriterArena

FIRST = 1_000
FIXED_US = 30.0
POOL_US = 0.2


def key(number: int) -> bytes:
    return (number + 1).to_bytes(20, "big")


@contextlib.contextmanager
def filled(pools: int) -> Iterator[WriterArena]:
    """An arena of so many pairs, at block FIRST."""
    name = f"psa-bench-touched-{os.getpid()}"
    with WriterArena.create(name, max_pools=pools, tick_bytes=1 << 16) as writer:
        native = writer.native
        row = ffi.new("psa_static *", {"protocol": lib.PSA_UNISWAP_V2, "key_nbytes": 20})
        line = ffi.new("psa_line *", {"fee_status": 3000 | lib.PSA_STATUS_LIVE << 24})
        line.base_block, line.a, line.b = FIRST, [1, 0], [1, 0]
        slot = ffi.new("uint32_t *")
        for number in range(pools):
            ffi.memmove(row.key, key(number), 20)
            status = lib.psa_pool_add(native, row, slot)
            status |= lib.psa_pool_install(native, slot[0], line, ffi.NULL, ffi.NULL, ffi.NULL, 0)
            assert status == lib.PSA_OK
        writer.set_head(FIRST)
        writer.commit()
        try:
            yield writer
        finally:
            writer.close(unlink=True)


def block(number: int, pools: np.ndarray) -> np.ndarray:
    events = np.zeros(len(pools) + 2, EVENT)
    events["block_number"] = number
    events["stream_seq"] = 1
    events["log_index"] = np.arange(len(events))
    events["kind"] = lib.PSA_EVENT_V2_SYNC
    events["kind"][[0, -1]] = lib.PSA_EVENT_BEGIN_BLOCK, lib.PSA_EVENT_END_BLOCK
    for event, pool in zip(events[1:-1], pools, strict=True):
        event["key"] = np.frombuffer(key(int(pool)).ljust(32, b"\0"), "u1")
        event["words"][[0, 4]] = number, 1
    return events


def measure(report: Report, writer: WriterArena, reader: Any, touched: int, repeat: int) -> None:
    pools = int(writer.native.arena.header.slots_used)
    before = reader.wait_block(0)
    chance = np.random.default_rng(touched)
    chosen = np.sort(chance.choice(pools, touched, replace=False))
    writer.apply(block(int(before) + 1, chosen))
    told, looked = reader.wait_block(before), reader.wait_block(int(before))
    want = ["0x" + key(int(pool)).hex() for pool in chosen]
    assert told.touched == looked.touched == want
    mapped = reader._current()
    found, count = ffi.new("uint64_t[]", touched), ffi.new("uint32_t *")
    arguments_ = (mapped.pointer, before.commit, told.commit, 0, found, touched, count)
    label = f"{pools:,} pools, {touched:,} touched"
    fast = alternate(
        [
            (f"psa_changed, {label}", 1, lambda: lib.psa_changed(*arguments_)),
            (f"HeadBlock.touched, {label}", 1, lambda: told.touched),
        ],
        20 * repeat,
        timer=time.thread_time,
    )
    (slow,) = alternate(
        [(f"a look at all, {label}", 1, lambda: looked.touched)], repeat, timer=time.thread_time
    )
    slow.samples = (slow.samples * 20)[: len(fast[0].samples)]
    report.add(slow)
    for row in fast:
        report.add(against(row, slow))
    fast[1].target = f"<= {FIXED_US + POOL_US * touched:,.0f} us"


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    for pools in (1_000,) if options.smoke else (1_000, 10_000, 100_000, 1_000_000):
        with filled(pools) as writer, arena.attach(writer.name, timeout=10) as reader:
            for touched in (1, 150, 1_000):
                measure(report, writer, reader, touched, options.repeat)
    report.show(options)


if __name__ == "__main__":
    main()
