"""The error that a fault of the decoder stands for."""

from typing import Any

from arena import errors
from arena.native import EXCEPTIONS, ffi, lib


def fault_of(feed: Any, status: int, capacity: int) -> errors.FeedError:
    """What `status` of psa_feed_decode means, with what it noted in its psa_feed; its array has `capacity`
    records."""
    if status == lib.PSA_BLOCK_TOO_LARGE:
        return _overflow_of(feed, capacity)
    block = _fault_block(feed)
    text = ffi.string(feed.fault_text).decode()
    found, expected = int(feed.fault_found), int(feed.fault_expected)
    kind = EXCEPTIONS[status]
    assert issubclass(kind, errors.FeedError), status
    return kind(
        f"{text} (frame={feed.fault_frame} block={block} found={found} expected={expected})",
        frame=int(feed.fault_frame),
        block=block,
        is_revert=bool(feed.fault_is_revert),
        found=found,
        expected=expected,
        code=int(feed.fault_code),
        resync=bool(feed.resync),
        reason=text,
    )


def _overflow_of(feed: Any, capacity: int) -> errors.BufferOverflow:
    block = open_block(feed)
    return errors.BufferOverflow(
        f"block {block} has more than {capacity - 2} events; raise max_block_events",
        frame=int(feed.frames),
        block=block,
        is_revert=bool(feed.open_is_revert),
        capacity=capacity,
        attempted=capacity + 1,
        resync=True,
    )


def loss_of(feed: Any, pending_nbytes: int, path: str, reason: str | None) -> errors.Connection:
    """The end of a connection with so many bytes not consumed; `reason` None: of its stream."""
    lib.psa_feed_close(feed, pending_nbytes)
    reason = reason or ffi.string(feed.fault_text).decode()
    block = _fault_block(feed)
    return errors.Connection(
        f"{reason} (frame={feed.fault_frame} block={block} path={path})",
        frame=int(feed.fault_frame),
        block=block,
        is_revert=bool(feed.fault_is_revert),
        pending_nbytes=int(feed.fault_found),
        code=int(feed.fault_code),
        resync=True,
        reason=reason,
        path=path,
    )


def open_block(feed: Any) -> int | None:
    """Number of the block being received."""
    return int(feed.open_block) if feed.state == lib.PSA_FEED_IN_BLOCK else None


def _fault_block(feed: Any) -> int | None:
    """Number of the block that the last fault lost."""
    return int(feed.fault_block) if feed.fault_has_block else None
