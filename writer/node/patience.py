"""How long one call of a node is tried again, and with what pauses."""

import asyncio
import logging
import random

from arena.errors import RpcAnswerInvalid, RpcUnavailable
from arena.writer.node.bearing import Bearing
from arena.writer.node.transports import LONGEST_PAUSE_S, Limits, Transient

log = logging.getLogger(__name__)


# Limits of a rate are mostly of a second: where the node says it was asked too often, it is asked so
# often at least, which with the first pause of Limits takes 1.4 s.
RATE_TRIES = 4
LOST_TRIES = 2  # of a batch, before one call of it alone tells whether the node is there at all


class Patience:
    """How often one request is asked again, and how long to wait in between."""

    __slots__ = ("_bearing", "_is_stream", "_limits", "_name", "_reasons", "count")

    def __init__(self, bearing: Bearing, limits: Limits, name: str, *, is_stream: bool) -> None:
        """`is_stream`: over a connection that may have brought the answer to another request."""
        self._bearing = bearing
        self._limits = limits
        self._name = name
        self._is_stream = is_stream
        self._reasons: list[str] = []
        self.count = 0
        """Failures in a row."""

    async def wait(self, error: Transient | RpcAnswerInvalid, *, may_end: bool = True) -> None:
        """Sleep before the next try. When it was the last: RpcUnavailable, or the error itself where
        it is an RpcError or the node's own words, RpcRefused; over HTTP an answer that is
        none always is, as no other can have been meant."""
        limits, shown = self._limits, self._bearing.shown
        if isinstance(error, RpcAnswerInvalid) and not self._is_stream:
            raise error
        self.count += 1
        self._reasons.append(str(error))
        is_rate = speaks_of_rate(error)
        tries = max(limits.tries, RATE_TRIES) if is_rate else limits.tries
        if may_end and self.count >= tries:
            if isinstance(error, RpcAnswerInvalid):
                raise error
            if error.refusal is not None:
                self._bearing.note_vain(error.refusal)
                raise error.refusal
            raise RpcUnavailable(
                f"{shown} gave no answer to {self._name} in {self.count} tries: "
                f"{'; '.join(dict.fromkeys(self._reasons))}; is the node up, and is this its "
                "address?",
                address=shown,
                method=self._name,
                tries=self.count,
                reason=self._reasons[-1],
            )
        pause_s = limits.first_pause_s * 2 ** min(self.count - 1, 16) * random.uniform(0.75, 1.25)
        if isinstance(error, Transient):
            pause_s = max(pause_s, error.pause_s)
        pause_s = min(pause_s, LONGEST_PAUSE_S)
        log.debug(
            'event=rpc_retry node=%s method="%s" try=%d pause_ms=%d reason="%s"',
            shown,
            self._name,
            self.count,
            int(pause_s * 1000),
            self._reasons[-1],
        )
        if is_rate:
            self._bearing.be_quiet(pause_s)
        await asyncio.sleep(pause_s)


def speaks_of_rate(error: Exception) -> bool:
    return isinstance(error, Transient) and error.is_rate
