"""What a node was seen to bear: calls of one batch, errors that stay, when it wants quiet."""

import logging
import math
import re
import time

from arena.errors import RpcRefused
from arena.writer.node.meanings import Meaning, meaning_of

log = logging.getLogger(__name__)

MOST_CALLS = 1 << 20  # no bound of a batch is known
# How long one is kept. It may have been one large answer, or a node that was away for a moment.
SIZE_KEPT_S = 600.0
# An error of unknown words that did not pass is not waited for again so soon: less is asked at once.
VAIN_KEPT_S = 30.0
MOST_VAIN = 1000
_NUMBERS = re.compile(r"0x[0-9a-f]+|[0-9a-f-]{16,}|[0-9]+", re.IGNORECASE)


class Bearing:
    """Of the node that messages call `shown`."""

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self._sizes: dict[str, tuple[int, float]] = {}  # calls of a batch by method, until when
        self._vain: dict[tuple[str, int, str], float] = {}  # unknown errors that stay, until when
        self._named: set[tuple[str, int, str]] = set()  # in the log
        self._quiet_until = 0.0  # the node said it was asked too often

    def size_of(self, method: str) -> int:
        """How many calls of a method are asked in one batch."""
        size, until = self._sizes.get(method, (MOST_CALLS, math.inf))
        return size if time.monotonic() < until else MOST_CALLS

    def keep_size(self, method: str, size: int, too_many: int) -> None:
        self._sizes[method] = (size, time.monotonic() + SIZE_KEPT_S)
        log.info(
            "event=rpc_batch_cut node=%s method=%s calls=%d refused=%d",
            self.shown,
            method,
            size,
            too_many,
        )

    def may_pass(self, error: RpcRefused, method: str) -> bool:
        """Whether to wait for the end of an error that nothing is known of; named once in the log."""
        if meaning_of(error.code, error.reason, method=method) is not Meaning.unclear:
            return False
        key = _kind_of(error, method)
        if key not in self._named and len(self._named) < MOST_VAIN:
            self._named.add(key)
            log.warning(
                "event=rpc_error_unknown node=%s method=%s code=%d reason=%r: asked again, and for less",
                self.shown,
                method,
                error.code,
                error.reason,
            )
        return time.monotonic() >= self._vain.get(key, 0.0)

    def note_vain(self, error: RpcRefused) -> None:
        """This error stayed although it was waited for."""
        if len(self._vain) >= MOST_VAIN:
            self._vain.clear()
        self._vain[_kind_of(error, str(error.fields.get("method")))] = (
            time.monotonic() + VAIN_KEPT_S
        )

    def be_quiet(self, pause_s: float) -> None:
        """Ask nothing more for so long: the node said it was asked too often."""
        self._quiet_until = max(self._quiet_until, time.monotonic() + pause_s)

    def quiet_s(self) -> float:
        """How long nothing is to be asked yet."""
        return self._quiet_until - time.monotonic()


def _kind_of(error: RpcRefused, method: str) -> tuple[str, int, str]:
    """Method, code and words without their numbers."""
    return method, error.code, _NUMBERS.sub("#", error.reason)
