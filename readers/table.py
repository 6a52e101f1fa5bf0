"""Tables of many pools: one structured array, and data frames made from it."""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from arena.layouts import slots
from arena.layouts.protocols import CONSTANT_PRODUCT, PROTOCOL_NAMES
from arena.native._handle import ints_from_words
from arena.readers.state import key_text

TABLE = slots.record(
    232,
    [
        ("key", ("u1", 32), 0),  # address left aligned, or pool id
        ("key_nbytes", "u1", 32),  # 20 or 32
        ("protocol", "u1", 33),  # layouts.slots.UNISWAP_*
        ("status", "u1", 34),  # layouts.slots.STATUS_*
        ("unsure", "u1", 35),  # why it is stale
        ("fee_pips", "<u4", 36),  # V4: stored LP fee
        ("slot", "<u4", 40),
        ("tick_spacing", "<i4", 44),
        ("tick", "<i4", 48),
        ("tick_count", "<u4", 52),
        ("block_number", "<u8", 56),  # last applied event, or base_block
        ("tx_index", "<u4", 64),
        ("log_index", "<u4", 68),
        ("reserve0", ("<u8", 2), 72),  # wei; V3/V4: 0
        ("reserve1", ("<u8", 2), 88),
        ("sqrt_price_x96", ("<u8", 4), 104),  # Q64.96; V2: 0
        ("liquidity", ("<u8", 2), 136),
        ("token0", ("u1", 20), 152),
        ("token1", ("u1", 20), 172),
        ("protocol_fee", "<u4", 192),  # V4
        ("reserved0", "<u4", 196),  # zero
        ("base_block", "<u8", 200),
        ("fee_block", "<u8", 208),  # V4
        ("commit", "<u8", 216),  # commit that wrote the version
        ("reserved1", "<u8", 224),  # zero
    ],
)

_SAME_NAME = ("status", "unsure", "tick", "tick_count", "tx_index", "log_index", "protocol_fee")


def make_table(
    lines: npt.NDArray[np.void],
    rows: npt.NDArray[np.void],
    numbers: npt.NDArray[np.uint32],
    addresses: npt.NDArray[np.uint8],
) -> npt.NDArray[np.void]:
    """(n,) array of dtype TABLE, without the pools that have no values yet. `addresses` is (tokens, 20), by
    token index."""
    has_values = lines["unsure"] & slots.UNSURE_UNREAD == 0
    lines, rows, numbers = lines[has_values], rows[has_values], numbers[has_values]
    table = np.zeros(len(lines), TABLE)
    for name in ("key", "key_nbytes", "protocol", "tick_spacing"):
        table[name] = rows[name]
    for name in (*_SAME_NAME, "base_block", "fee_block"):
        table[name] = lines[name]
    table["commit"] = lines["stamp"]
    table["slot"] = numbers
    table["fee_pips"] = lines["fee_status"] & 0xFFFFFF
    table["block_number"] = np.where(
        lines["block_number"] != 0, lines["block_number"], lines["base_block"]
    )
    has_reserves = np.isin(rows["protocol"], CONSTANT_PRODUCT)
    v2 = has_reserves.astype("<u8")[:, None]  # 1 or 0 each: keep or blank
    table["reserve0"] = lines["a"] * v2
    table["reserve1"] = lines["b"] * v2
    table["sqrt_price_x96"][:, :2] = lines["a"] * (1 - v2)
    table["sqrt_price_x96"][:, 2] = lines["sqrt_price_hi"]
    table["liquidity"] = lines["b"] * (1 - v2)
    for name in ("token0", "token1"):
        table[name] = addresses[rows[name]]
    return table


def table_columns(table: npt.NDArray[np.void]) -> dict[str, list[Any] | npt.NDArray[Any]]:
    """Columns for data frames.

    Keys and addresses are 0x-hex, protocol and status names, wide integers decimal strings (no frame
    library holds 256 bits), None where the protocol has no such field.
    """
    protocols = table["protocol"].tolist()
    is_v2 = [protocol in CONSTANT_PRODUCT for protocol in protocols]

    def wide(name: str, wanted: bool) -> list[Any]:
        numbers = ints_from_words(table[name])
        return [str(n) if v2 is wanted else None for n, v2 in zip(numbers, is_v2, strict=True)]

    keys = zip(table["key"], table["key_nbytes"].tolist(), strict=True)
    return {
        "key": [key_text(key.tobytes()[:nbytes]) for key, nbytes in keys],
        "protocol": [PROTOCOL_NAMES.get(number, str(number)) for number in protocols],
        "status": [slots.STATUS_NAMES[number] for number in table["status"].tolist()],
        "token0": [key_text(address.tobytes()) for address in table["token0"]],
        "token1": [key_text(address.tobytes()) for address in table["token1"]],
        "fee_pips": table["fee_pips"].copy(),
        "block_number": table["block_number"].copy(),
        "reserve0": wide("reserve0", True),
        "reserve1": wide("reserve1", True),
        "sqrt_price_x96": wide("sqrt_price_x96", False),
        "liquidity": wide("liquidity", False),
        "tick": table["tick"].copy(),
        "tick_spacing": table["tick_spacing"].copy(),
        "tick_count": table["tick_count"].copy(),
    }


def frame_module(name: str, extra: str | None) -> Any:
    """A frame library. ImportError names what to install: our extra, or itself when none has it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        wanted = name if extra is None else f"'pool-state-arena[{extra}]'"
        raise ImportError(f"{name} is not installed: pip install {wanted}") from error


class Frames:
    """Data frames of whatever has columns."""

    __slots__ = ()

    def _columns(self) -> Mapping[str, list[Any] | npt.NDArray[Any]]:
        """Columns of equal length, with nothing in them that no frame library holds."""
        raise NotImplementedError

    def to_arrow(self) -> Any:
        """pyarrow.Table, wide integers as decimal strings. ImportError without pyarrow."""
        return frame_module("pyarrow", "tables").table(self._columns())

    def to_polars(self) -> Any:
        """polars.DataFrame, wide integers as decimal strings. ImportError without polars."""
        return frame_module("polars", "tables").DataFrame(self._columns())

    def to_pandas(self) -> Any:
        """pandas.DataFrame, wide integers as decimal strings. ImportError without pandas."""
        return frame_module("pandas", None).DataFrame(self._columns())


class Tables(Frames):
    """Tables of a snapshot, made from table()."""

    def table(self) -> npt.NDArray[np.void]:
        """(n,) structured copy (dtype TABLE) of all pools that have been read, consistent at one block."""
        raise NotImplementedError

    def _columns(self) -> Mapping[str, list[Any] | npt.NDArray[Any]]:
        return table_columns(self.table())
