"""Generated whitelist messages in both dialects against the oracle; replies in any place.

The list after every message is the oracle's (tests/oracle/whitelist_oracle.py), and the steps build
the same list. Malformed messages lie between the others and must change nothing.
"""

import json
from typing import Any

from builders.listed import described
from hypothesis import given
from hypothesis import strategies as st
from oracle.whitelist_oracle import MANAGER, ListOracle

from arena.errors import PoolMessageInvalid
from arena.writer.lists.messages import (
    SUFFIXES,
    Kind,
    PoolJoin,
    PoolMessage,
    parse_message,
    read_message,
)
from arena.writer.lists.source import PoolChange
from arena.writer.protocols.storage import PoolTarget

SPELLINGS = {"v2": ["v2", "uniswap_v2"], "v3": ["v3", "UniswapV3"], "v4": ["v4", "uniswap_v4"]}
# Six pools, so that messages meet; the last two exist in no protocol that is held.
POOLS = [
    ("v2", "a1" * 20),
    ("v2", "a2" * 20),
    ("v3", "b1" * 20),
    ("v3", "b2" * 20),
    ("v4", "c1" * 32),
    ("v4", "c2" * 32),
]
FOREIGN = [("ekubo", "d1" * 32), ("curve_stable", "d2" * 20)]


@st.composite
def records(draw: st.DrawFn, shape: str, pool: tuple[str, str]) -> dict[str, Any]:
    """A pool in the shape of one publisher, described in one of a few ways."""
    protocol, identity = pool
    if shape == "arena":
        made: dict[str, Any] = {"id": "0x" + identity, "token0": "0x" + "01" * 20}
        made["token1"] = "0x" + "02" * 20
        if draw(st.booleans()):
            made |= {"token0_decimals": 6, "token1_decimals": draw(st.sampled_from([8, 18]))}
    else:
        made = {"address": "0x" + (MANAGER if len(identity) == 64 else identity)}
        if len(identity) == 64:
            made["pool_id"] = "0x" + identity
        made["token0"] = {"address": "0x" + "01" * 20, "decimals": 6, "symbol": "A"}
        made["token1"] = {"address": "0x" + "02" * 20, "decimals": 18, "symbol": "B"}
    made["protocol"] = draw(st.sampled_from(SPELLINGS.get(protocol, [protocol])))
    if protocol != "v2":
        made |= {"fee": draw(st.sampled_from([500, 3000])), "tick_spacing": 10}
    return made


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, bytes]:
    """Subject and payload of a message that is well-formed, though it may hold foreign pools."""
    dialect = draw(st.sampled_from(["minimal", "full", "full", "add", "remove"]))
    pools = draw(st.lists(st.sampled_from(POOLS + FOREIGN), unique=True, max_size=6))
    ids = ["0x" + (each.upper() if draw(st.booleans()) else each) for _, each in pools]
    content: dict[str, Any] = {"chain": draw(st.sampled_from(["ethereum"] * 9 + ["base"]))}
    kind = draw(st.sampled_from([None, "full", "add", "remove"]))
    if dialect == "remove" or (dialect == "full" and kind == "remove"):
        content["pool_addresses"] = ids
        if dialect == "full" and draw(st.booleans()):
            content["type"] = "remove"
    elif dialect == "minimal":
        content["pools"] = ids
        if kind is not None:
            content["type"] = kind
        if kind != "remove" and draw(st.booleans()):
            content["protocols"] = [
                draw(st.sampled_from([protocol] * 9 + ["v3"])) for protocol, _ in pools
            ]
    else:
        shape = draw(st.sampled_from(["arena", "canonical"]))
        content["pools"] = [draw(records(shape, pool)) for pool in pools]
        if dialect == "full" and kind is not None:
            content["type"] = kind
    content["snapshot_id"] = draw(st.integers(0, 3))
    return f"whitelist.pools.ethereum.{dialect}", json.dumps(content).encode()


MALFORMED = [
    b"",
    b"[]",
    b'{"chain":"ethereum"}',
    b'{"chain":"ethereum","type":"all","pools":[],"pool_addresses":7}',
    b'{"pools":["0x' + b"a1" * 20 + b'"]}',
    b'{"chain":"ethereum","type":"add","pools":["0x' + b"a1" * 20 + b'"],"protocols":[]}',
]


def malformed() -> st.SearchStrategy[tuple[str, bytes]]:
    return st.tuples(st.just("whitelist.pools.ethereum.minimal"), st.sampled_from(MALFORMED))


def parsed(subject: str, payload: bytes, *, canonical: bool = False) -> PoolMessage | None:
    suffix = subject.split(".")[-1]
    try:
        content = read_message(payload, subject=subject)
        if content["chain"] != "ethereum" or suffix not in SUFFIXES:
            return None
        return parse_message(content, subject=subject, suffix=suffix, canonical_publisher=canonical)
    except PoolMessageInvalid:
        return None


def follow(built: dict[bytes, PoolTarget], step: PoolChange) -> None:
    for gone in step.removed:
        del built[gone]
    for target in step.added:
        assert target.spec.key not in built
        built[target.spec.key] = target


@given(st.lists(messages() | messages() | messages() | malformed(), max_size=25), st.booleans())
def test_the_list_after_every_message_is_the_oracles(
    sent: list[tuple[str, bytes]], canonical: bool
) -> None:
    join, built = PoolJoin(), dict[bytes, PoolTarget]()
    oracle = ListOracle("ethereum", canonical=canonical)
    for subject, payload in sent:
        message = parsed(subject, payload, canonical=canonical)
        if message is not None:
            follow(built, join.apply(message))
        oracle.take(subject, payload)
        # The steps make the same pools, perhaps with older decimals and symbols.
        assert built.keys() == join.in_force.keys()
        assert all(built[key].spec.is_same(each.spec) for key, each in join.in_force.items())
        assert {each.spec.key.hex(): described(each) for each in join.in_force.values()} == (
            oracle.in_force()
        )
        assert not join.waiting.keys() & built.keys()


@given(st.lists(messages(), min_size=1, max_size=15), st.data())
def test_a_pool_that_is_removed_always_leaves(
    sent: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    """Whatever came before, a removal makes a step of its own, and so does the pool's return."""
    join = PoolJoin()
    for subject, payload in sent:
        message = parsed(subject, payload)
        if message is not None:
            join.apply(message)
    if not join.in_force:
        return
    key, target = data.draw(
        st.sampled_from(sorted(join.in_force.items(), key=lambda each: each[0]))
    )
    assert join.apply(PoolMessage(Kind.REMOVE, {key: None})) == PoolChange(removed=(key,))
    assert join.apply(PoolMessage(Kind.ADD, {key: None})) == PoolChange(added=(target,))


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[PoolMessage], list[set[bytes]], set[bytes]]:
    """Additions and removals of a publisher, its list after each of them, and what it began with."""
    keys = [bytes.fromhex(identity) for _, identity in POOLS]
    began = set(draw(st.lists(st.sampled_from(keys), unique=True)))
    sent, lists = [], [set(began)]
    for _ in range(draw(st.integers(0, 10))):
        changed = draw(st.lists(st.sampled_from(keys), unique=True, min_size=1, max_size=3))
        kind = draw(st.sampled_from([Kind.ADD, Kind.REMOVE]))
        sent.append(PoolMessage(kind, dict.fromkeys(changed)))
        after = lists[-1] | set(changed) if kind is Kind.ADD else lists[-1] - set(changed)
        lists.append(after)
    return sent, lists, began


@given(histories(), st.data())
def test_a_reply_in_any_place_ends_in_the_publishers_list(
    history: tuple[list[PoolMessage], list[set[bytes]], set[bytes]], data: st.DataObject
) -> None:
    """The question is sent before message `asked`; the publisher answers as of `answered`; the
    reader, which began with anything, has taken `handled` messages by the time it takes the reply."""
    sent, lists, _ = history
    asked = data.draw(st.integers(0, len(sent)))
    answered = data.draw(st.integers(asked, len(sent)))
    handled = data.draw(st.integers(asked, len(sent)))
    whole = lists[answered]
    if not whole:
        return
    described_by = parsed(
        "whitelist.pools.ethereum.full",
        json.dumps(
            {
                "chain": "ethereum",
                "pools": [data.draw(records("arena", pool)) for pool in POOLS],
            }
        ).encode(),
    )
    assert described_by is not None
    join = PoolJoin()
    join.apply(described_by)
    unknown = data.draw(st.lists(st.sampled_from(sorted(described_by.ids)), unique=True))
    join.apply(PoolMessage(Kind.REMOVE, dict.fromkeys(unknown)))
    built = dict(join.in_force)
    for message in sent[asked:handled]:
        follow(built, join.apply(message))
    reply = PoolMessage(Kind.FULL, dict.fromkeys(sorted(whole)))
    follow(built, join.apply_older(reply, sent[asked:handled]))
    for message in sent[handled:]:
        follow(built, join.apply(message))
    assert set(built) == lists[-1]
    assert built == join.in_force
