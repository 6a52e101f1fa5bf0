"""Pools and tokens by the names people have for them: symbols, pairs, fees.

A symbol names a token only where no other token has it; what could be meant by two is refused.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from arena.errors import AmbiguousPool, ArenaDamaged, ArenaError, UnknownPool
from arena.layouts import slots
from arena.layouts.protocols import PROTOCOL_NAMES, PROTOCOL_NUMBERS, PROTOCOLS
from arena.readers.amounts import fee_pips, fee_text
from arena.readers.lookup import row_keys
from arena.readers.state import Key, key_text
from arena.readers.token import SHOWN, Name, Token, only_token, text_of, token_of

Found = TypeVar("Found")

_ADDRESS = "0x[0-9a-f]{40}"

_FEE_IN_KEY = [number for number, row in PROTOCOLS.items() if row.has_stored_fees]


def find_token(name: Name, indices: npt.NDArray[np.uint32], rows: npt.NDArray[np.void]) -> int:
    """Index in the token table of an address or a symbol, among tokens (dtype TOKEN) of those indices.
    UnknownToken, AmbiguousToken."""
    text = text_of(name)
    if re.fullmatch(_ADDRESS, text):  # no symbol is that long
        wanted = np.frombuffer(bytes.fromhex(text[2:]), np.uint8)
        places = np.flatnonzero((rows["address"] == wanted).all(axis=1))
    elif "\ufffd" in text:  # stands for bytes that are no UTF-8
        places = np.array([i for i, row in enumerate(rows) if _token(row).symbol == text], np.intp)
    else:
        data = text.encode("utf-8", "surrogatepass")
        is_named = (rows["symbol"] == data) & (rows["symbol_nbytes"] == len(data))
        places = np.flatnonzero(is_named & (len(data) > 0))
    found = [_token(rows[place]) for place in places.tolist()]
    if len(found) == 1:
        return int(indices[places[0]])
    only_token(name, found, map(_token, rows))
    raise AssertionError("one token is no failure")


def _token(row: np.void) -> Token:
    return token_of(row.tobytes())


class Listing:
    """Lines, static rows and tokens of pools at one commit; `tokens` is the rows of the token table of
    the `indices`, ascending, and holds those of the pools."""

    def __init__(
        self,
        lines: npt.NDArray[np.void],
        rows: npt.NDArray[np.void],
        indices: npt.NDArray[np.uint32],
        tokens: npt.NDArray[np.void],
    ) -> None:
        self.lines = lines
        self.rows = rows
        self.indices = indices
        self.tokens = tokens

    @classmethod
    def of_table(
        cls, lines: npt.NDArray[np.void], rows: npt.NDArray[np.void], table: npt.NDArray[np.void]
    ) -> "Listing":
        """Of pools whose tokens lie in the whole token table. ArenaDamaged."""
        indices = np.unique(np.concatenate((rows["token0"], rows["token1"])))
        if len(indices) and indices[-1] >= len(table):
            raise ArenaDamaged(f"a pool names token {indices[-1]} of {len(table)}")
        return cls(lines, rows, indices, table[indices])

    def of_pair(self, pair: tuple[Name, Name]) -> "Listing":
        """The pools of two tokens. UnknownToken, AmbiguousToken; ValueError when they are one token."""
        a, b = (find_token(name, self.indices, self.tokens) for name in pair)
        if a == b:
            raise ValueError(f"{pair[0]!r} and {pair[1]!r} are one token")
        rows = self.rows
        one = (rows["token0"] == a) & (rows["token1"] == b)
        return self.where(one | (rows["token0"] == b) & (rows["token1"] == a))

    def where(self, is_wanted: npt.NDArray[np.bool_]) -> "Listing":
        return Listing(self.lines[is_wanted], self.rows[is_wanted], self.indices, self.tokens)

    @property
    def fees(self) -> npt.NDArray[np.uint32]:
        """(n,) pips, as PoolState.fee_pips; V4: as in the pool's key."""
        in_row = np.isin(self.rows["protocol"], _FEE_IN_KEY)
        in_row |= self.lines["unsure"] & slots.UNSURE_UNREAD != 0
        stored = self.lines["fee_status"] & 0xFFFFFF
        found: npt.NDArray[np.uint32] = np.where(in_row, self.rows["fee_pips"], stored)
        return found

    def described(self) -> tuple[dict[str, Any], ...]:
        """What tells the pools apart: key, protocol, fee_pips, and the addresses token0 and token1."""
        addresses = [
            [
                key_text(self.tokens["address"][place].tobytes())
                for place in np.searchsorted(self.indices, self.rows[name])
            ]
            for name in ("token0", "token1")
        ]
        protocols = [PROTOCOL_NAMES.get(n, str(n)) for n in self.rows["protocol"].tolist()]
        columns = (row_keys(self.rows), protocols, self.fees.tolist(), *addresses)
        names = ("key", "protocol", "fee_pips", "token0", "token1")
        return tuple(dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))


def split_pair(pair: str | tuple[Name, Name]) -> tuple[Name, Name]:
    """The two names of a pair: of a tuple, or of text with one slash. ValueError, TypeError."""
    if isinstance(pair, str):
        names = [name.strip() for name in pair.split("/")]
        if len(names) != 2 or not all(names):
            raise ValueError(
                f'pair {pair!r} is not two names with a slash between them, as "USDC/WETH"; where a symbol '
                "has a slash, give a tuple of two names"
            )
        return names[0], names[1]
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError(f'a pair is text such as "USDC/WETH" or a tuple of two names, not {pair!r}')
    return pair


class Names(Generic[Found]):
    """Pools by the names of their tokens, of whatever has pools by key."""

    __slots__ = ()

    def __getitem__(self, key: Key) -> Found:
        raise NotImplementedError

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError

    def _listing(self) -> Listing:
        """All pools that are there."""
        raise NotImplementedError

    def find(
        self,
        pair: str | tuple[Name, Name],
        *,
        fee: int | str | None = None,
        protocol: str | None = None,
    ) -> Found:
        """The one pool of a pair: "USDC/WETH", or a tuple of two symbols, addresses or Tokens, in any order.

        `fee` is pips, or text in percent as "0.05%"; of V4 as in the pool's key. AmbiguousPool when
        several pools fit, with `candidates` (dicts of key, protocol, fee_pips, token0, token1);
        UnknownPool when none does, with all pools of the pair as `candidates`; UnknownToken;
        AmbiguousToken when several tokens have a symbol. ValueError, TypeError.
        """
        names = split_pair(pair)
        pips = None if fee is None else fee_pips(fee)
        if protocol is not None and protocol not in PROTOCOL_NUMBERS:
            known = ", ".join(PROTOCOL_NUMBERS)
            raise ValueError(f"protocols are {known}, not {protocol!r}")
        every = self._listing().of_pair(names)
        fits = np.ones(len(every.rows), np.bool_)
        if pips is not None:
            fits &= every.fees == pips
        if protocol is not None:
            fits &= every.rows["protocol"] == PROTOCOL_NUMBERS[protocol]
        found = every.where(fits).described()
        if len(found) == 1:
            return self[found[0]["key"]]
        asked = "/".join(_shown_name(name) for name in names)
        if pips is not None:
            asked += f" with fee {fee_text(pips)}"
        if protocol is not None:
            asked += f" of {protocol}"
        if found:
            raise AmbiguousPool(
                f"{len(found)} pools are {asked}, give fee, protocol or a key: {_pools(found)}",
                candidates=found,
            )
        others = every.described()
        rest = f"; of that pair there are {_pools(others)}" if others else ""
        raise UnknownPool(f"no pool is {asked}{rest}", candidates=others)

    def pair(self, a: Name, b: Name) -> tuple[Found, ...]:
        """All pools of two tokens, in either order; empty where they have none.

        Symbols, addresses or Tokens. UnknownToken, AmbiguousToken; ValueError for one token twice.
        """
        found = []
        for key in row_keys(self._listing().of_pair((a, b)).rows):
            try:
                found.append(self[key])
            except UnknownPool:  # of an Arena: removed since it was listed
                continue
        return tuple(found)

    def _ipython_key_completions_(self) -> list[str]:
        try:
            return list(self)
        except ArenaError:  # closed, or overtaken: there is nothing to offer
            return []


def _shown_name(name: Name) -> str:
    return name.label if isinstance(name, Token) else text_of(name)


def _pools(candidates: Sequence[dict[str, Any]]) -> str:
    texts = [
        f"{each['key']} ({each['protocol']}, {fee_text(each['fee_pips'])}, "
        f"{each['token0']}/{each['token1']})"
        for each in candidates[:SHOWN]
    ]
    more = [f"and {len(candidates) - SHOWN} more"] if len(candidates) > SHOWN else []
    return ", ".join(texts + more)
