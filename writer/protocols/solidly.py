"""Volatile pairs of Solidly and its successors. Facts of the contracts at aerodrome-finance/contracts
a5fae2e (Pool.sol, PoolFactory.sol) and velodrome-finance/v1 de6b2a1 (Pair.sol, PairFactory.sol).

solidly     pair: 12 `stable` in bit 160, 13 token0, 14 token1, 16 factory, 20 reserve0, 21 reserve1;
            all of these one lower where the pair was built with OpenZeppelin 5;
            factory: 2 fee of volatile pairs, 8 mapping of fees of single pairs (0 none, 420 means zero)
solidly_v1  pair: 8 reserve0, 9 reserve1, all else in its code; factory: 3 fee of volatile pairs

Fees are in 1/10,000 and may be changed without an event: they are read with the reserves, and the audit
compares them.
"""

from collections.abc import Mapping, Sequence

from arena.layouts.protocols import FEE_DENOMINATOR_PIPS
from arena.layouts.slots import SOLIDLY, UNISWAP_V2
from arena.layouts.words import to_limbs
from arena.native import lib
from arena.specs import PoolSpec
from arena.values import PoolValues
from arena.writer.protocols.contract import AbiWords, EventFields, LogEvent, PoolProtocol, refusal
from arena.writer.protocols.fields import PoolFields
from arena.writer.protocols.storage import (
    PoolTarget,
    SlotList,
    Stages,
    StorageLayout,
    mapping_slot,
    slot_key,
)

SOLIDLY_LAYOUT = StorageLayout("solidly", slot0=20)
SOLIDLY_V1_LAYOUT = StorageLayout("solidly_v1", slot0=8)
_STABLE, _TOKEN0, _TOKEN1, _FACTORY, _RESERVE0, _RESERVE1 = 12, 13, 14, 16, 20, 21
_SLOTS = (11, 12, 13, 14, 15, 16, 19, 20, 21)
_PRICE_SLOTS = (13, 14, 19, 20, 21)
_STABLE_BIT = 160
_VOLATILE_FEE_SLOT = {"solidly": slot_key(2), "solidly_v1": slot_key(3)}
_FEES_SLOT = slot_key(8)
_ZERO_FEE = 420
_FEE_DENOMINATOR = 10_000
_MAX_RESERVE = (1 << 128) - 1
_FINAL_VARIANT = 2

SYNC = bytes.fromhex("cf2aa50876cdfbb541206f89af0ee78d44a2abf8d328e37fa4917f982149848a")


def _sync(read: AbiWords, topics: Sequence[bytes], words: Sequence[bytes]) -> EventFields:
    reserves = [int.from_bytes(word, "big") for word in words]
    # A change has room for any word, and no pair takes one: what a line cannot hold makes it stale.
    fits = max(reserves) <= _MAX_RESERVE
    return {
        "kind": lib.PSA_EVENT_V2_SYNC if fits else lib.PSA_EVENT_V2_DELTA,
        "protocol": UNISWAP_V2,  # as frames call the events of pairs; which pair, the key says
        "update_type": lib.PSA_UPDATE_SWAP,
        "variant": 22 if fits else 0,
        "words": _words_of(reserves),
    }


def _words_of(reserves: Sequence[int]) -> tuple[int, ...]:
    return (*to_limbs(reserves[0], 4), *to_limbs(reserves[1], 4))


class Solidly(PoolProtocol):
    """Two reserves, which every Sync tells whole, and a fee that the factory keeps."""

    number = SOLIDLY
    layouts = (SOLIDLY_LAYOUT, SOLIDLY_V1_LAYOUT)
    events = (LogEvent(SYNC, 1, 2, _sync),)
    price_event = lib.PSA_EVENT_V2_SYNC
    functions = ("token0", "token1", "factory", "stable")

    def check(self, spec: PoolSpec, values: PoolValues) -> None:
        """Factory, fee, and the range of the reserves."""
        if not any(spec.factory):
            raise refusal(spec, "no factory is named, which has its fee")
        step = FEE_DENOMINATOR_PIPS // _FEE_DENOMINATOR
        if values.fee_pips % step or not 0 <= values.fee_pips <= FEE_DENOMINATOR_PIPS:
            raise refusal(
                spec,
                f"fee_pips {values.fee_pips} is no multiple of {step} in "
                f"[0, {FEE_DENOMINATOR_PIPS}]",
            )
        for name, reserve in (("reserve0", values.reserve0), ("reserve1", values.reserve1)):
            if not 0 <= reserve <= _MAX_RESERVE:
                raise refusal(spec, f"{name} {reserve} does not fit 128 bits")

    def price_slots(self, target: PoolTarget) -> tuple[bytes, ...]:
        is_first_kind = target.layout is SOLIDLY_V1_LAYOUT
        return tuple(map(slot_key, (8, 9) if is_first_kind else _PRICE_SLOTS))

    def final(self, target: PoolTarget, words: Sequence[int]) -> EventFields | None:
        if target.layout is not SOLIDLY_V1_LAYOUT:
            found = dict(zip(_PRICE_SLOTS, words, strict=True))
            lower = _how_low(target.spec, found)
            words = found[_RESERVE0 - lower], found[_RESERVE1 - lower]
        if max(words) > _MAX_RESERVE:
            return None  # stale already
        return {
            "kind": lib.PSA_EVENT_V2_FINAL,
            "protocol": UNISWAP_V2,
            "variant": _FINAL_VARIANT,
            "words": _words_of(words),
        }

    def stages(self, target: PoolTarget, block_number: int) -> Stages:
        spec, layout = target.spec, target.layout
        is_first_kind = layout is SOLIDLY_V1_LAYOUT
        if is_first_kind:
            reserve0, reserve1 = yield SlotList(self.price_slots(target))
        else:
            words = yield SlotList(map(slot_key, _SLOTS))
            reserve0, reserve1 = _described(spec, dict(zip(_SLOTS, words, strict=True)))
        slots = [_VOLATILE_FEE_SLOT[layout.name]]
        if not is_first_kind:
            slots.append(mapping_slot(int.from_bytes(spec.key, "big"), _FEES_SLOT))
        general, *own = yield SlotList(slots, account=spec.factory)
        fee = general
        if any(own):
            fee = 0 if own[0] == _ZERO_FEE else own[0]
        if fee > _FEE_DENOMINATOR:
            raise refusal(spec, f"its factory has the fee {fee}, above {_FEE_DENOMINATOR}")
        pips = fee * (FEE_DENOMINATOR_PIPS // _FEE_DENOMINATOR)
        return PoolValues(block_number, pips, reserve0=reserve0, reserve1=reserve1)

    def listed(self, fields: PoolFields, identity: str, key: bytes) -> PoolSpec:
        spec = super().listed(fields, identity, key)
        if not any(spec.factory):
            fields.refuse("no `factory`", "add the pair's factory: it has the fee")
        if fields.record.get("stable"):
            fields.refuse("`stable` is true", "only volatile pairs are held")
        return spec


def _how_low(spec: PoolSpec, words: Mapping[int, int]) -> int:
    """How many slots lower than in the contracts on chain a pair's words lie: 0 or 1."""
    return int(words[_TOKEN1 - 1] == int.from_bytes(spec.token1.address, "big"))


def _described(spec: PoolSpec, words: Mapping[int, int]) -> tuple[int, int]:
    """The reserves, of a pair that is what its list says."""
    lower = _how_low(spec, words)
    for name, slot, address in (
        ("token0", _TOKEN0, spec.token0.address),
        ("token1", _TOKEN1, spec.token1.address),
        ("factory", _FACTORY, spec.factory),
    ):
        if (word := words[slot - lower]) != int.from_bytes(address, "big"):
            raise refusal(
                spec, f"{name} in its storage is {word:#042x}, listed is 0x{address.hex()}"
            )
    if words[_STABLE - lower] >> _STABLE_BIT & 1:
        raise refusal(spec, "it is a stable pair; only volatile ones are held")
    return words[_RESERVE0 - lower], words[_RESERVE1 - lower]
