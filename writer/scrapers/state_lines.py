"""One line of a state file: every field checked before it is believed.

arena/statelines.py writes them.
"""

import json
from typing import Any, NoReturn

from arena.errors import PoolInvalid, StateFileError
from arena.layouts.protocols import LISTED_NAMES, PROTOCOLS, ListedName, listed_name
from arena.specs import PoolSpec
from arena.values import PoolValues
from arena.writer.protocols.fields import PoolFields

MAX_LINE_NBYTES = 64 << 20  # one pool with 300,000 ticks is about 25 MB
MAX_INTEGER_DIGITS = 80  # 2**256 has 78
_UINT32 = (0, (1 << 32) - 1)
_UINT64 = (0, (1 << 64) - 1)
_UINT256 = (0, (1 << 256) - 1)
_INT32 = (-(1 << 31), (1 << 31) - 1)
# Widths alone: check_pool knows what a pool may have.
_RANGES = {
    "tick_spacing": _INT32,
    "tick": _INT32,
    "protocol_fee": _UINT32,
    "lp_fee": _UINT32,
    "fee_block": _UINT64,
}


class StateLine(PoolFields):
    """One line of a file: knows where it is, so that every refusal can say so."""

    integers = "an integer or a decimal string"
    more = ", see the state file reference"

    def __init__(self, path: str, number: int):
        super().__init__({})
        self.path = path
        self.number = number

    def refuse(self, found: str, remedy: str) -> NoReturn:
        raise StateFileError(
            f"{self.path}, line {self.number}: {found}; {remedy}",
            path=self.path,
            line=self.number,
            found=found,
            remedy=remedy,
        )

    def integer_of(self, value: Any) -> int | None:
        if not isinstance(value, str):
            return super().integer_of(value)
        digits = value[1:] if value.startswith("-") else value
        is_number = digits.isascii() and digits.isdigit() and len(digits) <= MAX_INTEGER_DIGITS
        return int(value) if is_number else None

    def shown(self, value: Any) -> str:
        return repr(value[:100]) if isinstance(value, str) else f"a JSON {type(value).__name__}"

    def parse(self, raw: bytes) -> bool:
        """Take the line's object as `record`; False for an empty line."""
        if len(raw) > MAX_LINE_NBYTES:
            self.refuse(f"more than {MAX_LINE_NBYTES} bytes", "put one pool on each line")
        if not raw.strip():
            return False
        try:
            record = json.loads(
                raw,
                parse_float=self._no_float,
                parse_constant=self._no_float,
                object_pairs_hook=self._object,
            )
        except (ValueError, RecursionError) as error:
            self.refuse(f"not valid JSON ({error})", "write one JSON object on each line")
        if not isinstance(record, dict):
            self.refuse(f"a JSON {type(record).__name__}", "write one JSON object on each line")
        self.record = record
        return True

    def _no_float(self, text: str) -> NoReturn:
        self.refuse(
            f"the number {text}", "write integers, beyond 2**53 as decimal strings; no fractions"
        )

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs):
            names = [name for name, _value in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            self.refuse(f"the key `{twice}` twice", "keep one of them")
        return record

    def header(self) -> int:
        """The block of a line that is no pool."""
        if "head_block" not in self.record:
            self.refuse(
                "neither `pool` nor `head_block`",
                "a line is a pool or the header with `head_block`",
            )
        return self.integer("head_block", *_UINT64)

    def failed(self) -> PoolInvalid | None:
        """What a scrape says of a pool it could not read; None when it had no key for it."""
        if self.record.get("pool") is None:
            return None
        key = self.hex("pool", (20, 32))
        found = f"{self.record['error']}: {self.record.get('reason', '')}"
        return PoolInvalid(
            f"pool 0x{key.hex()} is not installed: {self.path}, line {self.number} says {found}",
            key=key,
            found=found,
        )

    def pool(self) -> tuple[PoolSpec, PoolValues]:
        """The pool of a line. Types and field widths are checked here, meaning by check_pool."""
        row = PROTOCOLS[self.protocol().protocol]
        key = self.hex("pool", (20, 32))
        block_number = self.integer("block", *_UINT64)
        tokens = self.token("token0"), self.token("token1")
        factory = self.hex("factory", (20,)) if self.record.get("factory") else bytes(20)
        fee_pips = row.default_fee_pips
        if fee_pips is None or self.is_given("fee_pips"):
            fee_pips = self.integer("fee_pips", *_UINT32)
        found = {name: self._state_field(name, block_number) for name in row.state_fields}
        spacing, hooks = found.pop("tick_spacing", 0), found.pop("hooks", bytes(20))
        return (
            PoolSpec(
                key, row.number, *tokens, fee_pips * row.has_listed_fee, spacing, factory, hooks
            ),
            PoolValues(block_number, found.get("lp_fee", fee_pips), **found),
        )

    def _state_field(self, name: str, block_number: int) -> Any:
        if name == "ticks":
            return self._ticks()
        if name == "hooks":
            return self.hex(name, (20,))
        if name == "fee_block" and not self.is_given(name):
            return block_number
        return self.integer(name, *_RANGES.get(name, _UINT256))

    def check_status(self, spec: PoolSpec) -> None:
        """PoolInvalid for a dumped pool whose numbers were not settled when it was dumped."""
        status = self.record.get("status", "live")
        if status != "live":
            raise PoolInvalid(
                f"pool 0x{spec.key.hex()} is not installed: {self.path}, line {self.number} says "
                f"its status is {status!r}, not 'live'",
                key=spec.key,
                found=status,
            )

    def protocol(self) -> ListedName:
        """What `protocol` names."""
        name = self.field("protocol")
        known = listed_name(name) if isinstance(name, str) else None
        if known is None or known.layout:
            names = ", ".join(each.name for each in LISTED_NAMES if not each.layout)
            self.refuse(f"`protocol` is {name!r}", f"it is one of {names}")
        return known

    def _ticks(self) -> tuple[tuple[int, int, int], ...]:
        listed = self.field("ticks")
        if not isinstance(listed, list):
            self.refuse(
                f"`ticks` is a JSON {type(listed).__name__}",
                "write a list of [tick, liquidity_gross, liquidity_net]",
            )
        ticks = []
        for index, item in enumerate(listed):
            if not isinstance(item, list) or len(item) != 3:
                self.refuse(
                    f"`ticks[{index}]` is not a list of three",
                    "write [tick, liquidity_gross, liquidity_net]",
                )
            name = f"`ticks[{index}]`"
            ticks.append(
                (
                    self.as_integer(item[0], name, -(1 << 31), (1 << 31) - 1),
                    self.as_integer(item[1], name, 0, (1 << 256) - 1),
                    self.as_integer(item[2], name, -(1 << 255), (1 << 255) - 1),
                )
            )
        return tuple(ticks)
