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

Where a node gives logs of named contracts only, those of the listed pools take the first place; that
each pool the filter names has one shows that they are whole, else two answers that agree.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from arena.arena import PoolSpec
from arena.errors import (
    ChainMoved,
    LogInvalid,
    LogsRefused,
    NodeBehind,
    RpcError,
    RpcRefused,
    Scraper,
)
from arena.layouts.slots import UNISWAP_V4
from arena.writer.node.meanings import Meaning, demands_address, meaning
from arena.writer.stream.evidence import (
    Evidence,
    LogSource,
    WholeBlock,
    addresses_of,
    bloom_bits,
    bloom_of,
    digest_of,
    event_of,
    has_no_logs,
    named_pools,
    ordered,
    weigh,
)

if TYPE_CHECKING:
    from arena.writer.node.client import Header, Log, Receipts

log = logging.getLogger(__name__)


SETTLE_S = 0.5  # an index still being built answers with less; seen late by 0.15 s
PASS_S = 2.0  # as long as a node may contradict itself before its block is passed
MAX_DOUBTS = 4096  # blocks whose first doubtful answer is remembered: those of a fetch
HOLES_LEARNED = 3  # blocks after which holes count as the chain's way
RECEIPT_FAILURES = 3  # in a row, after which a node counts as one without receipts for a while
RECEIPTS_PAUSE_S = 60.0  # that while
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
        self._topics = topics
        self._known = frozenset(topic for each in topics.values() for topic in each)
        self._settle_s = settle_s
        self._pass_s = pass_s
        self._clock = clock or time.monotonic
        self._told: dict[bytes, Sequence[Log]] = {}
        self._told_receipts: dict[bytes, Receipts | Scraper | None] = {}
        self._doubts: dict[bytes, tuple[float, int]] = {}  # since when, and a digest of the logs
        self._ask_receipts: (
            Callable[[Sequence[bytes]], Sequence[Receipts | Scraper | None]] | None
        ) = getattr(node, "receipts", None)
        self._receipt_failures = 0
        self._receipts_from = 0.0  # not asked before
        self._short_since: dict[bytes, float] = {}  # blocks whose receipts were not all there
        self._have_shown = False  # receipts, once
        self._stayed_short = 0
        self._refuses_all: RpcRefused | None = None  # all contracts' logs at once
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
        self._told_receipts = {} if receipts is None else {block_hash: receipts}

    @property
    def has_receipts(self) -> bool:
        """The node is asked for them: it has not refused yet."""
        return self._ask_receipts is not None and self._clock() >= self._receipts_from

    def read(
        self, headers: "Sequence[Header]", pools: Mapping[bytes, PoolSpec]
    ) -> list[WholeBlock]:
        """The first of these blocks, at least one, with all logs or a doubt about `pools`.

        NodeBehind while its logs are missing, LogInvalid, ChainMoved: ask again. What the node raises.
        """
        asked = [each for each in headers if not has_no_logs(each) and each.hash not in self._told]
        answers = dict(zip((each.hash for each in asked), self._by_hash(asked), strict=True))
        told, self._told = self._told, {}
        receipts = self._receipts([each for each in headers if not has_no_logs(each)])
        found: list[WholeBlock] = []
        failure: Scraper | None = None
        for header in headers:  # those behind a doubtful one, too: their doubts last as long
            answer = answers.get(header.hash, told.get(header.hash, ()))
            try:
                whole = self._search(header, answer, receipts.get(header.hash), pools)
            except _DOUBTS as error:
                failure = failure or error
            else:
                if failure is None:
                    found.append(whole)
        if failure is not None and not found:
            raise failure
        return found

    # -- the ways

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
                self._say(
                    "logs_by_address",
                    headers[0],
                    "the node gives logs of named contracts only; receipts show that they are all, "
                    "else answers that agree, and the audit",
                )
            elif len(headers) > 1:
                return [self._by_hash([each])[0] for each in headers]
            return [error] * len(headers)

    def _by_number(self, header: "Header") -> "Sequence[Log] | Scraper":
        if self._refuses_all is not None:
            return self._refuses_all
        try:
            found = self._node.logs(header.number, header.number, ())
        except _REFUSALS as error:
            return error
        if any(each.block_hash != header.hash for each in found):
            return ChainMoved(
                f"block {header.number} changed while its logs were read", block=header.number
            )
        return found

    def _receipts(self, headers: "Sequence[Header]") -> "dict[bytes, Receipts | Scraper | None]":
        """Their receipts by hash, in one batch; nothing where the node has none."""
        told, self._told_receipts = self._told_receipts, {}
        if not headers or not self.has_receipts:
            return {}
        assert self._ask_receipts is not None
        hashes = [each.hash for each in headers if each.hash not in told]
        found: Sequence[Receipts | Scraper | None] = []
        try:
            if hashes:
                found = self._ask_receipts(hashes)
        except RpcError as error:
            found = [error] * len(hashes)
        answers = told | dict(zip(hashes, found, strict=True))
        failures = [each for each in answers.values() if isinstance(each, RpcError)]
        if any(
            isinstance(each, RpcRefused) and meaning(each) is Meaning.other_way for each in failures
        ):
            self._ask_receipts = None
            return {}
        if len(failures) < len(answers):
            self._receipt_failures = 0
            return answers
        self._receipt_failures += 1
        if self._receipt_failures < RECEIPT_FAILURES:
            raise failures[0]
        self._receipt_failures = 0
        self._receipts_from = self._clock() + RECEIPTS_PAUSE_S
        log.warning("event=receipts_fail pause_s=%d reason=%r", RECEIPTS_PAUSE_S, str(failures[0]))
        return {}

    def _of_receipts(
        self, header: "Header", answer: "Receipts | Scraper | None"
    ) -> "tuple[Log, ...] | None":
        """The logs of all receipts; None where they are not those of all transactions.

        NodeBehind where this node's usually are, as long as its index may lag behind.
        """
        logs = self._checked(header, answer)
        if logs is not None:
            self._have_shown = True
            self._short_since.pop(header.hash, None)
        elif self._have_shown and self.has_receipts and self._stayed_short < HOLES_LEARNED:
            now = self._clock()
            while len(self._short_since) >= MAX_DOUBTS:
                del self._short_since[next(iter(self._short_since))]
            if now - self._short_since.setdefault(header.hash, now) < self._pass_s:
                raise NodeBehind(
                    f"the node does not give all receipts of block {header.number} yet",
                    block=header.number,
                )
            self._stayed_short += 1
        return logs

    def _checked(
        self, header: "Header", answer: "Receipts | Scraper | None"
    ) -> "tuple[Log, ...] | None":
        if answer is None or isinstance(answer, Scraper):
            return None
        count = header.transaction_count
        if answer.count < max(1, count or 0):
            return None
        # What is paid back counts in a block's gas on some chains, so a full count is enough.
        differs = answer.gas_used and header.gas_used and answer.gas_used != header.gas_used
        if differs and answer.count != count:
            return None
        try:
            logs = ordered(header, answer.logs, self._known)
        except LogInvalid:
            return None
        events = [each for each in logs if self._is_known(each)]
        return logs if len(set(events)) == len(events) else None

    def _of_listed(
        self, header: "Header", pools: Mapping[bytes, PoolSpec]
    ) -> "tuple[tuple[Log, ...], Evidence]":
        """The logs of the listed pools; `missing` when the filter names one without."""
        addresses = addresses_of(pools.values())
        found: Sequence[Log] = ()
        if addresses:
            found = self._node.block_logs([header.hash], sorted(self._known), addresses)[0]
        logs = ordered(header, found, self._known)
        seen = {each.address for each in logs}
        seen |= {each.topics[1] for each in logs if len(each.topics) > 1}
        absent = [key for key in named_pools(header, pools, self._topics) if key not in seen]
        said = Evidence(holes=False, missing=False, no_filter=bool(absent))
        return logs, self._against(header, logs, pools, said)

    # -- what they show together

    def _search(
        self,
        header: "Header",
        answer: "Sequence[Log] | Scraper",
        given: "Receipts | Scraper | None",
        pools: Mapping[bytes, PoolSpec],
    ) -> WholeBlock:
        if has_no_logs(header) and not isinstance(answer, Scraper) and not answer:
            return self._done(header, ())
        first = self._weighed(header, answer, pools)
        if isinstance(first, tuple):
            self._numbers_are_whole |= len(first[0]) > 1 and not first[1].holes
        receipts = self._of_receipts(header, given)
        if receipts is not None:
            found = self._by_receipts(header, first, receipts, pools)
            if found is not None:
                return found
        if isinstance(first, tuple) and first[1].is_whole:
            return self._done(header, first[0])
        second = self._weighed(header, self._by_number(header), pools)
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
        are_tied = bool(self._tied(receipts))
        if not isinstance(first, tuple) or (self._tied(first[0]) and not are_tied):
            if of_receipts.missing:
                return None
            first = receipts, of_receipts
        logs, evidence = first
        if more := self._beyond(logs, receipts):
            if of_receipts.missing:
                return None
            if evidence.is_whole and of_receipts.holes:  # they are what the receipts lack
                return self._done(header, logs)
            doubt = logs, replace(evidence, no_receipt=bool(more))
            return self._agreed(header, doubt, doubt, pools)
        tells_more = are_tied and self._events(logs) == self._events(receipts)
        if tells_more or self._adds_nothing(logs, receipts):
            found, of_found = logs, weigh(header, logs)
        elif of_receipts.missing:
            return None
        else:
            found, of_found = receipts, of_receipts
        # What the receipts lack may be logs of the chain's own.
        is_missing = of_found.missing and self._lacks_a_pool(header, found, pools)
        of_found = self._against(header, found, pools, replace(of_found, missing=is_missing))
        if not (is_missing or of_found.beyond):
            return self._done(header, found)
        doubt = found, of_found
        return self._agreed(header, doubt, doubt, pools)

    def _lacks_a_pool(
        self, header: "Header", logs: "Sequence[Log]", pools: Mapping[bytes, PoolSpec]
    ) -> bool:
        """The filter names a pool by bits, its own or an event's, that no log here explains."""
        bloom = int.from_bytes(header.logs_bloom, "big")
        unexplained = bloom & ~bloom_of(logs)

        def is_unexplained(content: bytes) -> bool:
            bits = bloom_bits(content)
            return bits & bloom == bits and bool(bits & unexplained)

        return any(
            any(map(is_unexplained, (key, *self._topics[pools[key].protocol])))
            for key in named_pools(header, pools, self._topics)
        )

    def _beyond(self, logs: "Sequence[Log]", receipts: "Sequence[Log]") -> "list[Log]":
        """Events that no receipt has, under whatever number."""
        here = {event_of(each) for each in receipts}
        return [each for each in logs if self._is_known(each) and event_of(each) not in here]

    def _adds_nothing(self, logs: "Sequence[Log]", receipts: "Sequence[Log]") -> bool:
        """They are those of the receipts, and logs of the chain's own, which have none: not an event
        told twice under another number."""
        more = set(logs) - set(receipts)
        has_all = len(more) == len(logs) - len(receipts)
        return has_all and not any(self._is_known(each) for each in more)

    def _is_known(self, each: "Log") -> bool:
        return bool(each.topics) and each.topics[0] in self._known

    def _events(self, logs: "Sequence[Log]") -> "Counter[tuple[object, ...]]":
        return Counter(event_of(each) for each in logs if self._is_known(each))

    def _repeats(self, logs: "Sequence[Log]") -> bool:
        """An event comes twice in one transaction with the same amounts. Burns of nothing, which only
        collect fees, do so on any chain, and change nothing."""
        events = self._events([each for each in logs if any(each.data)])
        return any(count > 1 for count in events.values())

    def _tied(self, logs: "Iterable[Log]") -> frozenset[bytes]:
        """Keys of pools, listed or not, that have two events with one number: nothing says which came
        first."""
        v4 = self._topics.get(UNISWAP_V4, ())
        places = Counter(
            (each.tx_index, each.log_index, each.topics[1] if is_v4 else each.address)
            for each in logs
            if self._is_known(each)
            for is_v4 in (each.topics[0] in v4 and len(each.topics) > 1,)
        )
        return frozenset(key for (_, _, key), count in places.items() if count > 1)

    def _against(
        self,
        header: "Header",
        logs: "Sequence[Log]",
        pools: Mapping[bytes, PoolSpec],
        evidence: Evidence,
    ) -> Evidence:
        """With what speaks against the pools' events themselves."""
        bloom = int.from_bytes(header.logs_bloom, "big")
        events = [each for each in logs if bloom and self._is_of(each, pools)]
        are_tied = not pools.keys().isdisjoint(self._tied(logs))
        return replace(
            evidence,
            beyond=bool(bloom_of(events) & ~bloom),
            repeats=are_tied or self._repeats(logs),
        )

    def _is_of(self, each: "Log", pools: Mapping[bytes, PoolSpec]) -> bool:
        """It is an event of a listed pool."""
        return self._is_known(each) and not pools.keys().isdisjoint(
            (each.address, *each.topics[1:2])
        )

    def _weighed(
        self,
        header: "Header",
        answer: "Sequence[Log] | Scraper",
        pools: Mapping[bytes, PoolSpec],
    ) -> "tuple[tuple[Log, ...], Evidence] | Scraper":
        if isinstance(answer, Scraper):
            return answer
        try:
            logs = ordered(header, answer, self._known)
        except LogInvalid as error:
            return error
        return logs, self._against(header, logs, pools, weigh(header, logs))

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
        is_by_filter = evidence.missing or evidence.beyond
        pass_s = self._settle_s if self._is_contradicted and is_by_filter else self._pass_s
        if agrees and not is_usual and before is not None and lasted_s >= pass_s:
            self._is_contradicted |= is_by_filter
            self._holes_seen += evidence.holes and not evidence.is_contradicted
            named = set(named_pools(header, pools, self._topics))
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
        its beginning while a later piece is doubted."""
        if is_shown:
            self._doubts.pop(header.hash, None)
        first_logs: dict[int, int] = {}
        for each in logs:
            first_logs.setdefault(each.tx_index, each.log_index)
        kept = tuple(each for each in logs if self._is_known(each))
        return WholeBlock(header, kept, first_logs, doubtful | self._tied(kept), is_silent)

    def _say(self, event: str, header: "Header", reason: str) -> None:
        if event not in self._said:
            self._said.add(event)
            log.warning("event=%s block=%d reason=%r", event, header.number, reason)
