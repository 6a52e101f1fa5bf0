"""Which storage words hold a pool's state, in what order to read them, and how to decode them.

Independent of where the words come from: `pool_stages` is a generator that names the slots it wants
next and is sent their values, and `read_targets` drives many of them through one batched reader.

Storage layouts, checked against the contracts' getters. `key(k, s)` is keccak256(pad32(k) ++
pad32(s)), negative keys sign-extended; V4 pools lie in the PoolManager at base = key(poolId, 6).

    Uniswap V2      6 token0, 7 token1, 8 reserve0 0..111, reserve1 112..223, timestamp 224..255
    Uniswap V3      0 sqrtPriceX96 0..159, tick 160..183; 4 liquidity, 5 ticks, 6 tickBitmap
    PancakeSwap V3  0 the same; 5 liquidity, 6 ticks, 7 tickBitmap
    Uniswap V4      base + 0 sqrtPriceX96 0..159, tick 160..183, protocolFee 184..207,
                    lpFee 208..231; base + 3 liquidity, + 4 ticks, + 5 tickBitmap

A tick's word at key(tick, ticks) is liquidityGross 0..127, liquidityNet (signed) 128..255. A bitmap
word lies at key(c >> 8, tickBitmap) with c = floor(tick / spacing), the tick's bit is c & 255.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import sha3

from arena.errors import PoolInvalid
from arena.layouts.slots import UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.specs import PoolSpec
from arena.values import PoolValues
from arena.writer.protocols.checks import MAX_TICK, MAX_TICK_SPACING, check_pool

# V4 PoolManager: storage slot of `mapping(PoolId => Pool.State) _pools` (StateLibrary.POOLS_SLOT).
V4_POOLS_SLOT = 6
# PancakeV3Factory, the same address on every chain it was deployed to by its usual deployer.
PANCAKESWAP_V3_FACTORIES = frozenset({bytes.fromhex("0bfbcf9fa4f9c56b0f40a671ad40e0805a091865")})

_UINT112 = (1 << 112) - 1
_UINT128 = (1 << 128) - 1
_UINT160 = (1 << 160) - 1
_UINT24 = (1 << 24) - 1


@dataclass(frozen=True, slots=True)
class StorageLayout:
    """Offsets of what is read, counted from the pool's first slot (V4: its base).

    For V2 only `slot0` (the reserves) has a meaning.
    """

    name: str
    slot0: int
    liquidity: int = 0
    ticks: int = 0
    bitmap: int = 0


V2_LAYOUT = StorageLayout("uniswap_v2", slot0=8)
V3_LAYOUT = StorageLayout("uniswap_v3", slot0=0, liquidity=4, ticks=5, bitmap=6)
PANCAKESWAP_V3_LAYOUT = StorageLayout("pancakeswap_v3", slot0=0, liquidity=5, ticks=6, bitmap=7)
V4_LAYOUT = StorageLayout("uniswap_v4", slot0=0, liquidity=3, ticks=4, bitmap=5)
_V2_TOKEN_SLOTS = (6, 7)


@dataclass(frozen=True, slots=True)
class PoolTarget:
    """A pool together with where its words lie: the account that holds them, and the layout."""

    spec: PoolSpec
    layout: StorageLayout

    @property
    def address(self) -> bytes:
        """The 20-byte account whose storage holds the pool: itself, or the V4 PoolManager."""
        return self.spec.factory if self.spec.protocol == UNISWAP_V4 else self.spec.key


def pool_target(spec: PoolSpec, layout: StorageLayout | None = None) -> PoolTarget:
    """Where `spec` is stored.

    `layout` is needed only for a V3 pool with PancakeSwap's layout whose factory is not one of
    PANCAKESWAP_V3_FACTORIES; elsewhere it must be the protocol's own. ValueError otherwise.
    """
    if spec.protocol == UNISWAP_V3:
        if layout is None:
            known = spec.factory in PANCAKESWAP_V3_FACTORIES
            layout = PANCAKESWAP_V3_LAYOUT if known else V3_LAYOUT
        if layout not in (V3_LAYOUT, PANCAKESWAP_V3_LAYOUT):
            raise ValueError(f"a V3 pool cannot have the storage layout {layout.name}")
        return PoolTarget(spec, layout)
    own = V2_LAYOUT if spec.protocol == UNISWAP_V2 else V4_LAYOUT
    if layout not in (None, own):
        raise ValueError(f"{own.name} pools have no other storage layout than their own")
    return PoolTarget(spec, own)


def keccak256(content: bytes) -> bytes:
    """32-byte Keccak-256 (the original padding, not that of SHA3-256)."""
    digest: bytes = sha3.keccak_256(content).digest()
    return digest


def slot_key(slot: int) -> bytes:
    """A slot number as the 32-byte big-endian key of contract storage."""
    return slot.to_bytes(32, "big")


def mapping_slot(key: int, slot: bytes) -> bytes:
    """Slot of `mapping[key]` for a signed or unsigned `key` of a mapping that lies at `slot`."""
    return keccak256((key & ((1 << 256) - 1)).to_bytes(32, "big") + slot)


def v4_pool_id(spec: PoolSpec) -> bytes:
    """keccak256(abi.encode(currency0, currency1, fee, tickSpacing, hooks)): a V4 pool's id."""
    return keccak256(
        spec.token0.address.rjust(32, b"\0")
        + spec.token1.address.rjust(32, b"\0")
        + spec.fee_pips.to_bytes(32, "big")
        + spec.tick_spacing.to_bytes(32, "big")
        + spec.hooks.rjust(32, b"\0")
    )


def check_identity(spec: PoolSpec) -> None:
    """PoolInvalid for a V4 pool that is listed under another id than its description has."""
    if spec.protocol == UNISWAP_V4 and (pool_id := v4_pool_id(spec)) != spec.key:
        raise _refuse(
            spec,
            f"currencies, fee {spec.fee_pips}, tick spacing {spec.tick_spacing} and hooks as listed "
            f"have the id 0x{pool_id.hex()}",
        )


def v4_base(pool_id: bytes) -> int:
    """First slot of a pool's state in the V4 PoolManager."""
    return int.from_bytes(keccak256(pool_id + slot_key(V4_POOLS_SLOT)), "big")


def bitmap_words(tick_spacing: int) -> range:
    """Positions of every bitmap word a pool of that spacing can use, lowest first."""
    highest = MAX_TICK // tick_spacing
    return range(-highest >> 8, (highest >> 8) + 1)


class SlotList:
    """Slots of one account in the order their values are wanted.

    `keys` are 32-byte slots. `hashed` are their keccak256, computed once on first use: the keys of
    a node's hashed tables. Lists that all V3 pools of a spacing share are built once.
    """

    __slots__ = ("_hash_slot", "_hashed", "_sorted", "keys")

    def __init__(self, keys: Iterable[bytes], hash_slot: Callable[[bytes], bytes] = keccak256):
        self.keys = tuple(keys)
        self._hash_slot = hash_slot
        self._hashed: tuple[bytes, ...] | None = None
        self._sorted: tuple[tuple[int, ...], tuple[bytes, ...], bytes] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def hashed(self) -> tuple[bytes, ...]:
        """keccak256 of each slot, in the order of `keys`."""
        if self._hashed is None:
            self._hashed = tuple(map(self._hash_slot, self.keys))
        return self._hashed

    @property
    def ascending(self) -> tuple[tuple[int, ...], tuple[bytes, ...], bytes]:
        """(indices into `keys` by ascending hash, those hashes, the hashes joined)."""
        if self._sorted is None:
            hashed = self.hashed
            order = tuple(sorted(range(len(hashed)), key=hashed.__getitem__))
            ascending = tuple(hashed[index] for index in order)
            self._sorted = order, ascending, b"".join(ascending)
        return self._sorted


# Bounded: 2**16 ticks with both keys are about 20 MB, more than all pools of usual spacings share.
@lru_cache(maxsize=1 << 16)
def _shared_tick_slot(tick: int, ticks_slot: bytes) -> bytes:
    return mapping_slot(tick, ticks_slot)


@lru_cache(maxsize=1 << 16)
def _shared_hash(slot: bytes) -> bytes:
    return keccak256(slot)


@lru_cache(maxsize=256)
def _v3_first_slots(layout: StorageLayout, tick_spacing: int) -> SlotList:
    return _first_slots(0, layout, tick_spacing)


def _first_slots(base: int, layout: StorageLayout, tick_spacing: int) -> SlotList:
    bitmap = slot_key((base + layout.bitmap) % (1 << 256))
    words = (mapping_slot(word, bitmap) for word in bitmap_words(tick_spacing))
    return SlotList((*_price_slots(base, layout), *words))


def _price_slots(base: int, layout: StorageLayout) -> tuple[bytes, bytes]:
    return slot_key(base + layout.slot0), slot_key((base + layout.liquidity) % (1 << 256))


def price_slots(target: PoolTarget) -> tuple[bytes, ...]:
    """The slots of a pool's price: V2 its reserves; V3 and V4 slot 0 and liquidity."""
    if target.spec.protocol == UNISWAP_V2:
        return (slot_key(target.layout.slot0),)
    return _price_slots(_base(target), target.layout)


def tick_slot(target: PoolTarget, tick: int) -> bytes:
    """The slot of a V3 or V4 pool's tick."""
    return mapping_slot(tick, slot_key((_base(target) + target.layout.ticks) % (1 << 256)))


def _base(target: PoolTarget) -> int:
    return v4_base(target.spec.key) if target.spec.protocol == UNISWAP_V4 else 0


def read_reserves(word: int) -> tuple[int, int]:
    """reserve0 and reserve1 of a V2 pair's word."""
    return word & _UINT112, word >> 112 & _UINT112


def read_slot0(word: int) -> tuple[int, int]:
    """sqrt_price_x96 and tick of a V3 or V4 pool's slot 0."""
    return word & _UINT160, _signed(word >> 160 & _UINT24, 24)


_V2_SLOTS = SlotList(map(slot_key, (V2_LAYOUT.slot0, *_V2_TOKEN_SLOTS)))

Stages = Generator[SlotList, Sequence[int], PoolValues]


def pool_stages(target: PoolTarget, block_number: int) -> Stages:
    """Read one pool: yields the slots wanted, is sent their values, returns the checked values.

    A V2 pool takes one stage; V3 and V4 pools two: price, liquidity and the whole bitmap, then
    every tick whose bit is set. All values must belong to `block_number`. PoolInvalid when the
    description or the words contradict each other.
    """
    spec = target.spec
    if spec.protocol == UNISWAP_V2:
        values = yield from _v2_stages(target, block_number)
    else:
        values = yield from _concentrated_stages(target, block_number)
    check_pool(spec, values)
    return values


def _refuse(spec: PoolSpec, found: str) -> PoolInvalid:
    key = "0x" + spec.key.hex()
    return PoolInvalid(f"pool {key} is not installed: {found}", key=spec.key, found=found)


def _v2_stages(target: PoolTarget, block_number: int) -> Stages:
    spec = target.spec
    reserves, *tokens = yield _V2_SLOTS
    for name, token, word in (
        ("token0", spec.token0, tokens[0]),
        ("token1", spec.token1, tokens[1]),
    ):
        listed = int.from_bytes(token.address, "big")
        if word != listed:
            raise _refuse(spec, f"{name} in its storage is {word:#042x}, listed is {listed:#042x}")
    reserve0, reserve1 = read_reserves(reserves)
    return PoolValues(block_number, spec.fee_pips, reserve0=reserve0, reserve1=reserve1)


def _concentrated_stages(target: PoolTarget, block_number: int) -> Stages:
    spec, layout = target.spec, target.layout
    limit = MAX_TICK_SPACING[spec.protocol]
    if not 1 <= spec.tick_spacing <= limit:
        raise _refuse(spec, f"tick_spacing {spec.tick_spacing} is not in [1, {limit}]")
    is_v4 = spec.protocol == UNISWAP_V4
    base = 0
    if is_v4:
        check_identity(spec)
        base = v4_base(spec.key)
        first = _first_slots(base, layout, spec.tick_spacing)
    else:
        # A V3 pool keeps its tokens in its code, not in storage.
        if spec.token0.address >= spec.token1.address:
            raise _refuse(spec, "token0 as listed is not below token1: a pool sorts its tokens")
        first = _v3_first_slots(layout, spec.tick_spacing)
    slot0, liquidity, *bitmap = yield first
    price, current_tick = read_slot0(slot0)
    if price == 0:
        raise _refuse(spec, "sqrt_price_x96 is 0: the pool is not initialized")
    _check_layout(target, slot0, liquidity)
    listed = [
        tick
        for position, word in zip(bitmap_words(spec.tick_spacing), bitmap, strict=True)
        if word
        for tick in _ticks_of_word(position, word, spec.tick_spacing)
    ]
    ticks_slot = slot_key((base + layout.ticks) % (1 << 256))
    if is_v4:
        wanted = SlotList(mapping_slot(tick, ticks_slot) for tick in listed)
    else:
        wanted = SlotList((_shared_tick_slot(tick, ticks_slot) for tick in listed), _shared_hash)
    words = (yield wanted) if listed else ()
    fees = (slot0 >> 184 & _UINT24, slot0 >> 208 & _UINT24) if is_v4 else (0, 0)
    return PoolValues(
        block_number,
        fees[1] if is_v4 else spec.fee_pips,
        sqrt_price_x96=price,
        tick=current_tick,
        liquidity=liquidity & _UINT128,
        ticks=tuple(
            (tick, word & _UINT128, _signed(word >> 128, 128))
            for tick, word in zip(listed, words, strict=True)
        ),
        protocol_fee=fees[0],
        lp_fee=fees[1],
        fee_block=block_number if is_v4 else 0,
    )


def _check_layout(target: PoolTarget, slot0: int, liquidity: int) -> None:
    """Refuse words of another storage layout: read as the wrong one a pool can look empty.

    Uniswap V3 keeps `unlocked`, true between transactions, at bit 240 of slot 0; the others leave
    slot 0 empty from bit 232. Liquidity has its slot for itself in all of them.
    """
    expected = 1 if target.layout == V3_LAYOUT else 0
    if (slot0 >> 240) != expected or (not expected and slot0 >> 232):
        other = "pancakeswap_v3" if expected else "uniswap_v3"
        raise _refuse(
            target.spec,
            f"slot 0 is {slot0:#066x}, not of the {target.layout.name} layout; is it {other}?",
        )
    if liquidity >> 128:
        raise _refuse(
            target.spec,
            f"the liquidity slot is {liquidity:#066x}, not of the {target.layout.name} layout",
        )


def _ticks_of_word(position: int, word: int, tick_spacing: int) -> Iterable[int]:
    while word:
        lowest = word & -word
        yield ((position << 8) + lowest.bit_length() - 1) * tick_spacing
        word ^= lowest


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


class SlotReader(Protocol):
    """A back end: values of several accounts' slots, all at one block, in the order asked.

    An exception ends the whole read, except PoolInvalid as an answer in place of a list: what is
    wrong with that account (it does not exist, has no code).
    """

    def __call__(
        self, requests: Sequence[tuple[PoolTarget, SlotList]]
    ) -> Sequence[Sequence[int] | PoolInvalid]: ...


def read_targets(
    targets: Sequence[PoolTarget], block_number: int, read: SlotReader
) -> tuple[list[PoolValues | PoolInvalid], int]:
    """(values of each pool or what is wrong with it, in order; slots read).

    Pools advance together: `read` is called once a stage with what every pool wants.
    """
    outcomes: dict[int, PoolValues | PoolInvalid] = {}
    slot_count = 0
    waiting: list[tuple[int, Stages, SlotList]] = []
    for index, target in enumerate(targets):
        stages = pool_stages(target, block_number)
        try:
            waiting.append((index, stages, next(stages)))
        except PoolInvalid as error:
            outcomes[index] = error
    while waiting:
        answers = read([(targets[index], wanted) for index, _, wanted in waiting])
        running, waiting = waiting, []
        for (index, stages, wanted), answer in zip(running, answers, strict=True):
            if isinstance(answer, PoolInvalid):
                outcomes[index] = answer
                continue
            slot_count += len(wanted)
            try:
                waiting.append((index, stages, stages.send(answer)))
            except StopIteration as finished:
                outcomes[index] = finished.value
            except PoolInvalid as error:
                outcomes[index] = error
    return [outcomes[index] for index in range(len(targets))], slot_count
