"""Uniswap V4: all pools in one PoolManager, each at base = key(poolId, 6).

base + 0  slot 0, and protocolFee 184..207, lpFee 208..231
base + 3  liquidity, + 4 ticks, + 5 tickBitmap
"""

from collections.abc import Sequence
from typing import Any

from arena.layouts.protocols import FEE_DENOMINATOR_PIPS
from arena.layouts.slots import DYNAMIC_FEE_PIPS, UNISWAP_V4
from arena.native import lib
from arena.specs import PoolSpec
from arena.values import PoolValues
from arena.writer.protocols.concentrated import (
    UINT24,
    Concentrated,
    liquidity_fields,
    swap_fields,
)
from arena.writer.protocols.contract import AbiWords, EventFields, LogEvent, refusal
from arena.writer.protocols.fields import PoolFields
from arena.writer.protocols.storage import StorageLayout, keccak256, slot_key

V4_LAYOUT = StorageLayout("uniswap_v4", slot0=0, liquidity=3, ticks=4, bitmap=5)
# PoolManager: storage slot of `mapping(PoolId => Pool.State) _pools` (StateLibrary.POOLS_SLOT).
V4_POOLS_SLOT = 6
MAX_PROTOCOL_FEE_PIPS = 1000  # ProtocolFeeLibrary, each direction
# The PoolManager on Ethereum; lists in the arena dialect do not name it.
DEFAULT_POOL_MANAGER = bytes.fromhex("000000000004444c5dc75cb358380d2e3de08a90")

V4_SWAP = bytes.fromhex("40e9cecb9f5f1f1c5b9c97dec2917b7ee92e57ba5563708daca94dd84ad7112f")
V4_MODIFY = bytes.fromhex("f208f4912782fd25c7f114ca3723a2d5dd6f3bcc3ac8db5af63baa85f711d5ec")
V4_PROTOCOL_FEE = bytes.fromhex("e9c42593e71f84403b84352cd168d693e2c9fcd1fdbcc3feb21d92b43e6696f9")


def _swap(read: AbiWords, topics: Sequence[bytes], words: Sequence[bytes]) -> EventFields:
    """As V3, then the swap's whole fee: kept where the amounts tell its direction."""
    amounts = [read.signed(amount, 128) for amount in words[:2]]
    fee = read.unsigned(words[5], 24)
    fields = swap_fields(read, words[2:5], 4)
    paid = [amount < 0 for amount in amounts]  # from the swapper's side
    if any(paid) and not all(paid):
        fields["variant"] = 25
        fields["present"] = lib.PSA_HAS_SWAP_FEE
        fields["words"][4:6] = fee, int(paid[0])
    return fields


def _modify(read: AbiWords, topics: Sequence[bytes], words: Sequence[bytes]) -> EventFields:
    delta = read.signed(words[2], 128)
    return liquidity_fields(read, words[0], words[1], delta, 5, delta > 0)


def _protocol_fee(read: AbiWords, topics: Sequence[bytes], words: Sequence[bytes]) -> EventFields:
    return {
        "kind": lib.PSA_EVENT_PROTOCOL_FEE,
        "update_type": lib.PSA_UPDATE_SWAP,
        "variant": 26,
        "words": [read.unsigned(words[0], 24), 0, 0, 0, 0, 0, 0, 0],
    }


def v4_pool_id(spec: PoolSpec) -> bytes:
    """keccak256(abi.encode(currency0, currency1, fee, tickSpacing, hooks)): a V4 pool's id."""
    return keccak256(
        spec.token0.address.rjust(32, b"\0")
        + spec.token1.address.rjust(32, b"\0")
        + spec.fee_pips.to_bytes(32, "big")
        + spec.tick_spacing.to_bytes(32, "big")
        + spec.hooks.rjust(32, b"\0")
    )


def v4_base(pool_id: bytes) -> int:
    """First slot of a pool's state in the PoolManager."""
    return int.from_bytes(keccak256(pool_id + slot_key(V4_POOLS_SLOT)), "big")


class UniswapV4(Concentrated):
    """Pools of one contract, known by the hash of their description, with fees that change."""

    number = UNISWAP_V4
    layouts = (V4_LAYOUT,)
    events = (
        LogEvent(V4_SWAP, 3, 6, _swap),
        LogEvent(V4_MODIFY, 3, 4, _modify),
        LogEvent(V4_PROTOCOL_FEE, 2, 1, _protocol_fee),
    )
    has_extsload = True

    def base(self, spec: PoolSpec) -> int:
        return v4_base(spec.key)

    def identity_of(self, spec: PoolSpec) -> bytes:
        return v4_pool_id(spec)

    def check_description(self, spec: PoolSpec) -> None:
        self.check_identity(spec)

    def fees_of(self, spec: PoolSpec, slot0: int, block_number: int) -> dict[str, Any]:
        lp_fee = slot0 >> 208 & UINT24
        return {
            "fee_pips": lp_fee,
            "protocol_fee": slot0 >> 184 & UINT24,
            "lp_fee": lp_fee,
            "fee_block": block_number,
        }

    def check_fees(self, spec: PoolSpec, values: PoolValues) -> None:
        if spec.fee_pips != DYNAMIC_FEE_PIPS:
            super().check_fees(spec, values)
        if not 0 <= values.lp_fee <= FEE_DENOMINATOR_PIPS:
            raise refusal(spec, f"lp_fee {values.lp_fee} is not in [0, {FEE_DENOMINATOR_PIPS}]")
        if not 0 <= values.protocol_fee <= UINT24:
            raise refusal(spec, f"protocol_fee {values.protocol_fee} does not fit 24 bits")
        for half in (values.protocol_fee & 0xFFF, values.protocol_fee >> 12):
            if half > MAX_PROTOCOL_FEE_PIPS:
                raise refusal(spec, f"protocol_fee half {half} is above {MAX_PROTOCOL_FEE_PIPS}")

    def listed(self, fields: PoolFields, identity: str, key: bytes) -> PoolSpec:
        if len(key) != 32:
            fields.refuse(
                "a Uniswap V4 pool with an identity of 20 bytes", "give its 32-byte `pool_id`"
            )
        # `address` is the pool's id in some lists, its PoolManager in others.
        named = {
            fields.hex(name, (20, 32))
            for name in ("address", "factory")
            if fields.record.get(name) and fields.hex(name, (20, 32)) != key
        }
        if len(named) > 1 or any(len(manager) != 20 for manager in named):
            fields.refuse(
                "`address` and `factory` differ", "both are the 20-byte address of the PoolManager"
            )
        spec = PoolSpec(
            key,
            UNISWAP_V4,
            fields.token("token0"),
            fields.token("token1"),
            fields.integer("fee", 0, DYNAMIC_FEE_PIPS),
            fields.integer("tick_spacing", 1, self.row.max_tick_spacing),
            named.pop() if named else DEFAULT_POOL_MANAGER,
            fields.hex("hooks", (20,)) if fields.record.get("hooks") else bytes(20),
        )
        if spec.fee_pips > FEE_DENOMINATOR_PIPS and spec.fee_pips != DYNAMIC_FEE_PIPS:
            fields.refuse(
                f"`fee` is {spec.fee_pips}",
                f"it is at most {FEE_DENOMINATOR_PIPS}, or {DYNAMIC_FEE_PIPS} for a dynamic fee",
            )
        return spec
