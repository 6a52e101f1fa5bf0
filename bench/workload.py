"""Synthetic pools and events for the benchmarks: V3-like pools of 60 ticks, blocks of 300 events."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from arena.layouts.events import EVENT
from arena.native import ffi, lib

Events = npt.NDArray[np.void]
BLOCK = 300
SPACING = 10


def symmetric_ticks(count: int) -> tuple[tuple[tuple[int, int, int], ...], int]:
    """`count` ticks around 0 and the liquidity in range: each below opens 1e15, each above closes it."""
    half = count // 2
    below = [(-k * SPACING, 10**15, 10**15) for k in range(half, 0, -1)]
    above = [(k * SPACING, 10**15, -(10**15)) for k in range(1, half + 1)]
    return tuple(below + above), half * 10**15


def limbs_array(values: Sequence[int], count: int) -> npt.NDArray[np.uint64]:
    """(len(values), count) array of little-endian 64-bit limbs, signed ones too."""
    nbytes = 8 * count
    mask = (1 << (64 * count)) - 1
    for value in values:
        if not -(1 << (64 * count - 1)) <= value <= mask:
            raise OverflowError(f"{value} does not fit {64 * count} bits")
    data = b"".join((value & mask).to_bytes(nbytes, "little") for value in values)
    return np.frombuffer(bytearray(data), dtype="<u8").reshape(len(values), count)


@dataclass
class PrivateArena:
    """An arena in ordinary memory with its writer: the native core without processes."""

    pools: int
    ticks: int = 60
    undo_records: int = 65_536

    def __post_init__(self) -> None:
        capacities = ffi.new("psa_capacities *")
        capacities.max_pools = self.pools
        capacities.max_tokens = 16
        capacities.undo_entry_count = 1024
        capacities.undo_record_count = self.undo_records
        capacities.heap_nbytes = self.pools * (self.ticks + 60) * 36 * 3 + (1 << 22)
        nbytes = lib.psa_arena_nbytes(capacities)
        self.memory = np.zeros(nbytes + 4096, dtype="u1")
        self.base = ffi.cast("uint8_t *", self.memory.ctypes.data + -self.memory.ctypes.data % 4096)
        assert lib.psa_arena_format(self.base, nbytes, capacities, 1, bytes(32)) == lib.PSA_OK
        self.touched = ffi.new("uint64_t[]", self.pools)
        self.dirty = ffi.new("uint32_t[]", self.pools)
        self.writer = ffi.new("psa_writer *")
        status = lib.psa_writer_open(self.writer, self.base, nbytes, -1, self.touched, self.dirty)
        assert status == lib.PSA_OK
        self.arena = ffi.addressof(self.writer.arena)
        random = np.random.default_rng(1)
        self.keys = random.integers(0, 256, (self.pools, 32), dtype="u1")
        self.keys[:, 20:] = 0
        self._install()

    def _install(self) -> None:
        """Every pool at price 1 with `ticks` ticks around it, symmetric ranges."""
        row = ffi.new("psa_static *")
        row.protocol, row.key_nbytes, row.tick_spacing = lib.PSA_UNISWAP_V3, 20, SPACING
        row.fee_pips = 3000
        rows, liquidity = symmetric_ticks(self.ticks)
        ticks = np.array([tick for tick, _, _ in rows], dtype="<i4")
        gross = limbs_array([gross for _, gross, _ in rows], 2)
        net = limbs_array([net for _, _, net in rows], 2)
        line = ffi.new("psa_line *")
        line.a = [0, 1 << 32]
        line.b = [liquidity, 0]
        line.fee_status = 3000 | lib.PSA_STATUS_LIVE << 24
        slot = ffi.new("uint32_t *")
        for key in self.keys:
            ffi.memmove(row.key, key.tobytes(), 32)
            assert lib.psa_pool_add(self.writer, row, slot) == lib.PSA_OK
            status = lib.psa_pool_install(
                self.writer,
                slot[0],
                line,
                ffi.cast("int32_t *", ticks.ctypes.data),
                ffi.cast("uint64_t *", gross.ctypes.data),
                ffi.cast("uint64_t *", net.ctypes.data),
                len(rows),
            )
            assert status == lib.PSA_OK, status
        lib.psa_commit(self.writer)

    def apply(self, events: Events, min_commit_ns: int = 1_000_000) -> None:
        pointer = ffi.cast("psa_event *", events.ctypes.data)
        status = lib.psa_apply(self.writer, pointer, len(events), min_commit_ns, 2**32 - 1)
        assert status == lib.PSA_OK
        lib.psa_commit(self.writer)


def in_blocks(events: Events) -> Events:
    """Rows of BLOCK + 2 records as one stream: the first and the last begin and end a block."""
    for column, kind in ((0, lib.PSA_EVENT_BEGIN_BLOCK), (-1, lib.PSA_EVENT_END_BLOCK)):
        edge = np.zeros(len(events), EVENT)
        edge["kind"] = kind
        for name in ("block_number", "stream_seq", "timestamp"):
            edge[name] = events[name][:, column]
        events[:, column] = edge
    events["flags"][:, 0] = lib.PSA_EVENT_HAS_BASE_FEE
    events["words"][:, -1, 0] = BLOCK
    return events.reshape(-1)


def blocks(
    keys: npt.NDArray[np.uint8], count: int, liquidity_share: float, *, first: int, seed: int
) -> Events:
    """About `count` events in blocks of 300, uniformly over the pools; Begin and End included."""
    random = np.random.default_rng(seed)
    shape = (max(1, count // BLOCK), BLOCK + 2)
    events = np.zeros(shape, dtype=EVENT)
    events["block_number"] = (first + np.arange(shape[0]))[:, None]
    events["stream_seq"] = 1 + np.arange(events.size).reshape(shape)
    events["timestamp"] = 1_700_000_000
    events["kind"] = lib.PSA_EVENT_CL_SWAP
    events["protocol"] = lib.PSA_UNISWAP_V3
    events["key"] = keys[random.integers(0, len(keys), shape)]
    events["key_nbytes"] = 20
    events["flags"] = lib.PSA_EVENT_IN_BLOCK
    events["variant"] = 2
    events["tick"] = random.integers(-200, 200, shape)
    events["words"][:, :, 1] = 1 << 32
    events["amount"][:, :, 0] = 10**15
    events["log_index"] = np.arange(shape[1])
    changes = random.random(shape) < liquidity_share
    lower = random.integers(-30, 0, shape)
    events["kind"][changes] = lib.PSA_EVENT_CL_LIQUIDITY
    events["variant"][changes] = 3
    events["update_type"][changes] = lib.PSA_UPDATE_MINT
    events["tick"][changes] = 0
    events["words"][changes] = 0
    events["tick_lower"][changes] = lower[changes] * SPACING
    events["tick_upper"][changes] = (lower + random.integers(1, 30, shape))[changes] * SPACING
    return in_blocks(events)


def encode(events: Events, dialect: int) -> bytes:
    """The events as frames of a dialect."""
    capacity = len(events) * 400
    out = ffi.new("uint8_t[]", capacity)
    nbytes = ffi.new("uint64_t *")
    failed = ffi.new("uint64_t *")
    pointer = ffi.cast("psa_event *", events.ctypes.data)
    status = lib.psa_encode(
        pointer, len(events), dialect, ffi.NULL, 0, out, capacity, nbytes, failed
    )
    assert status == lib.PSA_OK, (status, failed[0])
    return bytes(ffi.buffer(out, nbytes[0]))
