"""The data segment's header page and the control segment, their identity words and name tables.

The C structs of the same fields are in arena/native/layout.h. The layout digest covers every dtype that
lies in shared memory, so builds with different layouts refuse each other's segments.
"""

import hashlib

import numpy as np

from arena.layouts.protocols import FEED_NAMES, NOT_HELD, PROTOCOLS
from arena.layouts.slots import (
    CHANGE_ENTRY,
    LINE,
    SLAB,
    SLOT,
    STATIC,
    TOKEN,
    UNDO_ENTRY,
    UNDO_RECORD,
    UNISWAP_V4,
    record,
)

DATA_MAGIC = int.from_bytes(b"PARENA01", "little")
CONTROL_MAGIC = int.from_bytes(b"PARENACT", "little")
BYTE_ORDER = 0x01020304
LAYOUT_VERSION = 1 << 16 | 4  # major << 16 | minor

CONTROL_NBYTES = 4096
HEADER_NBYTES = 4096
COUNTERS = 384

STATE_CREATING = 0
STATE_READY = 1
STATE_CLOSED = 2

PHASE_NAMES = (
    "starting",
    "connecting",
    "buffering",
    "scraping",
    "replaying",
    "live",
    "gap",
    "stopped",
)
PHASE_NUMBERS = {name: number for number, name in enumerate(PHASE_NAMES)}

# What a commit published, besides the pools; double-stamped like a pool.
COMMIT_RECORD = record(
    128,
    [
        ("stamp", "<u8", 0),  # commit number; 0 = never written
        ("block_number", "<u8", 8),  # head block; 0 = none yet
        ("block_hash", ("u1", 32), 16),  # zero = unknown
        ("timestamp", "<u8", 48),  # of the head block, Unix seconds; 0 = unknown
        ("base_fee", "<u8", 56),  # of the head block, wei; 0 = unknown
        ("stream_seq", "<u8", 64),  # feed position; 0 in feeds without one
        ("undo_top", "<u8", 72),  # undo entry of the head block; 0 = none
        ("undo_entry_head", "<u8", 80),  # newest undo entry
        ("undo_record_head", "<u8", 88),  # newest undo record
        ("event_count", "<u4", 96),  # events applied by this commit
        ("flags", "<u4", 100),  # zero
        ("topology", "<u8", 104),  # grows with each pool added or removed
        ("reused", "<u8", 112),  # as in the header, when this was committed
        ("fees_block", "<u8", 120),  # protocol fees of V4 told up to this block are in the arena
    ],
)

# First page of the data segment.
HEADER = record(
    HEADER_NBYTES,
    [
        ("magic", "<u8", 0),  # DATA_MAGIC
        ("layout_version", "<u4", 8),  # LAYOUT_VERSION of the creator
        ("byte_order", "<u4", 12),  # BYTE_ORDER as the creator's machine stores it
        ("layout_digest", ("u1", 32), 16),  # LAYOUT_DIGEST of the creator
        ("generation", "<u8", 48),  # from 1; the segment is /NAME.generation
        ("nbytes", "<u8", 56),  # size of the segment
        ("max_pools", "<u4", 64),  # capacity of static rows and slots
        ("max_tokens", "<u4", 68),  # capacity of the token table
        ("bucket_count", "<u4", 72),  # key index buckets, a power of two
        ("undo_entry_count", "<u4", 76),  # capacity of the undo ring in blocks
        ("undo_record_count", "<u8", 80),  # capacity of the undo ring in records
        ("heap_nbytes", "<u8", 88),  # size of the tick heap
        ("statics_offset", "<u8", 96),  # bytes from the segment start, as all offsets here
        ("slots_offset", "<u8", 104),
        ("tokens_offset", "<u8", 112),
        ("buckets_offset", "<u8", 120),
        ("undo_entries_offset", "<u8", 128),
        ("undo_records_offset", "<u8", 136),
        ("heap_offset", "<u8", 144),
        ("origin", "<u8", 152),  # another one each time commits and slots begin to be counted
        ("change_entries_offset", "<u8", 160),
        ("change_slots_offset", "<u8", 168),
        ("change_entry_count", "<u4", 176),  # ring of changes in commits, a power of two
        ("change_slot_count", "<u4", 180),  # ring of changes in slots, a power of two
        ("reserved0", "<u8", 184),  # zero
        ("committed", "<u8", 192),  # newest published commit; its low word is the futex
        ("reserved1", ("<u8", 7), 200),  # zero: committed has its cache line alone
        ("slots_used", "<u4", 256),  # slots ever given out
        ("tokens_used", "<u4", 260),  # tokens in the table
        ("topology", "<u8", 264),  # of the newest commit, stored after it
        ("heap_top", "<u8", 272),  # bytes of the heap handed out so far
        ("heap_reserved", "<u8", 280),  # bytes of the heap with pages behind them
        ("undo_entry_reserved", "<u8", 288),  # highest undo entry number ever begun
        ("undo_record_reserved", "<u8", 296),  # highest undo record number ever begun
        ("superseded", "<u4", 304),  # 1: data here stands still, a newer generation may exist
        ("reserved2", "<u4", 308),  # zero
        ("pool_count", "<u8", 312),  # pools added and not removed
        ("reused", "<u8", 320),  # slots ever given out again, counted before they are changed
        ("change_reserved", "<u8", 328),  # highest end ever begun in the ring of changes
        ("slab_serial", "<u8", 336),  # highest serial ever given to a slab
        ("reserved3", ("<u8", 5), 344),  # zero
        ("commits", (COMMIT_RECORD, (2,)), 384),  # the record of commit c is the one stamped c
        ("counters", ("<u8", COUNTERS), 640),  # COUNTER_NAMES
        ("reserved4", ("<u8", 48), 3712),  # zero
    ],
)

# What the writer is doing; double-stamped, the current one is phases[phase_committed & 1].
PHASE = record(
    256,
    [
        ("stamp", "<u8", 0),  # number of the phase change; 0 = never written
        ("phase", "<u4", 8),  # PHASE_NAMES index
        ("reserved0", "<u4", 12),  # zero
        ("since_ns", "<u8", 16),  # CLOCK_MONOTONIC
        ("gap_first", "<u8", 24),  # first missing block; 0 = none or unknown
        ("gap_last", "<u8", 32),  # last missing block; 0 = none or unknown
        ("reason", "S216", 40),  # UTF-8, zero padded
    ],
)

# The first 64 bytes keep their places in every layout, so other builds can recognise the segment.
CONTROL = record(
    CONTROL_NBYTES,
    [
        ("magic", "<u8", 0),  # CONTROL_MAGIC
        ("layout_version", "<u4", 8),  # LAYOUT_VERSION of the creator
        ("byte_order", "<u4", 12),  # BYTE_ORDER as the creator's machine stores it
        ("layout_digest", ("u1", 32), 16),  # LAYOUT_DIGEST of the creator
        ("state", "<u4", 48),  # STATE_*; stored last, with release
        ("reserved0", "<u4", 52),  # zero
        ("generation", "<u8", 56),  # data segment to map; 0 = none yet
        ("data_nbytes", "<u8", 64),  # its size
        ("created_unix_ns", "<u8", 72),  # CLOCK_REALTIME at its creation
        ("chain_id", "<u8", 80),  # 0 = unknown
        ("reserved1", ("<u8", 5), 88),  # zero
        ("writer_pid", "<u4", 128),  # of the last writer, in its pid namespace
        ("reserved2", "<u4", 132),  # zero
        ("writer_start_time", "<u8", 136),  # field 22 of /proc/PID/stat, clock ticks since boot
        ("boot_id", ("u1", 16), 144),  # of the kernel it ran on
        ("writer_version", "S32", 160),  # package version, zero padded
        ("heartbeat_ns", "<u8", 192),  # CLOCK_MONOTONIC of the writer's last sign of life
        ("heartbeat_count", "<u8", 200),  # signs of life so far
        ("reserved3", ("<u8", 6), 208),  # zero
        ("phase_committed", "<u8", 256),  # number of the current phase record
        ("reserved4", ("<u8", 7), 264),  # zero
        ("phases", (PHASE, (2,)), 320),
        ("reserved5", ("<u8", 408), 832),  # zero
    ],
)

# Every dtype that lies in shared memory, under the name of its C struct.
STRUCTS: dict[str, np.dtype[np.void]] = {
    "psa_header": HEADER,
    "psa_commit_record": COMMIT_RECORD,
    "psa_control": CONTROL,
    "psa_phase": PHASE,
    "psa_line": LINE,
    "psa_slot": SLOT,
    "psa_static": STATIC,
    "psa_token": TOKEN,
    "psa_slab": SLAB,
    "psa_change_entry": CHANGE_ENTRY,
    "psa_undo_entry": UNDO_ENTRY,
    "psa_undo_record": UNDO_RECORD,
}


def _describe(name: str, dtype: np.dtype[np.void]) -> str:
    assert dtype.fields is not None
    rows = [f"{name} {dtype.itemsize}"]
    for field, entry in dtype.fields.items():
        form, offset = entry[0], entry[1]
        base, shape = form.subdtype or (form, ())
        kind = base.str if base.fields is None else f"struct{base.itemsize}"
        rows.append(f"{field} {offset} {kind} {'x'.join(map(str, shape))}".rstrip())
    return "\n".join(rows)


def layout_digest(version: int, structs: dict[str, np.dtype[np.void]]) -> bytes:
    """32 bytes that change with any name, offset or format of any of these dtypes."""
    text = "\n\n".join(_describe(name, dtype) for name, dtype in sorted(structs.items()))
    return hashlib.sha256(f"layout {version:#x}\n\n{text}\n".encode()).digest()


LAYOUT_DIGEST = layout_digest(LAYOUT_VERSION, STRUCTS)

EVENT_NAMES = ("sync", "delta", "swap", "liquidity", "slot0_final", "reserves_final")
_FAULTS = (
    "pool_not_found",
    "invalid_event_data",
    "arithmetic_overflow",
    "unsupported_protocol",
    "unsupported_event_type",
    "reorg_too_deep",
    "reorg_mismatch",
)
COUNTER_FAULTS = 48  # + status - PSA_POOL_NOT_FOUND
COUNTER_UNSUPPORTED = 64  # + protocol; + 15 for a protocol string that is not known
COUNTER_APPLIED = 96  # + protocol * COUNTER_KINDS + kind - PSA_EVENT_V2_SYNC
COUNTER_KINDS = 12

# Index in psa_header.counters -> name, for status pages and metrics.
COUNTER_NAMES: dict[int, str] = {
    0: "blocks",
    1: "blocks_reverted",
    2: "commits",
    3: "events_applied",
    4: "events_skipped",
    5: "events_unsupported",
    6: "reorgs",
    7: "epilogues",
    8: "pools_stale",
    9: "frames",
    10: "bytes",
    11: "connections",
    12: "gaps",
    13: "arena_full",
    14: "audited",
    15: "audit_differences",
    **{COUNTER_FAULTS + index: f"fault_{name}" for index, name in enumerate(_FAULTS)},
    **{
        COUNTER_UNSUPPORTED + number: f"unsupported_{name}"
        for number, name in (FEED_NAMES | NOT_HELD).items()
    },
    **{
        COUNTER_APPLIED + number * COUNTER_KINDS + kind: f"applied_{row.name}_{event}"
        for number, row in PROTOCOLS.items()
        for kind, event in enumerate(EVENT_NAMES)
    },
    COUNTER_APPLIED + UNISWAP_V4 * COUNTER_KINDS + 8: "applied_uniswap_v4_protocol_fee",
}
