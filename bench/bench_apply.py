"""How many events a second go from framed bytes to committed pool state in C?

Timed: psa_feed_decode on 64 KiB chunks, then psa_apply with undo images and commits at most one a
millisecond. Excluded: building the frames, the socket. Baseline: decoding alone, on the same bytes.
"""

import numpy as np
from harness import Report, against, alternate, arguments
from workload import Events, PrivateArena, blocks, encode

from arena.layouts.events import EVENT
from arena.native import ffi, lib

CHUNK = 64 * 1024


class Decoder:
    def __init__(self) -> None:
        self.records = np.zeros(4096, dtype=EVENT)
        self.events = ffi.cast("psa_event *", self.records.ctypes.data)
        self.consumed = ffi.new("uint64_t *")
        self.ready = ffi.new("uint32_t *")

    def run(self, data: bytes, arena: PrivateArena | None) -> int:
        """Decode all of `data`; apply it when an arena is given. Returns the records seen."""
        feed = ffi.new("psa_feed *")
        lib.psa_feed_open(feed, lib.PSA_DIALECT_EXEX)
        source = ffi.from_buffer("uint8_t[]", data)
        position, total = 0, 0
        while position < len(data):
            size = min(CHUNK, len(data) - position)
            status = lib.psa_feed_decode(
                feed, source + position, size, self.events, 4096, self.consumed, self.ready
            )
            assert status in (lib.PSA_OK, lib.PSA_EVENTS_FULL), status
            assert self.consumed[0], "a frame larger than a chunk"
            position += self.consumed[0]
            ready = self.ready[0]
            total += ready
            if arena is not None:
                lib.psa_apply(arena.writer, self.events, ready, 1_000_000, 2**32 - 1)
            if feed.open_count:
                ffi.memmove(self.events, self.events + ready, 192 * feed.open_count)
        if arena is not None:
            lib.psa_commit(arena.writer)
        return total


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    count = 3_000 if options.smoke else 150_000
    decoder = Decoder()
    for pools in (500, 1_000) if options.smoke else (5_000, 100_000):
        for share in (0.0, 0.1):
            arena = PrivateArena(pools)
            first = 1
            streams: list[bytes] = []
            for seed in range(options.repeat + 1):
                events: Events = blocks(arena.keys, count, share, first=first, seed=seed)
                streams.append(encode(events, lib.PSA_DIALECT_EXEX))
                first += count // 300
            turns = iter(streams)
            current = [b""]

            def both(arena: PrivateArena = arena, turns=turns, current=current) -> None:  # type: ignore[no-untyped-def]
                current[0] = next(turns)
                decoder.run(current[0], arena)

            def decode_only(current: list[bytes] = current) -> None:
                decoder.run(current[0], None)

            label = f"{pools:,} pools, {share:.0%} liquidity changes"
            applied, decoded = alternate(
                [
                    (f"decode + apply, {label}", count, both),
                    (f"decode alone, {label}", count, decode_only),
                ],
                options.repeat,
            )
            applied.target = ">= 6 M events/s" if pools == 5_000 and share else ""
            report.add(decoded)
            report.add(against(applied, decoded))
            assert arena.writer.fault_count == 0
            assert arena.writer.record.block_number == first - 1
    report.show(options)


if __name__ == "__main__":
    main()
