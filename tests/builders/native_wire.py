"""The encoder and the decoder in C, called once."""

from typing import Any

import numpy as np

from arena.layouts.events import EVENT
from arena.native import ffi, lib


def encode_once(
    records: Any, dialect: int, capacity: int = 512, source: bytes = b""
) -> tuple[int, bytes, int, int]:
    """Status, the whole room for output, bytes written or wanted, and the record that failed."""
    nbytes, failed = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    out = bytearray(capacity)
    status = lib.psa_encode(
        ffi.from_buffer("psa_event[]", records),
        len(records),
        dialect,
        ffi.from_buffer("uint8_t[]", source) if source else ffi.NULL,
        len(source),
        ffi.from_buffer("uint8_t[]", out),
        capacity,
        nbytes,
        failed,
    )
    return status, bytes(out), nbytes[0], failed[0]


def decode_once(feed: Any, data: bytes, events: Any) -> tuple[int, int, int]:
    """Status, bytes consumed and records ready in `events`."""
    consumed, ready = ffi.new("uint64_t *"), ffi.new("uint32_t *")
    status = lib.psa_feed_decode(
        feed,
        ffi.from_buffer("uint8_t[]", data),
        len(data),
        ffi.from_buffer("psa_event[]", events),
        len(events),
        consumed,
        ready,
    )
    return status, consumed[0], ready[0]


def decode(data: bytes, dialect: int = lib.PSA_DIALECT_UNKNOWN) -> tuple[Any, Any, int]:
    """(records handed over, the feed, the status) of one call on a new connection."""
    feed = ffi.new("psa_feed *")
    lib.psa_feed_open(feed, dialect)
    events = np.zeros(64, EVENT)
    status, _, ready = decode_once(feed, data, events)
    return events[:ready].copy(), feed, status
