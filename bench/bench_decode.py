"""What does decoding framed bytes to event records cost, against copying the same bytes?

Timed: psa_feed_decode over a stream of exex g15 frames far larger than the caches, in 256 KiB
pieces into a record array of the feed's size, and over the same messages in the seed's two forms.
Each piece moves the open block to the front, as the feed does. Excluded: building the frames, the
socket. Baseline: one memcpy of the same bytes in the same round.

Mix of g15: 45 % V3 swaps, 25 % V2 syncs, 20 % V4 swaps, 10 % liquidity changes, blocks of 300. The
seed has no absolute reserves: a quarter of its events are V2 swaps with amounts.
"""

from functools import partial

import numpy as np
import numpy.typing as npt
from harness import Report, against, alternate, arguments
from workload import BLOCK, encode, in_blocks

from arena.layouts.events import EVENT
from arena.native import ffi, lib

PIECE = 256 * 1024
RECORDS = 16_384
SHARES = {"v3 swap": 0.45, "v2": 0.25, "v4 swap": 0.20, "liquidity": 0.10}


def events_of(count: int, *, is_seed: bool) -> npt.NDArray[np.void]:
    """Whole blocks of `count` updates in the mix, with random keys and values."""
    random = np.random.default_rng(7)
    shape = (max(1, count // BLOCK), BLOCK + 2)
    events = np.zeros(shape, EVENT)
    kinds = random.choice(len(SHARES), shape, p=list(SHARES.values()))
    is_v2, is_v4, is_range = (kinds == index for index in (1, 2, 3))
    is_range_v4 = is_range & (random.random(shape) < 0.3)
    events["block_number"] = 20_000_000 + np.arange(shape[0])[:, None]
    events["kind"] = lib.PSA_EVENT_CL_SWAP
    events["kind"][is_v2] = lib.PSA_EVENT_V2_DELTA if is_seed else lib.PSA_EVENT_V2_SYNC
    events["kind"][is_range] = lib.PSA_EVENT_CL_LIQUIDITY
    events["protocol"] = lib.PSA_UNISWAP_V3
    events["protocol"][is_v2] = lib.PSA_UNISWAP_V2
    events["protocol"][is_v4 | is_range_v4] = lib.PSA_UNISWAP_V4
    events["update_type"][is_range] = lib.PSA_UPDATE_MINT
    events["log_index"] = np.arange(shape[1])
    has_id = events["protocol"] == lib.PSA_UNISWAP_V4
    events["key"] = random.integers(0, 256, (*shape, 32), dtype="u1")
    events["key"][~has_id, 20:] = 0
    events["key_nbytes"] = np.where(has_id, 32, 20)
    events["tick"] = random.integers(-887_272, 887_272, shape)
    events["tick_lower"], events["tick_upper"] = -events["tick"], events["tick"]
    events["words"][..., :2] = random.integers(0, 2**63, (*shape, 2))
    events["amount"][..., 0] = random.integers(0, 2**63, shape)
    if is_seed:
        swap = lib.PSA_HAS_SQRT_PRICE | lib.PSA_HAS_TICK | lib.PSA_HAS_LIQUIDITY
        ranged = lib.PSA_HAS_TICK_LOWER | lib.PSA_HAS_TICK_UPPER | lib.PSA_HAS_LIQUIDITY_DELTA
        events["present"] = np.where(is_v2, 0, np.where(is_range, ranged, swap))
        events["present"][has_id] |= lib.PSA_HAS_POOL_ID
        events["flags"][is_range_v4] = lib.PSA_EVENT_V4_MODIFY
        events["address"] = events["key"][..., :20]
    else:
        events["stream_seq"] = np.arange(events.size).reshape(shape)
        events["timestamp"] = 1_700_000_000
    return in_blocks(events)


class Decoder:
    def __init__(self, data: bytes, dialect: int, count: int) -> None:
        self.data = ffi.from_buffer("uint8_t[]", data)
        self.nbytes = len(data)
        self.dialect = dialect
        self.count = count
        self.records = np.zeros(RECORDS, EVENT)
        self.events = ffi.from_buffer("psa_event[]", self.records)
        self.consumed = ffi.new("uint64_t *")
        self.ready = ffi.new("uint32_t *")

    def run(self) -> None:
        feed = ffi.new("psa_feed *")
        lib.psa_feed_open(feed, self.dialect)
        position = total = 0
        while position < self.nbytes:
            size = min(PIECE, self.nbytes - position)
            status = lib.psa_feed_decode(
                feed, self.data + position, size, self.events, RECORDS, self.consumed, self.ready
            )
            assert status == lib.PSA_OK, status
            position += self.consumed[0]
            ready = self.ready[0]
            total += ready
            if feed.open_count:
                ffi.memmove(self.events, self.events + ready, 192 * feed.open_count)
        assert total == self.count


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    count = 3_000 if options.smoke else 300_000
    for name, dialect in (
        ("exex g15", lib.PSA_DIALECT_EXEX),
        ("seed indexed", lib.PSA_DIALECT_SEED_INDEXED),
        ("seed tagged", lib.PSA_DIALECT_SEED_TAGGED),
    ):
        events = events_of(count, is_seed=dialect != lib.PSA_DIALECT_EXEX)
        messages = len(events)
        data = encode(events, dialect)
        decoder = Decoder(data, dialect, messages)
        copy = bytearray(len(data))
        memcpy = partial(ffi.memmove, ffi.from_buffer(copy), ffi.from_buffer(data), len(data))

        decoded, copied = alternate(
            [
                (f"decode, {name}", messages, decoder.run),
                (f"memcpy, {name}", messages, memcpy),
            ],
            options.repeat,
        )
        against(decoded, copied)
        if dialect == lib.PSA_DIALECT_EXEX:
            decoded.target = "<= 2.5 x"
        decoded.note = f"{len(data) / messages:.1f} bytes a message, {len(data) / 1e6:.0f} MB"
        report.add(decoded)
        report.add(copied)
    report.show(options)


if __name__ == "__main__":
    main()
