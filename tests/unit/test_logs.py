"""Reading blocks from a node: links, refusals, halving, and every field's limits."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from doubles.proxy import FaultyServer

from arena.errors import ChainMoved, LogInvalid, LogsRefused, NodeBehind, RpcRefused
from arena.native import lib
from arena.specs import PoolSpec, TokenSpec
from arena.writer.node.client import Header, Log
from arena.writer.node.jsonrpc import JsonRpc
from arena.writer.node.rpc_node import ADDRESSES_KEPT_S, RpcNode, read_header, read_log
from arena.writer.node.transports import Limits
from arena.writer.protocols.held import EVENT_TOPICS
from arena.writer.protocols.uniswap_v2 import V2_SYNC
from arena.writer.protocols.uniswap_v3 import PANCAKE_SWAP, V3_BURN, V3_MINT, V3_SWAP
from arena.writer.protocols.uniswap_v4 import V4_MODIFY, V4_SWAP
from arena.writer.stream.block_logs import BlockLogs
from arena.writer.stream.blocks import MAX_FETCH_BLOCKS, claimed_blocks, fetch_blocks
from arena.writer.stream.compare import same_block
from arena.writer.stream.event_logs import block_records, decode_log
from arena.writer.sync.branch import Branch

TOKENS = (TokenSpec(b"\1" * 20, 18, "ONE"), TokenSpec(b"\2" * 20, 18, "TWO"))
V2, V3, V4, MANAGER = b"\x22" * 20, b"\x33" * 20, b"\x44" * 32, b"\x99" * 20
POOLS = {
    V2: PoolSpec(V2, 0, *TOKENS, 3000, 0),
    V3: PoolSpec(V3, 1, *TOKENS, 3000, 10),
    V4: PoolSpec(V4, 2, *TOKENS, 3000, 10, MANAGER),
}


def hash_of(number: int, branch: int = 0) -> bytes:
    return bytes([branch]) + number.to_bytes(31, "big")


def header(number: int, branch: int = 0) -> Header:
    return Header(number, hash_of(number, branch), hash_of(number - 1, branch), 12 * number, 7)


def word(value: int) -> bytes:
    return (value % 2**256).to_bytes(32, "big")


def log_of(
    topic: bytes,
    *words: int,
    address: bytes = V3,
    topics: Sequence[bytes] = (),
    number: int = 5,
    tx: int = 0,
    index: int = 0,
) -> Log:
    data = b"".join(word(value) for value in words)
    return Log(address, (topic, *topics), data, number, hash_of(number), tx, index)


def sync(reserve0: int, reserve1: int, **more: Any) -> Log:
    return log_of(V2_SYNC, reserve0, reserve1, address=V2, **more)


@pytest.fixture(autouse=True)
def nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers here have no filter; how long that is doubted is test_completeness.py's."""
    for module in ("stream.blocks", "sync.branch"):
        monkeypatch.setattr(
            f"arena.writer.{module}.block_reader",
            lambda node: BlockLogs(node, EVENT_TOPICS, settle_s=0.0, pass_s=0.0),
        )


class FakeNode:
    """A node with blocks first..last; `refuse_above` blocks a range; `asked` notes the ranges."""

    def __init__(self, first: int, last: int, logs: Sequence[Log] = ()) -> None:
        self.found = {number: header(number) for number in range(first, last + 1)}
        self.all_logs = list(logs)
        self.refuse_above = 10**6
        self.hides: set[int] = set()
        self.asked: list[tuple[int, int]] = []
        self.by_hash: list[bytes] = []

    def chain_id(self) -> int:
        return 1

    def head_number(self) -> int:
        return max(self.found)

    def headers(self, numbers: Sequence[int]) -> list[Header | None]:
        return [self.found.get(number) for number in numbers]

    def logs(
        self, first: int, last: int, topics: Sequence[bytes], addresses: Sequence[bytes] = ()
    ) -> list[Log]:
        self.asked.append((first, last))
        if last - first + 1 > self.refuse_above:
            raise LogsRefused("too many")
        return [
            log
            for log in self.all_logs
            if first <= log.block_number <= last and log.block_number not in self.hides
        ]

    def block_logs(self, hashes: Sequence[bytes], topics: Sequence[bytes]) -> list[list[Log]]:
        self.by_hash += hashes
        return [[log for log in self.all_logs if log.block_hash == each] for each in hashes]


def test_a_refused_range_is_halved_until_it_is_answered_and_nothing_is_missing() -> None:
    node = FakeNode(1, 40, [sync(number, 1, number=number) for number in range(1, 41)])
    node.refuse_above = 3
    found = claimed_blocks(node, 2, 39, POOLS)
    assert [int(each.records["words"][1, 0]) for each in found] == list(range(2, 40))
    answered = [(a, b) for a, b in node.asked if b - a + 1 <= 3]
    assert [a for a, _ in answered] == sorted({a for a, _ in answered})
    assert sum(b - a + 1 for a, b in answered) == 38
    assert len(node.asked) < 38, "ranges, not single blocks"


def test_a_single_block_that_is_refused_is_an_error() -> None:
    node = FakeNode(1, 9)
    node.refuse_above = 0
    with pytest.raises(LogsRefused):
        claimed_blocks(node, 2, 9, POOLS)


@pytest.mark.parametrize(("count", "refused"), [(MAX_FETCH_BLOCKS, False), (4097, True)])
def test_the_longest_gap(count: int, refused: bool) -> None:
    assert MAX_FETCH_BLOCKS == 4096
    node = FakeNode(1, count)
    if not refused:
        assert len(fetch_blocks(node, 1, count, POOLS)) == count
        return
    with pytest.raises(LogsRefused, match="anew") as caught:
        fetch_blocks(node, 1, count, POOLS)
    assert (caught.value.first, caught.value.last) == (1, count)
    assert node.asked == []


def test_blocks_must_follow_each_other_and_the_parent() -> None:
    node = FakeNode(1, 9)
    assert len(fetch_blocks(node, 4, 9, POOLS, parent=hash_of(3))) == 6
    with pytest.raises(ChainMoved) as caught:
        fetch_blocks(node, 4, 9, POOLS, parent=hash_of(3, branch=1))
    assert caught.value.block == 4
    node.found[7] = header(7, branch=1)
    with pytest.raises(ChainMoved) as caught:
        fetch_blocks(node, 4, 9, POOLS)
    assert caught.value.block == 7


def test_a_block_the_node_lacks_is_waited_for_by_the_caller() -> None:
    with pytest.raises(NodeBehind) as caught:
        fetch_blocks(FakeNode(1, 8), 4, 9, POOLS)
    assert caught.value.block == 9


def test_a_log_of_another_branch_is_noticed() -> None:
    node = FakeNode(1, 9, [replace(sync(1, 1), block_hash=hash_of(5, branch=1))])
    with pytest.raises(ChainMoved):
        fetch_blocks(node, 4, 9, POOLS)


def test_a_head_that_changes_meanwhile_is_noticed() -> None:
    node = FakeNode(1, 9)
    answer = node.logs

    def logs(*args: Any) -> list[Log]:
        node.found[9] = header(9, branch=1)
        return answer(*args)

    node.logs = logs  # type: ignore[method-assign]
    with pytest.raises(ChainMoved):
        fetch_blocks(node, 4, 9, POOLS)


def test_answers_by_number_and_by_hash_that_differ_are_not_taken() -> None:
    """Where a header has no filter, two answers that agree are all there is."""
    node = FakeNode(1, 9, [sync(number, 1, number=number) for number in (5, 6)])
    node.hides = {6}
    with pytest.raises(NodeBehind) as caught:
        fetch_blocks(node, 5, 7, POOLS)
    assert caught.value.block == 6
    node.hides.clear()
    found = fetch_blocks(node, 5, 7, POOLS)
    assert [len(each.records) - 2 for each in found] == [1, 1, 0]


def test_a_claim_may_lack_a_block_that_its_hash_has() -> None:
    node = FakeNode(1, 9, [sync(number, 1, number=number) for number in (5, 6)])
    node.hides = {6}
    found = claimed_blocks(node, 5, 7, POOLS)
    assert [len(each.records) - 2 for each in found] == [1, 0, 0]


def test_a_log_outside_the_range_is_refused() -> None:
    node = FakeNode(1, 9)
    node.logs = lambda *args: [sync(1, 1, number=3)]  # type: ignore[method-assign]
    with pytest.raises(LogInvalid):
        claimed_blocks(node, 4, 9, POOLS)
    with pytest.raises(ChainMoved):
        fetch_blocks(node, 4, 9, POOLS)


@pytest.mark.parametrize("order", [((0, 4), (0, 4)), ((1, 2), (0, 3))])
def test_logs_out_of_order_are_refused(order: Any) -> None:
    logs = [sync(1, 1, tx=tx, index=index) for tx, index in order]
    with pytest.raises(LogInvalid):
        block_records(header(5), logs, POOLS)


TICKS = (word(5), word(-20), word(10))
LIMITS = [
    (sync(2**112 - 1, 0), sync(2**112, 0)),
    (
        log_of(V3_SWAP, -1, 1, 2**160 - 1, 2**128 - 1, -(2**23), topics=TICKS[:2]),
        log_of(V3_SWAP, -1, 1, 2**160, 1, 0, topics=TICKS[:2]),
    ),
    (
        log_of(V3_SWAP, -1, 1, 1, 1, 2**23 - 1, topics=TICKS[:2]),
        log_of(V3_SWAP, -1, 1, 1, 1, 2**23, topics=TICKS[:2]),
    ),
    (
        log_of(V3_SWAP, -1, 1, 1, 2**128 - 1, 0, topics=TICKS[:2]),
        log_of(V3_SWAP, -1, 1, 1, 2**128, 0, topics=TICKS[:2]),
    ),
    (
        log_of(PANCAKE_SWAP, 1, 1, 1, 1, 0, 2**128 - 1, 0, topics=TICKS[:2]),
        log_of(PANCAKE_SWAP, 1, 1, 1, 1, 0, 2**128, 0, topics=TICKS[:2]),
    ),
    (
        log_of(V3_MINT, 1, 2**127 - 1, 0, 0, topics=TICKS),
        log_of(V3_MINT, 1, 2**127, 0, 0, topics=TICKS),
    ),
    (
        log_of(V3_BURN, 2**127 - 1, 0, 0, topics=TICKS),
        log_of(V3_BURN, 2**127, 0, 0, topics=TICKS),
    ),
    (
        log_of(V4_MODIFY, -20, 10, -(2**127), 0, address=MANAGER, topics=(V4, word(1))),
        log_of(V4_MODIFY, -20, 10, 2**127, 0, address=MANAGER, topics=(V4, word(1))),
    ),
    (
        log_of(V4_SWAP, -(2**127), 1, 1, 1, 0, 2**24 - 1, address=MANAGER, topics=(V4, word(1))),
        log_of(V4_SWAP, 2**127, 1, 1, 1, 0, 1, address=MANAGER, topics=(V4, word(1))),
    ),
    (
        log_of(V4_SWAP, 1, 1, 1, 1, 0, 2**24 - 1, address=MANAGER, topics=(V4, word(1))),
        log_of(V4_SWAP, 1, 1, 1, 1, 0, 2**24, address=MANAGER, topics=(V4, word(1))),
    ),
]


@pytest.mark.parametrize(("last", "over"), LIMITS)
def test_each_field_at_its_limit_and_just_above(last: Log, over: Log) -> None:
    assert decode_log(last, POOLS) is not None
    with pytest.raises(LogInvalid) as caught:
        decode_log(over, POOLS)
    assert caught.value.block == 5


@pytest.mark.parametrize("good", [first for first, _ in LIMITS])
def test_data_or_topics_of_another_size_are_refused(good: Log) -> None:
    for bad in (
        replace(good, data=good.data + bytes(32)),
        replace(good, data=good.data[:-1]),
        replace(good, topics=(*good.topics, bytes(32))),
    ):
        with pytest.raises(LogInvalid):
            decode_log(bad, POOLS)


@pytest.mark.parametrize("good", [first for first, _ in LIMITS])
def test_the_same_log_of_another_contract_is_ignored(good: Log) -> None:
    assert decode_log(replace(good, address=b"\xaa" * 20), POOLS) is None


def test_an_event_of_another_protocol_than_the_pools_is_ignored() -> None:
    assert decode_log(replace(sync(1, 1), address=V3), POOLS) is None


def test_signs_follow_the_feed() -> None:
    def delta(log: Log) -> int:
        fields = decode_log(log, POOLS)
        assert fields is not None
        low, high = fields["amount"]
        value = low + (high << 64)
        return int(value - 2**128 if value >> 127 else value)

    def modified(value: int) -> Log:
        return log_of(V4_MODIFY, -20, 10, value, 0, address=MANAGER, topics=(V4, word(1)))

    assert delta(log_of(V3_MINT, 1, 17, 0, 0, topics=TICKS)) == 17
    assert delta(log_of(V3_BURN, 17, 0, 0, topics=TICKS)) == -17
    assert delta(log_of(V3_BURN, 0, 0, 0, topics=TICKS)) == 0
    assert [delta(modified(value)) for value in (-3, 0, 3)] == [-3, 0, 3]


def test_a_block_of_the_feed_is_recognised_by_time_base_fee_and_events() -> None:
    logs = [sync(3, 4, tx=1, index=7), log_of(V3_MINT, 1, 9, 0, 0, topics=TICKS, tx=2, index=9)]
    found = claimed_blocks(FakeNode(4, 9, logs), 5, 5, POOLS)[0]
    kept = found.records.copy()
    kept["log_index"] += 3  # the feed counts from another log
    kept["stream_seq"] = 99
    assert same_block(kept, found, POOLS)
    for field, index, value in (
        ("timestamp", 0, 61),
        ("timestamp", 0, 0),
        ("tx_index", 1, 2),
        ("tick_lower", 2, -30),
    ):
        other = kept.copy()
        other[field][index] = value
        assert not same_block(other, found, POOLS), field
    other = kept.copy()
    other["words"][0, 0] = 8
    assert not same_block(other, found, POOLS)
    without = kept[[0, 1, 3]]
    assert not same_block(without, found, POOLS)
    deltas = kept.copy()
    deltas["kind"][1] = lib.PSA_EVENT_V2_DELTA
    assert same_block(deltas, found, POOLS), "V2 is left out where it comes as changes"


def test_scraped_pools_must_have_the_streams_events_in_a_block_of_equal_time_and_base_fee() -> None:
    """A sibling of the stream's block: only the events of the two pools differ, or one of them."""
    node = FakeNode(
        4, 9, [sync(3, 4, tx=1), log_of(V3_MINT, 1, 9, 0, 0, topics=TICKS, tx=2, index=1)]
    )
    branch = Branch(node)
    branch.pools = POOLS
    kept = claimed_blocks(node, 5, 5, POOLS)[0].records.copy()
    kept["tx_index"] += 1  # positions are the producer's own
    scraped = {(5, hash_of(5)): (V2, V3, V4)}
    assert branch.confirm([kept], scraped, {}).wrong == ()
    assert branch.confirm([kept[[0, 1, 3]]], scraped, {}).wrong == (V3,)
    other = kept.copy()
    other["words"][1, 0] = 5
    assert branch.confirm([other], scraped, {}).wrong == (V2,)
    assert branch.confirm([other[[0, 3]]], {(5, hash_of(5)): (V4,)}, {}).wrong == ()
    assert branch.confirm([kept], {(4, hash_of(4)): (V2, V3)}, {}).wrong == (), "before the stream"


class FakeTransport:
    """Answers what it is told."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def call(self, method: str, *parameters: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def batch(self, calls: Sequence[Any]) -> list[Any]:
        return [self.answer for _ in calls]


@pytest.mark.parametrize(
    "text",
    [
        "query returned more than 10000 results",
        "block range is too large",
        "Log response size exceeded",
        "eth_getLogs is limited to a 10,000 range",
        "exceed maximum block range: 2000",
    ],
)
def test_what_nodes_say_of_too_large_answers_is_a_refused_range(text: str) -> None:
    with pytest.raises(LogsRefused) as caught:
        RpcNode(FakeTransport(RpcRefused(text, code=-32000))).logs(1, 9, [V2_SYNC])
    assert (caught.value.first, caught.value.last) == (1, 9)


def test_an_answer_above_this_sides_own_limit_is_a_refused_range() -> None:
    """A thousand busy blocks are more than the client takes at once: fewer are to be asked for."""
    body = b'{"jsonrpc":"2.0","id":1,"result":[' + b" " * 5000 + b"]}"
    with (
        FaultyServer(lambda _: body) as server,
        JsonRpc(server.http, Limits(max_response_nbytes=4000)) as rpc,
        pytest.raises(LogsRefused),
    ):
        RpcNode(rpc).logs(1, 1024, [V2_SYNC])


def test_a_proxy_that_only_gives_the_status_refuses_the_range() -> None:
    refusal = RpcRefused("HTTP status 413", code=413)
    with pytest.raises(LogsRefused):
        RpcNode(FakeTransport(refusal)).logs(1, 9, [V2_SYNC])


def test_an_error_that_there_is_no_such_block_is_no_header() -> None:
    node = RpcNode(FakeTransport(RpcRefused("header not found", code=-32000)))
    assert node.headers([1, 2]) == [None, None]
    assert node.block(bytes(32)) == (None, None, None)


def test_other_refusals_stay_what_they_are() -> None:
    refusal = RpcRefused("method not found", code=-32601)
    with pytest.raises(RpcRefused):
        RpcNode(FakeTransport(refusal)).logs(1, 9, [V2_SYNC])
    with pytest.raises(RpcRefused):
        RpcNode(FakeTransport(refusal)).headers([1])
    with pytest.raises(RpcRefused):
        RpcNode(FakeTransport(refusal)).block_logs([bytes(32)], [V2_SYNC])


class BoundedTransport:
    """Gives logs of named contracts only, at most `most` of them and `blocks` blocks at once."""

    def __init__(self, refusal: RpcRefused, *, most: int = 20, blocks: int = 1024) -> None:
        self.refusal, self.most, self.blocks = refusal, most, blocks
        self.refused = 0
        self.is_away = False

    def call(self, method: str, *parameters: Any) -> Any:
        raise AssertionError(method)

    def batch(self, calls: Sequence[Any]) -> list[Any]:
        return [self._answer(*parameters) for _, parameters in calls]

    def _answer(self, wanted: dict[str, Any]) -> Any:
        first, last = (int(wanted.get(name, "0x5"), 16) for name in ("fromBlock", "toBlock"))
        named = wanted.get("address", [])
        if self.is_away or not 0 < len(named) <= self.most or last - first >= self.blocks:
            self.refused += 1
            return self.refusal
        log = GOOD_LOG | {"blockNumber": hex(first)}
        return [log | {"address": each, "logIndex": "0x" + each[-2:]} for each in named]


ADDRESSES = [b"\x22" * 19 + bytes([at]) for at in range(61)]


@pytest.mark.parametrize(
    "refusal",
    [
        RpcRefused("x", code=-32602, reason="too many addresses: at most 20 are allowed"),
        RpcRefused("x", code=-32000, reason="query exceeds max addresses"),
        RpcRefused("x", code=-32005, reason="limit exceeded", method="eth_getLogs"),
        RpcRefused("x", code=-32602, reason="invalid params"),
        RpcRefused("x", code=-32000, reason="Internal error"),
    ],
    ids=lambda refusal: refusal.fields["reason"],
)
def test_a_bound_of_the_addresses_is_found_and_remembered(
    refusal: RpcRefused, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = BoundedTransport(refusal)
    node = RpcNode(transport)
    asked: list[Callable[[], Sequence[Log]]] = [
        lambda: node.logs(1, 1024, [V2_SYNC], ADDRESSES),
        lambda: node.block_logs([hash_of(5)], [V2_SYNC], ADDRESSES)[0],
        lambda: node.logs(1, 1024, [V2_SYNC], ADDRESSES),
    ]
    for ask in asked:
        transport.refused = 0
        assert sorted(log.address for log in ask()) == ADDRESSES
    assert transport.refused == 0
    transport.is_away = True
    with pytest.raises(RpcRefused):
        node.block_logs([hash_of(5)], [V2_SYNC], ADDRESSES)
    transport.is_away = False
    assert len(node.block_logs([hash_of(5)], [V2_SYNC], ADDRESSES)[0]) == 61
    assert 0 < transport.refused < 10, "what was refused for one address says nothing"
    now = time.monotonic()
    monkeypatch.setattr("arena.writer.node.rpc_node.time.monotonic", lambda: now + ADDRESSES_KEPT_S)
    transport.most, transport.refused = 100, 0
    node.logs(1, 9, [V2_SYNC], ADDRESSES)
    node.logs(1, 9, [V2_SYNC], ADDRESSES)
    assert transport.refused == 0


def test_a_refused_range_is_cut_before_its_addresses() -> None:
    refusal = RpcRefused("x", code=-32005, reason="limit exceeded", method="eth_getLogs")
    transport = BoundedTransport(refusal, most=100, blocks=8)
    node = RpcNode(transport)
    with pytest.raises(LogsRefused):
        node.logs(1, 1024, [V2_SYNC], ADDRESSES)
    assert transport.refused == 2, "one address alone is refused as well"
    assert len(node.logs(1, 8, [V2_SYNC], ADDRESSES)) == 61


def test_all_contracts_logs_too_large_for_one_block_are_asked_of_the_pools() -> None:
    """A bound of the addresses may be the answer to a question without any."""
    node = FakeNode(4, 6, [sync(3, 4, number=5)])
    answer = node.logs

    def logs(first: int, last: int, topics: Any, addresses: Sequence[bytes] = ()) -> list[Log]:
        if not addresses:
            raise LogsRefused("name 1 to 20 addresses")
        return answer(first, last, topics, addresses)

    node.logs = logs  # type: ignore[method-assign]
    assert [len(each.records) for each in claimed_blocks(node, 4, 6, POOLS)] == [2, 3, 2]


GOOD_LOG = {
    "address": "0x" + "22" * 20,
    "topics": ["0x" + V2_SYNC.hex()],
    "data": "0x" + "00" * 64,
    "blockNumber": "0x5",
    "blockHash": "0x" + "ab" * 32,
    "transactionIndex": "0x1",
    "logIndex": "0x2",
}
GOOD_HEADER = {
    "number": "0x5",
    "hash": "0x" + "ab" * 32,
    "parentHash": "0x" + "cd" * 32,
    "timestamp": "0x10",
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("address", "0x" + "22" * 19),
        ("address", None),
        ("topics", ["0x12"]),
        ("topics", [None] * 5),
        ("topics", "0x"),
        ("data", "0x0"),
        ("data", "12"),
        ("blockNumber", 5),
        ("blockNumber", "0x"),
        ("blockNumber", "0x" + "f" * 17),
        ("blockHash", None),
        ("logIndex", "zz"),
        ("transactionIndex", "0xg"),
    ],
)
def test_a_log_with_a_bad_field_is_refused(field: str, value: Any) -> None:
    assert read_log(GOOD_LOG).log_index == 2
    with pytest.raises(LogInvalid):
        read_log(GOOD_LOG | {field: value})


def test_a_removed_log_means_the_chain_moved() -> None:
    with pytest.raises(ChainMoved):
        read_log(GOOD_LOG | {"removed": True})


@pytest.mark.parametrize("field", list(GOOD_HEADER))
def test_a_header_with_a_bad_field_is_refused(field: str) -> None:
    assert read_header(GOOD_HEADER).base_fee == 0
    assert read_header(GOOD_HEADER | {"baseFeePerGas": "0x7"}).base_fee == 7
    for value in (None, 5, "0x", "0xzz"):
        with pytest.raises(LogInvalid):
            read_header(GOOD_HEADER | {field: value})


@pytest.mark.parametrize("answer", [None, 5, "0x", {}])
def test_answers_of_another_kind_are_refused(answer: Any) -> None:
    node = RpcNode(FakeTransport(answer))
    with pytest.raises(LogInvalid):
        node.logs(1, 2, [V2_SYNC])
    with pytest.raises(LogInvalid):
        node.chain_id()
    with pytest.raises(LogInvalid):
        read_header(answer)
