"""Swaps one after another on a node, by a contract that pays with what it holds.

Swapper.sol is that contract. `cd tests && python -m chains.swapper` compiles it with the compiler from npm
and writes Swapper.json, which is what tests deploy; they need no compiler.
"""

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from chains.evm import signed, split, word, words
from chains.market import ZERO, Market

HERE = Path(__file__).resolve().parent
SOURCE, COMPILED = HERE / "Swapper.sol", HERE / "Swapper.json"
COMPILER = "solc@0.8.26"
KINDS = {"uniswap_v2": 2, "uniswap_v3": 3, "pancakeswap_v3": 3, "uniswap_v4": 4}
SWAP_EVENTS = {
    "Swap(address,uint256,uint256,uint256,uint256,address)": 2,
    "Swap(address,address,int256,int256,uint160,uint128,int24)": 3,
    "Swap(address,address,int256,int256,uint160,uint128,int24,uint128,uint128)": 3,
    "Swap(bytes32,address,int128,int128,uint160,uint128,int24,uint24)": 4,
}


class Leg(NamedTuple):
    """A swap to make: `amount` above 0 goes in, below 0 comes out."""

    key: str
    zero_for_one: bool
    amount: int


class Made(NamedTuple):
    """A swap as its pool's own event tells it."""

    key: str
    amount_in: int
    amount_out: int


@dataclass(frozen=True, slots=True)
class Execution:
    """A transaction that swapped: `held` is what the contract has afterwards, by token, without zeros."""

    swaps: list[Made]
    ticks: list[int]  # at which each swap left its pool; 0 of a pair
    held: dict[str, int]
    gas: int


class Swapper:
    """The contract on the node of a market; it holds nothing but what it is given."""

    def __init__(self, market: Market) -> None:
        self.market = market
        compiled = json.loads(COMPILED.read_text())
        assert compiled["source"] == source_hash(), (
            "Swapper.sol changed: run python -m chains.swapper"
        )
        code = bytes.fromhex(compiled["bytecode"])
        (receipt,) = market.node.run([market.node.transaction(None, code)])
        self.address: str = receipt["contractAddress"].lower()
        topics = market.node.keccak(*(name.encode() for name in SWAP_EVENTS))
        self._kinds = {
            "0x" + topic.hex(): kind
            for topic, kind in zip(topics, SWAP_EVENTS.values(), strict=True)
        }
        compound = "(uint256,address,address,address,uint24,int24,bool,int256)[]"
        self._selector = market.node.selector(f"run({compound})")

    def transaction(self, legs: Sequence[Leg]) -> dict[str, str]:
        """That makes these swaps in this order."""
        data = self._selector + words(32, len(legs))
        for leg in legs:
            pool = self.market.by_key[leg.key]
            tokens = (pool.token0, pool.token1)[:: 1 if leg.zero_for_one else -1]
            data += words(KINDS[pool.kind], pool.address, *tokens, pool.fee_pips)
            data += words(pool.tick_spacing, int(leg.zero_for_one), leg.amount)
        return self.market.node.transaction(self.address, data)

    def give(self, amounts: Mapping[str, int]) -> list[dict[str, str]]:
        """Transactions that give it so much of these tokens; what it has of the coin is replaced at once."""
        if ZERO in amounts:
            self.market.node.call("anvil_setBalance", self.address, hex(amounts[ZERO]))
        return [
            self.market._call(token, "mint(address,uint256)", self.address, amount)
            for token, amount in amounts.items()
            if token != ZERO
        ]

    def execute(self, legs: Sequence[Leg], held: Mapping[str, int]) -> Execution:
        """Make the swaps with exactly these amounts in hand, in a block behind the present one, and take all
        of it back."""
        node = self.market.node
        snapshot = node.call("evm_snapshot")
        try:
            receipt = node.run([*self.give(held), self.transaction(legs)])[-1]
            found = list(self._swaps(receipt["logs"]))
            swaps, ticks = [swap for swap, _ in found], [tick for _, tick in found]
            return Execution(swaps, ticks, self._held(), int(receipt["gasUsed"], 16))
        finally:
            assert node.call("evm_revert", snapshot)

    def _swaps(self, logs: list[dict[str, str]]) -> Iterable[tuple[Made, int]]:
        """Of the pools' events, in order, with the tick each left."""
        for log in logs:
            kind = self._kinds.get(log["topics"][0])
            if kind is None:
                continue
            values = split(bytes.fromhex(log["data"][2:]))
            if kind == 2:
                paid = values[0] + values[1], values[2] + values[3]
                assert 0 in values[:2]
                assert 0 in values[2:]
                yield Made(log["address"].lower(), *paid), 0
                continue
            # Amounts of V3 are the pool's, those of V4 the caller's.
            sign = -1 if kind == 4 else 1
            amounts = [sign * signed(value) for value in values[:2]]
            key = log["topics"][1] if kind == 4 else log["address"]
            yield Made(key.lower(), max(amounts), -min(amounts)), signed(values[4])

    def _held(self) -> dict[str, int]:
        node = self.market.node
        asked = "0x" + (node.selector("balanceOf(address)") + word(self.address)).hex()
        tokens = [token for token in self.market.tokens if token != ZERO]
        answers = node.batch(
            [("eth_call", ({"to": token, "data": asked}, "latest")) for token in tokens]
            + [("eth_getBalance", (self.address, "latest"))]
        )
        found = zip([*tokens, ZERO], answers, strict=True)
        return {token: int(answer, 16) for token, answer in found if int(answer, 16)}


def source_hash() -> str:
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def compile_source() -> None:
    """Write Swapper.json anew."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npx", "--yes", "--package", COMPILER, "solcjs", "--optimize", "--bin"]
        subprocess.run([*command, "-o", folder, SOURCE.name], cwd=HERE, check=True)
        code = (Path(folder) / "Swapper_sol_Swapper.bin").read_text()
    made = {"compiler": COMPILER, "source": source_hash(), "bytecode": code}
    COMPILED.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    compile_source()
