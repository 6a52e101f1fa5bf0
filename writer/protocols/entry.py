"""One pool of a list, as JSON: read with every field checked, and written."""

import re
from collections.abc import Sequence
from typing import Any, NoReturn

from arena.errors import PoolEntryInvalid
from arena.layouts.slots import DYNAMIC_FEE_PIPS, UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.specs import PoolSpec, TokenSpec
from arena.writer.protocols.checks import FEE_DENOMINATOR_PIPS, MAX_TICK_SPACING
from arena.writer.protocols.storage import (
    PANCAKESWAP_V3_LAYOUT,
    PoolTarget,
    StorageLayout,
    pool_target,
)

MAX_SYMBOL_NBYTES = 32  # token table, layouts
DEFAULT_V2_FEE_PIPS = 3000
# The PoolManager on Ethereum; lists in the arena dialect do not name it.
DEFAULT_POOL_MANAGER = bytes.fromhex("000000000004444c5dc75cb358380d2e3de08a90")

_PROTOCOLS: dict[str, tuple[int, StorageLayout | None]] = {
    "v2": (UNISWAP_V2, None),
    "uniswapv2": (UNISWAP_V2, None),
    "v3": (UNISWAP_V3, None),
    "uniswapv3": (UNISWAP_V3, None),
    "pancakeswapv3": (UNISWAP_V3, PANCAKESWAP_V3_LAYOUT),
    "v4": (UNISWAP_V4, None),
    "uniswapv4": (UNISWAP_V4, None),
}
_HELD = "uniswap_v2, uniswap_v3, pancakeswap_v3, uniswap_v4"


def pool_record(target: PoolTarget) -> dict[str, Any]:
    """The entry of a list that `target` is read from again, equal in every field.

    ValueError for the one target no entry can describe: a V3 pool of PancakeSwap's own factory
    without its storage layout.
    """
    spec = target.spec
    record: dict[str, Any] = {
        "pool_id" if spec.protocol == UNISWAP_V4 else "address": _hex_of(spec.key),
        "protocol": target.layout.name,
        "token0": _token_record(spec.token0),
        "token1": _token_record(spec.token1),
        "fee": spec.fee_pips,
    }
    if spec.protocol != UNISWAP_V2:
        record["tick_spacing"] = spec.tick_spacing
    if spec.protocol == UNISWAP_V4:
        record["address"] = _hex_of(spec.factory)
        if any(spec.hooks):
            record["hooks"] = _hex_of(spec.hooks)
    elif any(spec.factory):
        record["factory"] = _hex_of(spec.factory)
    if pool_target(spec, _PROTOCOLS[_plain(target.layout.name)][1]) != target:
        raise ValueError(f"pool {_hex_of(spec.key)}: its factory does not have {target.layout}")
    return record


def _token_record(token: TokenSpec) -> dict[str, Any]:
    record: dict[str, Any] = {"address": _hex_of(token.address)}
    if token.decimals is not None:
        record["decimals"] = token.decimals
    if token.symbol:
        record["symbol"] = token.symbol
    return record


class PoolEntry:
    """One record of a list: knows where it is, so that every refusal can say so."""

    def __init__(self, name: str, number: int, record: Any):
        self.name = name
        self.number = number
        self.record: dict[str, Any] = record if isinstance(record, dict) else {}
        self._raw = record
        self.key: bytes | None = None

    def refuse(self, found: str, remedy: str) -> NoReturn:
        pool = f" (0x{self.key.hex()})" if self.key else ""
        raise PoolEntryInvalid(
            f"{self.name}, entry {self.number}{pool}: {found}; {remedy}",
            path=self.name,
            entry=self.number,
            key=self.key or b"",
            found=found,
            remedy=remedy,
        )

    def identity(self) -> tuple[bytes, int | None]:
        """Key and, where it is named, protocol of an entry of ids. PoolEntryInvalid."""
        self.key = self._hex("id", (20, 32))
        if "protocol" not in self.record:
            return self.key, None
        protocol, _ = self._protocol()
        wanted = 32 if protocol == UNISWAP_V4 else 20
        if len(self.key) != wanted:
            self.refuse(
                f"a pool of {self.record['protocol']} with an identity of {len(self.key)} bytes",
                f"it has {wanted}",
            )
        return self.key, protocol

    def target(self) -> PoolTarget:
        """The pool described. PoolEntryInvalid."""
        if isinstance(self._raw, str):
            self.key = _bytes_of(self._raw)
            self.refuse("only an identity", "give protocol and tokens too, as the full lists do")
        if not isinstance(self._raw, dict):
            self.refuse(f"a {type(self._raw).__name__}", "write an object for each pool")
        identity = next((n for n in ("pool_id", "id", "address") if self.record.get(n)), None)
        if identity is None:
            self.refuse("no identity", "add `address`, or `pool_id` for Uniswap V4")
        self.key = self._hex(identity, (20, 32))
        protocol, layout = self._protocol()
        if protocol == UNISWAP_V4:
            return pool_target(self._v4_spec())
        if len(self.key) != 20:
            self.refuse(f"`{identity}` has 32 bytes", "give the pool's address")
        token0, token1 = self._tokens()
        factory = self._hex("factory", (20,)) if self.record.get("factory") else bytes(20)
        if protocol == UNISWAP_V2:
            fee_pips = DEFAULT_V2_FEE_PIPS
            if self.record.get("fee") is not None:
                fee_pips = self._integer("fee", 0, FEE_DENOMINATOR_PIPS - 1)
            return pool_target(
                PoolSpec(self.key, protocol, token0, token1, fee_pips, factory=factory)
            )
        spec = PoolSpec(
            self.key,
            protocol,
            token0,
            token1,
            self._integer("fee", 0, FEE_DENOMINATOR_PIPS - 1),
            self._integer("tick_spacing", 1, MAX_TICK_SPACING[protocol]),
            factory,
        )
        return pool_target(spec, layout)

    def _v4_spec(self) -> PoolSpec:
        assert self.key is not None
        if len(self.key) != 32:
            self.refuse(
                "a Uniswap V4 pool with an identity of 20 bytes", "give its 32-byte `pool_id`"
            )
        # `address` is the pool's id in some lists, its PoolManager in others.
        named = {
            self._hex(name, (20, 32))
            for name in ("address", "factory")
            if self.record.get(name) and self._hex(name, (20, 32)) != self.key
        }
        if len(named) > 1 or any(len(manager) != 20 for manager in named):
            self.refuse(
                "`address` and `factory` differ", "both are the 20-byte address of the PoolManager"
            )
        token0, token1 = self._tokens()
        spec = PoolSpec(
            self.key,
            UNISWAP_V4,
            token0,
            token1,
            self._integer("fee", 0, DYNAMIC_FEE_PIPS),
            self._integer("tick_spacing", 1, MAX_TICK_SPACING[UNISWAP_V4]),
            named.pop() if named else DEFAULT_POOL_MANAGER,
            self._hex("hooks", (20,)) if self.record.get("hooks") else bytes(20),
        )
        if spec.fee_pips > FEE_DENOMINATOR_PIPS and spec.fee_pips != DYNAMIC_FEE_PIPS:
            self.refuse(
                f"`fee` is {spec.fee_pips}",
                f"it is at most {FEE_DENOMINATOR_PIPS}, or {DYNAMIC_FEE_PIPS} for a dynamic fee",
            )
        return spec

    def _protocol(self) -> tuple[int, StorageLayout | None]:
        name = self.record.get("protocol")
        known = _PROTOCOLS.get(_plain(name)) if isinstance(name, str) else None
        if known is None:
            self.refuse(f"`protocol` is {_shown(name)}", f"held are {_HELD}")
        return known

    def _tokens(self) -> tuple[TokenSpec, TokenSpec]:
        return self._token("token0"), self._token("token1")

    def _token(self, name: str) -> TokenSpec:
        token = self._field(name)
        decimals: Any = self.record.get(f"{name}_decimals")
        symbol: Any = None
        if isinstance(token, dict):
            address = self._as_hex(token.get("address"), f"{name}.address", (20,))
            decimals = token.get("decimals", decimals)
            symbol = token.get("symbol")
        else:
            address = self._as_hex(token, name, (20,))
        if decimals is not None:
            decimals = self._as_integer(decimals, f"decimals of {name}", 0, 255)
        if symbol is not None and not isinstance(symbol, str):
            self.refuse(f"`{name}.symbol` is {_shown(symbol)}", "write a string")
        return TokenSpec(address, decimals, _cut_symbol(symbol or ""))

    def _field(self, name: str) -> Any:
        if self.record.get(name) is None:
            self.refuse(f"no `{name}`", f"add `{name}`")
        return self.record[name]

    def _integer(self, name: str, low: int, high: int) -> int:
        return self._as_integer(self._field(name), name, low, high)

    def _as_integer(self, value: Any, name: str, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(f"`{name}` is {_shown(value)}", "write an integer")
        if not low <= value <= high:
            self.refuse(f"`{name}` is {value}", f"it lies in [{low}, {high}]")
        return value

    def _hex(self, name: str, sizes: Sequence[int]) -> bytes:
        return self._as_hex(self.record[name], name, sizes)

    def _as_hex(self, value: Any, name: str, sizes: Sequence[int]) -> bytes:
        content = _bytes_of(value)
        if content is None or len(content) not in sizes:
            wanted = " or ".join(map(str, sizes))
            self.refuse(f"`{name}` is {_shown(value)}", f"write {wanted} bytes as 0x hex")
        return content


def _hex_of(content: bytes) -> str:
    return f"0x{content.hex()}"


def _bytes_of(value: Any) -> bytes | None:
    """Bytes of hex digits with or without 0x; None for anything else."""
    if not isinstance(value, str):
        return None
    match = re.fullmatch(r"(?:0[xX])?((?:[0-9a-fA-F]{2})+)", value.strip())
    return bytes.fromhex(match[1]) if match else None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:100]


def _cut_symbol(symbol: str) -> str:
    encoded = symbol.encode("utf-8", "replace")
    return encoded[:MAX_SYMBOL_NBYTES].decode("utf-8", "ignore").rstrip("\0")
