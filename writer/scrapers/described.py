"""What pools' contracts say of themselves, held against what the list says of them.

fee(), tickSpacing(), token0(), token1() and factory() of a V2 pair or V3 pool never change, so each
pool is asked once. A function that a fork lacks says nothing, neither for nor against the list, and
is logged; a refusal of any other kind is no answer, nor is it one that a contract has none of them, and
the pool is asked until there is one. The fee of a V2 pair is nowhere on the chain; the id of a V4 pool is
the hash of its description and needs no node.
"""

import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from arena.errors import PoolInvalid, RpcError, RpcRefused
from arena.specs import PoolSpec
from arena.writer.node.jsonrpc import Call, JsonRpc
from arena.writer.node.meanings import Meaning, meaning
from arena.writer.protocols.held import check_identity, protocol_of
from arena.writer.scrapers import Scrape

log = logging.getLogger(__name__)


# First four bytes of keccak256 of the signature.
_SELECTORS = {
    "fee": "0xddca3f43",
    "tickSpacing": "0xd0c93a7c",
    "token0": "0x0dfe1681",
    "token1": "0xd21220a7",
    "factory": "0xc45a0155",
    "stable": "0x22be3de1",
}
CALLS_AT_ONCE = 500
# A node behind a balancer may not have the pool yet. Whoever says nothing so often has no such function.
MOST_ASKS = 3
# Contract or node say that there is no such function; anything else says nothing of the contract.
_NO_FUNCTION = frozenset({Meaning.wrong, Meaning.other_way})

Told = dict[str, int]
"""Answers by function; one that said nothing is not in it."""


def _functions(spec: PoolSpec) -> tuple[str, ...]:
    return protocol_of(spec).functions


def contradictions_of(spec: PoolSpec, told: Mapping[str, int]) -> Iterator[tuple[str, Any, Any]]:
    """(name, listed, told) of each field that the contract contradicts; addresses in hex."""
    for name, listed in (("fee_pips", spec.fee_pips), ("tick_spacing", spec.tick_spacing)):
        function = "fee" if name == "fee_pips" else "tickSpacing"
        if (theirs := told.get(function, listed)) != listed:
            yield name, listed, theirs - (theirs >> 255 << 256)  # an int24, as it is meant
    if told.get("stable", 0):
        yield "curve", "volatile", "stable"
    for name, address in (
        ("token0", spec.token0.address),
        ("token1", spec.token1.address),
        ("factory", spec.factory),
    ):
        if name == "factory" and not any(address):
            continue  # the list does not name one
        listed = int.from_bytes(address, "big")
        if told.get(name, listed) != listed:
            yield name, f"0x{address.hex()}", f"0x{told[name]:040x}"


class Described:
    """Asks the node behind `rpc` for each pool until it was told. Calls block; several threads may
    call."""

    def __init__(self, rpc: JsonRpc) -> None:
        self._rpc = rpc
        self._lock = threading.Lock()
        self._told: dict[bytes, Told] = {}
        self._silences: dict[bytes, int] = {}  # rounds of answers in which a function was lacking
        self._late: set[bytes] = set()  # pools that were not described when first asked about
        self._named: set[bytes] = set()  # in the log, as not described
        self._believed: set[bytes] = set()  # in the log, as without a function

    def told(self, specs: Iterable[PoolSpec]) -> dict[bytes, Told]:
        """What each V2 or V3 pool says of itself, by key. RpcError."""
        wanted = [spec for spec in specs if _functions(spec)]
        with self._lock:
            new = [spec for spec in wanted if self._is_open(spec)]
            first = {spec.key for spec in new} - self._late
            self._late |= first
            questions = [
                (spec.key, name)
                for spec in new
                for name in _functions(spec)
                if name not in self._told.get(spec.key, ())
            ]
        answers = self._ask(questions)
        refused: dict[bytes, RpcRefused | None] = {}
        with self._lock:
            for (key, name), answer in zip(questions, answers, strict=True):
                known = self._told.setdefault(key, {})
                if _is_no_answer(answer):
                    refused[key] = answer if isinstance(answer, RpcRefused) else None
                elif (number := _word(answer)) is not None:
                    known[name] = number
            for spec in new:
                is_whole = len(self._told[spec.key]) == len(_functions(spec))
                if is_whole and spec.key in first:
                    self._late.discard(spec.key)
                if not self._told[spec.key]:  # a node behind may not have the contract yet
                    refused.setdefault(spec.key, None)
                if spec.key not in refused and not is_whole:
                    self._silences[spec.key] = self._silences.get(spec.key, 0) + 1
            told = {spec.key: dict(self._told.get(spec.key, {})) for spec in wanted}
            self._say_believed(new)
        if refused:
            self._say_unchecked(list(refused), next(iter(refused.values())))
        return told

    def doubtful(self, specs: Iterable[PoolSpec]) -> list[PoolSpec]:
        """Those that may have been let in before they were described, until they are `settled`."""
        with self._lock:
            return [spec for spec in specs if spec.key in self._late]

    def settled(self, specs: Iterable[PoolSpec]) -> None:
        """These were looked at after they came in; those that are described are doubtful no more."""
        with self._lock:
            self._late -= {spec.key for spec in specs if not self._is_open(spec)}

    def contradictions(self, specs: Iterable[PoolSpec]) -> dict[bytes, PoolInvalid]:
        """PoolInvalid, with both values, for each pool that is not what its description says.
        RpcError."""
        specs = tuple(specs)
        told = self.told(specs)
        found: dict[bytes, PoolInvalid] = {}
        for spec in specs:
            parts = [
                f"{name} is {theirs} by its contract, listed is {ours}"
                for name, ours, theirs in contradictions_of(spec, told.get(spec.key, {}))
            ]
            try:
                check_identity(spec)
            except PoolInvalid as error:
                found[spec.key] = error
            if parts:
                text = "; ".join(parts)
                found[spec.key] = PoolInvalid(
                    f"pool 0x{spec.key.hex()} is not installed: {text}", key=spec.key, found=text
                )
        return found

    def wrong_of(self, specs: Sequence[PoolSpec]) -> dict[bytes, PoolInvalid]:
        """The same, and none while the node does not answer, which is logged once for each pool: they
        are asked about until it does."""
        try:
            return self.contradictions(specs)
        except RpcError as error:
            self._say_unchecked([spec.key for spec in specs if _functions(spec)], error)
            return {}

    def checked(self, scrape: Scrape) -> Scrape:
        """The same without the pools that are not what they are listed as, which it names."""
        wrong = self.wrong_of([pool.spec for pool in scrape.pools])
        if not wrong:
            return scrape
        return replace(
            scrape,
            pools=tuple(pool for pool in scrape.pools if pool.spec.key not in wrong),
            invalid=(*scrape.invalid, *wrong.values()),
        )

    def _is_open(self, spec: PoolSpec) -> bool:
        known = self._told.get(spec.key)
        if known is not None and len(known) == len(_functions(spec)):
            return False
        return self._silences.get(spec.key, 0) < MOST_ASKS

    def _say_unchecked(self, keys: Sequence[bytes], error: RpcError | None) -> None:
        with self._lock:
            new = [key for key in keys if key not in self._named]
            self._named.update(new)
        if new:
            log.warning(
                "event=descriptions_unchecked pools=%d first=0x%s error=%s reason=%r: believed as listed "
                "until the node answers; it is asked again",
                len(new),
                new[0].hex(),
                "none" if error is None else type(error).__name__,
                "an answer that is none" if error is None else str(error),
            )

    def _say_believed(self, asked: Sequence[PoolSpec]) -> None:
        """Under the lock."""
        new = [
            spec
            for spec in asked
            if self._silences.get(spec.key, 0) >= MOST_ASKS and spec.key not in self._believed
        ]
        if not new:
            return
        self._believed |= {spec.key for spec in new}
        known = self._told[new[0].key]
        log.info(
            "event=descriptions_believed pools=%d first=0x%s lacks=%s reason='the contract does not say "
            "it: the list is believed'",
            len(new),
            new[0].key.hex(),
            ",".join(name for name in _functions(new[0]) if name not in known),
        )

    def _ask(self, questions: Sequence[tuple[bytes, str]]) -> list[Any]:
        """What came of each question: an answer, or RpcRefused."""
        calls: list[Call] = [
            ("eth_call", ({"to": "0x" + key.hex(), "data": _SELECTORS[name]}, "latest"))
            for key, name in questions
        ]
        parts = [calls[at : at + CALLS_AT_ONCE] for at in range(0, len(calls), CALLS_AT_ONCE)]
        found: list[Any] = []
        for part, answers in zip(parts, self._rpc.batch_many(parts), strict=True):
            found += [answers] * len(part) if isinstance(answers, RpcRefused) else answers
        return found


def _is_no_answer(answer: Any) -> bool:
    """Neither a word, nor that the contract has none: it is to be asked for again."""
    if isinstance(answer, RpcRefused):
        return meaning(answer) not in _NO_FUNCTION
    return answer != "0x" and _word(answer) is None


def _word(answer: Any) -> int | None:
    """The one word an answer consists of, without its zeros where a proxy trims them; None for a
    refusal, and for any other answer."""
    if isinstance(answer, str) and re.fullmatch(r"0x[0-9a-fA-F]{1,64}", answer):
        return int(answer, 16)
    return None
