"""What the extension types offer, for type checkers."""

from collections.abc import Callable, Iterable
from typing import Any, Final, Self, Unpack, final

# Types: nothing is imported when it runs.
from arena.readers.quote import QuoteOptions
from arena.readers.state import PoolState, Token

def use(address: int, /) -> None: ...
def words_from_ints(ints: Iterable[Any], other: Callable[[Any], bytes], /) -> bytes: ...
def ints_from_words(words: Any, /, *, signed: bool = False) -> list[int]: ...
def key_bytes(key: str | bytes, /) -> bytes: ...
def references(
    address: int, mapped: object, commit: int, items: tuple[Any, ...], /
) -> tuple[bytearray, int]: ...
def copy_pool(arena: int, slot: int, generation: int, commit: int, /) -> bytes | int: ...
def describe(
    protocols: dict[int, tuple[str, bool, bool]],
    statuses: tuple[str, ...],
    token_of: Callable[[bytes], Token],
    state: type[PoolState],
    /,
) -> None: ...

WAIT_LOOK: Final[int]
WAIT_LATE: Final[int]
WAIT_FAILED: Final[int]

def wait_head(
    arena: int, closed: int, after: int, timeout: float | None, spin_ns: int, /
) -> tuple[int, int] | int: ...
def depth_nbytes() -> int: ...
def make_quote(raw: Any, /) -> Quote: ...

@final
class Quote:
    @property
    def amount_in(self) -> int: ...
    @property
    def amount_out(self) -> int: ...
    @property
    def sqrt_price_x96_after(self) -> int: ...
    @property
    def liquidity_after(self) -> int: ...
    @property
    def tick_after(self) -> int: ...
    @property
    def ticks_crossed(self) -> int: ...
    @property
    def is_complete(self) -> bool: ...
    @property
    def commit(self) -> int: ...
    @property
    def block_number(self) -> int: ...

class StateFields:
    @classmethod
    def _over(cls, copy: bytes, /) -> Self: ...
    @property
    def _copy(self) -> bytes | None: ...

class PoolHandle:
    @property
    def key(self) -> str: ...
    # an Attachment
    _arena: Final[Any]
    # (MappedArena, slot, generation)
    _where: Final[tuple[Any, int, int]]
    # a uint32_t pointer
    _closed: Final[Any]
    _commit: Final[int]
    def state(self) -> PoolState: ...
    def _head(self) -> PoolState: ...
    def _copy_bytes(self) -> bytes: ...
    def quote_exact_in(
        self, amount_in: int, *, zero_for_one: bool, **options: Unpack[QuoteOptions]
    ) -> Quote: ...
    def quote_exact_out(
        self, amount_out: int, *, zero_for_one: bool, **options: Unpack[QuoteOptions]
    ) -> Quote: ...
    def _quote_given(
        self, amount: bytes, limit: bytes | None, flags: int, lp_fee: int, /
    ) -> Quote | int: ...
    def _quote_words(self, amounts: Any, flags: int, results: Any, /) -> None: ...
    def _bind_call(
        self,
        where: tuple[Any, int, int],
        closed: object,
        arena: int,
        word: int,
        commit: int,
        /,
    ) -> None: ...
    def _name_call(self, key: str, arena: object, /) -> None: ...

class View:
    def _bind_view(
        self,
        mapped: object,
        closed: object,
        kept: dict[Any, Any],
        arena: int,
        word: int,
        commit: int,
        /,
    ) -> None: ...
