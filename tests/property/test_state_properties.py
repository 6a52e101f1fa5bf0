"""States made in C when they are read, and keys parsed in C, against plain Python.

Method: copies of pools are put together from the dtypes of layouts/slots.py with any content, and what each
field must be is said here from the same arrays with int.from_bytes. Bytes that are no copy are refused,
whatever they are; nothing that is no key passes for one.
"""

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arena.layouts import slots
from arena.readers import FrozenPool, PoolState, Token
from arena.readers.state import key_bytes

PROTOCOLS = {0: "uniswap_v2", 1: "uniswap_v3", 2: "uniswap_v4", 16: "solidly"}
STATUSES = ("absent", "syncing", "live", "stale", "removed")

words = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1])
tick_lists = st.lists(
    st.tuples(st.integers(-887272, 887272), words, words, words, words), max_size=6
)


@dataclasses.dataclass
class Made:
    """One copy: the three kinds of rows, and its ticks as (tick, gross words, net words)."""

    line: Any
    row: Any
    tokens: Any
    ticks: list[tuple[int, int, int, int, int]]

    @property
    def copy(self) -> bytes:
        net = np.array([each[3:] for each in self.ticks], "<u8")
        gross = np.array([each[1:3] for each in self.ticks], "<u8")
        tick = np.array([each[0] for each in self.ticks], "<i4")
        parts = (self.line, self.row, self.tokens, net, gross, tick)
        return b"".join([part.tobytes() for part in parts])


@st.composite
def copies(draw: st.DrawFn) -> Made:
    ticks = draw(tick_lists)
    line, row, tokens = (
        np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).copy()
        for size, dtype in ((128, slots.LINE), (128, slots.STATIC), (128, slots.TOKEN))
    )
    line["status"] = draw(st.integers(0, 4))
    line["tick_count"] = len(ticks)
    line["unsure"] = draw(st.sampled_from([0, 1, 4, 8, 15]))
    line["block_number"] = draw(words)
    for name in ("a", "b"):
        line[name] = [draw(words), draw(words)]
    row["protocol"] = draw(st.sampled_from(sorted(PROTOCOLS)))
    row["key_nbytes"] = draw(st.sampled_from([20, 32]))
    for token, symbol in zip(tokens, draw(st.tuples(st.text(), st.text())), strict=True):
        data = symbol.encode()[:32]
        token["symbol"], token["symbol_nbytes"] = data, len(data)
    return Made(line, row, tokens, ticks)


def number(low: int, high: int, signed: bool = False) -> int:
    data = low.to_bytes(8, "little") + high.to_bytes(8, "little")
    return int.from_bytes(data, "little", signed=signed)


def token_of(row: Any) -> Token:
    symbol = row["symbol"].tobytes()[: int(row["symbol_nbytes"])]
    return Token(
        "0x" + row["address"].tobytes().hex(),
        int(row["decimals"]) if int(row["flags"]) & 1 else None,
        symbol.decode("utf-8", "replace"),
    )


def expected(made: Made) -> dict[str, Any]:
    line, row = made.line[0], made.row[0]
    protocol = int(row["protocol"])
    has_ticks, has_fees, is_read = protocol in (1, 2), protocol == 2, not int(line["unsure"]) & 8
    a, b = (number(*map(int, line[name])) for name in ("a", "b"))
    block = int(line["block_number"])
    fields: dict[str, Any] = dict.fromkeys(each.name for each in dataclasses.fields(PoolState))
    fields |= {
        "protocol": PROTOCOLS[protocol],
        "pool_key": "0x" + row["key"].tobytes()[: int(row["key_nbytes"])].hex(),
        "block_number": block or int(line["base_block"]),
        "tx_index": int(line["tx_index"]) if block else 0,
        "log_index": int(line["log_index"]) if block else 0,
        "status": STATUSES[int(line["status"])],
        "token0": token_of(made.tokens[0]),
        "token1": token_of(made.tokens[1]),
        "fee_pips": int(line["fee_status"]) % 2**24
        if is_read and not has_fees
        else int(row["fee_pips"]),
        "base_block": int(line["base_block"]),
        "factory": "0x" + row["factory"].tobytes().hex(),
    }
    if has_ticks:
        fields["tick_spacing"] = int(row["tick_spacing"])
    if has_fees:
        fields["hooks"] = "0x" + row["hooks"].tobytes().hex()
    if is_read and not has_ticks:
        fields |= {"reserve0": a, "reserve1": b}
    if is_read and has_ticks:
        fields |= {
            "sqrt_price_x96": a + (int(line["sqrt_price_hi"]) << 128),
            "tick": int(line["tick"]),
            "liquidity": b,
            "ticks": tuple(
                (tick, number(g0, g1), number(n0, n1, signed=True))
                for tick, g0, g1, n0, n1 in made.ticks
            ),
        }
    if is_read and has_fees:
        fields |= {
            "protocol_fee": int(line["protocol_fee"]),
            "lp_fee": int(line["fee_status"]) % 2**24,
            "fee_block": int(line["fee_block"]),
        }
    return fields


@pytest.mark.property
@given(copies(), st.randoms(use_true_random=False))
def test_every_field_is_what_the_bytes_say_in_whatever_order_it_is_read(
    made: Made, order: Any
) -> None:
    state = FrozenPool(made.copy).state()
    fields = expected(made)
    names = 2 * list(fields)
    order.shuffle(names)
    for name in names:
        found = getattr(state, name)
        assert found == fields[name], name
        assert type(found) is type(fields[name])
    given_all = PoolState(**fields)
    again = pickle.loads(pickle.dumps(FrozenPool(made.copy))).state()
    for other in (given_all, again, pickle.loads(pickle.dumps(state)), dataclasses.replace(state)):
        assert other == state
        assert hash(other) == hash(state)
        assert repr(other) == repr(state)
    assert dataclasses.astuple(state) == dataclasses.astuple(given_all)
    arrays = (state.tick_arrays, given_all.tick_arrays)
    for each in arrays:
        if fields["ticks"] is None:
            assert each is None
            continue
        assert each is not None
        assert each.tick.tolist() == [tick for tick, _, _ in fields["ticks"]]
        for array, place in ((each.gross, 1), (each.net, 2)):
            assert array.shape == (len(fields["ticks"]), 2)
            assert not array.flags.writeable
            assert [number(*pair, signed=place == 2) for pair in array.tolist()] == [
                tick[place] for tick in fields["ticks"]
            ]


@pytest.mark.property
@given(copies(), st.data())
def test_bytes_of_another_length_or_of_what_has_no_name_are_no_copy(
    made: Made, data: st.DataObject
) -> None:
    copy = made.copy
    cut = data.draw(st.integers(0, len(copy) - 1))
    wrong: list[Any] = [copy[:cut], copy + b"\0", copy + bytes(36), bytearray(copy), None, 5]
    for table, name, value in (
        (made.line, "tick_count", data.draw(st.integers(len(made.ticks) + 1, 2**32 - 1))),
        (made.line, "status", data.draw(st.integers(5, 255))),
        (made.row, "protocol", data.draw(st.sampled_from([3, 15, 17, 255]))),
        (made.row, "key_nbytes", data.draw(st.integers(33, 255))),
    ):
        before = table[name].copy()
        table[name] = value
        wrong.append(made.line.tobytes() + made.row.tobytes() + copy[256:])
        table[name] = before
    for each in wrong:
        with pytest.raises(ValueError, match="no copy of a pool"):
            FrozenPool(each)


def plain_key(key: Any) -> bytes | type[Exception]:
    """What a key is, or the class of its refusal."""
    if isinstance(key, str):
        digits = key[2:]
        if key[:2] not in ("0x", "0X") or len(digits) not in (40, 64):
            return ValueError
        if set(digits) - set("0123456789abcdefABCDEF"):
            return ValueError
        return bytes(int(digits[at : at + 2], 16) for at in range(0, len(digits), 2))
    if isinstance(key, bytes | bytearray | memoryview):
        return bytes(key) if len(bytes(key)) in (20, 32) else ValueError
    return TypeError


class Text(str):
    pass


hexes = st.builds(
    lambda head, body: head + body,
    st.sampled_from(["0x", "0X", "", "x0", "0", "1x"]),
    st.sampled_from([39, 40, 41, 63, 64, 65, 0]).flatmap(
        lambda size: (
            st.text("0123456789abcdefABCDEFg /:@`\x00é\ud800", min_size=size, max_size=size)
            | st.text("0123456789abcdefABCDEF", min_size=size, max_size=size)
        )
    ),
)
raws = st.integers(0, 40).flatmap(lambda size: st.binary(min_size=size, max_size=size))
keys = (
    hexes
    | hexes.map(Text)
    | raws
    | raws.map(bytearray)
    | raws.map(memoryview)
    | raws.map(lambda data: memoryview(data + data)[::2])
    | st.none()
    | st.integers()
    | st.floats()
    | st.lists(st.integers(), max_size=3)
    | st.binary(max_size=3).map(lambda data: np.frombuffer(data, np.uint8))
)


@pytest.mark.property
@given(keys)
@example("0x" + "é" * 20)
@example("0x" + "0" * 39 + "\x00")
@example(memoryview(bytes(40))[::2])
def test_whatever_is_no_key_is_refused_as_it_deserves(key: Any) -> None:
    wanted = plain_key(key)
    if isinstance(wanted, bytes):
        assert key_bytes(key) == wanted
        return
    with pytest.raises(wanted) as caught:
        key_bytes(key)
    assert type(caught.value) is wanted
