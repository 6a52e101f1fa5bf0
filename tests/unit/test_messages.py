"""Whitelist messages: what each dialect says, what is refused, and what a sequence leaves in force.

The captured messages are applied in their order and in many others; what is in force after each is
worked out anew by tests/oracle/whitelist_oracle.py, which shares no code with the product.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from builders.listed import described
from oracle.whitelist_oracle import Described, ListOracle

from arena.errors import PoolMessageInvalid
from arena.writer.lists import messages as module
from arena.writer.lists.messages import (
    REASONS,
    Kind,
    PoolJoin,
    PoolMessage,
    parse_message,
    read_message,
)
from arena.writer.lists.source import PoolChange
from arena.writer.protocols.storage import PoolTarget

PAIR = "0x028d3b9c77b31bff265b211fc068f51aadbb46f0"
POOL = "0xa7cb6c9ce55b9c03f4b89d419a3f8bd8654bb462"
POOL_ID = "0x8968be2ca9290f9a553d64bd7a9383f875a7880d308620cb49569b593a621809"
LOW, HIGH = "0x" + "11" * 20, "0x" + "22" * 20
MANAGER = "0x000000000004444c5dc75cb358380d2e3de08a90"


def key(identity: str) -> bytes:
    return bytes.fromhex(identity.removeprefix("0x"))


def record(identity: str = POOL, **changed: Any) -> dict[str, Any]:
    """A good V3 record in the arena dialect with changes; ... removes a field."""
    entry: dict[str, Any] = {"id": identity, "protocol": "uniswap_v3", "token0": LOW}
    entry |= {"token1": HIGH, "fee": 500, "tick_spacing": 10} | changed
    return {name: value for name, value in entry.items() if value is not ...}


def parse(suffix: str, *, canonical: bool = False, **content: Any) -> PoolMessage:
    subject = f"whitelist.pools.ethereum.{suffix}"
    payload = json.dumps({"chain": "ethereum"} | content).encode()
    read = read_message(payload, subject=subject)
    return parse_message(read, subject=subject, suffix=suffix, canonical_publisher=canonical)


def full(*records: Any, **content: Any) -> PoolMessage:
    return parse("full", pools=list(records), **content)


def minimal(kind: str, *ids: str, **content: Any) -> PoolMessage:
    return parse("minimal", type=kind, pools=list(ids), **content)


class Reader:
    """Takes messages from bytes, and builds the list again from the steps alone."""

    def __init__(self, *, canonical: bool = False) -> None:
        self.canonical = canonical
        self.join = PoolJoin()
        self.built: dict[bytes, PoolTarget] = {}
        self.steps: list[PoolChange] = []

    def take(self, subject: str, payload: bytes) -> None:
        suffix = subject.split(".")[-1]
        try:
            content = read_message(payload, subject=subject)
            if content["chain"] != "ethereum" or suffix not in module.SUFFIXES:
                return
            message = parse_message(
                content, subject=subject, suffix=suffix, canonical_publisher=self.canonical
            )
        except PoolMessageInvalid:
            return
        self.follow(self.join.apply(message))

    def follow(self, step: PoolChange) -> None:
        self.steps.append(step)
        for gone in step.removed:
            del self.built[gone]  # a KeyError would be a pool removed that was not in force
        for target in step.added:
            assert target.spec.key not in self.built
            self.built[target.spec.key] = target

    def in_force(self) -> dict[str, Described]:
        """The list, with the decimals and symbols that came last; the steps make the same pools."""
        listed = {key: target.spec for key, target in self.join.in_force.items()}
        assert self.built.keys() == listed.keys()
        assert all(self.built[key].spec.is_same(spec) for key, spec in listed.items())
        return {each.spec.key.hex(): described(each) for each in self.join.in_force.values()}


# ---- the captured messages


@pytest.fixture(scope="module")
def captured(data_dir: Path) -> list[tuple[str, str, bytes]]:
    listed = json.loads((data_dir / "wire" / "whitelist" / "messages.json").read_text())
    return [(each["what"], each["subject"], each["payload"].encode()) for each in listed]


def by_kind(captured: list[tuple[str, str, bytes]]) -> dict[str, tuple[str, bytes]]:
    return {what.split(" (")[0]: (subject, payload) for what, subject, payload in captured}


@pytest.mark.parametrize(
    ("what", "kind", "ids", "targets", "refused"),
    [
        ("full/minimal", Kind.FULL, 3, 0, 0),
        ("full/full", Kind.REFRESH, 3, 3, 0),
        ("add/minimal", Kind.ADD, 3, 0, 0),
        ("add/full", Kind.REFRESH, 3, 3, 0),
        ("remove/minimal", Kind.REMOVE, 3, 0, 0),
        ("remove/full", Kind.REMOVE, 3, 0, 0),
        ("legacy publisher minimal", Kind.FULL, 2, 0, 1),
        ("legacy publisher full", Kind.REFRESH, 3, 3, 0),
        ("canonical full", Kind.REFRESH, 4, 4, 0),
        ("canonical add", Kind.ADD, 2, 2, 0),
        ("canonical remove", Kind.REMOVE, 3, 0, 0),
    ],
)
def test_every_captured_message_is_read(
    captured: list[tuple[str, str, bytes]],
    what: str,
    kind: Kind,
    ids: int,
    targets: int,
    refused: int,
) -> None:
    subject, payload = by_kind(captured)[what]
    suffix = subject.split(".")[-1]
    content = read_message(payload, subject=subject)
    message = parse_message(content, subject=subject, suffix=suffix)
    assert message.kind is kind
    assert (len(message.ids), len(message.targets), len(message.refused)) == (ids, targets, refused)
    canonical = parse_message(content, subject=subject, suffix=suffix, canonical_publisher=True)
    assert canonical.kind is (Kind.FULL if kind is Kind.REFRESH else kind)
    assert canonical.targets == message.targets


@pytest.mark.parametrize("canonical", [False, True])
def test_captured_messages_in_any_order(
    captured: list[tuple[str, str, bytes]], rng: random.Random, canonical: bool
) -> None:
    """After every message: the list is the oracle's, and so is the list built from the steps."""
    assert len(captured) == 12
    seen = set()
    for number in range(300):
        order = list(captured)
        if number:
            rng.shuffle(order)
        reader, oracle = Reader(canonical=canonical), ListOracle("ethereum", canonical=canonical)
        for what, subject, payload in order:
            reader.take(subject, payload)
            oracle.take(subject, payload)
            assert reader.in_force() == oracle.in_force(), (what, [each[0] for each in order])
        seen.add(frozenset(reader.built))
        # A pool is never in force after a message that removes it, unless a later one names it.
        after = order
        for position, (what, _, _) in enumerate(order):
            if "remove" in what:
                after = order[position + 1 :]
        named_later = b"".join(payload for what, _, payload in after)
        for pool in (PAIR, POOL, POOL_ID):
            assert key(pool) not in reader.built or pool.encode() in named_later
    assert len(seen) > 3  # the orders differ in what they leave


def test_captured_removals_at_the_end_leave_the_three_out(
    captured: list[tuple[str, str, bytes]], rng: random.Random
) -> None:
    others = [each for each in captured if "remove" not in each[0]]
    removals = [each for each in captured if "remove" in each[0]]
    assert len(removals) == 3
    for _ in range(50):
        rng.shuffle(others)
        reader = Reader()
        for _, subject, payload in [*others, rng.choice(removals)]:
            reader.take(subject, payload)
        assert not {key(PAIR), key(POOL), key(POOL_ID)} & set(reader.built)


# ---- kinds


def test_the_subject_decides_for_add_and_remove() -> None:
    assert parse("add", type="remove", pools=[record()]).kind is Kind.ADD
    assert parse("remove", type="full", pool_addresses=[POOL]).kind is Kind.REMOVE


@pytest.mark.parametrize("kind", ["full", "add", "remove"])
def test_the_type_decides_on_minimal_and_full(kind: str) -> None:
    assert minimal(kind, POOL).kind == kind
    named = [POOL] if kind == "remove" else [record()]
    for canonical in (False, True):
        assert parse("full", type=kind, pools=named, canonical=canonical).kind == kind


def test_minimal_without_type_is_the_whole_list() -> None:
    assert parse("minimal", pools=[POOL]).kind is Kind.FULL


def test_full_with_pool_addresses_removes() -> None:
    message = parse("full", pool_addresses=[POOL], canonical=True)
    assert (message.kind, list(message.ids)) == (Kind.REMOVE, [key(POOL)])


def test_full_without_type_is_a_replacement_only_of_a_canonical_publisher() -> None:
    assert full(record()).kind is Kind.REFRESH
    assert full(record(), canonical=True).kind is Kind.FULL


# ---- refused


@pytest.mark.parametrize(
    ("suffix", "payload", "reason"),
    [
        ("full", b"", "not_json"),
        ("full", b"{", "not_json"),
        ("full", b'{"chain":"ethereum","pools":[\xff]}', "not_json"),
        ("full", b"[" * 100_000, "not_json"),
        ("full", b"[]", "not_an_object"),
        ("full", b"null", "not_an_object"),
        ("full", b'"ethereum"', "not_an_object"),
        ("full", b'{"pools":[]}', "no_chain"),
        ("full", b'{"chain":1,"pools":[]}', "no_chain"),
        ("full", b'{"chain":"ethereum"}', "no_pools"),
        ("full", b'{"chain":"ethereum","pools":{}}', "no_pools"),
        ("add", b'{"chain":"ethereum","pool_addresses":[]}', "no_pools"),
        ("remove", b'{"chain":"ethereum"}', "no_pools"),
        ("remove", b'{"chain":"ethereum","pool_addresses":"0x"}', "no_pools"),
        ("minimal", b'{"chain":"ethereum","pools":7}', "no_pools"),
        ("minimal", b'{"chain":"ethereum","type":"some","pools":[]}', "unknown_type"),
        ("full", b'{"chain":"ethereum","type":["add"],"pools":[]}', "unknown_type"),
        (
            "minimal",
            b'{"chain":"ethereum","type":"add","pools":["0x1"],"protocols":[]}',
            "protocols_do_not_match",
        ),
        (
            "minimal",
            b'{"chain":"ethereum","pools":["0x1"],"protocols":"v"}',
            "protocols_do_not_match",
        ),
        ("minimal", b'{"chain":"ethereum","type":"full","pools":[]}', "empty_full_list"),
        ("minimal", b'{"chain":"ethereum","pools":["0x12"]}', "empty_full_list"),
        ("full", b'{"chain":"ethereum","type":"full","pools":[]}', "empty_full_list"),
        ("full", b'{"chain":"ethereum","type":"full","pools":[7]}', "empty_full_list"),
    ],
    ids=str,
)
def test_malformed_messages_are_refused_whole(suffix: str, payload: bytes, reason: str) -> None:
    subject = f"whitelist.pools.ethereum.{suffix}"
    with pytest.raises(PoolMessageInvalid) as caught:
        parse_message(read_message(payload, subject=subject), subject=subject, suffix=suffix)
    assert caught.value.reason == reason
    assert reason in REASONS
    assert subject in str(caught.value)
    assert caught.value.remedy in str(caught.value)


def test_an_empty_full_list_of_a_canonical_publisher_is_refused() -> None:
    with pytest.raises(PoolMessageInvalid) as caught:
        full(canonical=True)
    assert caught.value.reason == "empty_full_list"
    with pytest.raises(PoolMessageInvalid) as caught:
        full(record(fee=-1), record(protocol="ekubo"), canonical=True)
    assert (caught.value.reason, caught.value.refused) == ("empty_full_list", 2)


def test_a_reply_must_be_a_whole_list() -> None:
    content = {"chain": "ethereum", "type": "add", "pools": [POOL]}
    with pytest.raises(PoolMessageInvalid) as caught:
        parse_message(content, subject="asked", suffix="minimal", must_be_whole=True)
    assert caught.value.reason == "not_a_full_list"
    assert caught.value.reason in REASONS
    content["type"] = "full"
    assert parse_message(content, subject="asked", suffix="minimal", must_be_whole=True).ids


def test_entries_are_skipped_one_by_one() -> None:
    other = "0x" + "33" * 20
    message = full(
        record(),
        record(other, protocol="curve_stable"),
        record(other, fee=...),
        record(MANAGER, protocol="uniswap_v4"),
        {"pools": 1},
        POOL_ID,
        record(PAIR),
    )
    assert list(message.targets) == [key(POOL), key(PAIR)]
    assert len(message.refused) == 5


@pytest.mark.parametrize(
    ("identity", "protocol", "is_held"),
    [
        (POOL, "v2", True),
        (POOL, "uniswap_v3", True),
        (POOL.upper(), "V3", True),
        (POOL[2:], "UniswapV2", True),
        (POOL_ID, "v4", True),
        (POOL, "v4", False),
        (POOL_ID, "v3", False),
        (POOL, "sushiswap_v2", True),
        (POOL, "SushiSwapV3", True),
        (POOL_ID, "sushiswap_v3", False),
        (POOL, "ekubo", False),
        (POOL, None, False),
        (POOL, 3, False),
        ("0x1234", "v3", False),
        (7, "v3", False),
    ],
)
def test_identities_are_held_to_their_protocol(identity: Any, protocol: Any, is_held: bool) -> None:
    message = parse("minimal", type="add", pools=[LOW, identity], protocols=["v2", protocol])
    assert len(message.ids) == 1 + is_held
    assert len(message.refused) == 1 - is_held


def test_protocols_of_a_removal_are_ignored() -> None:
    assert list(minimal("remove", POOL, protocols=[]).ids) == [key(POOL)]


# ---- the join


def joined(*applied: PoolMessage) -> Reader:
    reader = Reader()
    for message in applied:
        reader.follow(reader.join.apply(message))
    return reader


def test_an_id_waits_for_its_description() -> None:
    reader = joined(minimal("add", POOL))
    assert not reader.built
    assert list(reader.join.waiting) == [key(POOL)]
    reader.follow(reader.join.apply(full(record())))
    assert list(reader.built) == [key(POOL)]
    assert not reader.join.waiting


def test_an_id_that_is_removed_waits_no_more() -> None:
    reader = joined(minimal("add", POOL), minimal("remove", POOL))
    assert not reader.join.waiting


def test_a_description_alone_adds() -> None:
    assert list(joined(full(record())).built) == [key(POOL)]


def test_naming_a_pool_in_force_changes_nothing() -> None:
    reader = joined(full(record()), minimal("add", POOL), minimal("full", POOL))
    assert [bool(step) for step in reader.steps] == [True, False, False]


def test_a_whole_list_of_ids_removes_what_it_leaves_out() -> None:
    reader = joined(full(record(), record(PAIR)), minimal("full", POOL, LOW))
    assert reader.steps[-1] == PoolChange(removed=(key(PAIR),))
    assert list(reader.join.waiting) == [key(LOW)]


def test_a_whole_list_forgets_ids_that_waited() -> None:
    reader = joined(minimal("add", LOW), minimal("full", POOL))
    assert list(reader.join.waiting) == [key(POOL)]


def test_a_refresh_never_removes() -> None:
    reader = joined(full(record(), record(PAIR)), full(record(LOW)))
    assert set(reader.built) == {key(POOL), key(PAIR), key(LOW)}


def test_another_description_is_a_pool_read_anew() -> None:
    reader = joined(full(record()), full(record(fee=3000)), full(record(fee=3000)))
    assert reader.steps[1].removed == (key(POOL),)
    assert [target.spec.fee_pips for target in reader.steps[1].added] == [3000]
    assert not reader.steps[2]


def test_removed_and_added_again_are_two_steps() -> None:
    """Also where both carry one snapshot_id, as removal and addition of one run do."""
    reader = joined(
        full(record()),
        minimal("remove", POOL, snapshot_id=7),
        minimal("add", POOL, protocols=["v3"], snapshot_id=7),
        full(record()),
    )
    added, removed, again, nothing = reader.steps
    assert removed == PoolChange(removed=(key(POOL),))
    assert again == added
    assert not nothing


def test_an_earlier_description_is_not_used_for_another_protocol() -> None:
    reader = joined(full(record()), minimal("remove", POOL), minimal("add", POOL, protocols=["v2"]))
    assert not reader.built
    assert list(reader.join.waiting) == [key(POOL)]


def test_a_fork_and_what_its_contracts_are_name_the_same_pool() -> None:
    named = minimal("add", POOL, protocols=["sushiswap_v3"])
    reader = joined(full(record()), minimal("remove", POOL), named)
    assert list(reader.built) == [key(POOL)]
    described_so = joined(minimal("add", POOL, protocols=["v3"]), full(record(protocol="SushiV3")))
    assert described_so.in_force() == reader.in_force()


def test_what_waits_and_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 3)
    ids = ["0x" + f"{number:02x}" * 20 for number in range(1, 6)]
    join = PoolJoin()
    join.apply(minimal("add", *ids[:3]))
    assert (len(join.waiting), join.overflowed) == (3, 0)
    join.apply(minimal("add", *ids))
    assert (len(join.waiting), join.overflowed) == (3, 2)
    # A pool that could not wait is added by its description all the same.
    join.apply(full(*map(record, ids)))
    assert (len(join.in_force), len(join.waiting)) == (5, 0)
    join.apply(minimal("remove", *ids))
    join.apply(minimal("add", *ids))
    assert list(join.in_force) == [key(each) for each in ids[2:]]
    assert list(join.waiting) == [key(each) for each in ids[:2]]


def test_a_reply_does_not_undo_what_came_since() -> None:
    """The reply names a pool whose removal, sent later, was taken first."""
    reader = joined(full(record(), record(PAIR)))
    since = [minimal("remove", POOL), full(record(LOW))]
    for message in since:
        reader.follow(reader.join.apply(message))
    reader.follow(reader.join.apply_older(minimal("full", POOL, PAIR), since))
    assert set(reader.built) == {key(PAIR), key(LOW)}
    assert not reader.steps[-1]
