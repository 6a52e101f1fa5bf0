"""Uniswap V2, and pairs whose contracts are the same.

Storage: 6 token0, 7 token1, 8 reserve0 0..111, reserve1 112..223, timestamp 224..255.
"""

from collections.abc import Sequence

from arena.layouts.protocols import FEE_DENOMINATOR_PIPS
from arena.layouts.slots import UNISWAP_V2
from arena.layouts.words import to_limbs
from arena.native import lib
from arena.specs import PoolSpec
from arena.values import PoolValues
from arena.writer.protocols.contract import AbiWords, EventFields, LogEvent, PoolProtocol, refusal
from arena.writer.protocols.storage import PoolTarget, SlotList, Stages, StorageLayout, slot_key

V2_LAYOUT = StorageLayout("uniswap_v2", slot0=8)
_TOKEN_SLOTS = (6, 7)
_SLOTS = SlotList(map(slot_key, (V2_LAYOUT.slot0, *_TOKEN_SLOTS)))
_UINT112 = (1 << 112) - 1
_FINAL_VARIANT = 2

V2_SYNC = bytes.fromhex("1c411e9a96e071241c2f21f7726b17ae89e3cab4c78be50e062b03a9fffbbad1")


def _sync(read: AbiWords, topics: Sequence[bytes], words: Sequence[bytes]) -> EventFields:
    reserves = [read.unsigned(word, 112) for word in words]
    return {
        "kind": lib.PSA_EVENT_V2_SYNC,
        "update_type": lib.PSA_UPDATE_SWAP,
        "variant": 22,
        "words": _words_of(*reserves),
    }


def _words_of(reserve0: int, reserve1: int) -> tuple[int, ...]:
    return (*to_limbs(reserve0, 4), *to_limbs(reserve1, 4))


def read_reserves(word: int) -> tuple[int, int]:
    """reserve0 and reserve1 of a pair's word."""
    return word & _UINT112, word >> 112 & _UINT112


class UniswapV2(PoolProtocol):
    """Pairs: two reserves, which every Sync tells whole."""

    number = UNISWAP_V2
    layouts = (V2_LAYOUT,)
    events = (LogEvent(V2_SYNC, 1, 2, _sync),)
    price_event = lib.PSA_EVENT_V2_SYNC
    functions = ("token0", "token1", "factory")

    def check(self, spec: PoolSpec, values: PoolValues) -> None:
        """Fee, and the range of the reserves."""
        if not 0 <= spec.fee_pips <= self.row.max_fee_pips:
            raise refusal(spec, f"fee_pips {spec.fee_pips} is not in [0, {FEE_DENOMINATOR_PIPS})")
        for name, reserve in (("reserve0", values.reserve0), ("reserve1", values.reserve1)):
            if not 0 <= reserve <= _UINT112:
                raise refusal(spec, f"{name} {reserve} does not fit uint112")

    def price_slots(self, target: PoolTarget) -> tuple[bytes, ...]:
        return (slot_key(target.layout.slot0),)

    def final(self, target: PoolTarget, words: Sequence[int]) -> EventFields:
        return {
            "kind": lib.PSA_EVENT_V2_FINAL,
            "variant": _FINAL_VARIANT,
            "words": _words_of(*read_reserves(words[0])),
        }

    def stages(self, target: PoolTarget, block_number: int) -> Stages:
        spec = target.spec
        reserves, *tokens = yield _SLOTS
        for name, token, word in (
            ("token0", spec.token0, tokens[0]),
            ("token1", spec.token1, tokens[1]),
        ):
            listed = int.from_bytes(token.address, "big")
            if word != listed:
                raise refusal(
                    spec, f"{name} in its storage is {word:#042x}, listed is {listed:#042x}"
                )
        reserve0, reserve1 = read_reserves(reserves)
        return PoolValues(block_number, spec.fee_pips, reserve0=reserve0, reserve1=reserve1)
