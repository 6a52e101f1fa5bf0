"""Uniswap V3, and forks that differ in storage and log layout alone.

Uniswap V3      slot 0; 4 liquidity, 5 ticks, 6 tickBitmap
PancakeSwap V3  slot 0; 5 liquidity, 6 ticks, 7 tickBitmap
"""

from collections.abc import Sequence

from arena.layouts.slots import UNISWAP_V3
from arena.specs import PoolSpec
from arena.writer.protocols.concentrated import Concentrated, liquidity_fields, swap_fields
from arena.writer.protocols.contract import AbiWords, EventFields, LogEvent, refusal
from arena.writer.protocols.storage import StorageLayout

V3_LAYOUT = StorageLayout("uniswap_v3", slot0=0, liquidity=4, ticks=5, bitmap=6, has_lock=True)
PANCAKESWAP_V3_LAYOUT = StorageLayout("pancakeswap_v3", slot0=0, liquidity=5, ticks=6, bitmap=7)
# PancakeV3Factory, the same address on every chain it was deployed to by its usual deployer.
PANCAKESWAP_V3_FACTORIES = frozenset({bytes.fromhex("0bfbcf9fa4f9c56b0f40a671ad40e0805a091865")})

V3_SWAP = bytes.fromhex("c42079f94a6350d7e6235f29174924f928cc2ac818eb64fed8004e115fbcca67")
PANCAKE_SWAP = bytes.fromhex("19b47279256b2a23a1665c810c8d55a1758940ee09377d4f8d26497a3577dc83")
V3_MINT = bytes.fromhex("7a53080ba414158be7ec69b987b5fb7d07dee101fe85488f0853ae16239d0bde")
V3_BURN = bytes.fromhex("0c396cd989a39f4459b5fa1aed6a9a8dcdbc45908acfd67e028cd568da98982c")


def _swap(read: AbiWords, topics: Sequence[bytes], words: Sequence[bytes]) -> EventFields:
    """Two amounts, then price, liquidity, tick; PancakeSwap: two protocol fees besides."""
    for amount in words[:2]:
        read.signed(amount, 256)
    for more in words[5:]:
        read.unsigned(more, 128)
    return swap_fields(read, words[2:5], 2)


def _mint(read: AbiWords, topics: Sequence[bytes], words: Sequence[bytes]) -> EventFields:
    # The pool casts the amount to int128, so 2**127 and more cannot occur (v3-core, mint).
    return liquidity_fields(read, topics[2], topics[3], read.unsigned(words[1], 127), 3, True)


def _burn(read: AbiWords, topics: Sequence[bytes], words: Sequence[bytes]) -> EventFields:
    return liquidity_fields(read, topics[2], topics[3], -read.unsigned(words[0], 127), 3, False)


class UniswapV3(Concentrated):
    """Pools with a contract each, which keeps fee, spacing and tokens in its code."""

    number = UNISWAP_V3
    layouts = (V3_LAYOUT, PANCAKESWAP_V3_LAYOUT)
    events = (
        LogEvent(V3_SWAP, 3, 5, _swap),
        LogEvent(PANCAKE_SWAP, 3, 7, _swap),
        LogEvent(V3_MINT, 4, 4, _mint),
        LogEvent(V3_BURN, 4, 3, _burn),
    )
    functions = ("fee", "tickSpacing", "token0", "token1", "factory")

    def layout_of(self, spec: PoolSpec) -> StorageLayout:
        is_known = spec.factory in PANCAKESWAP_V3_FACTORIES
        return PANCAKESWAP_V3_LAYOUT if is_known else V3_LAYOUT

    def check_description(self, spec: PoolSpec) -> None:
        """Its storage does not show the tokens: that they are sorted is all there is to see."""
        if spec.token0.address >= spec.token1.address:
            raise refusal(spec, "token0 as listed is not below token1: a pool sorts its tokens")
