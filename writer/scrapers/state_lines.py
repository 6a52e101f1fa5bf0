"""One line of a state file: every field checked before it is believed."""

import json
from typing import Any, NoReturn

from arena.errors import PoolInvalid, StateFileError
from arena.layouts.slots import UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues

MAX_LINE_NBYTES = 64 << 20  # one pool with 300,000 ticks is about 25 MB
MAX_SYMBOL_NBYTES = 32  # token table, layouts
MAX_INTEGER_DIGITS = 80  # 2**256 has 78
DEFAULT_V2_FEE_PIPS = 3000
# WHITELIST 6.4: short, long and joined spellings, case and separators ignored.
_PROTOCOLS = {
    "v2": UNISWAP_V2,
    "uniswapv2": UNISWAP_V2,
    "v3": UNISWAP_V3,
    "uniswapv3": UNISWAP_V3,
    "v4": UNISWAP_V4,
    "uniswapv4": UNISWAP_V4,
}


class StateLine:
    """One line of a file: knows where it is, so that every refusal can say so."""

    def __init__(self, path: str, number: int):
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

    def parse(self, raw: bytes) -> dict[str, Any] | None:
        """The line's object; None for an empty line."""
        if len(raw) > MAX_LINE_NBYTES:
            self.refuse(f"more than {MAX_LINE_NBYTES} bytes", "put one pool on each line")
        if not raw.strip():
            return None
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
        return record

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

    def header(self, record: dict[str, Any]) -> int:
        if "head_block" not in record:
            self.refuse(
                "neither `pool` nor `head_block`",
                "a line is a pool or the header with `head_block`",
            )
        return self._integer(record, "head_block", 0, (1 << 64) - 1)

    def failed(self, record: dict[str, Any]) -> PoolInvalid | None:
        """What a scrape says of a pool it could not read; None when it had no key for it."""
        if record.get("pool") is None:
            return None
        key = self._hex(record, "pool", (20, 32))
        found = f"{record['error']}: {record.get('reason', '')}"
        return PoolInvalid(
            f"pool 0x{key.hex()} is not installed: {self.path}, line {self.number} says {found}",
            key=key,
            found=found,
        )

    def pool(self, record: dict[str, Any]) -> tuple[PoolSpec, PoolValues]:
        """The pool of a line. Types and field widths are checked here, meaning by check_pool."""
        protocol = self._protocol(record)
        key = self._hex(record, "pool", (20, 32))
        block_number = self._integer(record, "block", 0, (1 << 64) - 1)
        token0, token1 = self._token(record, "token0"), self._token(record, "token1")
        factory = self._hex(record, "factory", (20,)) if record.get("factory") else bytes(20)
        if protocol == UNISWAP_V2:
            fee_pips = DEFAULT_V2_FEE_PIPS
            if "fee_pips" in record:
                fee_pips = self._integer(record, "fee_pips", 0, (1 << 32) - 1)
            return (
                PoolSpec(key, protocol, token0, token1, fee_pips, 0, factory, bytes(20)),
                PoolValues(
                    block_number=block_number,
                    fee_pips=fee_pips,
                    reserve0=self._integer(record, "reserve0", 0, (1 << 256) - 1),
                    reserve1=self._integer(record, "reserve1", 0, (1 << 256) - 1),
                ),
            )
        fee_pips = self._integer(record, "fee_pips", 0, (1 << 32) - 1)
        spacing = self._integer(record, "tick_spacing", -(1 << 31), (1 << 31) - 1)
        hooks, lp_fee, protocol_fee, fee_block = bytes(20), 0, 0, 0
        if protocol == UNISWAP_V4:
            hooks = self._hex(record, "hooks", (20,))
            lp_fee = self._integer(record, "lp_fee", 0, (1 << 32) - 1)
            protocol_fee = self._integer(record, "protocol_fee", 0, (1 << 32) - 1)
            fee_block = block_number
            if "fee_block" in record:
                fee_block = self._integer(record, "fee_block", 0, (1 << 64) - 1)
        return (
            PoolSpec(key, protocol, token0, token1, fee_pips, spacing, factory, hooks),
            PoolValues(
                block_number=block_number,
                fee_pips=lp_fee if protocol == UNISWAP_V4 else fee_pips,
                sqrt_price_x96=self._integer(record, "sqrt_price_x96", 0, (1 << 256) - 1),
                tick=self._integer(record, "tick", -(1 << 31), (1 << 31) - 1),
                liquidity=self._integer(record, "liquidity", 0, (1 << 256) - 1),
                ticks=self._ticks(record),
                protocol_fee=protocol_fee,
                lp_fee=lp_fee,
                fee_block=fee_block,
            ),
        )

    def check_status(self, record: dict[str, Any], spec: PoolSpec) -> None:
        """PoolInvalid for a dumped pool whose numbers were not settled when it was dumped."""
        status = record.get("status", "live")
        if status != "live":
            raise PoolInvalid(
                f"pool 0x{spec.key.hex()} is not installed: {self.path}, line {self.number} says "
                f"its status is {status!r}, not 'live'",
                key=spec.key,
                found=status,
            )

    def _field(self, record: dict[str, Any], name: str) -> Any:
        if name not in record:
            self.refuse(f"no `{name}`", f"add `{name}`, see the state file reference")
        return record[name]

    def _integer(self, record: dict[str, Any], name: str, low: int, high: int) -> int:
        return self._as_integer(self._field(record, name), f"`{name}`", low, high)

    def _as_integer(self, value: Any, name: str, low: int, high: int) -> int:
        if isinstance(value, str):
            digits = value[1:] if value.startswith("-") else value
            if not (digits.isascii() and digits.isdigit() and len(digits) <= MAX_INTEGER_DIGITS):
                self.refuse(f"{name} is {value[:100]!r}", "write an integer or a decimal string")
            value = int(value)
        elif isinstance(value, bool) or not isinstance(value, int):
            self.refuse(
                f"{name} is a JSON {type(value).__name__}", "write an integer or a decimal string"
            )
        if not low <= value <= high:
            self.refuse(f"{name} is {value}", f"it lies in [{low}, {high}]")
        return int(value)

    def _hex(self, record: dict[str, Any], name: str, sizes: tuple[int, ...]) -> bytes:
        return self._as_hex(self._field(record, name), f"`{name}`", sizes)

    def _as_hex(self, value: Any, name: str, sizes: tuple[int, ...]) -> bytes:
        wanted = " or ".join(str(size) for size in sizes)
        if not isinstance(value, str):
            self.refuse(
                f"{name} is a JSON {type(value).__name__}", f"write {wanted} bytes as 0x hex"
            )
        digits = value[2:] if value[:2] in ("0x", "0X") else value
        if len(digits) not in [2 * size for size in sizes] or not _is_hex(digits):
            self.refuse(f"{name} is {value[:100]!r}", f"write {wanted} bytes as 0x hex")
        return bytes.fromhex(digits)

    def _protocol(self, record: dict[str, Any]) -> int:
        name = self._field(record, "protocol")
        known = _PROTOCOLS.get(name.lower().replace("_", "")) if isinstance(name, str) else None
        if known is None:
            self.refuse(
                f"`protocol` is {name!r}", "it is one of uniswap_v2, uniswap_v3, uniswap_v4"
            )
        return known

    def _token(self, record: dict[str, Any], name: str) -> TokenSpec:
        token = self._field(record, name)
        decimals: Any = record.get(f"{name}_decimals")
        symbol: Any = ""
        if isinstance(token, dict):
            address = self._as_hex(token.get("address"), f"`{name}.address`", (20,))
            decimals = token.get("decimals", decimals)
            symbol = token.get("symbol") or ""
        else:
            address = self._as_hex(token, f"`{name}`", (20,))
        if decimals is not None:
            decimals = self._as_integer(decimals, f"`{name}` decimals", 0, 255)
        if not isinstance(symbol, str):
            self.refuse(f"`{name}.symbol` is a JSON {type(symbol).__name__}", "write a string")
        return TokenSpec(address, decimals, _cut_symbol(symbol))

    def _ticks(self, record: dict[str, Any]) -> tuple[tuple[int, int, int], ...]:
        listed = self._field(record, "ticks")
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
                    self._as_integer(item[0], name, -(1 << 31), (1 << 31) - 1),
                    self._as_integer(item[1], name, 0, (1 << 256) - 1),
                    self._as_integer(item[2], name, -(1 << 255), (1 << 255) - 1),
                )
            )
        return tuple(ticks)


def _is_hex(digits: str) -> bool:
    return all(digit in "0123456789abcdefABCDEF" for digit in digits)


def _cut_symbol(symbol: str) -> str:
    encoded = symbol.encode("utf-8", "replace")
    return encoded[:MAX_SYMBOL_NBYTES].decode("utf-8", "ignore").rstrip("\0")
