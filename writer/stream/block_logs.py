"""Whether what a node gave are all logs of a block, and the ways to find out.

A node leaves logs out without an error: it is still building its index of them, or several nodes
answer behind one address. What a header says of its block's logs is compared with them: its bloom
filter has the address and the topics of every log. But a filter says nothing of how many they are, and
the last ones leave no hole in the numbers. In this order, and the first way that shows it ends the search:

1. Receipts, of every transaction the header has. A node that has them is asked for those of each block;
   logs beside them that are no pool's events are the chain's own.
2. Every contract's logs by the block's hash, where there are no receipts. They are whole when their
   numbers have no hole, the filter speaks of nothing else, and no event comes twice in a transaction.
3. Every contract's logs by the block's number, as the second.
4. Answers that agree, the last one `settle_s` after the first doubt: where the header says nothing of
   logs, or numbers have holes on a chain where they always have. That there are none beside a header
   without a filter takes `pass_s`.
5. The same where the header, the receipts or a repeated event contradict them, after `pass_s`: the
   block passes, and the pools in question are doubtful, to be read anew.

Whichever it was, events of listed pools that any answer had of the block, and that do not pass, make their
pools doubtful, too: each way may look whole and lack another part.

Where a node gives logs of named contracts only, those of the listed pools take the first place; that
each pool the filter names has one shows that they are whole, else two answers that agree.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from arena.errors import ChainMoved, LogInvalid, LogsRefused, NodeBehind, RpcRefused, Scraper
from arena.specs import PoolSpec
from arena.writer.node.meanings import demands_address
from arena.writer.stream.evidence import (
    Evidence,
    LogSource,
    WholeBlock,
    addresses_of,
    digest_of,
    has_no_logs,
    named_pools,
    ordered,
    weigh,
)

if TYPE_CHECKING:
    from arena.writer.node.client import Header, Log, Receipts

from arena.writer.stream.known_events import KnownEvents, ToldEvents
from arena.writer.stream.receipts import ReceiptSource

log = logging.getLogger(__name__)

SETTLE_S = 0.5  # an index still being built answers with less; seen late by 0.15 s
REFUSED_PAUSE_S = 600.0  # after which what was refused is asked for again: of another node, maybe
PASS_S = 2.0  # as long as a node may contradict itself before its block is passed
MAX_DOUBTS = 4096  # blocks whose first doubtful answer is remembered: those of a fetch
HOLES_LEARNED = 3  # blocks in a row after which holes count as the chain's way
_REFUSALS = (RpcRefused, LogInvalid, LogsRefused, ChainMoved)
_DOUBTS = (*_REFUSALS, NodeBehind)


class BlockLogs:
    """Blocks of one node with all their logs, and what is known of its chain's ways by now.

    `topics` are the event signatures by protocol. `settle_s` and `pass_s` as above; a block read for
    the first time is doubted then. Calls block.
    """

    def __init__(
        self,
        node: LogSource,
        topics: Mapping[int, Sequence[bytes]],
        *,
        settle_s: float = SETTLE_S,
        pass_s: float = PASS_S,
        clock: Callable[[], float] | None = None,
    ):
        self._node = node
        self._events = KnownEvents(topics)
        self._settle_s = settle_s
        self._pass_s = pass_s
        self._clock = clock or time.monotonic
        self._receipts = ReceiptSource(node, self._events, pass_s=pass_s, clock=self._clock)
        self._told: dict[bytes, Sequence[Log]] = {}
        self._seen = ToldEvents(self._events, MAX_DOUBTS)
        self._doubts: dict[bytes, tuple[float, int]] = {}  # since when, and a digest of the logs
        self._refuses_all: RpcRefused | None = None  # all contracts' logs at once
        self._asks_all_from = 0.0
        self._numbers_are_whole = False  # as a rule of this chain
        self._holes_seen = 0
        self._is_contradicted = False  # a filter once spoke of other logs than any way found
        self._said: set[str] = set()

    def tell(
        self,
        block_hash: bytes,
        logs: "Sequence[Log] | None",
        receipts: "Receipts | Scraper | None" = None,
    ) -> None:
        """What the node just gave as all logs by that hash, and as receipts, so that it is not asked
        again."""
        self._told = {} if logs is None else {block_hash: logs}
        self._receipts.told = {} if receipts is None else {block_hash: receipts}

    @property
    def has_receipts(self) -> bool:
        """The node is asked for them: it has not refused yet."""
        return self._receipts.are_asked

    def read(
        self, headers: "Sequence[Header]", pools: Mapping[bytes, PoolSpec]
    ) -> list[WholeBlock]:
        """The first of these blocks, at least one, with all logs or a doubt about `pools`.

        NodeBehind while its logs are missing, LogInvalid, ChainMoved: ask again. What the node raises.
        """
        if self._clock() >= self._asks_all_from:
            self._refuses_all = None
        asked = [each for each in headers if each.hash not in self._told]
        answers = dict(zip((each.hash for each in asked), self._by_hash(asked), strict=True))
        told, self._told = self._told, {}
        answers |= told
        for header in headers:
            self._note(header, answers[header.hash], pools)
        ran = [
            each
            for each in headers
            if answers[each.hash] or not has_no_logs(each) or each.hash in self._receipts.told
        ]
        receipts = self._receipts.of_blocks(ran)
        found: list[WholeBlock] = []
        failure: Scraper | None = None
        for header in headers:  # those behind a doubtful one, too: their doubts last as long
            try:
                whole = self._search(header, answers[header.hash], receipts.get(header.hash), pools)
            except _DOUBTS as error:
                failure = failure or error
            else:
                if failure is None:
                    found.append(whole)
        if failure is not None and not found:
            raise failure
        return found

    def _by_hash(self, headers: "Sequence[Header]") -> "Sequence[Sequence[Log] | Scraper]":
        if not headers:
            return []
        if self._refuses_all is not None:
            return [self._refuses_all] * len(headers)
        try:
            return self._node.block_logs([header.hash for header in headers], ())
        except _REFUSALS as error:
            if isinstance(error, RpcRefused) and demands_address(error):
                self._refuses_all = error
                self._asks_all_from = self._clock() + REFUSED_PAUSE_S
                self._say(
                    "logs_by_address",
                    headers[0],
                    "the node gives logs of named contracts only; receipts show that they are all, "
                    "else answers that agree, and the audit",
                )
            elif len(headers) > 1:
                return [self._by_hash([each])[0] for each in headers]
            return [error] * len(headers)

    def _note(
        self, header: "Header", answer: "Sequence[Log] | Scraper", pools: Mapping[bytes, PoolSpec]
    ) -> None:
        if not isinstance(answer, Scraper):
            self._seen.note(header, answer, pools)

    def _by_number(
        self, header: "Header", pools: Mapping[bytes, PoolSpec]
    ) -> "Sequence[Log] | Scraper":
        if self._refuses_all is not None:
            return self._refuses_all
        try:
            found = self._node.logs(header.number, header.number, ())
        except _REFUSALS as error:
            return error
        self._note(header, found, pools)
        if any(each.block_hash != header.hash for each in found):
            return ChainMoved(
                f"block {header.number} changed while its logs were read", block=header.number
            )
        return found

    def _of_listed(
        self, header: "Header", pools: Mapping[bytes, PoolSpec]
    ) -> "tuple[tuple[Log, ...], Evidence]":
        """The logs of the listed pools; `missing` when the filter names one without."""
        addresses = addresses_of(pools.values())
        found: Sequence[Log] = ()
        if addresses:
            found = self._node.block_logs([header.hash], sorted(self._events.topics), addresses)[0]
            self._note(header, found, pools)
        logs = ordered(header, found, self._events.topics)
        seen = {each.address for each in logs}
        seen |= {each.topics[1] for each in logs if len(each.topics) > 1}
        named = named_pools(header, pools, self._events.by_protocol)
        is_absent = not has_no_logs(header) and any(key not in seen for key in named)
        said = Evidence(holes=False, missing=False, no_filter=is_absent)
        return logs, self._events.against(header, logs, pools, said)

    def _search(
        self,
        header: "Header",
        answer: "Sequence[Log] | Scraper",
        given: "Receipts | Scraper | None",
        pools: Mapping[bytes, PoolSpec],
    ) -> WholeBlock:
        if given is not None and not isinstance(given, Scraper):
            self._seen.note(header, given.logs, pools)
        if has_no_logs(header) and not answer and not self._seen.has(header.hash):
            return self._done(header, ())
        first = self._weighed(header, answer, pools)
        if isinstance(first, tuple) and len(first[0]) > 1 and not first[1].holes:
            self._numbers_are_whole = True
            self._holes_seen = 0  # where they always have them, no block is without
        receipts = self._receipts.logs_of(header, given)
        if receipts is not None:
            found = self._by_receipts(header, first, receipts, pools)
            if found is not None:
                return found
        if isinstance(first, tuple) and first[1].is_whole:
            return self._done(header, first[0])
        second = self._weighed(header, self._by_number(header, pools), pools)
        if isinstance(second, tuple) and second[1].is_whole:
            return self._done(header, second[0])
        if isinstance(first, RpcRefused) and isinstance(second, RpcRefused | LogsRefused):
            first = self._of_listed(header, pools)
            is_whole = first[1].is_whole
            found = (
                self._done(header, first[0])
                if is_whole
                else self._agreed(header, first, second, pools)
            )
            return replace(found, addresses=frozenset(addresses_of(pools.values())))
        if isinstance(second, ChainMoved):
            raise second
        if isinstance(first, Scraper) and isinstance(second, Scraper):
            raise first
        return self._agreed(header, first, second, pools)

    def _by_receipts(
        self,
        header: "Header",
        first: "tuple[tuple[Log, ...], Evidence] | Scraper",
        receipts: "tuple[Log, ...]",
        pools: Mapping[bytes, PoolSpec],
    ) -> WholeBlock | None:
        """The block by the receipts of all its transactions; None where they are not all it has."""
        of_receipts = weigh(header, receipts)
        are_tied = bool(self._events.tied(receipts))
        if not isinstance(first, tuple) or (self._events.tied(first[0]) and not are_tied):
            if of_receipts.missing:
                return None
            first = receipts, of_receipts
        logs, evidence = first
        if more := self._events.beyond(logs, receipts):
            if of_receipts.missing:
                return None
            if evidence.is_whole and of_receipts.holes:  # they are what the receipts lack
                return self._done(header, logs)
            doubt = logs, replace(evidence, no_receipt=bool(more))
            return self._agreed(header, doubt, doubt, pools)
        tells_more = are_tied and self._events._counted(logs) == self._events._counted(receipts)
        if tells_more or self._events.adds_nothing(logs, receipts):
            found, of_found = logs, weigh(header, logs)
        elif of_receipts.missing:
            return None
        else:
            found, of_found = receipts, of_receipts
        # What the receipts lack may be logs of the chain's own.
        is_missing = of_found.missing and self._events.lacks_a_pool(header, found, pools)
        of_found = self._events.against(header, found, pools, replace(of_found, missing=is_missing))
        if not (is_missing or of_found.beyond):
            return self._done(header, found)
        doubt = found, of_found
        return self._agreed(header, doubt, doubt, pools)

    def _weighed(
        self,
        header: "Header",
        answer: "Sequence[Log] | Scraper",
        pools: Mapping[bytes, PoolSpec],
    ) -> "tuple[tuple[Log, ...], Evidence] | Scraper":
        if isinstance(answer, Scraper):
            return answer
        try:
            logs = ordered(header, answer, self._events.topics)
        except LogInvalid as error:
            return error
        return logs, self._events.against(header, logs, pools, weigh(header, logs))

    def _agreed(
        self,
        header: "Header",
        first: "tuple[tuple[Log, ...], Evidence] | Scraper",
        second: "tuple[tuple[Log, ...], Evidence] | Scraper",
        pools: Mapping[bytes, PoolSpec],
    ) -> WholeBlock:
        """No way shows that its logs are all: take those that answers agree on for long enough."""
        now = self._clock()
        since, before = self._doubts.pop(header.hash, (now, None))
        other = before
        if isinstance(first, tuple):
            logs, evidence = first
            if isinstance(second, tuple):
                other = digest_of(second[0])
        else:
            assert isinstance(second, tuple)
            logs, evidence = second
        digest = digest_of(logs)
        is_silent = not logs and not any(header.logs_bloom)
        if evidence.no_filter and digest != before:
            since = now  # it is still growing
        while len(self._doubts) >= MAX_DOUBTS:
            del self._doubts[next(iter(self._doubts))]
        self._doubts[header.hash] = (since, digest)
        agrees, lasted_s = digest == other, now - since
        has_learned = self._holes_seen >= HOLES_LEARNED
        are_holes_usual = has_learned or not self._numbers_are_whole
        is_usual = not evidence.is_contradicted and (are_holes_usual or not evidence.holes)
        settle_s = max(self._settle_s, SETTLE_S) if evidence.holes else self._settle_s
        if has_learned and not evidence.no_filter:
            settle_s = 0.0
        if is_silent:
            settle_s = self._pass_s
        if agrees and is_usual and lasted_s >= settle_s:
            self._holes_seen += evidence.holes
            if self._refuses_all is None:
                name = "no_bloom" if evidence.no_filter else "log_numbers"
                self._say(name, header, f"{evidence}: logs that answers agree on are believed")
            return self._done(header, logs, is_shown=False, is_silent=is_silent)
        is_by_filter = evidence.missing or (evidence.beyond and not has_no_logs(header))
        pass_s = self._settle_s if self._is_contradicted and is_by_filter else self._pass_s
        if agrees and not is_usual and before is not None and lasted_s >= pass_s:
            self._is_contradicted |= is_by_filter
            self._holes_seen += evidence.holes and not evidence.is_contradicted
            named = set(named_pools(header, pools, self._events.by_protocol))
            if evidence.is_against_events:
                told = {content for log in logs for content in (log.address, *log.topics[1:2])}
                named |= told & pools.keys()
            doubtful = frozenset(named)
            log.warning(
                "event=block_doubted block=%d logs=%d pools=%d reason='%s'",
                header.number,
                len(logs),
                len(doubtful),
                evidence,
            )
            return self._done(header, logs, doubtful, is_shown=False)
        raise NodeBehind(
            f"the node gave {len(logs)} logs of block {header.number}: {evidence}",
            block=header.number,
            is_silent=is_silent,
        )

    def _done(
        self,
        header: "Header",
        logs: "tuple[Log, ...]",
        doubtful: frozenset[bytes] = frozenset(),
        *,
        is_shown: bool = True,
        is_silent: bool = False,
    ) -> WholeBlock:
        """What time alone has shown is remembered: a longer range is read in pieces, and read again from
        its beginning while a later piece is doubted. Events that any answer had are in question then."""
        if is_shown:
            self._doubts.pop(header.hash, None)
        doubtful |= self._seen.lacking(header.hash, logs)
        first_logs: dict[int, int] = {}
        for each in logs:
            first_logs.setdefault(each.tx_index, each.log_index)
        kept = tuple(each for each in logs if self._events.is_known(each))
        return WholeBlock(header, kept, first_logs, doubtful | self._events.tied(kept), is_silent)

    def _say(self, event: str, header: "Header", reason: str) -> None:
        if event not in self._said:
            self._said.add(event)
            log.warning("event=%s block=%d reason=%r", event, header.number, reason)
