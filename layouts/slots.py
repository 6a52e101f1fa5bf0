"""Pool slots, static rows, tokens, tick slabs and the undo ring, as they lie in the data segment.

The C structs of the same fields are in arena/native/layout.h. A field says meaning, unit and range; who
may write it is the single writer everywhere.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Field = tuple[str, Any, int]


def record(itemsize: int, fields: Sequence[Field]) -> np.dtype[np.void]:
    """Structured dtype of `itemsize` bytes from (name, format, offset) rows."""
    return np.dtype(
        {
            "names": [name for name, _, _ in fields],
            "formats": [form for _, form, _ in fields],
            "offsets": [offset for _, _, offset in fields],
            "itemsize": itemsize,
        }
    )


# One version of a pool; a slot holds two, and a reader takes the newest whose stamp is committed.
LINE = record(
    128,
    [
        ("stamp", "<u8", 0),  # commit that wrote it; 0 = never written, 2^64-1 = dropped
        ("sqrt_price_hi", "<u4", 8),  # V3/V4: bits 128..159 of sqrt_price_x96 (Q64.96); V2: 0
        ("tick", "<i4", 12),  # slot0 tick, [-887272, 887272]; V2: 0
        ("a", ("<u8", 2), 16),  # pairs: reserve0 (V2 u112); else bits 0..127 of sqrt_price_x96
        ("b", ("<u8", 2), 32),  # pairs: reserve1 (V2 u112); else liquidity in range (u128)
        ("slab", "<u4", 48),  # tick slab, 64-byte units from the heap start; 0 = none
        ("tick_count", "<u4", 52),  # ticks in the slab
        ("current_index", "<u4", 56),  # number of ticks <= tick; [0, tick_count]
        ("fee_status", "<u4", 60),  # bits 0..23 fee in pips (V4: stored LP fee), 24..31 status
        ("status", "u1", 63),  # PSA_STATUS_*: the highest byte of fee_status, no field of its own
        ("block_number", "<u8", 64),  # block of the last applied event; 0 = none since base_block
        ("tx_index", "<u4", 72),  # its transaction in that block
        ("log_index", "<u4", 76),  # its log in that transaction
        ("base_block", "<u8", 80),  # events at or below this block are skipped
        ("protocol_fee", "<u4", 88),  # V4: 24 bits as stored, low 12 for zero_for_one; pips
        ("slab_class", "u1", 92),  # size class of the slab, [0, 40)
        ("unsure", "u1", 93),  # PSA_UNSURE_* bits: why the pool is stale
        ("reserved0", "<u2", 94),  # zero
        ("fee_block", "<u8", 96),  # V4: block at which a fee was read, or told last
        ("generation", "<u4", 104),  # use of the slot this line belongs to; as in the static row
        ("reserved1", "<u4", 108),  # zero
        ("scrape_block", "<u8", 112),  # block its scraped values belong to; as base_block, except
        # while blocks below it are being reverted
        ("reserved2", "<u8", 120),  # zero
    ],
)

# Fields that show bytes of another field under a second name; C has no such field.
OVERLAPPING = {"psa_line": ("status",)}

SLOT = record(
    256,
    [
        ("lines", (LINE, (2,)), 0),  # the two versions; the writer always overwrites the older
    ],
)

# Written before the pool's first commit, immutable while the slot's generation stands.
STATIC = record(
    128,
    [
        ("key", ("u1", 32), 0),  # address left aligned and zero padded (V2, V3) or pool id (V4)
        ("factory", ("u1", 20), 32),  # factory address; V4: PoolManager
        ("hooks", ("u1", 20), 52),  # V4 hooks address; zero = none
        ("token0", "<u4", 72),  # token table index
        ("token1", "<u4", 76),  # token table index
        ("fee_pips", "<u4", 80),  # fee of the pool, 1e-6; V4 dynamic: 0x800000; Solidly: 0
        ("tick_spacing", "<i4", 84),  # V3/V4: [1, 32767]; V2: 0
        ("generation", "<u4", 88),  # uses of this slot, from 1; 0 while the row is written
        ("protocol", "u1", 92),  # PSA_UNISWAP_V2, V3, V4, PSA_SOLIDLY
        ("key_nbytes", "u1", 93),  # 20 or 32
        ("flags", "u1", 94),  # PSA_POOL_HOOKED, PSA_POOL_DYNAMIC_FEE
        ("token_count", "u1", 95),  # 2 in all protocols held
        ("more_tokens", ("<u4", 6), 96),  # indices of the third to the eighth token; 0: none
        ("reserved0", "<u8", 120),  # zero
    ],
)

TOKEN = record(
    64,
    [
        ("address", ("u1", 20), 0),  # zero = native coin
        ("decimals", "u1", 20),  # valid when flags bit 0 is set
        ("symbol_nbytes", "u1", 21),  # [0, 32]
        ("flags", "u1", 22),  # bit 0: decimals known
        ("reserved", "u1", 23),  # zero
        ("symbol", "S32", 24),  # UTF-8, zero padded
        ("reserved1", "<u8", 56),  # zero
    ],
)

TOKEN_DECIMALS_KNOWN = 1

# Head of a slab; of ticks, tick i32[cap], net i128[cap] and gross u128[cap] follow, each 64-byte aligned.
SLAB = record(
    64,
    [
        ("slab_class", "<u4", 0),  # capacity class, [0, 40)
        ("owner", "<u4", 4),  # slot + 1, for debugging; 0 = free
        ("next_free", "<u4", 8),  # writer only: next free slab of the class, 64-byte units
        ("kind", "<u4", 12),  # 0 = ticks
        ("serial", "<u8", 16),  # another one for each content, within an origin; 0 = never taken
        ("reserved0", ("<u8", 5), 24),  # zero
    ],
)

# Of commit c at c % capacity; its slots stand in the ring of slots from the end of commit c - 1 on.
CHANGE_ENTRY = record(
    16,
    [
        ("stamp", "<u8", 0),  # number of the commit
        ("end", "<u8", 8),  # number after its last slot; number n lives at n % capacity; only grows
    ],
)

# One applied block that can be undone.
UNDO_ENTRY = record(
    96,
    [
        ("seq", "<u8", 0),  # from 1; the entry lives at seq % capacity
        ("block_number", "<u8", 8),  # the block it undoes
        ("prev", "<u8", 16),  # seq of the block below; 0 = none
        ("first_record", "<u8", 24),  # number of its first undo record
        ("record_count", "<u8", 32),  # how many undo records it has
        ("timestamp", "<u8", 40),  # of the block, Unix seconds
        ("base_fee", "<u8", 48),  # of the block, wei; 0 = unknown
        ("reserved", "<u8", 56),  # zero
        ("block_hash", ("u1", 32), 64),  # of the block, once it is known; zero = unknown
    ],
)

# One before-image.
UNDO_RECORD = record(
    88,
    [
        ("entry_seq", "<u8", 0),  # the undo entry it belongs to
        ("slot", "<u4", 8),  # slot index
        ("kind", "<u4", 12),  # PSA_UNDO_LINE, PSA_UNDO_TICK or PSA_UNDO_FEES
        ("generation", "<u4", 16),  # of the slot when it was written
        ("tick", "<i4", 20),  # LINE: the pool's tick before; TICK: which tick
        ("sqrt_price_hi", "<u4", 24),  # LINE: before the block, as the next four
        ("tx_index", "<u4", 28),
        ("log_index", "<u4", 32),
        ("unsure", "<u4", 36),  # LINE: PSA_UNSURE_* before; such an image settles nothing
        ("block_number", "<u8", 40),
        ("before", ("<u8", 4), 48),  # LINE: a, b; TICK: gross, net; FEES: LP, protocol, fee_block
        ("reserved1", "<u8", 80),  # zero
    ],
)

# Numbers of layout.h, for code that must not load the native module.
UNISWAP_V2 = 0  # ProtocolRow in protocols.py says the rest
UNISWAP_V3 = 1
UNISWAP_V4 = 2
SOLIDLY = 16

STATUS_ABSENT = 0
STATUS_SYNCING = 1
STATUS_LIVE = 2
STATUS_STALE = 3
STATUS_REMOVED = 4

UNSURE_PRICE = 1
UNSURE_TICKS = 2
UNSURE_ALL = 4
UNSURE_UNREAD = 8

POOL_HOOKED = 1
POOL_DYNAMIC_FEE = 2

UNDO_LINE = 1
UNDO_TICK = 2
UNDO_FEES = 3

STATUS_NAMES = ("absent", "syncing", "live", "stale", "removed")

NO_SLOT = 0xFFFFFFFF  # in slot arrays: no such pool

# V4 marks a dynamic LP fee with this value in the pool key (v4-core, LPFeeLibrary).
DYNAMIC_FEE_PIPS = 0x800000

# Bits of a V4 hooks address that let it take part in a swap (v4-core, Hooks): beforeSwap,
# afterSwap, and the two that return deltas.
HOOKS_SWAP_BITS = (1 << 7) | (1 << 6) | (1 << 3) | (1 << 2)
