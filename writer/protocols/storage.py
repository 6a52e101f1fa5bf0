"""Where a pool's words lie: accounts, slots and their keys, whatever the protocol.

`key(k, s)` in the storage layouts beside is keccak256(pad32(k) ++ pad32(s)), negative keys sign-extended.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

import sha3  # type: ignore[import-untyped]

from arena.layouts.protocols import PROTOCOLS
from arena.specs import PoolSpec
from arena.values import PoolValues


@dataclass(frozen=True, slots=True)
class StorageLayout:
    """Offsets of what is read, counted from the pool's first slot (V4: its base).

    Where there are no ticks only `slot0` (the reserves) has a meaning. `has_lock`: bit 240 of slot 0
    is `unlocked`, true between transactions.
    """

    name: str
    slot0: int
    liquidity: int = 0
    ticks: int = 0
    bitmap: int = 0
    has_lock: bool = False


@dataclass(frozen=True, slots=True)
class PoolTarget:
    """A pool together with where its words lie: the account that holds them, and the layout.

    `account` names another one, where some of them lie elsewhere.
    """

    spec: PoolSpec
    layout: StorageLayout
    account: bytes = b""

    @property
    def address(self) -> bytes:
        """The 20-byte account whose storage holds the words."""
        return self.account or account_of(self.spec)


def account_of(spec: PoolSpec) -> bytes:
    """The contract that holds the pool's storage and emits its logs: itself, or the V4 PoolManager."""
    return spec.factory if PROTOCOLS[spec.protocol].is_managed else spec.key


def keccak256(content: bytes) -> bytes:
    """32-byte Keccak-256 (the original padding, not that of SHA3-256)."""
    digest: bytes = sha3.keccak_256(content).digest()
    return digest


def slot_key(slot: int) -> bytes:
    """A slot number as the 32-byte big-endian key of contract storage."""
    return slot.to_bytes(32, "big")


def mapping_slot(key: int, slot: bytes) -> bytes:
    """Slot of `mapping[key]` for a signed or unsigned `key` of a mapping that lies at `slot`."""
    return keccak256((key & ((1 << 256) - 1)).to_bytes(32, "big") + slot)


def signed(value: int, bits: int) -> int:
    """The two's complement number in the low `bits` of a word, which are all it has."""
    return value - (1 << bits) if value >> (bits - 1) else value


class SlotList:
    """Slots of one account in the order their values are wanted.

    `keys` are 32-byte slots. `hashed` are their keccak256, computed once on first use: the keys of
    a node's hashed tables. Lists that all V3 pools of a spacing share are built once. `account` is
    another one than the pool's own, or empty.
    """

    __slots__ = ("_hash_slot", "_hashed", "_sorted", "account", "keys")

    def __init__(
        self,
        keys: Iterable[bytes],
        hash_slot: Callable[[bytes], bytes] = keccak256,
        account: bytes = b"",
    ):
        self.keys = tuple(keys)
        self.account = account
        self._hash_slot = hash_slot
        self._hashed: tuple[bytes, ...] | None = None
        self._sorted: tuple[tuple[int, ...], tuple[bytes, ...], bytes] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def hashed(self) -> tuple[bytes, ...]:
        """keccak256 of each slot, in the order of `keys`."""
        if self._hashed is None:
            self._hashed = tuple(map(self._hash_slot, self.keys))
        return self._hashed

    @property
    def ascending(self) -> tuple[tuple[int, ...], tuple[bytes, ...], bytes]:
        """(indices into `keys` by ascending hash, those hashes, the hashes joined)."""
        if self._sorted is None:
            hashed = self.hashed
            order = tuple(sorted(range(len(hashed)), key=hashed.__getitem__))
            ascending = tuple(hashed[index] for index in order)
            self._sorted = order, ascending, b"".join(ascending)
        return self._sorted


Stages = Generator[SlotList, Sequence[int], PoolValues]
"""One pool being read: yields the slots it wants, is sent their values, returns the pool's."""
