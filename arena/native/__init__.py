"""The compiled core and the extension types over it, and the one table from status codes to exceptions.

Purpose: shared-memory layout, version protocol, decoding, applying and quoting in C. Nothing here holds
state; callers own the memory they pass.
"""

from typing import Any

import arena.native._handle as _handle
from arena import errors
from arena.native._core import ffi, lib

__all__ = ["EXCEPTIONS", "ffi", "lib", "lib_name", "raise_status"]

_handle.use(int(ffi.cast("uintptr_t", lib.psa_functions())))

EXCEPTIONS: dict[int, type[Exception]] = {
    lib.PSA_BAD_ARGUMENT: ValueError,
    lib.PSA_LAYOUT_MISMATCH: errors.LayoutMismatch,
    lib.PSA_DAMAGED: errors.ArenaDamaged,
    lib.PSA_UNKNOWN_POOL: errors.UnknownPool,
    lib.PSA_POOL_REMOVED: errors.PoolRemoved,
    lib.PSA_POOL_STALE: errors.PoolStale,
    lib.PSA_SNAPSHOT_TOO_OLD: errors.SnapshotTooOld,
    lib.PSA_CONTENDED: errors.SnapshotContended,
    lib.PSA_BUFFER_TOO_SMALL: BufferError,
    lib.PSA_NO_MEMORY: MemoryError,
    lib.PSA_TIMED_OUT: TimeoutError,
    lib.PSA_CLOSED: errors.ArenaClosed,
    lib.PSA_FULL_POOLS: errors.ArenaFull,
    lib.PSA_FULL_TICKS: errors.ArenaFull,
    lib.PSA_FULL_TOKENS: errors.ArenaFull,
    lib.PSA_FULL_SHM: errors.ArenaFull,
    lib.PSA_DESERIALIZATION: errors.Deserialization,
    lib.PSA_INVALID_MESSAGE: errors.InvalidMessage,
    lib.PSA_EVENTS_FULL: BufferError,
    lib.PSA_BLOCK_TOO_LARGE: errors.BufferOverflow,
    lib.PSA_UNSUPPORTED_GENERATION: errors.UnsupportedGeneration,
    lib.PSA_POOL_NOT_FOUND: errors.PoolNotFound,
    lib.PSA_INVALID_EVENT_DATA: errors.InvalidEventData,
    lib.PSA_ARITHMETIC_OVERFLOW: errors.ArithmeticOverflow,
    lib.PSA_UNSUPPORTED_PROTOCOL: errors.UnsupportedProtocol,
    lib.PSA_UNSUPPORTED_EVENT_TYPE: errors.UnsupportedEventType,
    lib.PSA_REORG_TOO_DEEP: errors.ReorgTooDeep,
    lib.PSA_REORG_MISMATCH: errors.ReorgMismatch,
    lib.PSA_AMOUNT_OUT_OF_RANGE: errors.AmountOutOfRange,
    lib.PSA_PRICE_LIMIT: errors.PriceLimitReached,
    lib.PSA_INSUFFICIENT_LIQUIDITY: errors.InsufficientLiquidity,
    lib.PSA_NOT_INITIALIZED: errors.PoolNotInitialized,
    lib.PSA_HOOKED_POOL: errors.HookedPool,
    lib.PSA_DYNAMIC_FEE: errors.DynamicFee,
    lib.PSA_FEE_TOO_HIGH: errors.FeeTooHigh,
    lib.PSA_SWAP_REVERTS: errors.SwapReverts,
    lib.PSA_TICK_DATA: errors.TickDataCorrupt,
}


def raise_status(status: int, message: str, **fields: Any) -> None:
    """Raise the exception of a status code other than PSA_OK."""
    cls = EXCEPTIONS[status]
    if issubclass(cls, errors.ArenaError):
        raise cls(message, **fields)
    raise cls(message)


def lib_name(status: int) -> str:
    """Words for a status code: the first line of its exception's docstring."""
    cls = EXCEPTIONS.get(status)
    return f"status {status}" if cls is None else (cls.__doc__ or cls.__name__).split("\n")[0]
