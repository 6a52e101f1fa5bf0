"""Pools and tokens by the names people have for them, amounts and prices in whole tokens.

The arena is one of a few pools of which everything is known; a made-up market of many is compared with what
its pools say of themselves, one by one. Prices are held against Fractions, quotes against the oracle.
"""

import json
import pickle
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import partial
from html.parser import HTMLParser
from itertools import combinations
from typing import Any

import pytest
from builders.arenas import unlinked
from builders.market import make_market
from oracle import swap_oracle as oracle

import arena
from arena import errors
from arena.layouts import slots
from arena.readers import Arena, FrozenSnapshot, Pool, Snapshot, Token, attach
from arena.readers.amounts import fee_text
from arena.readers.cli import quote as quote_command
from arena.readers.token import amount_text
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

HEAD = 200
WETH = TokenSpec(b"\x01" * 20, 18, "WETH")
USDC = TokenSpec(b"\x02" * 20, 6, "USDC")
FAKE = TokenSpec(b"\x03" * 20, 18, "FAKE")
TWIN = TokenSpec(b"\x04" * 20, 6, "FAKE")
BLANK = TokenSpec(b"\x05" * 20, None, "")
EVIL = TokenSpec(b"\x06" * 20, 0, "<b>&\n")
WIDE = TokenSpec(b"\x07" * 20, 30, "A/B")
COIN = TokenSpec(bytes(20), 18, "ETH")

LIQUIDITY = 10**20
TICK = 12345
TICKS = ((-60000, LIQUIDITY, LIQUIDITY), (60000, LIQUIDITY, -LIQUIDITY))
CURVE: dict[str, Any] = {
    "sqrt_price_x96": oracle.sqrt_price_at_tick(TICK) + 987654321,
    "tick": TICK,
    "liquidity": LIQUIDITY,
    "ticks": TICKS,
}


def address(token: TokenSpec) -> str:
    return "0x" + token.address.hex()


def key(spec: PoolSpec) -> str:
    return "0x" + spec.key.hex()


def two(n: int, a: TokenSpec, b: TokenSpec, fee: int = 3000) -> PoolSpec:
    return PoolSpec(bytes([0xA0 + n]) * 20, slots.UNISWAP_V2, a, b, fee)


LOW = PoolSpec(b"\xb1" * 20, slots.UNISWAP_V3, WETH, USDC, 500, 10)
HIGH = PoolSpec(b"\xb2" * 20, slots.UNISWAP_V3, WETH, USDC, 3000, 60)
FOUR = PoolSpec(b"\xb3" * 32, slots.UNISWAP_V4, WETH, USDC, 3000, 60)
DYNAMIC = PoolSpec(b"\xb4" * 32, slots.UNISWAP_V4, COIN, USDC, slots.DYNAMIC_FEE_PIPS, 60)
SOLID = PoolSpec(b"\xb5" * 20, slots.SOLIDLY, COIN, WETH, 0, factory=b"\x44" * 20)
PAIR = two(0, WETH, USDC)
FAKES, TWINS, SAME = two(1, WETH, FAKE), two(2, WETH, TWIN), two(3, FAKE, TWIN)
BLANKS, EVILS, WIDES = two(4, WETH, BLANK), two(5, USDC, EVIL), two(6, EVIL, WIDE)
OF_PAIR = (LOW, HIGH, FOUR, PAIR)
RESERVES = {
    PAIR: (10**21, 3 * 10**12),
    WIDES: (7, 3 * 10**33),
    EVILS: (2 * 10**12, 7),
    SOLID: (10**20, 10**20),
}
SPECS = (*OF_PAIR, DYNAMIC, SOLID, FAKES, TWINS, SAME, BLANKS, EVILS, WIDES)


def values_of(spec: PoolSpec) -> PoolValues:
    if spec.protocol in (slots.UNISWAP_V2, slots.SOLIDLY):
        reserve0, reserve1 = RESERVES.get(spec, (10**20, 10**20))
        fee = 2000 if spec is SOLID else spec.fee_pips
        return PoolValues(HEAD, fee, reserve0=reserve0, reserve1=reserve1)
    if spec.protocol == slots.UNISWAP_V3:
        return PoolValues(HEAD, spec.fee_pips, **CURVE)
    return PoolValues(HEAD, 3000, lp_fee=3000, protocol_fee=0, fee_block=HEAD, **CURVE)


@pytest.fixture
def writer(arena_name: str) -> Iterator[WriterArena]:
    with unlinked(WriterArena.create(arena_name, max_pools=32, tick_bytes=1 << 20)) as found:
        for spec in SPECS:
            found.install(found.add_pool(spec), values_of(spec), slots.STATUS_LIVE)
        found.set_head(HEAD)
        found.commit()
        found.set_phase("live")
        found.heartbeat()
        yield found


def slot_of(writer: WriterArena, spec: PoolSpec) -> int:
    slot = writer.slot_of(spec.key)
    assert slot is not None
    return slot


def apply(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


@pytest.fixture
def views(pools: Arena) -> Iterator[list[Arena | Snapshot | FrozenSnapshot]]:
    with pools.snapshot() as view:
        yield [pools, view, pools.snapshot([*pools, key(LOW)])]


# ---- pools by their pair


def test_a_pool_is_found_by_its_pair_in_any_order(views: list[Any]) -> None:
    for view in views:
        for pair in (
            "USDC/WETH",
            "WETH / USDC",
            ("WETH", "USDC"),
            f"{address(USDC)}/WETH",
            f"{address(WETH).upper().replace('X', 'x')}/{address(USDC)}",
            (WETH.address, "USDC"),
            (Token(address(WETH), None, "whatever"), USDC.address),
        ):
            assert view.find(pair, fee=500).key == key(LOW)
            assert view.find(pair, fee="0.05%").key == key(LOW)
            assert view.find(pair, protocol="uniswap_v2").key == key(PAIR)
            assert view.find(pair, fee="0.3%", protocol="uniswap_v4").key == key(FOUR)
        assert view.find("ETH/USDC", fee=slots.DYNAMIC_FEE_PIPS).key == key(DYNAMIC)
        assert view.find(f"ETH/{address(USDC)}").key == key(DYNAMIC)
        assert view.find(("A/B", EVIL.address)).key == key(WIDES)


def test_the_fee_is_the_one_a_pool_says_it_has(views: list[Any]) -> None:
    for view in views:
        for name in view:
            state = view[name].state()
            pair = (state.token0, state.token1)
            assert view.find(pair, fee=state.fee_pips, protocol=state.protocol).key == name
        assert view.find("ETH/WETH", fee="0.2%").key == key(SOLID)
        with pytest.raises(errors.UnknownPool):
            view.find("ETH/WETH", fee=0)


def test_what_is_found_is_what_the_key_gives(pools: Arena, views: list[Any]) -> None:
    assert pools.find("USDC/WETH", fee=500) is pools[key(LOW)]
    _, view, frozen = views
    assert frozen.find("USDC/WETH", fee=500) is frozen[key(LOW)]
    assert isinstance(view.find("USDC/WETH", fee=500), Pool)
    assert [pool.key for pool in view.pair("WETH", FAKE.address)] == [key(FAKES)]


def test_several_pools_are_refused_with_all_of_them(views: list[Any]) -> None:
    for view in views:
        with pytest.raises(
            errors.AmbiguousPool, match="3 pools are USDC/WETH with fee 0.3%"
        ) as hit:
            view.find("USDC/WETH", fee=3000)
        assert {each["key"] for each in hit.value.candidates} == {key(HIGH), key(FOUR), key(PAIR)}
        for each in hit.value.candidates:
            state = view[each["key"]].state()
            assert each == {
                "key": state.pool_key,
                "protocol": state.protocol,
                "fee_pips": state.fee_pips,
                "token0": state.token0.address,
                "token1": state.token1.address,
            }
            for text in (each["key"], each["protocol"], each["token0"], "0.3%"):
                assert text in str(hit.value)
        again = pickle.loads(pickle.dumps(hit.value))
        assert again.candidates == hit.value.candidates
        assert not isinstance(hit.value, errors.UnknownPool)


def test_no_pool_is_refused_with_those_of_the_pair(views: list[Any]) -> None:
    for view in views:
        with pytest.raises(errors.UnknownPool, match=r"USDC/WETH with fee 0\.01%") as hit:
            view.find("USDC/WETH", fee=100)
        assert {each["key"] for each in hit.value.candidates} == {key(spec) for spec in OF_PAIR}
        with pytest.raises(errors.UnknownPool, match="of solidly") as hit:
            view.find("USDC/WETH", protocol="solidly")
        assert len(hit.value.candidates) == 4
        with pytest.raises(errors.UnknownPool) as hit:
            view.find(f"USDC/{address(WIDE)}")
        assert hit.value.candidates == ()
        assert view.pair("USDC", WIDE.address) == ()


def test_unknown_and_ambiguous_symbols_are_refused(views: list[Any]) -> None:
    for view in views:
        for call in (view.find, partial(apply, view.pair)):
            with pytest.raises(errors.AmbiguousToken, match="several tokens") as hit:
                call(("FAKE", "WETH"))
            assert {each.address for each in hit.value.candidates} == {address(FAKE), address(TWIN)}
            assert all(each.address in str(hit.value) for each in hit.value.candidates)
            assert isinstance(hit.value, errors.UnknownToken)
            with pytest.raises(errors.UnknownToken, match="case") as unknown:
                call(("usdc", "WETH"))
            assert [each.address for each in unknown.value.candidates] == [address(USDC)]
            for name in ("NONE", "0x" + "99" * 20, "0x" + "zz" * 20, "USDC\0", "\ud800", "𝟙"):
                with pytest.raises(errors.UnknownToken) as unknown:
                    call((name, "WETH"))
                assert unknown.value.candidates == ()
            with pytest.raises(ValueError, match="one token"):
                call(("WETH", address(WETH)))
        with pytest.raises(errors.UnknownToken):
            view.pair("", "WETH")
        with pytest.raises(errors.UnknownToken):
            view.pair(b"\x99" * 20, "WETH")


@pytest.mark.parametrize("pair", ["USDC", "USDC/", "/", "", "A/B/WETH", " / WETH"])
def test_text_that_is_no_pair_is_refused(pools: Arena, pair: str) -> None:
    with pytest.raises(ValueError, match="not two names"):
        pools.find(pair)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"fee": "500"}, ValueError),
        ({"fee": "5 %"}, ValueError),
        ({"fee": "0.00005%"}, ValueError),
        ({"fee": "٣%"}, ValueError),
        ({"fee": 0.05}, TypeError),
        ({"fee": True}, TypeError),
        ({"protocol": "uniswap"}, ValueError),
    ],
)
def test_impossible_arguments_are_refused(
    pools: Arena, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        pools.find("USDC/WETH", **options)
    for pair in (None, ["USDC", "WETH"], ("USDC",), 5, ("USDC", 5)):
        with pytest.raises(TypeError):
            pools.find(pair)  # type: ignore[arg-type]


def test_pools_that_came_and_went_are_found_and_not(writer: WriterArena, pools: Arena) -> None:
    new = PoolSpec(b"\xb9" * 20, slots.UNISWAP_V3, WETH, USDC, 100, 1)
    writer.install(writer.add_pool(new), values_of(new), slots.STATUS_LIVE)
    writer.commit()
    assert pools.find("USDC/WETH", fee=100).key == key(new)
    with pools.snapshot() as view:
        writer.remove_pool(slot_of(writer, LOW))
        writer.commit()
        assert view.find("USDC/WETH", fee=500).key == key(LOW)
    with pytest.raises(errors.UnknownPool):
        pools.find("USDC/WETH", fee=500)
    writer.remove_pool(slot_of(writer, BLANKS))
    writer.commit()
    with pytest.raises(errors.UnknownToken):  # in the table still, in no pool
        pools.find(f"WETH/{address(BLANK)}")
    announced = two(9, WETH, BLANK, fee=100)
    writer.announce(writer.add_pool(announced))
    writer.commit()
    found = pools.find(f"WETH/{address(BLANK)}", fee=100)
    assert (found.key, found.status) == (key(announced), "syncing")
    pools.close()
    with pytest.raises(errors.ArenaClosed):
        pools.find("USDC/WETH")
    assert pools._ipython_key_completions_() == []


def test_a_market_is_found_pair_by_pair(arena_name: str) -> None:
    with make_market(arena_name, 200, 5), attach(arena_name, require_writer=False) as pools:
        by_pair: dict[frozenset[str], set[str]] = {}
        tokens: dict[str, set[str]] = {}
        for name in pools:
            state = pools[name].state()
            both = state.token0, state.token1
            by_pair.setdefault(frozenset(each.address for each in both), set()).add(name)
            for each in both:
                tokens.setdefault(each.symbol, set()).add(each.address)
        for pair, wanted in by_pair.items():
            a, b = sorted(pair)
            assert {pool.key for pool in pools.pair(a, b)} == wanted
        assert sum(map(len, by_pair.values())) == len(pools) == 200
        for a, b in combinations(sorted(tokens)[:12], 2):
            assert max(len(tokens[a]), len(tokens[b])) == 1
            wanted = by_pair.get(frozenset((*tokens[a], *tokens[b])), set())
            assert {pool.key for pool in pools.pair(b, a)} == wanted
        assert pools._ipython_key_completions_() == list(pools)
        with pools.snapshot() as view:
            assert view._ipython_key_completions_() == list(pools)


def test_a_router_knows_the_same_names(pools: Arena) -> None:
    router = arena.Router(pools, numeraire="WETH")
    assert router.token("USDC") == router.token(USDC.address) == router.token(address(USDC))
    with pytest.raises(errors.AmbiguousToken):
        router.token("FAKE")
    with pytest.raises(errors.UnknownToken):
        router.token("")


# ---- prices


def exact_price(spec: PoolSpec) -> Fraction:
    """Whole tokens 1 for a whole token 0."""
    values = values_of(spec)
    raw = Fraction(values.sqrt_price_x96**2, 2**192)
    if spec.protocol in (slots.UNISWAP_V2, slots.SOLIDLY):
        raw = Fraction(values.reserve1, values.reserve0)
    assert spec.token0.decimals is not None
    assert spec.token1.decimals is not None
    return raw * Fraction(10) ** (spec.token0.decimals - spec.token1.decimals)


def is_rounded(found: Decimal, exact: Fraction, digits: int = 40) -> bool:
    """Whether it is the nearest number of so many digits."""
    unit = Fraction(10) ** (found.adjusted() - digits + 1)
    return len(found.as_tuple().digits) <= digits and abs(Fraction(found) - exact) <= unit / 2


def test_prices_are_the_exact_quotient_rounded_once(views: list[Any]) -> None:
    for view in views:
        for spec in SPECS:
            if spec is BLANKS:
                continue
            pool = view[key(spec)]
            with localcontext(prec=3):  # the caller's context is not used
                price = pool.price
                assert pool.state().price == price
            exact = exact_price(spec)
            assert is_rounded(price.token0_in_token1, exact)
            assert is_rounded(price.token1_in_token0, 1 / exact)
            assert not is_rounded(price.token0_in_token1, exact * (1 + Fraction(1, 10**39)))


def test_a_price_that_is_a_short_number_is_that_number(pools: Arena) -> None:
    price = pools[key(PAIR)].price
    assert price.token0_in_token1 == 3000
    assert str(price.token0_in_token1) == "3000"
    assert pickle.loads(pickle.dumps(price)) == price


def test_a_price_that_is_not_known_is_refused(writer: WriterArena, pools: Arena) -> None:
    for pool in (pools[key(BLANKS)], pools[key(BLANKS)].freeze(), pools[key(BLANKS)].state()):
        with pytest.raises(errors.UnknownDecimals, match=address(BLANK)):
            _ = pool.price
    writer.install(writer.add_pool(LOW), values_of(LOW), slots.STATUS_STALE)
    empty = PoolValues(HEAD, 3000, reserve0=0, reserve1=0)
    writer.install(writer.add_pool(PAIR), empty, slots.STATUS_LIVE)
    announced = two(8, WETH, USDC)
    writer.announce(writer.add_pool(announced))
    writer.commit()
    stale = pools[key(LOW)]
    for asked in (stale, stale.freeze()):
        with pytest.raises(errors.PoolStale, match="stale"):
            _ = asked.price
    assert is_rounded(stale.state().price.token0_in_token1, exact_price(LOW))
    for view in (pools[key(PAIR)], pools[key(PAIR)].state()):
        with pytest.raises(errors.PoolNotInitialized):
            _ = view.price
    with pytest.raises(errors.PoolStale):
        _ = pools[key(announced)].price
    with pytest.raises(errors.PoolStale, match="no values"):
        _ = pools[key(announced)].state().price
    writer.remove_pool(slot_of(writer, LOW))
    writer.commit()
    with pytest.raises(errors.PoolRemoved):
        _ = stale.price


# ---- quotes in whole tokens


def oracle_pool() -> oracle.ConcentratedPool:
    return oracle.ConcentratedPool(
        3, CURVE["sqrt_price_x96"], TICK, LIQUIDITY, 500, 10, {t: net for t, _, net in TICKS}
    )


def test_a_quote_of_whole_tokens_is_the_oracles(views: list[Any]) -> None:
    for view in views:
        pair, range_pool = view[key(PAIR)], view[key(LOW)]
        found = pair.quote("1.5", sell="WETH")
        out = oracle.v2_amount_out(15 * 10**17, 10**21, 3 * 10**12, 997, 1000)
        assert (found.quote.amount_in, found.quote.amount_out) == (15 * 10**17, out)
        assert (found.amount_in, found.amount_out) == (Decimal("1.5"), Decimal(out) / 10**6)
        assert is_rounded(found.price, Fraction(out, 10**6) / Fraction(3, 2))
        assert (found.token_in.symbol, found.token_out.symbol) == ("WETH", "USDC")
        bought = pair.quote(Decimal("2000.000001"), buy=USDC.address)
        paid = oracle.v2_amount_in(2000000001, 10**21, 3 * 10**12, 997, 1000)
        assert (bought.quote.amount_in, bought.quote.amount_out) == (paid, 2000000001)
        assert (bought.token_in.symbol, bought.token_out.symbol) == ("WETH", "USDC")
        for way, name, amount in ((True, "WETH", 10**15), (False, "USDC", 10**9)):
            text = str(Decimal(amount).scaleb(-18 if way else -6))
            swapped = oracle.swap(oracle_pool(), amount, way, True)
            sold = range_pool.quote(text, sell=name)
            assert (sold.quote.amount_in, sold.quote.amount_out) == (
                swapped.amount_in,
                swapped.amount_out,
            )
            swapped = oracle.swap(oracle_pool(), amount, not way, False)
            asked = range_pool.quote(text, buy=name)
            assert (asked.quote.amount_in, asked.quote.amount_out) == (
                swapped.amount_in,
                swapped.amount_out,
            )


def test_whole_tokens_and_wei_give_one_quote(views: list[Any]) -> None:
    for view in views:
        for spec in (LOW, HIGH, PAIR, WIDES, EVILS):
            pool = view[key(spec)]
            for way in (True, False):
                sold, bought = (spec.token0, spec.token1)[:: 1 if way else -1]
                wei = 1 if spec is WIDES and way else 10 ** (sold.decimals or 0)
                text = f"{Fraction(wei, 10 ** (sold.decimals or 0))}"
                found = pool.quote(text, sell=address(sold))
                assert found.quote == pool.quote_exact_in(wei, zero_for_one=way)
                assert Fraction(found.amount_out) == Fraction(
                    found.quote.amount_out, 10 ** (bought.decimals or 0)
                )
                assert found.as_dict()["amount_in"] == found.amount_in
                assert pickle.loads(pickle.dumps(found)) == found


def test_options_reach_the_quote(writer: WriterArena, pools: Arena) -> None:
    pool = pools.find("ETH/USDC")
    with pytest.raises(errors.DynamicFee):
        pool.quote("1", sell="ETH")
    found = pool.quote("1", sell="ETH", lp_fee=100)
    assert found.quote == pool.quote_exact_in(10**18, zero_for_one=True, lp_fee=100)
    limit = CURVE["sqrt_price_x96"] - 10**20
    part = pools[key(LOW)].quote("1000000", sell="WETH", sqrt_price_limit_x96=limit)
    assert not part.is_complete
    assert part.quote.sqrt_price_x96_after == limit
    assert part.amount_in < 1000000
    assert "in part" in repr(part)
    writer.install(writer.add_pool(LOW), values_of(LOW), slots.STATUS_STALE)
    writer.commit()
    with pytest.raises(errors.PoolStale):
        pools[key(LOW)].quote("1", sell="WETH")
    assert pools[key(LOW)].quote("1", sell="WETH", allow_stale=True).is_complete


def test_nothing_is_guessed(views: list[Any]) -> None:
    for view in views:
        pool = view[key(PAIR)]
        for amount in (1, 1.5, True, None, b"1", Fraction(1)):
            with pytest.raises(TypeError, match="whole tokens"):
                pool.quote(amount, sell="WETH")
        for text in ("", " 1", "1 ", "1,5", "0x10", "one", "NaN", "inf", "1e", "٣", "1__0"):
            with pytest.raises(ValueError, match="is no amount"):
                pool.quote(text, sell="WETH")
        with pytest.raises(ValueError, match="more digits than the 6 of USDC"):
            pool.quote("1.0000001", sell="USDC")
        for text in ("-1", "0", "1e60", "1e999999999999"):
            with pytest.raises(errors.AmountOutOfRange):
                pool.quote(text, sell="WETH")
        for sides in ({}, {"sell": "WETH", "buy": "USDC"}):
            with pytest.raises(ValueError, match="one of them only"):
                pool.quote("1", **sides)
        with pytest.raises(errors.UnknownToken, match="tokens are") as hit:
            pool.quote("1", sell="FAKE")
        assert [each.symbol for each in hit.value.candidates] == ["WETH", "USDC"]
        with pytest.raises(errors.UnknownToken):
            view[key(BLANKS)].quote("1", sell="")
        with pytest.raises(errors.AmbiguousToken):
            view[key(SAME)].quote("1", sell="FAKE")
        assert view[key(SAME)].quote("1", sell=TWIN.address).token_out.decimals == 18
        for name in ("WETH", address(BLANK)):
            with pytest.raises(errors.UnknownDecimals):
                view[key(BLANKS)].quote("1", sell=name)


def test_a_price_of_nothing_is_none(pools: Arena) -> None:
    found = pools[key(SOLID)].quote("0", sell="WETH")  # pairs of Solidly answer 0
    assert (found.amount_in, found.amount_out, found.price) == (0, 0, None)


# ---- what is printed


class Shown(HTMLParser):
    """Tags and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_objects_say_what_they_are(writer: WriterArena, pools: Arena) -> None:
    assert repr(pools) == f"Arena({pools.name!r}, live, block {HEAD}, {len(SPECS)} pools)"
    pool = pools[key(LOW)]
    named = f"{key(LOW)}, uniswap_v3 WETH/USDC 0.05%, live"
    assert repr(pool) == f"Pool({named}, arena {pools.name})"
    assert repr(pool.freeze()) == f"FrozenPool({named})"
    with pools.snapshot() as view:
        assert repr(view[key(LOW)]).startswith(f"Pool({named}, arena {pools.name}, commit ")
    assert "dynamic fee" in repr(pools[key(DYNAMIC)])
    assert f"{address(EVIL)}" in repr(pools[key(EVILS)])
    assert "\n" not in repr(pools[key(EVILS)])
    sold = pool.quote("1.50", sell="WETH")
    out = amount_text(sold.quote.amount_out, sold.token_out)
    assert repr(sold) == f"TokenQuote(1.5 WETH -> {out} USDC, block {HEAD})"
    state = repr(pool.state())
    assert "ticks=<2>" in state
    assert f"sqrt_price_x96={CURVE['sqrt_price_x96']}" in state
    assert "reserve0" not in state
    assert "reserve0=1000" in repr(pools[key(PAIR)].state())
    writer.remove_pool(slot_of(writer, LOW))
    writer.commit()
    assert repr(pool) == f"Pool({key(LOW)}, PoolRemoved, arena {pools.name})"
    assert "PoolRemoved" in pool._repr_html_()
    pools.close()
    assert repr(pools) == f"Arena({pools.name!r}, closed)"
    assert repr(pool) == f"Pool({key(LOW)}, ArenaClosed, arena {pools.name})"
    assert "closed" in pools._repr_html_()


def test_notebooks_get_small_escaped_tables(pools: Arena) -> None:
    keys = [key(EVILS)] * 30
    batch = pools.quote_batch(keys, [10**6] * 29 + [0], zero_for_one=True)
    for shown, wanted in (
        (pools, "live"),
        (pools[key(EVILS)], "<b>&\n"),
        (pools[key(EVILS)].freeze(), "0.3%"),
        (pools[key(EVILS)].state(), repr("<b>&\n")),
        (pools[key(BLANKS)], address(BLANK)),
        (batch, "the first 10"),
        (batch[25:], "AmountOutOfRange"),
    ):
        page = shown._repr_html_()
        parsed = Shown(page)
        assert parsed.tags <= {"table", "caption", "tr", "th", "td"}
        if wanted != "<b>&\n":  # shown by its address: it cannot be printed
            assert wanted in "".join(parsed.texts)
        assert len(page) < 4000
    assert address(EVIL) in "".join(Shown(pools[key(EVILS)]._repr_html_()).texts)
    price = "".join(Shown(pools[key(PAIR)]._repr_html_()).texts)
    assert "3000" in price
    assert "0.0003333333333" in price


def test_the_package_shows_its_public_names_alone() -> None:
    shown = {name for name in dir(arena) if not name.startswith("__")}
    assert shown - {"errors", "layouts"} == set(arena.__all__)
    for name in ("Arena", "Pool", "TokenQuote", "PoolPrice", "AmbiguousPool"):
        assert name in shown
    private = [name for name in dir(arena) if name.startswith("_") and not name.startswith("__")]
    assert private == []


# ---- rows


def test_quotes_and_batches_become_rows(pools: Arena) -> None:
    keys = [key(LOW), key(PAIR), key(DYNAMIC)]
    amounts = [10**15, 10**16, 10**15]
    ways = [True, False, True]
    batch = pools.quote_batch(keys, amounts, zero_for_one=ways)
    rows = batch.to_rows()
    for index, row in enumerate(rows):
        asked = (keys[index], ways[index], False, amounts[index])
        assert (row["key"], row["zero_for_one"], row["exact_out"], row["amount"]) == asked
    quote = pools[key(LOW)].quote_exact_in(10**15, zero_for_one=True)
    exact = quote.as_dict()
    assert exact == {name: getattr(quote, name) for name in exact}
    assert {"amount_in", "amount_out", "is_complete", "block_number"} <= set(exact)
    answered = {name: value for name, value in rows[0].items() if name in exact}
    assert answered == exact
    answered.pop("zero_for_one")  # as asked, also without an answer
    assert [row["error"] for row in rows] == [None, None, "DynamicFee"]
    assert {rows[2][name] for name in answered} == {None}
    assert rows[1]["amount_out"] == oracle.v2_amount_out(10**16, 3 * 10**12, 10**21, 997, 1000)
    many = pools[key(LOW)].quote_many([10**12, 10**13], zero_for_one=False, exact_out=True)
    assert [row["exact_out"] for row in many.to_rows()] == [True, True]
    assert batch[:0].to_rows() == []
    columns = batch._columns()
    assert columns["amount_out"] == [
        None if row["amount_out"] is None else str(row["amount_out"]) for row in rows
    ]


def test_frames_hold_what_the_rows_do(pools: Arena) -> None:
    pytest.importorskip("pyarrow")
    keys = [key(LOW), key(PAIR), key(DYNAMIC)]
    batch = pools.quote_batch(keys, 10**15, zero_for_one=True)
    frame = batch.to_arrow().to_pylist()
    wide = ("amount", "amount_in", "amount_out", "sqrt_price_x96_after", "liquidity_after")
    for shown, row in zip(frame, batch.to_rows(), strict=True):
        wanted = {
            name: str(value) if name in wide and value is not None else value
            for name, value in row.items()
        }
        assert shown == wanted


# ---- the command


@pytest.fixture
def command(
    pools: Arena, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str) -> tuple[int, str, str]:
        code = 0
        try:
            quote_command([pools.name, *words])
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return run


def test_the_command_takes_pairs_and_whole_tokens(
    pools: Arena, command: Callable[..., tuple[int, str, str]]
) -> None:
    out = oracle.swap(oracle_pool(), 15 * 10**17, True, True).amount_out
    code, text, _ = command("USDC/WETH", "1.5", "--sell", "WETH", "--fee", "500", "--json")
    shown = json.loads(text)
    assert code == 0
    assert (shown["amount_in"], shown["amount_out"]) == (str(15 * 10**17), str(out))
    assert shown["pool"] == key(LOW)
    assert shown["sold"] == "1.5 WETH"
    assert shown["bought"] == f"{Decimal(out).scaleb(-6).normalize():f} USDC"
    number, rest = shown["price"].split(" ", 1)
    assert rest == "USDC for 1 WETH"
    assert is_rounded(Decimal(number), Fraction(out, 10**6) / Fraction(3, 2))
    by_key = command(key(LOW), "1.5", "--sell", address(WETH), "--json")
    in_wei = command(key(LOW), str(15 * 10**17), "--sell", "WETH", "--wei", "--json")
    assert by_key == in_wei == (0, text, "")
    today = json.loads(command(key(LOW), str(15 * 10**17), "--json")[1])
    assert today == {name: shown[name] for name in today}
    assert set(shown) - set(today) == {"pool", "sold", "bought", "price"}
    paid = oracle.v2_amount_in(10**6, 10**21, 3 * 10**12, 997, 1000)
    code, text, _ = command("WETH/USDC", "1", "--buy", "USDC", "--protocol", "uniswap_v2")
    assert code == 0
    assert f"sold                 {Decimal(paid).scaleb(-18).normalize():f} WETH" in text
    assert command("USDC/WETH", "1", "--buy", "USDC", "--fee", "0.05%")[0] == 0
    code, text, _ = command(f"WETH/{address(BLANK)}", "100", "--sell", "WETH", "--wei")
    assert code == 0
    assert f"wei {address(BLANK)}" in text
    assert not [line for line in text.splitlines() if line.startswith("price ")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("USDC/WETH", "1", "--sell", "WETH"), "AmbiguousPool"),
        (("USDC/WETH", "1", "--sell", "WETH", "--fee", "1"), "UnknownPool"),
        (("FAKE/WETH", "1", "--sell", "WETH"), "AmbiguousToken"),
        (("NONE/WETH", "1", "--sell", "WETH"), "UnknownToken"),
        (("USDC/WETH", "1", "--sell", "FAKE", "--fee", "500"), "UnknownToken"),
        (("USDC/WETH", "1", "--fee", "500"), "--sell TOKEN or --buy TOKEN"),
        (("USDC/WETH", "1.5", "--zero-for-one"), "--sell TOKEN or --buy TOKEN"),
        ((key(LOW), "1", "--sell", "WETH", "--one-for-zero"), "not allowed with"),
        ((key(LOW), "1", "--sell", "WETH", "--buy", "USDC"), "not allowed with"),
        ((key(LOW), "1", "--sell", "WETH", "--exact-out"), "--exact-out goes with wei"),
        ((key(LOW), "1", "--fee", "500"), "choose a pool of a pair"),
        ((key(LOW), "1.5"), "no integer"),
        ((key(LOW), "1.5", "--sell", "WETH", "--wei"), "no integer"),
        ((key(LOW), "1.0000001", "--sell", "USDC"), "more digits"),
        ((key(LOW), "1", "--sell", "WETH", "--fee", "x"), "--fee"),
        ((key(BLANKS), "1", "--sell", "WETH", "--limit", "x"), "--limit"),
        ((key(BLANKS), "1", "--sell", address(BLANK)), "UnknownDecimals"),
    ],
)
def test_the_command_refuses_what_may_be_meant_twice(
    command: Callable[..., tuple[int, str, str]], words: tuple[str, ...], message: str
) -> None:
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert message in err


def test_a_refusal_lists_what_may_be_meant(command: Callable[..., tuple[int, str, str]]) -> None:
    _, _, err = command("USDC/WETH", "1", "--sell", "WETH", "--fee", "3000")
    assert all(key(spec) in err for spec in (HIGH, FOUR, PAIR))
    assert key(LOW) not in err
    _, _, err = command("FAKE/WETH", "1", "--sell", "WETH")
    assert address(FAKE) in err
    assert address(TWIN) in err


def test_fees_read_as_people_write_them() -> None:
    wanted = {1: "0.0001%", 30: "0.003%", 500: "0.05%", 3000: "0.3%", 10000: "1%", 0: "0%"}
    assert {fee: fee_text(fee) for fee in wanted} == wanted
