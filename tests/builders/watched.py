"""A small arena with one pool of each kind that a view has to show, and names that would do harm."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from oracle.swap_oracle import sqrt_price_at_tick

from arena.layouts import slots
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

HEAD = 1_000
LIQUIDITY = 10**18
TICKS = ((-600, LIQUIDITY, LIQUIDITY), (600, LIQUIDITY, -LIQUIDITY))
USDC = TokenSpec(b"\x11" * 20, 6, "USDC")
WETH = TokenSpec(b"\x22" * 20, 18, "WETH")
EVIL = TokenSpec(b"\x33" * 20, 18, "\x1b[31mX\x1b]0;t\x07\u202e\n")
BARE = TokenSpec(b"\x44" * 20, None, "")
WIDE = TokenSpec(b"\x55" * 20, 18, "\u67da\u5b50\u0301")
V2, V3, V4 = slots.UNISWAP_V2, slots.UNISWAP_V3, slots.UNISWAP_V4
SPECS = (
    PoolSpec(b"\xa1" * 20, V2, USDC, WETH, 3000),
    PoolSpec(b"\xa2" * 20, V3, USDC, WETH, 500, 10),
    PoolSpec(b"\xa3" * 32, V4, WETH, EVIL, slots.DYNAMIC_FEE_PIPS, 60),
    PoolSpec(b"\xa4" * 20, V2, USDC, BARE, 3000),
    PoolSpec(b"\xa5" * 20, V3, WETH, WIDE, 10000, 200),
    PoolSpec(b"\xa6" * 20, V3, EVIL, BARE, 100, 1),
)
KEYS = tuple("0x" + spec.key.hex() for spec in SPECS)


def values_of(spec: PoolSpec, block: int) -> PoolValues:
    """Pairs: 3,000 USDC for a WETH. The others stand at tick 0."""
    if spec.protocol == V2:
        return PoolValues(block, spec.fee_pips, reserve0=3_000_000_000, reserve1=10**18)
    dynamic = {"lp_fee": 2500, "fee_block": block} if spec.protocol == V4 else {}
    return PoolValues(
        block,
        spec.fee_pips,
        sqrt_price_x96=sqrt_price_at_tick(0),
        tick=0,
        liquidity=LIQUIDITY,
        ticks=TICKS,
        **dynamic,
    )


def make(
    name: str,
    *,
    block: int = HEAD,
    max_pools: int = 8,
    reason: str = "",
    specs: Sequence[PoolSpec] = SPECS,
) -> WriterArena:
    """The last of SPECS is announced, the one before it stale; the arena is live at `block`. `specs` are
    the same in any order."""
    writer = WriterArena.create(name, max_pools=max_pools, tick_bytes=1 << 20, chain_id=1)
    for spec in specs:
        slot = writer.add_pool(spec)
        if spec is SPECS[-1]:
            writer.announce(slot)
        elif spec is SPECS[-2]:
            writer.install(
                slot, values_of(spec, block), slots.STATUS_STALE, unsure=slots.UNSURE_ALL
            )
        else:
            writer.install(slot, values_of(spec, block), slots.STATUS_LIVE)
    writer.set_head(block)
    writer.commit()
    writer.set_phase("live", reason)
    writer.heartbeat()
    return writer


@contextmanager
def watched(name: str, **options: object) -> Iterator[WriterArena]:
    """`make`, and nothing left of it afterwards."""
    writer = make(name, **options)  # type: ignore[arg-type]
    try:
        yield writer
    finally:
        writer.close(unlink=True)
