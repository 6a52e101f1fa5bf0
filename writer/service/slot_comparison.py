"""A node's database held against its JSON-RPC interface, word for word."""

import random
import time
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from arena.errors import ArenaError, Scraper
from arena.layouts.protocols import MAX_TICK
from arena.writer.node.head import block_by_number
from arena.writer.node.jsonrpc import JsonRpc
from arena.writer.protocols.held import price_slots, tick_slot
from arena.writer.protocols.storage import PoolTarget
from arena.writer.scrapers.rethdb import RethDB
from arena.writer.service.finding import Finding

COMPARED_SLOTS = 20
EMPTY_SLOTS = 5
COMPARE_TRIES = 5
COMPARE_PAUSE_S = 1.0


def compare(database: RethDB, client: JsonRpc, targets: Sequence[PoolTarget]) -> Finding:
    """The same random slots of known pools from database and node at the same block."""
    last: ArenaError | None = None
    for attempt in range(COMPARE_TRIES):
        if attempt:
            time.sleep(COMPARE_PAUSE_S)
        try:
            requests = _choose_slots(database, targets)
            words = database.read_words(requests)
            number = words[0].block_number
            block = block_by_number(client, number)
            if block is None or not database.is_canonical(block.hash, number):
                continue
            at = {"blockHash": "0x" + block.hash.hex()}
            calls = [
                ("eth_getStorageAt", ("0x" + address.hex(), "0x" + slots[0].hex(), at))
                for address, slots in requests
            ]
            answers = client.batch(calls)
            if _different(requests, words, answers):
                # Perhaps the state of the block the node was making (docs/decisions/0009).
                time.sleep(COMPARE_PAUSE_S)
                answers = client.batch(calls)
        except Scraper as error:
            last = error
            continue
        for answer in answers:
            if isinstance(answer, Scraper):
                last = answer
                break
        else:
            return _compared(number, requests, words, answers)
    reason = f": {type(last).__name__}: {last}" if last is not None else ""
    return Finding("note", "compare", f"database and node had no common block to compare{reason}")


def _choose_slots(
    database: RethDB, targets: Sequence[PoolTarget]
) -> list[tuple[bytes, list[bytes]]]:
    """COMPARED_SLOTS of the pools' words that hold something, and some that never can.

    Prices of any pool, and ticks of one pool of each storage layout; as many words of each
    layout, so that few pools of one are not lost among many of another.
    """
    chance = random.SystemRandom()
    full: dict[str, list[tuple[PoolTarget, bytes]]] = {}
    for target in targets:
        words = full.setdefault(target.layout.name, [])
        words += [(target, slot) for slot in price_slots(target)]
    shuffled = chance.sample(targets, len(targets))
    by_layout = {target.layout.name: target for target in shuffled}
    for pool in database.read_pools([each.spec.key for each in by_layout.values()]).pools:
        target = next(each for each in shuffled if each.spec.key == pool.spec.key)
        full[target.layout.name] += [
            (target, tick_slot(target, tick)) for tick, _, _ in pool.values.ticks
        ]
    turns = zip_longest(*(chance.sample(words, len(words)) for words in full.values()))
    chosen = [word for turn in turns for word in turn if word is not None][:COMPARED_SLOTS]
    # Beyond the last tick there is none; the same slot of a V2 pair is as empty.
    chosen += [(target, tick_slot(target, MAX_TICK + 1)) for target in shuffled[:EMPTY_SLOTS]]
    return [(target.address, [slot]) for target, slot in chosen]


def _different(requests: Sequence[Any], words: Sequence[Any], answers: Sequence[Any]) -> list[str]:
    return [
        f"0x{address.hex()} slot 0x{slots[0].hex()}"
        for (address, slots), word, answer in zip(requests, words, answers, strict=True)
        if not isinstance(answer, str) or int(answer, 16) != word.values[0]
    ]


def _compared(
    number: int, requests: Sequence[Any], words: Sequence[Any], answers: Sequence[Any]
) -> Finding:
    different = _different(requests, words, answers)
    facts = {"block": number, "slots": len(answers), "different": len(different)}
    if different:
        return Finding(
            "fail",
            "compare",
            f"{len(different)} of {len(answers)} slots differ at block {number}: {different[0]}; the "
            "database and the RPC address are not of the same node, or the layout is unknown",
            facts,
        )
    found = f"{len(answers)} random slots equal at block {number}"
    return Finding("ok", "compare", found, facts)
