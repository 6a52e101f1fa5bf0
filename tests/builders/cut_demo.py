"""Cuts the recordings that `arena-demo` plays out of tests/data/evm, into writer/demo.

Origin: each recording is a run of consecutive blocks of one recorded chain, reorgs included as they
happened, encoded as the producer of generation 15 sends them; the contracts' own answers stand
beside it. No recording has both reorgs and quotes because no recorded chain has, so there are
several; each has its own feed. Run from anywhere: `python tests/builders/cut_demo.py [FOLDER]`.

For a recording NAME:
    chain_NAME.exex       raw frames: blocks first_block..last_block
    states_NAME.jsonl     state file of its pools at block first_block - 1
    quotes_NAME.jsonl     real swaps (V2: the router's library), a line each: `pool`, `block`,
                          `zero_for_one`, `mode` (exact_in or exact_out), `amount` (the exact side),
                          `limit` (always null: no price limit) and the contract's `amount_in`,
                          `amount_out`; V3 and V4 also `sqrt_price_x96_after`, `tick_after`,
                          `liquidity_after`
and `recordings.json` lists them. Integers that may exceed 2**53 are decimal strings.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

from chains.evm_data import DYNAMIC_FEE, Chain, load, records, write_state_file

from builders.frames import Exex, pieces

DEMO = TESTS.parent / "writer" / "demo"


@dataclass(frozen=True, slots=True)
class Recording:
    name: str
    title: str
    chain: str
    first_block: int
    last_block: int
    quotes: str | None
    quote_blocks: int
    """Quotes are taken at every this-many-th quoted block."""


RECORDINGS = (
    Recording("reorg", "V2, V3 and V4 pools over three reorgs", "reorg", 48, 68, None, 0),
    Recording("v2", "V2 pairs with the router's answers", "v2_chain", 56, 103, "v2_quotes", 4),
    Recording("v3", "V3 pools with real swaps' amounts", "v3_chain", 56, 103, "v3_quotes", 1),
    Recording("v4", "V4 pools with real swaps' amounts", "v4_chain", 56, 103, "v4_quotes", 1),
)


def _block_before(chain: Chain, recording: Recording) -> str:
    """Hash of the block below the recording's first, on the branch it continues."""
    served = pieces(chain, Exex(), first=recording.first_block, last=recording.last_block)
    return chain.blocks[served[0].block_hash].parent_hash


def _result(row: dict[str, Any], quote: dict[str, Any]) -> dict[str, Any] | None:
    """Amounts and state after, or None where the contract refused or filled only in part."""
    exact_in = quote["mode"] == "in"
    after = {}
    if "lib" in quote:
        if not quote["lib"]["ok"]:
            return None
        sides = quote["amt"], quote["lib"]["amount"]
        amount_in, amount_out = sides if exact_in else sides[::-1]
    else:
        swap = quote["swap"]
        if quote["limit"] is not None or not swap["ok"]:
            return None
        amount0, amount1 = abs(swap["amount0"]), abs(swap["amount1"])
        amount_in, amount_out = (amount0, amount1) if quote["zf1"] else (amount1, amount0)
        after = {
            "sqrt_price_x96_after": str(swap["sqrtPriceX96After"]),
            "tick_after": swap["tickAfter"],
            "liquidity_after": str(swap["liquidityAfter"]),
        }
    if min(amount_in, amount_out) == 0 or quote["amt"] != (amount_in if exact_in else amount_out):
        return None
    return {
        "pool": row["pool"],
        "block": row["block"],
        "zero_for_one": quote["zf1"],
        "mode": "exact_in" if exact_in else "exact_out",
        "amount": str(quote["amt"]),
        "limit": None,
        "amount_in": str(amount_in),
        "amount_out": str(amount_out),
        **after,
    }


def _quotable(chain: Chain, key: str, block_hash: str, start: dict[str, Any]) -> bool:
    """Whether the pool's state alone answers: no hook fee, and fees as at the recording's start."""
    if chain.pools[key].fee_pips == DYNAMIC_FEE:
        return False
    now = chain.state_at(block_hash)[key]
    return all(now.get(fee) == start[key].get(fee) for fee in ("lpFee", "protocolFee"))


def quote_lines(chain: Chain, recording: Recording, keys: list[str]) -> Iterator[dict[str, Any]]:
    """One answer for each pool and quoted block: the largest complete one, directions in turn."""
    assert recording.quotes is not None
    start = chain.state_at(_block_before(chain, recording))
    turns = [(True, "in"), (False, "out"), (False, "in"), (True, "out")]
    blocks: list[int] = []
    for row in records(recording.quotes):
        if not recording.first_block <= row["block"] <= recording.last_block:
            continue
        if row["block"] not in blocks:
            blocks.append(row["block"])
        if (len(blocks) - 1) % recording.quote_blocks or row["pool"] not in keys:
            continue
        if not _quotable(chain, row["pool"], row["hash"], start):
            continue
        turn = turns[(len(blocks) + keys.index(row["pool"])) % 4]
        answers = [
            line
            for quote in row["quotes"]
            if (quote["zf1"], quote["mode"]) == turn and (line := _result(row, quote)) is not None
        ]
        if answers:
            yield max(answers, key=lambda line: int(line["amount_in"]))


def cut(folder: Path) -> None:
    """Write every recording and the list of them into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for recording in RECORDINGS:
        chain = load(recording.chain)
        before = _block_before(chain, recording)
        keys = chain.initialised_at(before)
        first, last = recording.first_block, recording.last_block
        served = pieces(chain, Exex(tracked=set(keys)), first=first, last=last)
        stream = b"".join(piece.data for piece in served)
        (folder / f"chain_{recording.name}.exex").write_bytes(stream)
        states = folder / f"states_{recording.name}.jsonl"
        write_state_file(states, chain, dict.fromkeys(keys, before))
        entry: dict[str, Any] = {
            "name": recording.name,
            "title": recording.title,
            "first_block": first,
            "last_block": last,
            "pools": {key: chain.pools[key].name for key in keys},
            "reorgs": [
                {"ancestor": p.reorg.ancestor_number, "depth": len(p.reorg.orphaned)}
                for p in served
                if p.reorg is not None
            ],
            "quotes": 0,
        }
        if recording.quotes is not None:
            lines = list(quote_lines(chain, recording, keys))
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"quotes_{recording.name}.jsonl").write_text(text)
            entry["quotes"] = len(lines)
        listed.append(entry)
    (folder / "recordings.json").write_text(json.dumps(listed, indent=1) + "\n")


if __name__ == "__main__":
    cut(Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO)
