"""What Uniswap V3, V4 and their forks have in common: a price, liquidity in range, ticks.

Slot 0 has sqrtPriceX96 0..159 and tick 160..183, in all of them. A tick's word at key(tick, ticks) is
liquidityGross 0..127, liquidityNet (signed) 128..255. A bitmap word lies at key(c >> 8, tickBitmap) with
c = floor(tick / spacing), the tick's bit is c & 255.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from arena.layouts.protocols import MAX_SQRT_PRICE_X96, MAX_TICK, MIN_SQRT_PRICE_X96, MIN_TICK
from arena.layouts.words import from_limbs, to_limbs
from arena.native import ffi, lib
from arena.specs import PoolSpec
from arena.values import PoolValues
from arena.writer.protocols.contract import AbiWords, EventFields, PoolProtocol, refusal
from arena.writer.protocols.storage import (
    PoolTarget,
    SlotList,
    Stages,
    StorageLayout,
    keccak256,
    mapping_slot,
    signed,
    slot_key,
)

UINT24 = (1 << 24) - 1
_UINT128 = (1 << 128) - 1
_UINT160 = (1 << 160) - 1
_FINAL_VARIANT = 0


def swap_fields(read: AbiWords, words: Sequence[bytes], variant: int) -> EventFields:
    """A swap's price, liquidity and tick afterwards."""
    return {
        "kind": lib.PSA_EVENT_CL_SWAP,
        "update_type": lib.PSA_UPDATE_SWAP,
        "variant": variant,
        "words": [*to_limbs(read.unsigned(words[0], 160), 4), 0, 0, 0, 0],
        "amount": to_limbs(read.unsigned(words[1], 128), 2),
        "tick": read.signed(words[2], 24),
    }


def liquidity_fields(
    read: AbiWords, lower: bytes, upper: bytes, delta: int, variant: int, is_mint: bool
) -> EventFields:
    """Liquidity that came between two ticks, or left."""
    return {
        "kind": lib.PSA_EVENT_CL_LIQUIDITY,
        "update_type": lib.PSA_UPDATE_MINT if is_mint else lib.PSA_UPDATE_BURN,
        "variant": variant,
        "tick_lower": read.signed(lower, 24),
        "tick_upper": read.signed(upper, 24),
        "amount": to_limbs(delta, 2),
    }


def sqrt_price_at_tick(tick: int) -> int:
    """Square root of 1.0001**tick as Q64.96, rounded up, for a tick in [MIN_TICK, MAX_TICK]."""
    limbs = ffi.new("uint64_t[4]")
    if lib.psa_sqrt_price_at_tick(tick, limbs):
        raise ValueError(f"tick {tick} is outside [{MIN_TICK}, {MAX_TICK}]")
    return from_limbs(list(limbs))


def bitmap_words(tick_spacing: int) -> range:
    """Positions of every bitmap word a pool of that spacing can use, lowest first."""
    highest = MAX_TICK // tick_spacing
    return range(-highest >> 8, (highest >> 8) + 1)


def read_slot0(word: int) -> tuple[int, int]:
    """sqrt_price_x96 and tick of a slot 0."""
    return word & _UINT160, signed(word >> 160 & UINT24, 24)


class Concentrated(PoolProtocol):
    """Pools with ticks."""

    price_event = lib.PSA_EVENT_CL_SWAP

    def check_description(self, spec: PoolSpec) -> None:
        """PoolInvalid for what is wrong whatever the storage says."""

    def fees_of(self, spec: PoolSpec, slot0: int, block_number: int) -> dict[str, Any]:
        """The fees among PoolValues."""
        return {"fee_pips": spec.fee_pips}

    def price_slots(self, target: PoolTarget) -> tuple[bytes, ...]:
        return _price_slots(self.base(target.spec), target.layout)

    def final(self, target: PoolTarget, words: Sequence[int]) -> EventFields | None:
        price, tick = read_slot0(words[0])
        if price == 0:
            return None
        return {
            "kind": lib.PSA_EVENT_SLOT0_FINAL,
            "variant": _FINAL_VARIANT,
            "words": [*to_limbs(price, 4), 0, 0, 0, 0],
            "amount": to_limbs(words[1] & _UINT128, 2),
            "tick": tick,
        }

    def stages(self, target: PoolTarget, block_number: int) -> Stages:
        """Two stages: price, liquidity and the whole bitmap, then every tick whose bit is set."""
        spec, layout = target.spec, target.layout
        self._check_spacing(spec)
        self.check_description(spec)
        is_alone = not self.row.is_managed
        if is_alone:
            first = _shared_first_slots(layout, spec.tick_spacing)
        else:
            first = _first_slots(self.base(spec), layout, spec.tick_spacing)
        slot0, liquidity, *bitmap = yield first
        price, current_tick = read_slot0(slot0)
        if price == 0:
            raise refusal(spec, "sqrt_price_x96 is 0: the pool is not initialized")
        _check_layout(target, slot0, liquidity)
        listed = [
            tick
            for position, word in zip(bitmap_words(spec.tick_spacing), bitmap, strict=True)
            if word
            for tick in _ticks_of_word(position, word, spec.tick_spacing)
        ]
        ticks_slot = self.ticks_slot(target)
        if is_alone:
            wanted = SlotList(
                (_shared_tick_slot(tick, ticks_slot) for tick in listed), _shared_hash
            )
        else:
            wanted = SlotList(mapping_slot(tick, ticks_slot) for tick in listed)
        words = (yield wanted) if listed else ()
        return PoolValues(
            block_number,
            **self.fees_of(spec, slot0, block_number),
            sqrt_price_x96=price,
            tick=current_tick,
            liquidity=liquidity & _UINT128,
            ticks=tuple(
                (tick, word & _UINT128, signed(word >> 128, 128))
                for tick, word in zip(listed, words, strict=True)
            ),
        )

    def check(self, spec: PoolSpec, values: PoolValues) -> None:
        """Fees and spacing within their limits; that the price is in range and agrees with the tick, that
        ticks are ascending, in range and multiples of the spacing, gross > 0 and |net| <= gross, that the
        net liquidities sum to 0, and that those at or below the current tick sum to the active liquidity.
        """
        self.check_fees(spec, values)
        self._check_spacing(spec)
        _check_price(spec, values)
        _check_ticks(spec, values)

    def check_fees(self, spec: PoolSpec, values: PoolValues) -> None:
        """PoolInvalid for a fee that no pool of the protocol has."""
        highest = self.row.max_fee_pips
        if not 0 <= spec.fee_pips <= highest:
            raise refusal(spec, f"fee_pips {spec.fee_pips} is not in [0, {highest}]")

    def _check_spacing(self, spec: PoolSpec) -> None:
        limit = self.row.max_tick_spacing
        if not 1 <= spec.tick_spacing <= limit:
            raise refusal(spec, f"tick_spacing {spec.tick_spacing} is not in [1, {limit}]")


# Bounded: 2**16 ticks with both keys are about 20 MB, more than all pools of usual spacings share.
@lru_cache(maxsize=1 << 16)
def _shared_tick_slot(tick: int, ticks_slot: bytes) -> bytes:
    return mapping_slot(tick, ticks_slot)


@lru_cache(maxsize=1 << 16)
def _shared_hash(slot: bytes) -> bytes:
    return keccak256(slot)


@lru_cache(maxsize=256)
def _shared_first_slots(layout: StorageLayout, tick_spacing: int) -> SlotList:
    return _first_slots(0, layout, tick_spacing)


def _first_slots(base: int, layout: StorageLayout, tick_spacing: int) -> SlotList:
    bitmap = slot_key((base + layout.bitmap) % (1 << 256))
    words = (mapping_slot(word, bitmap) for word in bitmap_words(tick_spacing))
    return SlotList((*_price_slots(base, layout), *words))


def _price_slots(base: int, layout: StorageLayout) -> tuple[bytes, bytes]:
    return slot_key(base + layout.slot0), slot_key((base + layout.liquidity) % (1 << 256))


def _ticks_of_word(position: int, word: int, tick_spacing: int) -> Iterable[int]:
    while word:
        lowest = word & -word
        yield ((position << 8) + lowest.bit_length() - 1) * tick_spacing
        word ^= lowest


def _check_layout(target: PoolTarget, slot0: int, liquidity: int) -> None:
    """Refuse words of another storage layout: read as the wrong one a pool can look empty.

    Where slot 0 has no lock it is empty from bit 232. Liquidity has its slot for itself everywhere.
    """
    layout = target.layout
    if (slot0 >> 240) != layout.has_lock or (not layout.has_lock and slot0 >> 232):
        other = "pancakeswap_v3" if layout.has_lock else "uniswap_v3"
        raise refusal(
            target.spec, f"slot 0 is {slot0:#066x}, not of the {layout.name} layout; is it {other}?"
        )
    if liquidity >> 128:
        raise refusal(
            target.spec,
            f"the liquidity slot is {liquidity:#066x}, not of the {layout.name} layout",
        )


def _check_price(spec: PoolSpec, values: PoolValues) -> None:
    price, tick = values.sqrt_price_x96, values.tick
    if price == 0:
        raise refusal(spec, "sqrt_price_x96 is 0: the pool is not initialized")
    if not MIN_SQRT_PRICE_X96 <= price < MAX_SQRT_PRICE_X96:
        raise refusal(
            spec,
            f"sqrt_price_x96 {price} is not in [{MIN_SQRT_PRICE_X96}, {MAX_SQRT_PRICE_X96})",
        )
    if not MIN_TICK <= tick < MAX_TICK:
        raise refusal(spec, f"tick {tick} is not in [{MIN_TICK}, {MAX_TICK})")
    low, high = sqrt_price_at_tick(tick), sqrt_price_at_tick(tick + 1)
    # The upper end belongs to it: a swap that ends exactly on a tick while the price falls leaves
    # slot0.tick one below that tick.
    if not low <= price <= high:
        raise refusal(spec, f"tick {tick} spans prices {low} to {high}, sqrt_price_x96 is {price}")
    if not 0 <= values.liquidity < 1 << 128:
        raise refusal(spec, f"liquidity {values.liquidity} does not fit uint128")


def _check_ticks(spec: PoolSpec, values: PoolValues) -> None:
    previous = MIN_TICK - 1
    total = active = 0
    for tick, gross, net in values.ticks:
        if not MIN_TICK <= tick <= MAX_TICK:
            raise refusal(spec, f"tick {tick} is outside [{MIN_TICK}, {MAX_TICK}]")
        if tick <= previous:
            raise refusal(spec, f"tick {tick} follows {previous}: ticks must ascend, each once")
        if tick % spec.tick_spacing:
            raise refusal(spec, f"tick {tick} is not a multiple of the spacing {spec.tick_spacing}")
        if not 0 < gross < 1 << 128:
            raise refusal(spec, f"tick {tick}: liquidity_gross {gross} is not in (0, 2**128)")
        if abs(net) > gross:
            raise refusal(spec, f"tick {tick}: |liquidity_net| {abs(net)} is above gross {gross}")
        if not -(1 << 127) <= net < 1 << 127:
            raise refusal(spec, f"tick {tick}: liquidity_net {net} does not fit int128")
        previous = tick
        total += net
        if tick <= values.tick:
            active += net
    if total:
        raise refusal(spec, f"liquidity_net of all ticks sums to {total}, not 0")
    if active != values.liquidity:
        raise refusal(
            spec,
            f"net of ticks at or below {values.tick} sums to {active}, "
            f"liquidity is {values.liquidity}",
        )
