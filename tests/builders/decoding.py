"""What the product's decoder makes of a stream's bytes."""

from typing import Any

import numpy as np

from arena.layouts.events import EVENT
from arena.native import ffi, lib


def decode(data: bytes, dialect: int = lib.PSA_DIALECT_UNKNOWN) -> tuple[Any, Any, int]:
    """(records handed over, the feed, the status) of one call."""
    feed = ffi.new("psa_feed *")
    lib.psa_feed_open(feed, dialect)
    events = np.zeros(64, EVENT)
    consumed, ready = ffi.new("uint64_t *"), ffi.new("uint32_t *")
    status = lib.psa_feed_decode(
        feed,
        ffi.from_buffer("uint8_t[]", data),
        len(data),
        ffi.cast("psa_event *", ffi.from_buffer(events)),
        len(events),
        consumed,
        ready,
    )
    return events[: ready[0]].copy(), feed, status
