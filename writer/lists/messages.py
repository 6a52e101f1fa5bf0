"""Messages about pools on NATS: read in both publishers' dialects, joined into one list in force.

Subjects `whitelist.pools.CHAIN.*`. `.minimal` says what happens to which identities but describes
no pool; `.full` describes pools but, without a `type`, does not say whether it adds them or is the
whole list. `.add`, `.remove` and a `.full` that is the whole list are the canonical publisher's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

import orjson

from arena.errors import PoolEntryInvalid, PoolMessageInvalid
from arena.writer.lists.pool_list import parse_pool_ids, parse_pool_records
from arena.writer.lists.source import PoolChange, difference
from arena.writer.protocols.storage import PoolTarget

MAX_REMEMBERED = 1 << 16  # ids that wait, and as many descriptions of pools that left: 40 MB
SUFFIXES = ("minimal", "full", "add", "remove")
REASONS = (
    "not_json",
    "not_an_object",
    "no_chain",
    "no_pools",
    "unknown_type",
    "protocols_do_not_match",
    "empty_full_list",
    "not_a_full_list",
)
"""What a PoolMessageInvalid can have as its `reason`."""


class Kind(StrEnum):
    """What a message does to the list."""

    FULL = "full"  # replaces it
    ADD = "add"
    REMOVE = "remove"
    REFRESH = "refresh"  # adds or describes anew, never removes: a whole list or an addition


@dataclass(frozen=True, slots=True)
class PoolMessage:
    """One message, read: `ids` are all keys it names, in its order, with the protocol (UNISWAP_*)
    where it has it; `targets` are those it describes, which is all of them or none."""

    kind: Kind
    ids: dict[bytes, int | None]
    targets: dict[bytes, PoolTarget] = field(default_factory=dict)
    refused: tuple[PoolEntryInvalid, ...] = ()


def read_message(payload: bytes, *, subject: str) -> dict[str, Any]:
    """The object a payload holds; its `chain` is a string. PoolMessageInvalid."""
    try:
        content = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        _refuse(subject, "not_json", f"not valid JSON ({error})", "send an object as UTF-8 JSON")
    if not isinstance(content, dict):
        _refuse(subject, "not_an_object", f"it is a {type(content).__name__}", "send a JSON object")
    if not isinstance(content.get("chain"), str):
        _refuse(subject, "no_chain", "no `chain`", "say which chain the pools are on")
    return content


def parse_message(
    content: dict[str, Any],
    *,
    subject: str,
    suffix: str,
    canonical_publisher: bool = False,
    must_be_whole: bool = False,
) -> PoolMessage:
    """What a message says; `suffix`, one of SUFFIXES, is the last word of its subject.

    `canonical_publisher`: a `.full` that does not say what it is, is the whole list.
    `must_be_whole`: nothing but a whole list will do. PoolMessageInvalid, also for a full list
    without a usable pool: it is never applied.
    """
    kind = _kind(content, subject, suffix, canonical_publisher)
    if must_be_whole and kind is not Kind.FULL:
        _refuse(subject, "not_a_full_list", f"its `type` is {kind}", "reply with the whole list")
    if kind is Kind.REMOVE:
        name = "pool_addresses" if "pool_addresses" in content else "pools"
        found = parse_pool_ids(_array(content, name, subject), name=subject)
        return PoolMessage(kind, found.protocols, refused=found.refused)
    entries = _array(content, "pools", subject)
    if suffix == "minimal":
        protocols = content.get("protocols")
        if protocols is not None and (
            not isinstance(protocols, list) or len(protocols) != len(entries)
        ):
            _refuse(
                subject,
                "protocols_do_not_match",
                f"{len(entries)} pools and other `protocols`",
                "name one protocol for each pool",
            )
        found = parse_pool_ids(entries, protocols, name=subject)
        message = PoolMessage(kind, found.protocols, refused=found.refused)
    else:
        described = parse_pool_records(entries, name=subject)
        targets = {target.spec.key: target for target in described.targets}
        ids: dict[bytes, int | None] = {
            key: target.spec.protocol for key, target in targets.items()
        }
        message = PoolMessage(kind, ids, targets, described.refused)
    if kind is Kind.FULL and not message.ids:
        refused = message.refused
        found_text = f"a full list with {len(entries)} entries and no usable pool"
        if refused:
            found_text += f", the first: {refused[0]}"
        _refuse(subject, "empty_full_list", found_text, "remove the pools one by one", len(refused))
    return message


def _kind(content: dict[str, Any], subject: str, suffix: str, canonical_publisher: bool) -> Kind:
    if suffix in ("add", "remove"):
        return Kind(suffix)
    named = content.get("type")
    if named is None:
        if suffix == "minimal":
            return Kind.FULL
        if "pool_addresses" in content:
            return Kind.REMOVE
        return Kind.FULL if canonical_publisher else Kind.REFRESH
    if named not in ("full", "add", "remove"):
        _refuse(subject, "unknown_type", f"`type` is {named!r:.100}", "it is full, add or remove")
    return Kind(named)


def _array(content: dict[str, Any], name: str, subject: str) -> list[Any]:
    found = content.get(name)
    if not isinstance(found, list):
        kind = "no" if found is None else f"a {type(found).__name__} as"
        _refuse(subject, "no_pools", f"{kind} `{name}`", f"send an array as `{name}`")
    return found


def _refuse(subject: str, reason: str, found: str, remedy: str, refused: int = 0) -> NoReturn:
    raise PoolMessageInvalid(
        f"message on {subject}: {found}; {remedy}",
        subject=subject,
        reason=reason,
        found=found,
        remedy=remedy,
        refused=refused,
    )


class PoolJoin:
    """The list in force, as messages change it: kinds and descriptions joined by identity.

    A pool is in force once it was named, is described, and was not removed since. `waiting` are ids
    that were named without a description of theirs having come; a message that describes them adds
    them, as it would any pool. Descriptions of pools that left are kept for ids named again.
    """

    def __init__(self, targets: tuple[PoolTarget, ...] = ()) -> None:
        self.in_force = {target.spec.key: target for target in targets}
        self.waiting: dict[bytes, None] = {}
        self.overflowed = 0  # ids that could not wait: MAX_REMEMBERED were waiting
        self._left: dict[bytes, PoolTarget] = {}

    def apply(self, message: PoolMessage) -> PoolChange:
        """Take over a message; the step it makes, which may be none."""
        if message.kind is Kind.FULL:
            self.waiting.clear()
            touched = self.in_force
        else:
            touched = {key: self.in_force[key] for key in message.ids if key in self.in_force}
        named: dict[bytes, PoolTarget] = {}
        if message.kind is Kind.REMOVE:
            for key in message.ids:
                self.waiting.pop(key, None)
        else:
            named = self._named(message)
        step = difference(touched, named)
        for key in step.removed:
            self._left[key] = self.in_force.pop(key)
        for key in named.keys() & self.in_force.keys():
            self.in_force[key] = named[key]  # decimals and symbols may be newer
        for target in step.added:
            self.in_force[target.spec.key] = target
            self._left.pop(target.spec.key, None)
        while len(self._left) > MAX_REMEMBERED:
            del self._left[next(iter(self._left))]
        return step

    def apply_older(self, message: PoolMessage, since: Sequence[PoolMessage]) -> PoolChange:
        """Take over a message that belongs before an unknown number of `since`, which are in force
        already; the step this makes.

        All of `since` are repeated on top. Where the message knows of the first of them, repeating
        those changes nothing in the end: each pool is as the last message about it says.
        """
        before = self.in_force.copy()
        for each in (message, *since):
            self.apply(each)
        return difference(before, self.in_force)

    def _named(self, message: PoolMessage) -> dict[bytes, PoolTarget]:
        """The message's pools that are described by it or were before; the others wait."""
        found: dict[bytes, PoolTarget] = {}
        for key, protocol in message.ids.items():
            target = message.targets.get(key) or self.in_force.get(key) or self._left.get(key)
            if target is not None and (
                key in self.in_force or protocol in (None, target.spec.protocol)
            ):
                found[key] = target
                self.waiting.pop(key, None)
            elif key in self.waiting or len(self.waiting) < MAX_REMEMBERED:
                self.waiting[key] = None
            else:
                self.overflowed += 1
        return found
