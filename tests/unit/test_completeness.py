"""What counts as all logs of a block, against a node that lies as told.

Method: a chain of a few contracts whose filters are made by tests/builders/history.py. Each lie is told by
one way of asking or by several, once or for good; what is read is either the truth, or an error, or names
the pools it may be wrong of.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from builders.history import bloom_of as oracle_bloom

from arena.errors import (
    ArenaError,
    ChainMoved,
    LogInvalid,
    LogsRefused,
    NodeBehind,
    RpcRefused,
    RpcUnavailable,
)
from arena.specs import PoolSpec, TokenSpec
from arena.writer.node.client import Header, Log, Receipts
from arena.writer.protocols.held import EVENT_TOPICS, pool_target
from arena.writer.protocols.uniswap_v2 import V2_SYNC
from arena.writer.protocols.uniswap_v3 import V3_BURN, V3_MINT, V3_SWAP
from arena.writer.protocols.uniswap_v4 import V4_SWAP
from arena.writer.service.doctor import Doctor, DoctorSettings
from arena.writer.stream.block_logs import (
    HOLES_LEARNED,
    PASS_S,
    REFUSED_PAUSE_S,
    SETTLE_S,
    BlockLogs,
)
from arena.writer.stream.blocks import claimed_blocks, fetch_blocks
from arena.writer.stream.event_logs import block_records
from arena.writer.stream.evidence import WholeBlock, bloom_of, named_pools, ordered
from arena.writer.stream.receipts import RECEIPT_FAILURES, RECEIPTS_PAUSE_S

TOKENS = (TokenSpec(b"\1" * 20, 18, "ONE"), TokenSpec(b"\2" * 20, 18, "TWO"))
V2, OTHER_V2, V3, V4, MANAGER = b"\x22" * 20, b"\x23" * 20, b"\x33" * 20, b"\x44" * 32, b"\x99" * 20
POOLS = {
    V2: PoolSpec(V2, 0, *TOKENS, 3000, 0),
    OTHER_V2: PoolSpec(OTHER_V2, 0, *TOKENS, 3000, 0),
    V3: PoolSpec(V3, 1, *TOKENS, 3000, 10),
    V4: PoolSpec(V4, 2, *TOKENS, 3000, 10, MANAGER),
}
STRANGER, TRANSFER = b"\xdd" * 20, b"\xee" * 32
SOMEBODY = bytes(12) + b"\x07" * 20
EMITTED = [
    (STRANGER, (TRANSFER, SOMEBODY)),
    (V2, (V2_SYNC,)),
    (V3, (V3_SWAP, SOMEBODY, SOMEBODY)),
    (MANAGER, (V4_SWAP, V4, SOMEBODY)),
    (V2, (V2_SYNC,)),
    (STRANGER, (TRANSFER, SOMEBODY)),
]

WORDS = {V2_SYNC: 2, V3_SWAP: 5, V4_SWAP: 6}


def as_json(log: Log) -> dict[str, Any]:
    return {
        "address": "0x" + log.address.hex(),
        "topics": ["0x" + topic.hex() for topic in log.topics],
    }


def hash_of(number: int) -> bytes:
    return b"\xab" + number.to_bytes(31, "big")


def logs_of(number: int, emitted: Sequence[tuple[bytes, tuple[bytes, ...]]] = EMITTED) -> list[Log]:
    """Two in each transaction."""
    return [
        Log(
            address,
            topics,
            (bytes(31) + bytes([at])) * WORDS.get(topics[0], 1),
            number,
            hash_of(number),
            at // 2,
            at,
        )
        for at, (address, topics) in enumerate(emitted)
    ]


def header_of(number: int, logs: Sequence[Log], **more: Any) -> Header:
    bloom = bytes.fromhex(oracle_bloom([as_json(log) for log in logs])[2:])
    count = 1 + max((log.tx_index for log in logs), default=-1)
    told = Header(number, hash_of(number), hash_of(number - 1), 12 * number, 7, bloom, count, 21000)
    return replace(told, **more)


Change = Callable[[list[Log]], Any]


@dataclass
class LyingNode:
    """`truth` by block number; each way answers what its change makes of it, an exception is raised."""

    truth: dict[int, list[Log]]
    headers_by_number: dict[int, Header] = field(default_factory=dict)
    by_hash: Change = list
    by_number: Change = list
    by_address: Change | None = None
    by_receipts: Change | None = None
    asked: list[str] = field(default_factory=list)

    def headers(self, numbers: Sequence[int]) -> list[Header | None]:
        return [self.header(number) for number in numbers]

    def header(self, number: int) -> Header:
        return self.headers_by_number.get(number) or header_of(number, self.truth[number])

    def chain_id(self) -> int:
        return 1

    def head_number(self) -> int:
        return max(self.truth)

    def logs(
        self, first: int, last: int, topics: Sequence[bytes], addresses: Sequence[bytes] = ()
    ) -> list[Log]:
        self.asked.append("number")
        return self._told(self.by_number, first)

    def block_logs(
        self, hashes: Sequence[bytes], topics: Sequence[bytes], addresses: Sequence[bytes] = ()
    ) -> list[list[Log]]:
        numbers = [int.from_bytes(each[1:], "big") for each in hashes]
        if addresses:
            self.asked.append("address")
            if self.by_address is None:
                raise RpcRefused("no", code=-32000, reason="no")
            found = [self._told(self.by_address, number) for number in numbers]
            return [[log for log in each if log.address in addresses] for each in found]
        self.asked.append("hash")
        return [self._told(self.by_hash, number) for number in numbers]

    def receipts(self, hashes: Sequence[bytes]) -> list[Receipts | None]:
        self.asked.append("receipts")
        if self.by_receipts is None:
            raise RpcRefused("no such method", code=-32601, reason="no such method")
        numbers = [int.from_bytes(each[1:], "big") for each in hashes]
        counts = [header_of(n, self.truth[n]).transaction_count or 0 for n in numbers]
        return [
            Receipts(count, None, self._told(self.by_receipts, number))
            for count, number in zip(counts, numbers, strict=True)
        ]

    def _told(self, change: Change, number: int) -> list[Log]:
        found = change(list(self.truth[number]))
        if isinstance(found, ArenaError):
            raise found
        return list(found)


class Reader:
    """BlockLogs with a clock that is set by hand."""

    def __init__(self, node: LyingNode) -> None:
        self.now = 0.0
        self.node = node
        self.logs = BlockLogs(node, EVENT_TOPICS, clock=lambda: self.now)

    def read(self, number: int = 5) -> WholeBlock:
        return self.logs.read([self.node.header(number)], POOLS)[0]


def node_of(*numbers: int, **ways: Any) -> LyingNode:
    return LyingNode({number: logs_of(number) for number in numbers or (5,)}, **ways)


def known(logs: Sequence[Log]) -> list[Log]:
    return [log for log in logs if log.address != STRANGER]


def without(*places: int) -> Change:
    return lambda logs: [log for at, log in enumerate(logs) if at not in places]


def renumbered(logs: Sequence[Log]) -> list[Log]:
    return [replace(log, log_index=at) for at, log in enumerate(logs)]


ADDRESS = RpcRefused("refused", code=-32701, reason="Please specify an address in your request")


def refuses(logs: list[Log]) -> Any:
    return ADDRESS


def unknown(logs: list[Log]) -> Any:
    return RpcRefused("x", code=-32000, reason="unknown block")


LIES: dict[str, Change] = {
    "nothing": without(*range(len(EMITTED))),
    "the first log left out": without(0),
    "a log in the middle left out": without(2),
    "the last ones left out": without(3, 4, 5),
    "one left out and the numbers closed up": lambda logs: renumbered(without(2)(logs)),
    "the first of a pool left out that has another": without(1),
    "a log twice": lambda logs: [*logs, logs[2]],
    "a number twice": lambda logs: [*logs, replace(logs[2], data=b"\1")],
    "a log of another block": lambda logs: [*logs, replace(logs[2], block_hash=hash_of(9))],
    "a log of another number": lambda logs: [*logs, replace(logs[2], block_number=9, log_index=6)],
    "null": lambda logs: LogInvalid("eth_getLogs answered with a JSON NoneType"),
    "unknown block": unknown,
    "removed": lambda logs: ChainMoved("the node names a removed log"),
}


def invented(lie: Change) -> frozenset[bytes]:
    """The pools of which the lie tells an event that never was."""
    return frozenset([V3] if lie is LIES["a number twice"] else [])


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_by_hash_alone_is_mended_by_the_number(lie: Change) -> None:
    node = node_of(by_hash=lie)
    whole = Reader(node).read()
    assert (list(whole.logs), whole.doubtful) == (known(node.truth[5]), invented(lie))


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_in_every_index_is_mended_by_receipts(lie: Change) -> None:
    node = node_of(by_hash=lie, by_number=lie, by_receipts=list)
    whole = Reader(node).read()
    assert (list(whole.logs), whole.doubtful) == (known(node.truth[5]), invented(lie))


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_that_is_told_once_is_not_taken(lie: Change) -> None:
    node = node_of(by_hash=lie, by_number=lie)
    reader = Reader(node)
    with pytest.raises((NodeBehind, LogInvalid, ChainMoved, RpcRefused)):
        reader.read()
    node.by_hash = list
    assert list(reader.read().logs) == known(node.truth[5])


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("is_known", [False, True])
def test_a_lie_for_good_is_never_a_block_without_a_doubt(lie: Change, is_known: bool) -> None:
    """Not within the time and not after it, where the numbers of the chain are known to be whole."""
    node = node_of(4, 5)
    reader = Reader(node)
    if is_known:
        reader.read(4)
    node.by_hash = node.by_number = lie
    for _ in range(40):
        try:
            whole = reader.read()
        except (NodeBehind, LogInvalid, ChainMoved, RpcRefused):
            reader.now += PASS_S / 10
            continue
        if whole.doubtful:
            assert reader.now >= PASS_S
            assert set(POOLS) - {OTHER_V2} <= whole.doubtful
        else:
            # The numbers of a chain that nothing is known of may have holes, if the filter is content.
            assert not is_known
            assert lie is LIES["the first of a pool left out that has another"] or (
                lie is LIES["the first log left out"]
            )
        break


def test_more_logs_than_the_filter_speaks_of_are_the_chains_own() -> None:
    node = node_of()
    header = node.header(5)
    node.headers_by_number[5] = header
    own = Log(b"\x10" * 20, (b"\x4d" * 32,), b"", 5, hash_of(5), 9, len(EMITTED))
    node.truth[5].append(own)
    assert list(Reader(node).read().logs) == known(node.truth[5][:-1])
    node.by_receipts = without(len(EMITTED))
    assert list(Reader(node).read().logs) == known(node.truth[5][:-1])
    assert "number" not in node.asked


def test_an_event_told_again_under_another_number_is_none_of_the_chain() -> None:
    """Filter and receipts speak of it; a hole in the numbers is all that is odd."""

    def again(logs: list[Log]) -> list[Log]:
        last = known(logs)[-1]
        return [*logs, replace(last, log_index=len(logs) + 1, tx_index=logs[-1].tx_index)]

    node = node_of(by_hash=again, by_number=again, by_receipts=list)
    assert list(Reader(node).read().logs) == known(node.truth[5])


def test_bits_without_logs_pass_with_receipts_at_once() -> None:
    node = node_of(by_receipts=list)
    more = header_of(5, [*logs_of(5), Log(b"\x80" * 20, (b"\x08" * 32,), b"", 5, hash_of(5), 0, 9)])
    node.headers_by_number[5] = replace(more, transaction_count=3)
    whole = Reader(node).read()
    assert (list(whole.logs), whole.doubtful) == (known(node.truth[5]), frozenset())


def test_bits_without_logs_pass_without_receipts_in_doubt_and_sooner_the_next_time() -> None:
    node = node_of(5, 6)
    for number in (5, 6):
        extra = Log(b"\x80" * 20, (b"\x08" * 32,), b"", number, hash_of(number), 0, 9)
        node.headers_by_number[number] = header_of(number, [*logs_of(number), extra])
    reader = Reader(node)
    for number, waits in ((5, PASS_S), (6, SETTLE_S)):
        began = reader.now
        for _ in range(2):
            with pytest.raises(NodeBehind, match="not all that its header speaks of"):
                reader.read(number)
            reader.now = began + 0.9 * waits
        reader.now = began + waits
        whole = reader.read(number)
        assert list(whole.logs) == known(node.truth[number])
        assert whole.doubtful == set(POOLS) - {OTHER_V2}


def test_logs_behind_a_doubtful_block_are_doubted_as_long() -> None:
    """A chain that is faster than one doubt after the other."""
    node = node_of(*range(5, 12))
    node.headers_by_number = {n: replace(node.header(n), logs_bloom=bytes(256)) for n in node.truth}
    reader = Reader(node)
    headers = [node.header(number) for number in node.truth]
    with pytest.raises(NodeBehind):
        reader.logs.read(headers, POOLS)
    reader.now += SETTLE_S
    assert [each.header for each in reader.logs.read(headers, POOLS)] == headers


def test_a_range_read_in_pieces_doubts_each_piece_once() -> None:
    """Whoever reads it begins again with its first block while a later one is doubted."""
    node = node_of(*range(5, 13))
    node.headers_by_number = {n: replace(node.header(n), logs_bloom=bytes(256)) for n in node.truth}
    reader = Reader(node)
    pieces = [[node.header(n), node.header(n + 1)] for n in range(5, 13, 2)]
    rounds = 0
    while True:
        try:
            for piece in pieces:
                assert [each.header for each in reader.logs.read(piece, POOLS)] == piece
            break
        except NodeBehind:
            rounds += 1
            assert rounds <= len(pieces)
            reader.now += SETTLE_S
    assert rounds == len(pieces)


@pytest.mark.parametrize("bloom", [b"", bytes(256)])
def test_without_a_filter_a_block_takes_receipts_or_answers_that_agree(bloom: bytes) -> None:
    for receipts, lie in [(list, LIES["nothing"]), (list, list), (None, list)]:
        node = node_of(by_hash=lie, by_number=lie, by_receipts=receipts)
        node.headers_by_number[5] = replace(node.header(5), logs_bloom=bloom)
        reader = Reader(node)
        if receipts is None:
            with pytest.raises(NodeBehind, match="no bloom filter"):
                reader.read()
            reader.now += SETTLE_S
        assert list(reader.read().logs) == known(node.truth[5])


@pytest.mark.parametrize("bloom", [b"", bytes(256)])
def test_an_empty_filter_beside_no_logs_is_no_proof(bloom: bytes) -> None:
    node = node_of(by_hash=LIES["nothing"])
    node.headers_by_number[5] = replace(node.header(5), logs_bloom=bloom)
    reader = Reader(node)
    for _ in range(4):
        with pytest.raises(NodeBehind):
            reader.read()
        reader.now += PASS_S
    node.by_hash = list
    with pytest.raises(NodeBehind):
        reader.read()
    reader.now += SETTLE_S
    assert list(reader.read().logs) == known(node.truth[5])


def test_a_block_in_which_nothing_ran_needs_no_second_look() -> None:
    node = LyingNode({5: []})
    node.headers_by_number[5] = header_of(5, [], transaction_count=0, gas_used=0)
    assert Reader(node).read().logs == ()
    assert node.asked == ["hash"], "neither receipts nor another way"
    for told in ({"transaction_count": 1}, {"gas_used": 21000}, {"transaction_count": None}):
        node.headers_by_number[5] = replace(header_of(5, []), **{"gas_used": 0} | told)
        with pytest.raises(NodeBehind):
            Reader(node).read()


NOTHING_RAN = {"transaction_count": 0, "gas_used": 0, "logs_bloom": bytes(256)}


def test_events_of_a_block_whose_header_says_that_nothing_ran_are_doubted() -> None:
    node = node_of()
    node.headers_by_number[5] = replace(node.header(5), **NOTHING_RAN)
    reader = Reader(node)
    for _ in range(2):
        with pytest.raises(NodeBehind):
            reader.read()
        reader.now += PASS_S - 0.1
    reader.now += 0.1
    whole = reader.read()
    assert list(whole.logs) == known(node.truth[5])
    assert whole.doubtful == set(POOLS)


@pytest.mark.parametrize("has_receipts", [True, False])
def test_receipts_tell_what_is_left_out_beside_a_header_that_says_that_nothing_ran(
    has_receipts: bool,
) -> None:
    """As numbers with a hole do not, on a chain that nothing is known of."""
    lie = LIES["the first of a pool left out that has another"]
    node = node_of(by_hash=lie, by_number=lie, by_receipts=list if has_receipts else None)
    node.headers_by_number[5] = replace(node.header(5), **NOTHING_RAN)
    reader = Reader(node)
    with pytest.raises(NodeBehind):
        reader.read()
    reader.now += PASS_S
    whole = reader.read()
    told = node.truth[5] if has_receipts else lie(node.truth[5])
    assert list(whole.logs) == known(told)
    assert whole.doubtful == set(POOLS)


def test_blocks_with_logs_and_no_transaction_have_no_receipts_to_wait_for() -> None:
    """As the chain's own. Nor do they say anything of those of later blocks."""
    node = node_of(*range(4, 10), by_receipts=list)
    reader = Reader(node)
    reader.read(4)
    whole_receipts = node.receipts
    node.receipts = lambda hashes: [Receipts(0, None, [])]  # type: ignore[method-assign]
    reader.logs._receipts._ask = node.receipts
    for number in range(5, 9):
        node.truth[number] = logs_of(number, [(STRANGER, (TRANSFER, SOMEBODY))])
        node.headers_by_number[number] = header_of(number, node.truth[number], **NOTHING_RAN)
        with pytest.raises(NodeBehind, match="no bloom filter"):
            reader.read(number)
        reader.now += SETTLE_S
        assert reader.read(number).logs == ()
    node.by_hash = node.by_number = without(4, 5)
    short = replace(whole_receipts([hash_of(9)])[0], count=2, logs=node.truth[9][:4])  # type: ignore[type-var]
    reader.logs._receipts._ask = lambda hashes: [short]
    with pytest.raises(NodeBehind, match="does not give all receipts of block 9"):
        reader.read(9)


def test_a_header_that_says_that_nothing_ran_costs_no_later_block_its_time() -> None:
    node = node_of(5, 6)
    node.headers_by_number[5] = replace(node.header(5), **NOTHING_RAN)
    reader = Reader(node)
    with pytest.raises(NodeBehind):
        reader.read(5)
    reader.now += PASS_S
    assert reader.read(5).doubtful
    node.by_hash = node.by_number = LIES["the last ones left out"]
    with pytest.raises(NodeBehind):
        reader.read(6)
    reader.now += PASS_S - 0.1
    with pytest.raises(NodeBehind):
        reader.read(6)


def test_a_block_whose_receipts_stay_short_counts_once() -> None:
    node = node_of(*range(4, 8), by_receipts=list)
    reader = Reader(node)
    reader.read(4)
    whole_receipts = node.receipts

    def short(hashes: Sequence[bytes]) -> list[Receipts | None]:
        return [replace(each, count=1, logs=[]) for each in whole_receipts(hashes) if each]

    reader.logs._receipts._ask = short
    for number in (5, 6):
        with pytest.raises(NodeBehind):
            reader.read(number)
        reader.now += PASS_S
        for _ in range(3):
            reader.read(number)
    with pytest.raises(NodeBehind, match="does not give all receipts of block 7"):
        reader.read(7)


def test_a_refusal_of_its_logs_is_no_empty_block() -> None:
    """A block in which nothing ran passes as one of which the node says nothing but that it has no logs."""
    node = LyingNode({5: []}, by_hash=unknown)
    node.headers_by_number[5] = header_of(5, [], transaction_count=0, gas_used=0)
    reader = Reader(node)
    with pytest.raises(NodeBehind):
        reader.read()
    reader.now += PASS_S
    whole = reader.read()
    assert (whole.logs, whole.is_silent) == ((), True)


@pytest.mark.parametrize("has_receipts", [True, False])
def test_a_block_with_events_does_not_become_empty_when_it_leaves_the_chain(
    has_receipts: bool,
) -> None:
    node = node_of(by_receipts=list if has_receipts else None)
    node.headers_by_number[5] = replace(node.header(5), **NOTHING_RAN)
    reader = Reader(node)
    with pytest.raises(NodeBehind):
        reader.read()
    node.by_hash = unknown
    node.by_number = moved
    if has_receipts:
        node.by_receipts = unknown
    with pytest.raises((RpcRefused, ChainMoved)):
        reader.read()


def moved(logs: list[Log]) -> Any:
    return ChainMoved("of another block")


@pytest.mark.parametrize("by_number", [list, moved, unknown])
@pytest.mark.parametrize("header", [{"logs_bloom": bytes(256)}, NOTHING_RAN])
def test_events_that_only_an_earlier_answer_had_put_their_pools_in_question(
    header: dict[str, Any], by_number: Change
) -> None:
    """Whose header has no filter, or says that nothing ran; also when that answer led to nothing."""
    node = node_of(by_number=by_number)
    node.headers_by_number[5] = replace(node.header(5), **header)
    reader = Reader(node)
    with pytest.raises((ChainMoved, NodeBehind)):
        reader.read()
    node.by_hash = node.by_number = LIES["nothing"]
    with pytest.raises(NodeBehind):
        reader.read()
    reader.now += PASS_S
    whole = reader.read()
    assert (whole.logs, whole.is_silent) == ((), True)
    assert whole.doubtful == {V2, V3, V4}


LAST_TWO, FIRST, SECOND, THIRD = without(4, 5), without(0), without(1), without(2)


@pytest.mark.parametrize(
    ("ways", "later"),
    [
        ({"by_hash": FIRST, "by_number": LAST_TWO}, None),
        ({"by_hash": FIRST, "by_number": FIRST}, {"by_hash": LAST_TWO, "by_number": LAST_TWO}),
        ({"by_hash": LAST_TWO, "by_number": LAST_TWO, "by_receipts": THIRD}, None),
        ({"by_hash": LAST_TWO, "by_number": LAST_TWO, "by_receipts": SECOND}, None),
        (
            {"by_hash": refuses, "by_number": refuses, "by_address": THIRD},
            {"by_address": without(4)},
        ),
        (
            {
                "by_hash": lambda logs: [*logs, replace(logs[2], block_hash=hash_of(9))],
                "by_number": FIRST,
            },
            {"by_hash": LAST_TWO, "by_number": LAST_TWO},
        ),
    ],
)
def test_what_any_answer_had_and_the_passing_one_lacks_is_in_question(
    ways: dict[str, Change], later: dict[str, Change] | None
) -> None:
    """Each way alone may look whole: the last logs leave no hole, and the filter has others like them."""
    node = node_of(**ways)
    reader = Reader(node)
    try:
        whole = reader.read()
    except ArenaError:
        for name, change in (later or {}).items():
            setattr(node, name, change)
        whole = reader.read()
    lost = [log for log in known(node.truth[5]) if log not in whole.logs]
    assert lost
    assert {
        log.topics[1] if log.address == MANAGER else log.address for log in lost
    } <= whole.doubtful


@pytest.mark.parametrize("has_bloom", [True, False])
def test_a_block_read_again_is_held_against_what_it_passed_with(has_bloom: bool) -> None:
    """As a gap is, from its beginning, while a later block is waited for."""

    def spaced(logs: list[Log]) -> list[Log]:
        return [replace(log, log_index=3 * log.log_index) for log in logs]

    node = node_of(by_hash=spaced, by_number=spaced)
    if not has_bloom:
        node.headers_by_number[5] = replace(node.header(5), logs_bloom=bytes(256))
    reader = Reader(node)
    with pytest.raises(NodeBehind):
        reader.read()
    reader.now += SETTLE_S
    assert (len(reader.read().logs), reader.read().doubtful) == (4, frozenset())
    node.by_hash = node.by_number = lambda logs: spaced(without(4, 5)(logs))
    if not has_bloom:
        with pytest.raises(NodeBehind):
            reader.read()
        reader.now += PASS_S
    whole = reader.read()
    assert (len(whole.logs), whole.doubtful) == (3, {V2})


def test_receipts_that_came_with_an_empty_answer_are_looked_at() -> None:
    node = node_of(by_hash=LIES["nothing"], by_number=LIES["nothing"], by_receipts=list)
    node.headers_by_number[5] = replace(node.header(5), **NOTHING_RAN)
    reader = Reader(node)
    reader.logs.tell(hash_of(5), [], Receipts(3, 63000, node.truth[5]))
    with pytest.raises(NodeBehind):
        reader.read()


def test_a_refusal_is_asked_again_after_a_while() -> None:
    """Behind one address there may be several nodes."""
    node = node_of(*range(5, 9), by_hash=refuses, by_number=refuses, by_address=list)
    reader = Reader(node)
    reader.read(5)
    node.by_hash, node.by_receipts = list, list
    node.asked.clear()
    reader.read(6)
    assert node.asked == ["address"]
    reader.now += REFUSED_PAUSE_S
    node.asked.clear()
    reader.read(7)
    assert node.asked == ["hash", "receipts"]


def test_who_is_not_let_in_by_its_ip_address_is_not_told_to_name_contracts() -> None:
    reason = "Forbidden: your IP address is not on the allow list"
    node = node_of(5, 6, by_hash=lambda logs: RpcRefused("x", code=-32000, reason=reason))
    reader = Reader(node)
    reader.read(5)
    node.asked.clear()
    reader.read(6)
    assert "address" not in node.asked
    assert "hash" in node.asked


def test_an_empty_block_of_a_node_that_demands_addresses_is_not_waited_for() -> None:
    node = LyingNode({5: []}, by_hash=refuses, by_number=refuses, by_address=list)
    node.headers_by_number[5] = header_of(5, [], transaction_count=0, gas_used=0)
    whole = Reader(node).read()
    assert (whole.logs, whole.doubtful, whole.is_silent) == ((), frozenset(), False)


def test_an_answer_that_is_none_is_no_block_in_which_nothing_ran() -> None:
    node = node_of(by_hash=LIES["null"], by_number=LIES["null"])
    node.headers_by_number[5] = replace(node.header(5), **NOTHING_RAN)
    with pytest.raises(LogInvalid):
        Reader(node).read()


@pytest.mark.parametrize("count", [None, 4])
def test_receipts_of_too_few_transactions_show_nothing(count: int | None) -> None:
    node = node_of(by_hash=LIES["nothing"], by_number=LIES["nothing"], by_receipts=without())
    node.headers_by_number[5] = replace(node.header(5), transaction_count=count, logs_bloom=b"")
    if count is None:
        node.receipts = lambda hashes: [Receipts(0, None, [])]  # type: ignore[method-assign]
    else:
        short = Receipts(count - 1, None, node.truth[5])
        node.receipts = lambda hashes: [short]  # type: ignore[method-assign]
    with pytest.raises(NodeBehind):
        Reader(node).read()


def test_numbers_that_begin_anew_in_each_transaction() -> None:
    node = node_of()
    node.truth[5] = [replace(log, log_index=log.log_index % 2) for log in node.truth[5]]
    whole = Reader(node).read()
    assert [log.log_index for log in whole.logs] == [1, 2, 3, 4]
    assert whole.first_logs == {0: 0, 1: 2, 2: 4}
    assert node.asked == ["hash", "receipts"]
    node.by_hash = node.by_number = lambda logs: logs[1:]
    with pytest.raises(LogInvalid, match="out of order"):
        Reader(node).read()


def assert_holes_are_learned(node: LyingNode, numbers: range) -> None:
    """The first blocks are held back for their holes, those after them are not."""
    reader = Reader(node)
    for number in numbers:
        if number < 5 + HOLES_LEARNED:
            with pytest.raises(NodeBehind, match="have holes"):
                reader.read(number)
            reader.now += SETTLE_S
        whole = reader.read(number)
        assert (list(whole.logs), whole.doubtful) == (known(node.truth[number]), frozenset())


@pytest.mark.parametrize(("tx_index", "log_index"), [(0, 0), (3, 0), (1, 2), (2, 0)])
def test_a_log_of_the_chains_own_may_have_any_number(tx_index: int, log_index: int) -> None:
    numbers = range(5, 10)
    own = Log(b"\x10" * 20, (b"\x4d" * 32,), b"", 5, hash_of(5), tx_index, log_index)

    def with_own(logs: list[Log]) -> list[Log]:
        number = logs[0].block_number
        return [*logs, replace(own, block_number=number, block_hash=hash_of(number))]

    node = node_of(*numbers, by_hash=with_own, by_number=with_own)
    assert_holes_are_learned(node, numbers)
    node.by_receipts = list
    whole = Reader(node).read()
    assert (list(whole.logs), whole.doubtful) == (known(node.truth[5]), frozenset())


def unnumbered(logs: list[Log]) -> list[Log]:
    return [replace(log, log_index=0) for log in logs]


def in_one_transaction(logs: list[Log]) -> list[Log]:
    return [replace(log, log_index=0, tx_index=0) for log in logs]


def test_logs_without_numbers_are_in_the_order_of_their_transactions() -> None:
    node = node_of(by_hash=unnumbered, by_number=lambda logs: unnumbered(logs)[::-1])
    reader = Reader(node)
    with pytest.raises(NodeBehind, match="have holes"):
        reader.read()
    reader.now += SETTLE_S
    whole = reader.read()
    assert [log.data for log in whole.logs] == [log.data for log in known(node.truth[5])]
    assert whole.doubtful == frozenset()
    records = block_records(node.header(5), whole.logs, POOLS, whole.first_logs)
    assert [int(each) for each in records["tx_index"][1:-1]] == [0, 1, 1, 2]


def test_a_pool_with_two_events_of_one_number_is_doubted() -> None:
    """Nothing says which of them came first; receipts show at once that they are all."""
    node = node_of(by_hash=in_one_transaction, by_number=in_one_transaction)
    reader = Reader(node)
    for _ in range(2):
        with pytest.raises(NodeBehind, match="two have one number"):
            reader.read()
        reader.now += PASS_S / 2
    assert V2 in reader.read().doubtful
    node.by_receipts = in_one_transaction
    whole = Reader(node).read()
    assert (len(whole.logs), whole.doubtful) == (4, {V2})
    header, others = node.header(5), {key: POOLS[key] for key in (V3, V4)}
    assert len(block_records(header, whole.logs, others, whole.first_logs)) == 4
    with pytest.raises(LogInvalid, match="two events of one pool"):
        block_records(header, whole.logs, POOLS, whole.first_logs)
    with pytest.raises(LogsRefused, match="anew"):
        fetch_blocks(node, 5, 5, POOLS)
    assert len(fetch_blocks(node, 5, 5, others)[0].records) == 4, "another's order is no matter"
    claimed = claimed_blocks(node, 5, 5, POOLS)[0].records
    assert len(claimed) == 6, "what is compared with a stream is compared in its order"


def test_numbers_come_from_either_way_that_has_them() -> None:
    two_in_one = [*logs_of(5), replace(logs_of(5)[1], log_index=6, tx_index=2)]
    for by_hash, by_receipts in ((in_one_transaction, list), (list, unnumbered)):
        node = LyingNode({5: two_in_one}, by_hash=by_hash, by_receipts=by_receipts)
        whole = Reader(node).read()
        assert (list(whole.logs), whole.doubtful) == (known(two_in_one), frozenset())


def test_numbers_that_have_holes_are_learned() -> None:
    numbers = range(5, 10)
    node = node_of(*numbers)
    for number in numbers:
        node.truth[number] = [replace(log, log_index=3 * log.log_index) for log in logs_of(number)]
    assert_holes_are_learned(node, numbers)


def test_holes_between_blocks_without_any_are_no_way_of_the_chain() -> None:
    """A node that leaves logs out of every other block, always the same ones, is not believed in time."""
    numbers = range(5, 25)
    node = node_of(*numbers)
    reader = Reader(node)
    for number in numbers:
        if number % 2 == 0:
            assert list(reader.read(number).logs) == known(node.truth[number])
            continue
        node.truth[number] = [replace(log, log_index=3 * log.log_index) for log in logs_of(number)]
        with pytest.raises(NodeBehind, match="have holes"):
            reader.read(number)
        reader.now += PASS_S
        assert reader.read(number).doubtful or number == 5


def test_a_node_that_demands_addresses() -> None:
    node = node_of(5, 6, by_hash=refuses, by_number=refuses, by_address=list)
    reader = Reader(node)
    assert list(reader.read().logs) == known(node.truth[5])
    node.asked.clear()
    assert list(reader.read(6).logs) == known(node.truth[6])
    assert node.asked == ["address"], "what it refuses is not asked for again"


def test_a_listed_pool_that_the_filter_names_and_the_answer_lacks_is_asked_for_again() -> None:
    node = node_of(by_hash=refuses, by_number=refuses, by_address=without(2))
    reader = Reader(node)
    with pytest.raises(NodeBehind):
        reader.read()
    node.by_address = list
    assert list(reader.read().logs) == known(node.truth[5])
    with_receipts = node_of(
        by_hash=refuses, by_number=refuses, by_address=without(2), by_receipts=list
    )
    assert list(Reader(with_receipts).read().logs) == known(node.truth[5])


def test_what_was_told_with_the_header_is_not_asked_for() -> None:
    node = node_of()
    reader = Reader(node)
    receipts = Receipts(3, None, node.truth[5])
    reader.logs.tell(hash_of(5), node.truth[5], receipts)
    assert list(reader.read().logs) == known(node.truth[5])
    assert node.asked == []
    reader.logs.tell(hash_of(5), node.truth[5][:2])
    assert list(reader.read().logs) == known(node.truth[5]), "it is held to the same"


def test_the_filter_and_the_names_it_knows_are_the_oracles() -> None:
    rng = random.Random(7)
    for _ in range(50):
        chosen = [rng.choice(EMITTED) for _ in range(rng.randrange(6))]
        logs = logs_of(5, chosen)
        header = header_of(5, logs)
        assert bloom_of(logs).to_bytes(256, "big") == header.logs_bloom
        named = set(named_pools(header, POOLS, EVENT_TOPICS))
        emitters = {log.address for log in logs} | {t for log in logs for t in log.topics}
        assert {key for key in POOLS if key in emitters} <= named
        if not logs:
            assert named == set(POOLS), "an empty filter says nothing"


def test_a_pool_is_not_named_by_topics_of_another_protocol() -> None:
    header = header_of(5, [Log(V2, (V3_MINT,), b"", 5, hash_of(5), 0, 0)])
    assert not set(named_pools(header, POOLS, EVENT_TOPICS))


def test_ordered_is_by_transaction_then_number() -> None:
    logs = logs_of(5)
    shuffled = random.Random(3).sample(logs, len(logs))
    assert list(ordered(header_of(5, logs), shuffled, ())) == logs


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_gap_is_not_closed_with_less_than_a_block_has(lie: Change) -> None:
    node = node_of(4, 5, 6)
    for ways in ({"by_number": lie}, {"by_hash": lie}, {"by_hash": lie, "by_number": lie}):
        told = node_of(4, 5, 6, **ways)
        try:
            found = fetch_blocks(told, 4, 6, POOLS)
        except ArenaError:
            assert len(ways) == 2 or invented(lie)
            continue
        assert len(ways) == 1
        true = fetch_blocks(node, 4, 6, POOLS)
        assert all((a.records == b.records).all() for a, b in zip(found, true, strict=True))


def test_a_block_of_a_gap_whose_filter_names_no_pool_is_asked_for_all_the_same() -> None:
    """By its receipts, or by the listed contracts' logs by number: the filter may be wrong, which is
    believed no more than logs that contradict it."""
    quiet = logs_of(5, [(STRANGER, (TRANSFER, SOMEBODY))])
    for by_receipts in (None, list):
        node = LyingNode({5: quiet}, by_receipts=by_receipts)
        reader = BlockLogs(node, EVENT_TOPICS)
        for _ in range(2):
            node.asked.clear()
            assert len(fetch_blocks(node, 5, 5, POOLS, reader=reader)[0].records) == 2
        assert node.asked == (["number"] if by_receipts is None else ["hash", "receipts"])
        node.truth[5], node.headers_by_number[5] = logs_of(5), header_of(5, quiet)
        with pytest.raises(NodeBehind, match="does not speak of all of them"):
            fetch_blocks(node, 5, 5, POOLS, reader=reader)
        node.headers_by_number[5] = header_of(5, node.truth[5])
        found = fetch_blocks(node, 5, 5, POOLS, reader=reader)[0]
        assert len(found.records) == 2 + len(known(node.truth[5]))


def mint(at: int, tx_index: int = 3, amount: int = 9) -> Log:
    data = b"".join(word.to_bytes(32, "big") for word in (7, amount, 1, 1))
    return Log(V3, (V3_MINT, SOMEBODY, bytes(32), bytes(32)), data, 5, hash_of(5), tx_index, at)


CONTENT_LIES: dict[str, Change] = {
    "the last of two left out": lambda logs: logs[:-1],
    "told twice": lambda logs: [*logs, replace(logs[-1], log_index=len(logs))],
    "told twice, with a hole": lambda logs: [*logs, replace(logs[-1], log_index=len(logs) + 1)],
}


def node_of_mints() -> LyingNode:
    node = node_of()
    node.truth[5] += [mint(6, amount=8), mint(7)]
    return node


@pytest.mark.parametrize("lie", CONTENT_LIES.values(), ids=CONTENT_LIES)
def test_receipts_show_what_neither_filter_nor_numbers_do(lie: Change) -> None:
    node = node_of_mints()
    node.by_hash, node.by_number, node.by_receipts = lie, lie, list
    whole = Reader(node).read()
    assert (list(whole.logs), whole.doubtful) == (known(node.truth[5]), frozenset())
    assert "number" not in node.asked


def test_an_event_told_twice_in_one_transaction_is_doubted_without_receipts() -> None:
    for lie in list(CONTENT_LIES.values())[1:]:
        node = node_of_mints()
        node.by_hash = node.by_number = lie
        reader = Reader(node)
        with pytest.raises(NodeBehind, match="comes twice"):
            reader.read()
        reader.now += PASS_S
        assert V3 in reader.read().doubtful
    node = node_of_mints()
    nothing = replace(mint(8), topics=(V3_BURN, *mint(8).topics[1:]), data=bytes(96))
    node.truth[5] += [nothing, replace(nothing, log_index=9)]
    assert list(Reader(node).read().logs) == known(node.truth[5]), "burns of nothing collect fees"


@pytest.mark.parametrize("by_receipts", [None, list])
def test_a_listed_pools_event_that_the_filter_does_not_speak_of_is_doubted(
    by_receipts: Change | None,
) -> None:
    node = node_of(by_receipts=by_receipts)
    true = list(node.truth[5])
    node.headers_by_number[5] = header_of(5, true)
    node.truth[5].append(replace(logs_of(5, [*EMITTED, (OTHER_V2, (V2_SYNC,))])[-1], tx_index=2))
    reader = Reader(node)
    with pytest.raises(NodeBehind, match="does not speak of all"):
        reader.read()
    reader.now += PASS_S
    assert OTHER_V2 in reader.read().doubtful
    stranger = b"\xab" * 20
    node.truth[5][-1] = replace(node.truth[5][-1], address=stranger)
    whole = Reader(node).read()
    assert (list(whole.logs[:-1]), whole.logs[-1].address) == (known(true), stranger)
    assert whole.doubtful == frozenset(), "no listed pool's: the chain's own"


def test_a_pool_the_filter_names_without_a_receipt_is_doubted() -> None:
    """Receipts that are all there may have lost their logs."""
    lie = without(2)
    node = node_of(by_hash=lie, by_number=lie, by_receipts=lie)
    reader = Reader(node)
    with pytest.raises(NodeBehind, match="not all that its header speaks of"):
        reader.read()
    reader.now += PASS_S
    assert V3 in reader.read().doubtful
    node = node_of(by_hash=without(6), by_number=without(6), by_receipts=without(6))
    node.truth[5].append(mint(6))  # of the pool that has a swap, too
    reader = Reader(node)
    with pytest.raises(NodeBehind, match="not all that its header speaks of"):
        reader.read()
    reader.now += PASS_S
    assert V3 in reader.read().doubtful
    lie = without(0, 5)
    strangers = node_of(by_hash=lie, by_number=lie, by_receipts=lie)
    whole = Reader(strangers).read()
    assert (list(whole.logs), whole.doubtful) == (known(strangers.truth[5]), frozenset())


def test_events_that_no_receipt_has_are_doubted() -> None:
    """Either of them lacks one or has one too many."""
    node = node_of_mints()
    node.by_receipts = lambda logs: logs[:-1]
    reader = Reader(node)
    for _ in range(2):
        with pytest.raises(NodeBehind, match="receipts do not have all"):
            reader.read()
        reader.now += PASS_S / 2
    node.by_receipts = list
    assert reader.read().doubtful == frozenset()
    node.by_receipts = lambda logs: logs[:-1]
    with pytest.raises(NodeBehind):
        reader.read()
    reader.now += PASS_S
    assert V3 in reader.read().doubtful


def test_receipts_that_come_late_are_waited_for_where_a_node_has_them() -> None:
    node = node_of(4, 5, by_receipts=list)
    reader = Reader(node)
    reader.read(4)
    cut = CONTENT_LIES["the last of two left out"]
    node.by_hash, node.by_number = cut, cut
    node.truth[5] += [mint(6, amount=8), mint(7)]
    whole = node.receipts
    for late in ([None], [Receipts(1, 7, [])], [LogInvalid("of another block")]):
        node.receipts = lambda hashes, late=late: late  # type: ignore[misc]
        reader.logs._receipts._ask = node.receipts
        with pytest.raises(NodeBehind, match="receipts of block 5"):
            reader.read()
    reader.logs._receipts._ask = whole
    assert list(reader.read().logs) == known(node.truth[5])


def test_a_node_whose_receipts_fail_for_a_while_is_asked_again() -> None:
    node = node_of(by_receipts=list)
    reader = Reader(node)
    asked = []

    def fails(hashes: Sequence[bytes]) -> Any:
        asked.append(hashes)
        raise RpcUnavailable("no answer")

    working, reader.logs._receipts._ask = reader.logs._receipts._ask, fails
    for _ in range(RECEIPT_FAILURES - 1):
        with pytest.raises(RpcUnavailable):
            reader.read()
    reader.read()
    reader.read()
    assert len(asked) == RECEIPT_FAILURES
    assert not reader.logs.has_receipts
    reader.now += RECEIPTS_PAUSE_S
    reader.logs._receipts._ask = working
    reader.read()
    assert node.asked[-1] == "receipts"


def test_a_gap_does_not_believe_silence_beside_an_empty_filter() -> None:
    node = node_of(by_hash=LIES["nothing"], by_number=LIES["nothing"])
    node.headers_by_number[5] = replace(node.header(5), logs_bloom=bytes(256))
    now = [0.0]
    reader = BlockLogs(node, EVENT_TOPICS, clock=lambda: now[0])
    for waited in (0.0, PASS_S - 0.1):
        now[0] = waited
        with pytest.raises(LogsRefused, match="silence"):
            fetch_blocks(node, 5, 5, POOLS, reader=reader, believes_silence=False)
        with pytest.raises(NodeBehind):
            fetch_blocks(node, 5, 5, POOLS, reader=reader)
    now[0] = PASS_S
    with pytest.raises(LogsRefused, match="silence"):
        fetch_blocks(node, 5, 5, POOLS, reader=reader, believes_silence=False)
    assert len(fetch_blocks(node, 5, 5, POOLS, reader=reader)[0].records) == 2
    node.by_hash = node.by_number = list
    now[0] += PASS_S
    with pytest.raises(NodeBehind):
        fetch_blocks(node, 5, 5, POOLS, reader=reader)
    now[0] += SETTLE_S
    assert len(fetch_blocks(node, 5, 5, POOLS, reader=reader)[0].records) == 6


@pytest.mark.parametrize("lies", [False, True])
def test_doctor_says_whether_the_newest_blocks_logs_are_all_there(
    monkeypatch: pytest.MonkeyPatch, lies: bool
) -> None:
    node = node_of(5, 6, 7, 8)
    if lies:
        node.by_hash = node.by_number = lambda logs: (
            logs[:-1] if logs[0].block_number == 7 else logs
        )
        node.truth[7].append(replace(logs_of(7)[1], topics=(b"\x4e" * 32,), log_index=6))
    monkeypatch.setattr("arena.writer.service.doctor.RpcNode", lambda client: node)
    monkeypatch.setattr("arena.writer.service.doctor.COMPARE_PAUSE_S", 0.01)
    nothing: Any = None
    doctor = Doctor(
        DoctorSettings(
            **dict.fromkeys(("socket", "node", "states", "reth_db", "rpc", "pools"), nothing),
            chain_id=None,
            libmdbx=None,
            tick_nbytes=0,
            wait_s=0.0,
        )
    )
    doctor._targets = [pool_target(spec) for spec in POOLS.values()]
    finding = list(doctor._look_at_logs(nothing, 8))[-1]
    assert finding.verdict == ("note" if lies else "ok")
    if lies:
        assert finding.facts["block"] == 7
