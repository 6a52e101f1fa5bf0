"""Every target a list can describe comes back equal from the saved list, and from its own entry."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from arena.layouts.slots import DYNAMIC_FEE_PIPS, UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.specs import PoolSpec, TokenSpec
from arena.writer.lists.pool_list import parse_pool_list, read_pool_list
from arena.writer.lists.saved import SavedList
from arena.writer.lists.source import Origin
from arena.writer.protocols.entry import pool_record
from arena.writer.protocols.held import pool_target
from arena.writer.protocols.storage import PoolTarget
from arena.writer.protocols.uniswap_v3 import PANCAKESWAP_V3_FACTORIES, PANCAKESWAP_V3_LAYOUT

ADDRESSES = st.binary(min_size=20, max_size=20)
NONE = bytes(20)


def cut(symbol: str) -> str:
    """A symbol as the token table holds it: 32 bytes, no zero bytes at the end."""
    return symbol.encode()[:32].decode(errors="ignore").rstrip("\0")


SYMBOLS = st.text(max_size=40).map(cut)
TOKENS = st.builds(
    TokenSpec, st.just(NONE) | ADDRESSES, st.none() | st.integers(0, 255), st.just("") | SYMBOLS
)


@st.composite
def pool_targets(draw: st.DrawFn) -> PoolTarget:
    protocol = draw(st.sampled_from([UNISWAP_V2, UNISWAP_V3, UNISWAP_V4]))
    token0, token1 = draw(TOKENS), draw(TOKENS)
    if protocol == UNISWAP_V4:
        return pool_target(
            PoolSpec(
                draw(st.binary(min_size=32, max_size=32)),
                protocol,
                token0,
                token1,
                draw(st.integers(0, 1_000_000) | st.just(DYNAMIC_FEE_PIPS)),
                draw(st.integers(1, 32767)),
                factory=draw(st.just(NONE) | ADDRESSES),
                hooks=draw(st.just(NONE) | ADDRESSES),
            )
        )
    key, fee = draw(ADDRESSES), draw(st.integers(0, 999_999))
    factory = draw(st.just(NONE) | ADDRESSES | st.sampled_from(sorted(PANCAKESWAP_V3_FACTORIES)))
    if protocol == UNISWAP_V2:
        return pool_target(PoolSpec(key, protocol, token0, token1, fee, factory=factory))
    spec = PoolSpec(key, protocol, token0, token1, fee, draw(st.integers(1, 16383)), factory)
    return pool_target(spec, draw(st.sampled_from([None, PANCAKESWAP_V3_LAYOUT])))


TARGETS = st.lists(
    pool_targets(), min_size=1, max_size=8, unique_by=lambda target: target.spec.key
).map(tuple)
ORIGINS = st.builds(
    Origin,
    st.sampled_from(["nats", "file"]),
    st.text(),
    st.text(),
    st.floats(0, 1e11, allow_nan=False),
)


@given(pool_targets())
def test_a_target_is_read_again_from_its_entry(target: PoolTarget) -> None:
    assert parse_pool_list([pool_record(target)], name="x").targets == (target,)


@given(TARGETS, ORIGINS)
def test_a_saved_list_comes_back_equal(
    tmp_path: Path, targets: tuple[PoolTarget, ...], origin: Origin
) -> None:
    saved = SavedList(tmp_path / "pools.json")
    saved.save(targets, origin, chain="ethereum")
    loaded = saved.load(chain="ethereum")
    assert (loaded.targets, loaded.origin) == (targets, origin)
    listed = read_pool_list(saved.path, chain="ethereum")
    assert (listed.targets, listed.refused) == (targets, ())
