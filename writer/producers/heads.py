"""What a node tells of its newest block by itself: hints only, every head is found without them too."""

import contextlib
import logging
import queue
import time
from collections.abc import Callable
from typing import Any

from arena.errors import LogInvalid
from arena.writer.node.jsonrpc import JsonRpc
from arena.writer.node.rpc_node import read_hash

log = logging.getLogger(__name__)


RESUBSCRIBE_S = 1.0
MISSED_HEADS = 2  # found by asking, one after the other, before a subscription counts as dead


class Heads:
    """One subscription after the other to the heads of a node, and the hashes that they told.

    For one thread, but for `wake`.
    """

    def __init__(self) -> None:
        self._hints: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._unsubscribe: Callable[[], None] | None = None
        self._subscription: object | None = None
        self._subscribe_at = 0.0
        self._missed = 0

    @property
    def is_subscribed(self) -> bool:
        return self._unsubscribe is not None

    def keep_subscribed(self, rpc: JsonRpc, is_failing: Callable[[], bool]) -> None:
        """Subscribe where that is due and can be; an end is not worth a line while `is_failing`."""
        now = time.monotonic()
        if self.is_subscribed or now < self._subscribe_at or not rpc.can_subscribe:
            return
        self._subscribe_at = now + RESUBSCRIBE_S
        self._missed = 0
        this = object()
        self._subscription = this

        def on_message(found: Any) -> None:
            try:
                self._hints.put(read_hash(found))
            except LogInvalid:
                self._hints.put(None)

        def on_end(reason: str) -> None:
            if self._subscription is this:
                level = logging.DEBUG if is_failing() else logging.INFO
                log.log(level, "event=subscription_ended reason=%r", reason)
                self._unsubscribe = None
                self._hints.put(None)

        self._unsubscribe = rpc.subscribe("newHeads", on_message=on_message, on_end=on_end)

    def unsubscribe(self) -> None:
        """No more hints. Safe to call twice."""
        if self._unsubscribe is not None:
            self._unsubscribe()

    def wake(self) -> None:
        """End a `next_hint` that waits. Safe from any thread."""
        self._hints.put(None)

    def next_hint(self, wait_s: float) -> bytes | None:
        """The hash of the newest head that was told; None when none is in time, and it is to be asked
        for."""
        hint: bytes | None = None
        with contextlib.suppress(queue.Empty):
            hint = self._hints.get(timeout=wait_s)
            while True:
                hint = self._hints.get_nowait() or hint
        return hint

    def note_told(self) -> None:
        """The subscription lives: it told of a head."""
        self._missed = 0

    def note_untold(self) -> None:
        """A head was found that a subscription should have told."""
        if self._unsubscribe is None:
            return
        self._missed += 1
        if self._missed >= MISSED_HEADS:
            log.warning("event=subscription_silent missed=%d", self._missed)
            unsubscribe, self._unsubscribe = self._unsubscribe, None
            unsubscribe()
            self._subscribe_at = 0.0
