"""The fixed-layout event record between decoding and applying: psa_event in feed.h, 192 bytes."""

import numpy as np

EVENT = np.dtype(
    {
        "names": [
            "block_number",  # u64; REORG_COMPLETE and epilogues: final_tip_block
            "stream_seq",  # u64; 0 in seed dialects
            "tx_index",  # u64
            "log_index",  # u64; within the transaction
            "timestamp",  # u64 seconds; exex only
            "kind",
            "protocol",
            "update_type",
            "flags",
            "present",
            "key_nbytes",
            "variant",
            "reserved",
            "key",  # 32 bytes: address left aligned, or pool id
            "tick",
            "tick_lower",
            "tick_upper",
            "address",  # 20 bytes; seed: pool_address as sent
            "words",  # eight u64, meaning by kind (feed.h)
            "amount",  # u128 liquidity or i128 liquidity delta
        ],
        "formats": [
            "<u8",
            "<u8",
            "<u8",
            "<u8",
            "<u8",
            "u1",
            "u1",
            "u1",
            "u1",
            "u1",
            "u1",
            "u1",
            "u1",
            ("u1", 32),
            "<i4",
            "<i4",
            "<i4",
            ("u1", 20),
            ("<u8", 8),
            ("<u8", 2),
        ],
        "offsets": [0, 8, 16, 24, 32, *range(40, 48), 48, 80, 84, 88, 92, 112, 176],
        "itemsize": 192,
    }
)
