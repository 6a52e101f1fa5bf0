"""A node with a recorded chain of Solidly pairs, up to the block it stands at.

Storage and getters are as recorded, at every block of the chain. It has no other way to storage than
eth_getStorageAt. Imports nothing of the product.
"""

from functools import cache
from typing import Any

from builders.history import SimBlock
from chains.evm_data import Block
from chains.recorded_solidly import Recorded, Row, log_json, storage

from doubles.node_server import NodeServer

GETTERS = {"0x0dfe1681": "token0", "0xd21220a7": "token1", "0x22be3de1": "stable"}
FACTORY = "0xc45a0155"


class MethodMissing(LookupError):
    code = -32601


class Reverted(LookupError):
    code = 3


def as_served(block: Row) -> SimBlock:
    """The recording leaves out logs of tokens: those that are left are numbered without a hole, and
    the header's filter speaks of them alone. It was made without base fees; here they move, as where a
    chain is used, so that an empty block can be told from another."""
    logs = [log_json(log | {"logIndex": at}, block) for at, log in enumerate(block["logs"])]
    place = (block["number"], block["hash"], block["parentHash"], block["timestamp"])
    return SimBlock(Block(*place, ()), 1000 + 13 * block["number"], {}, kept={"logs": tuple(logs)})


class RecordedNode(NodeServer):
    """Stands at block `number` at first."""

    def __init__(self, recorded: Recorded, number: int) -> None:
        self.recorded = recorded
        self._served = tuple(map(as_served, recorded.blocks))
        self._words = cache(lambda block_hash: storage(recorded, recorded.whole[block_hash]))
        super().__init__(())
        self.stand_at(number)

    @property
    def number(self) -> int:
        """Of its newest block."""
        return self.chain[-1].number

    def stand_at(self, number: int) -> None:
        self.chain = self._served[: number - self._served[0].number + 1]
        assert self.number == number, f"nothing is recorded after block {self.number}"

    def answer(self, view: tuple[SimBlock, ...], method: str, params: list[Any]) -> Any:
        if method == "eth_getStorageAt":
            super().answer(view, method, params)  # refuses a block that it has not
            place = (bytes.fromhex(params[0][2:]), int(params[1], 16).to_bytes(32, "big"))
            return f"0x{self._words(params[2]['blockHash']).get(place, 0):064x}"
        if method == "eth_call" and len(params) < 3:
            return f"0x{self._getter(params[0]):064x}"
        try:
            return super().answer(view, method, params)
        except LookupError as error:
            if "does not exist" in str(error):
                raise MethodMissing(str(error)) from None
            raise

    def _getter(self, call: Row) -> int:
        """Of what never changes."""
        pool = self.recorded.meta["pools"].get(call["to"])
        name = GETTERS.get(call["data"])
        if pool is None:
            raise Reverted("execution reverted")
        if name == "stable":
            return int(pool[name])
        if name is not None:
            return int(pool[name], 16)
        # Pairs of the first kind keep their factory to themselves.
        if call["data"] == FACTORY and not self.recorded.is_first_kind:
            return int(self.recorded.factory, 16)
        raise Reverted("execution reverted")
