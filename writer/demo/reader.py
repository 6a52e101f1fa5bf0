"""A reader as any other program would write it: a process of its own, public API only.

`python -m arena.writer.demo.reader NAME pools KEY...` prints one JSON line for each commit it sees:
`block` and what each pool is worth. `... NAME quotes FILE` quotes the swaps of FILE at their blocks
and prints what it got beside what the contracts returned. Both end when the writer has stopped.
"""

import json
import sys
import time
from collections import defaultdict
from typing import Any

import arena

ATTACH_TIMEOUT_S = 20.0
WAIT_S = 0.5
SETTLE_S = 0.005
COMPARED = (
    "amount_in",
    "amount_out",
    "sqrt_price_x96_after",
    "tick_after",
    "liquidity_after",
)


def emit(record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)


def next_commit(pools: Any, seen: int) -> int | None:
    """Number of a commit after `seen` while the arena is live; None when the writer has stopped."""
    while True:
        commit = pools.wait_commit(after=seen, timeout=WAIT_S)
        if commit is not None and pools.phase == "live":
            return int(commit)
        if pools.phase == "stopped" or not pools.writer_alive:
            return None
        if commit is not None:
            time.sleep(SETTLE_S)  # not live yet: commits come faster than they are of use


def worth(state: Any) -> dict[str, Any]:
    """The numbers that move, as strings where they are large."""
    if state.protocol == "uniswap_v2":
        return {"reserve0": str(state.reserve0), "reserve1": str(state.reserve1)}
    return {
        "tick": int(state.tick),
        "liquidity": str(state.liquidity),
        "ticks": len(state.ticks),
    }


def show_pools(name: str, keys: list[str]) -> None:
    pools = arena.attach(name, timeout=ATTACH_TIMEOUT_S)
    commit = 0
    while (newest := next_commit(pools, commit)) is not None:
        commit = newest
        with pools.snapshot(keys) as view:
            shown = {key: worth(view[key].state()) for key in keys}
            emit({"block": int(view.block_number), "pools": shown})


def answer(pool: Any, quote: dict[str, Any]) -> dict[str, Any]:
    """The quote's fields as the file spells them."""
    if quote["mode"] == "exact_in":
        found = pool.quote_exact_in(int(quote["amount"]), zero_for_one=quote["zero_for_one"])
    else:
        found = pool.quote_exact_out(int(quote["amount"]), zero_for_one=quote["zero_for_one"])
    return {field: int(getattr(found, field)) for field in COMPARED if field in quote}


def show_quotes(name: str, path: str) -> None:
    pools = arena.attach(name, timeout=ATTACH_TIMEOUT_S)
    wanted: dict[int, list[dict[str, Any]]] = defaultdict(list)
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            quote = json.loads(line)
            wanted[quote["block"]].append(quote)
    commit = 0
    while (newest := next_commit(pools, commit)) is not None:
        commit = newest
        if pools.head_block not in wanted:
            continue
        keys = sorted({quote["pool"] for quote in wanted[pools.head_block]})
        with pools.snapshot(keys) as view:
            for quote in wanted.pop(view.block_number, ()):
                contract = {field: int(quote[field]) for field in COMPARED if field in quote}
                try:
                    found: dict[str, Any] = answer(view[quote["pool"]], quote)
                except arena.ArenaError as error:
                    found = {"error": f"{type(error).__name__}: {error}"}
                emit({"quote": quote, "found": found, "match": found == contract})
    emit({"missed": sum(len(quotes) for quotes in wanted.values())})


def main() -> None:
    name, role, *rest = sys.argv[1:]
    if role == "pools":
        show_pools(name, rest)
    else:
        show_quotes(name, rest[0])


if __name__ == "__main__":
    main()
