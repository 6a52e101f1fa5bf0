"""The fields of one pool as JSON, each checked before it is believed."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from arena.layouts.slots import TOKEN
from arena.layouts.words import cut_utf8
from arena.specs import TokenSpec

MAX_SYMBOL_NBYTES = TOKEN["symbol"].itemsize


class PoolFields(ABC):
    """Reads `record`, a pool of a list or of a state file; `refuse` knows where it stands.

    Lists and state files differ in what counts as given, as an integer and as bytes, and in how they
    show a value; each has its own subclass. `what` is a field as messages name it.
    """

    integers: ClassVar[str] = "an integer"
    decimals_of: ClassVar[str] = "`{}` decimals"
    more: ClassVar[str] = ""  # where a missing field is described

    def __init__(self, record: dict[str, Any]):
        self.record = record

    @abstractmethod
    def refuse(self, found: str, remedy: str) -> NoReturn:
        """Raise what was found, where, with the remedy."""

    def is_given(self, name: str) -> bool:
        """Whether the record has that field."""
        return name in self.record

    def integer_of(self, value: Any) -> int | None:
        """The integer a JSON value is; None for anything else."""
        return None if isinstance(value, bool) or not isinstance(value, int) else value

    def bytes_of(self, value: Any) -> bytes | None:
        """Bytes of hex digits with or without 0x; None for anything else."""
        if not isinstance(value, str):
            return None
        match = re.fullmatch(r"(?:0[xX])?((?:[0-9a-fA-F]{2})+)", value)
        return bytes.fromhex(match[1]) if match else None

    def shown(self, value: Any) -> str:
        """A value as messages show it."""
        return repr(value)[:100]

    def field(self, name: str) -> Any:
        if not self.is_given(name):
            self.refuse(f"no `{name}`", f"add `{name}`{self.more}")
        return self.record[name]

    def integer(self, name: str, low: int, high: int) -> int:
        return self.as_integer(self.field(name), f"`{name}`", low, high)

    def hex(self, name: str, sizes: Sequence[int]) -> bytes:
        return self.as_hex(self.field(name), f"`{name}`", sizes)

    def token(self, name: str) -> TokenSpec:
        """An address, or an object with one; decimals may stand beside either."""
        token = self.field(name)
        decimals: Any = self.record.get(f"{name}_decimals")
        symbol: Any = None
        if isinstance(token, dict):
            address = self.as_hex(token.get("address"), f"`{name}.address`", (20,))
            decimals = token.get("decimals", decimals)
            symbol = token.get("symbol")
        else:
            address = self.as_hex(token, f"`{name}`", (20,))
        if decimals is not None:
            decimals = self.as_integer(decimals, self.decimals_of.format(name), 0, 255)
        if symbol is not None and not isinstance(symbol, str):
            self.refuse(f"`{name}.symbol` is {self.shown(symbol)}", "write a string")
        shown = cut_utf8(symbol or "", MAX_SYMBOL_NBYTES).decode().rstrip("\0")
        return TokenSpec(address, decimals, shown)

    def as_integer(self, value: Any, what: str, low: int, high: int) -> int:
        number = self.integer_of(value)
        if number is None:
            self.refuse(f"{what} is {self.shown(value)}", f"write {self.integers}")
        if not low <= number <= high:
            self.refuse(f"{what} is {number}", f"it lies in [{low}, {high}]")
        return number

    def as_hex(self, value: Any, what: str, sizes: Sequence[int]) -> bytes:
        content = self.bytes_of(value)
        if content is None or len(content) not in sizes:
            wanted = " or ".join(map(str, sizes))
            self.refuse(f"{what} is {self.shown(value)}", f"write {wanted} bytes as 0x hex")
        return content
