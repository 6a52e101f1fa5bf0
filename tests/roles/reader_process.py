"""A reader as an outside program would be: attaches by name, looks, compares.

Run as a script: `roles/reader_process.py NAME SECONDS`. Obeys JSON lines on stdin, answers each with one
on stdout, and ends when stdin closes:

    {"do": "live", "block", "seconds"}
                                    wait until a living writer's phase is live and its head no lower
    {"do": "expect", "block", "set", "drop", "settle", "seconds"}
                                    change what is expected of pools, then compare one view
    {"do": "fees", "keys"}          lp_fee and protocol_fee of V4 pools
    {"do": "quotes", "asks"}        [key, zero_for_one, exact_out, amount] each, all from one view
    {"do": "follow", "keys", "blocks", "seconds"}
                                    look at every block until all keys have been live for so many;
                                    answers the states of those that were live, by block
    {"do": "hold", "key"}           take a handle on a pool
    {"do": "until_removed", "seconds"}
                                    quote through it until the pool is removed
    {"do": "stay", "keys", "seconds"}
                                    look and quote until a file `enough` is there; answers what was
                                    refused or not live
    {"do": "watch", "keys", "last", "seconds"}
                                    look as often as possible until a view is `last`; answers every
                                    distinct [block, digest of the states] seen
    {"do": "record", "keys"}        look, from now on and beside other commands, after every commit and
                                    change of phase
    {"do": "recorded"}              what that saw since it was last asked: time, block, phase, whether
                                    writer and pools are live, and states where they changed
"""

import hashlib
import json
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from builders.shown import shown

import arena


def digest(states: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(states, sort_keys=True).encode()).hexdigest()


class Reader:
    def __init__(self, name: str, seconds: float) -> None:
        self.pools = arena.attach(name, timeout=seconds)
        self.expected: dict[str, Any] = {}

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = getattr(self, "do_" + command.pop("do"))(**command)
        return result

    def do_live(self, seconds: float, block: int = 0) -> dict[str, Any]:
        limit = time.monotonic() + seconds
        pools = self.pools
        while pools.phase != "live" or not pools.writer_alive or pools.head_block < block:
            if time.monotonic() > limit:
                return {"ok": False, "phase": pools.phase, "head": pools.head_block}
            time.sleep(0.002)
        return {"ok": True}

    def look(self, keys: Any) -> tuple[int, dict[str, Any], list[str]]:
        """(block number, states, keys that are not live) of one view."""
        while True:
            try:
                with self.pools.snapshot() as view:
                    states = {key: view[key].state() for key in keys}
                    block_number = view.block_number
            except arena.SnapshotTooOld:
                continue
            idle = [key for key, state in states.items() if state.status != "live"]
            return int(block_number), {key: shown(s) for key, s in states.items()}, idle

    def differences(self, block: int) -> dict[str, Any]:
        try:
            number, found, idle = self.look(self.expected)
        except arena.UnknownPool as error:  # of an arena that is being filled again
            return {"unknown": str(error)}
        result: dict[str, Any] = {}
        if number != block:
            result["block_number"] = [number, block]
        if idle:
            result["not_live"] = idle
        for key, expected in self.expected.items():
            for name, value in expected.items():
                if found[key][name] != value:
                    result.setdefault(key, {})[name] = [found[key][name], value]
        return result

    def do_expect(
        self, block: int, set: dict[str, Any], drop: list[str], settle: bool, seconds: float
    ) -> dict[str, Any]:
        self.expected.update(set)
        for key in drop:
            del self.expected[key]
        limit = time.monotonic() + seconds
        while not settle and (head := self.pools.head_block) < block:
            if time.monotonic() > limit:
                return {"ok": False, "head": head, "phase": self.pools.phase}
            self.pools.wait_block(after=head, timeout=1.0)
        while (found := self.differences(block)) and settle and time.monotonic() < limit:
            self.pools.wait_block(after=max(block, self.pools.head_block), timeout=0.01)
        return {"ok": not found, "phase": self.pools.phase, "found_and_expected": found}

    def do_fees(self, keys: list[str]) -> dict[str, Any]:
        with self.pools.snapshot(keys) as view:
            states = {key: view[key].state() for key in keys}
        return {"fees": {k: [int(s.lp_fee), int(s.protocol_fee)] for k, s in states.items()}}

    def do_quotes(self, asks: list[list[Any]]) -> dict[str, Any]:
        answers: list[Any] = []
        with self.pools.snapshot(list(dict.fromkeys(ask[0] for ask in asks))) as view:
            for key, zero_for_one, exact_out, amount in asks:
                pool = view[key]
                ask = pool.quote_exact_out if exact_out else pool.quote_exact_in
                try:
                    quote = ask(amount, zero_for_one=zero_for_one)
                except arena.QuoteError as error:
                    answers.append(type(error).__name__)
                    continue
                after = (quote.sqrt_price_x96_after, quote.tick_after, quote.liquidity_after)
                numbers = (quote.amount_in, quote.amount_out, *after)
                answers.append([*map(int, numbers), bool(quote.is_complete)])
            block = int(view.block_number)
        return {"block": block, "answers": answers}

    def do_follow(self, keys: list[str], blocks: int, seconds: float) -> dict[str, Any]:
        limit = time.monotonic() + seconds
        seen: dict[int, dict[str, Any]] = {}
        statuses: dict[str, list[str]] = {key: [] for key in keys}
        whole = 0
        while whole < blocks and time.monotonic() < limit:
            try:
                with self.pools.snapshot() as view:
                    number = int(view.block_number)
                    there = [key for key in keys if key in view]
                    states = {key: view[key].state() for key in there}
            except arena.SnapshotTooOld:
                continue
            for key in keys:
                status = states[key].status if key in states else "unknown"
                if statuses[key][-1:] != [status]:
                    statuses[key].append(status)
            live = {key: shown(s) for key, s in states.items() if s.status == "live"}
            if number not in seen:
                whole += len(live) == len(keys)
            seen[number] = {**seen.get(number, {}), **live}
            self.pools.wait_commit(after=view.commit, timeout=0.1)
        return {"ok": whole >= blocks, "seen": list(seen.items()), "statuses": statuses}

    def do_hold(self, key: str) -> dict[str, Any]:
        self.held = self.pools[key]
        return {"ok": self.held.status == "live"}

    def do_until_removed(self, seconds: float) -> dict[str, Any]:
        limit = time.monotonic() + seconds
        pool, key = self.held, self.held.key
        quotes = 0
        errors: dict[str, int] = {}
        while time.monotonic() < limit:
            try:
                pool.quote_exact_in(10**12, zero_for_one=True)
                pool.state()
                quotes += 1
            except arena.PoolRemoved as error:
                return {"ok": key in str(error), "quotes": quotes, "errors": errors}
            except arena.ArenaError as error:
                errors[type(error).__name__] = errors.get(type(error).__name__, 0) + 1
        return {"ok": False, "quotes": quotes, "errors": errors}

    def do_stay(self, keys: list[str], seconds: float) -> dict[str, Any]:
        limit = time.monotonic() + seconds
        pools = {key: self.pools[key] for key in keys}
        views = 0
        seen: dict[str, int] = {}
        while not Path("enough").exists() and time.monotonic() < limit:
            number, _, idle = self.look(keys)
            views += 1
            for key in idle:
                seen[f"not live: {key}"] = number
            for key, pool in pools.items():
                try:
                    pool.quote_exact_in(10**12, zero_for_one=True)
                except arena.ArenaError as error:
                    if not isinstance(error, arena.QuoteError):
                        seen[f"{type(error).__name__}: {key}"] = number
        return {"ok": not seen and time.monotonic() < limit, "views": views, "seen": seen}

    def do_watch(self, keys: list[str], last: list[Any], seconds: float) -> dict[str, Any]:
        seen: dict[tuple[int, str], None] = {}
        limit = time.monotonic() + seconds
        views = 0
        while time.monotonic() < limit:
            number, states, idle = self.look(keys)
            views += 1
            if idle:
                return {"ok": False, "not_live": idle, "block": number}
            look = number, digest(states)
            seen[look] = None
            if look == tuple(last):
                return {"ok": True, "views": views, "seen": list(seen)}
        return {"ok": False, "views": views, "seen": list(seen)}

    def do_record(self, keys: list[str]) -> dict[str, Any]:
        self.records: deque[dict[str, Any]] = deque()
        threading.Thread(target=self.record, args=(keys,), daemon=True).start()
        return {"ok": True}

    def record(self, keys: list[str]) -> None:
        kept: dict[str, Any] = {}
        last: Any = None
        commit = 0
        while True:
            phase, reason = self.pools.phase, self.pools.phase_reason
            alive = self.pools.writer_alive
            committed = self.pools.committed
            if (phase, reason, alive, committed) == last:
                commit = self.pools.wait_commit(after=commit, timeout=0.05) or commit
                continue
            last, commit = (phase, reason, alive, committed), committed
            try:
                with self.pools.snapshot() as view:
                    block = int(view.block_number)
                    states = {key: view[key].state() for key in keys if key in view}
            except arena.SnapshotTooOld:
                last = None
                continue
            live = {key: shown(s) for key, s in states.items() if s.status == "live"}
            changed = {key: state for key, state in live.items() if kept.get(key) != state}
            kept = {key: state for key, state in kept.items() if key in live} | changed
            self.records.append(
                {
                    "time": time.time(),
                    "block": block,
                    "phase": phase,
                    "reason": reason,
                    "alive": alive,
                    "live": sorted(live) if len(live) < len(keys) else None,
                    "set": changed,
                }
            )

    def do_recorded(self) -> dict[str, Any]:
        # One by one: a list exchanged for another would lose what is being added to it.
        return {"records": [self.records.popleft() for _ in range(len(self.records))]}


def main() -> None:
    reader = Reader(sys.argv[1], float(sys.argv[2]))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(reader.obey(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
