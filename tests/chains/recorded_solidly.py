"""Chains of Solidly pairs as they were recorded: blocks, what getters and storage said after each,
and answers of getAmountOut.

Imports nothing of the product. A chain is a file of tests/data/protocols, or of the folder that
PSA_PROTOCOLS names.
"""

import gzip
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from builders.reth_database import keccak

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (
    ROOT / "tests" / "data" / "protocols",
    Path(os.environ.get("PSA_PROTOCOLS", ROOT.parent / "shared" / "protocols")),
)
Row = dict[str, Any]
FEES_SLOT = 8


def files() -> list[Path]:
    """The chain of each file's quotes, once by content."""
    seen: dict[bytes, Path] = {}
    for folder in FOLDERS:
        for path in sorted(folder.glob("solidly*_chain*.jsonl.gz")):
            seen.setdefault(path.read_bytes(), path)
    return list(seen.values())


chains = pytest.mark.parametrize("path", files(), ids=lambda path: path.name.split(".")[0])


def rows(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        yield from map(json.loads, stream)


class Recorded:
    """A chain: its pairs, its blocks, and what was true after each.

    A state has every pair where it is `full`, else those that logged something; `whole` adds each
    other pair as it was last recorded. Between full states a fee may be other than the last one.
    """

    def __init__(self, path: Path) -> None:
        self.blocks: list[Row] = []
        self.states: dict[str, Row] = {}
        self.whole: dict[str, Row] = {}
        known: Row = {}
        for row in rows(path):
            if row["type"] == "meta":
                self.meta = row
            elif row["type"] == "block":
                self.blocks.append(row)
            else:
                known = known | row["pools"]
                self.states[row["hash"]] = row
                self.whole[row["hash"]] = row | {"pools": known}
        self.factory = str(self.meta["factory"])
        self.is_first_kind = self.meta["protocol"] == "solidly_v1"
        self.volatile = [key for key, pool in self.meta["pools"].items() if not pool["stable"]]
        quotes = path.with_name(path.name.replace("_chain", "_quotes"))
        self.quotes = [
            row for row in rows(quotes) if row["type"] == "quotes" and row["pool"] in self.volatile
        ]

    def block(self, number: int) -> Row:
        return self.blocks[number - int(self.blocks[0]["number"])]

    def truth(self, number: int) -> dict[str, dict[str, int]]:
        """What the getters of the volatile pairs said at the end of that block."""
        pools = self.whole[self.block(number)["hash"]]["pools"]
        return {key: getters(pools[key]) for key in self.volatile}

    def full_blocks(self) -> list[int]:
        """Numbers of the blocks with a full state."""
        return [state["block"] for state in self.states.values() if state["full"]]

    def pool_list(self) -> list[Row]:
        """What a pool list file holds, the volatile pairs."""
        pools = {key: self.meta["pools"][key] for key in self.volatile}
        named = {"protocol": self.meta["protocol"], "factory": self.factory}
        return [
            {"address": key, "token0": pool["token0"], "token1": pool["token1"], **named}
            for key, pool in pools.items()
        ]


def getters(pool: Row) -> dict[str, int]:
    """What the getters of a recorded state said; a contract's fee is in 1/10,000."""
    reserves = {name: int(pool[name]) for name in ("reserve0", "reserve1")}
    return {"fee_pips": 100 * int(pool["fee"]), **reserves}


def storage(chain: Recorded, state: Row, lower: int = 0) -> Mapping[tuple[bytes, bytes], int]:
    """Words by account and slot, as the node showed them; the factory's are the getters' numbers.
    `lower`: the pair's as if it had been built with the base contract that has a word less."""
    found: dict[tuple[bytes, bytes], int] = {}
    factory = bytes.fromhex(chain.factory[2:])
    is_first_kind = chain.is_first_kind
    fees = {3 if is_first_kind else 2: "volatileFee", 2 if is_first_kind else 1: "stableFee"}
    for slot, name in fees.items():
        found[factory, slot.to_bytes(32, "big")] = int(state["factory"][name])
    for key, pool in state["pools"].items():
        account = bytes.fromhex(key[2:])
        slots = {int(slot) - lower: int(word, 16) for slot, word in pool["slots"].items()}
        for slot in range(32):
            found[account, slot.to_bytes(32, "big")] = slots.get(slot, 0)
        if not is_first_kind:
            found[factory, custom_fee_slot(account)] = int(pool["customFeeWord"], 16)
    return found


def custom_fee_slot(pool: bytes) -> bytes:
    place = pool.rjust(32, b"\0") + FEES_SLOT.to_bytes(32, "big")
    return keccak(place)


def log_json(log: Row, block: Row) -> Row:
    """A recorded log as eth_getLogs gives it."""
    number = {"transactionIndex": log["transactionIndex"], "logIndex": log["logIndex"]}
    return (
        log
        | {name: hex(value) for name, value in number.items()}
        | {"blockNumber": hex(block["number"]), "blockHash": block["hash"], "removed": False}
    )
