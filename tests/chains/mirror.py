"""A Reth database that holds the pools of a market as they are at one block of the node.

Words come from the node by slot at the block's hash and go into a real MDBX file in Reth's format, in
one commit a block. Which slots those are is worked out here; nothing of the product is used.
"""

from pathlib import Path
from typing import Any, Self

from builders.reth_database import NodeDatabase, keccak, pool_place, word32

from chains.market import Market, Pool

FORMATS = {
    "uniswap_v2": "v2",
    "uniswap_v3": "v3",
    "pancakeswap_v3": "pancake_v3",
    "uniswap_v4": "v4",
}
UPPER_NBYTES = 256 << 20

Place = tuple[str, int]
"""Account and slot."""


class DatabaseMirror:
    """`write` commits one block; `database` is what `--reth-db` is given. Closed by `close`.

    The file stays open for writing, as a node's does.
    """

    def __init__(self, folder: Path, market: Market) -> None:
        self.database = folder
        self.market = market
        self._words: dict[str, dict[Place, int]] = {}
        self._number = -1
        self._hashes: dict[int, str] = {}
        self._slots: dict[Place, int] = {}
        files = folder / "db"
        files.mkdir(parents=True)
        (files / "database.version").write_text("2")
        self._mdbx = NodeDatabase(files, upper_nbytes=UPPER_NBYTES)
        with self._mdbx.write() as txn:
            txn.put("Metadata", b"storage_settings", b'L{"storage_v2":true}')

    def write(self, header: dict[str, Any]) -> None:
        """Bring the file to this block, also back or across a reorg."""
        number, block_hash = header["number"], header["hash"]
        pools = self.market.pools
        if header["parentHash"] == self._hashes.get(number - 1) and number - 1 == self._number:
            pools = self._touched(block_hash)
        found = self._read(pools, block_hash)
        before = {
            place: value for pool in pools for place, value in self._words.get(pool.key, {}).items()
        }
        accounts = {pool.address for pool in pools if pool.key not in self._words}
        added = self._missing_headers(header)
        removed = {n: h for n, h in self._hashes.items() if n > number or n in added}
        with self._mdbx.write() as txn:
            for account in accounts:
                txn.add_contract(bytes.fromhex(account[2:]))
            after = {place: value for words in found.values() for place, value in words.items()}
            for account, slot in before.keys() | after.keys():
                value = after.get((account, slot), 0)
                if before.get((account, slot), 0) != value:
                    address_hash = keccak(bytes.fromhex(account[2:]))
                    txn.set_word(address_hash, keccak(word32(slot)), value)
            for old in removed.values():
                txn.delete("HeaderNumbers", bytes.fromhex(old[2:]))
            for each, new in added.items():
                txn.put("HeaderNumbers", bytes.fromhex(new[2:]), each.to_bytes(8, "little"))
            txn.set_checkpoints(number)
        self._words |= found
        self._number = number
        for each in removed:
            del self._hashes[each]
        self._hashes |= added

    def _missing_headers(self, header: dict[str, Any]) -> dict[int, str]:
        """Hashes by number from this block down to one the file has, or below which it has none."""
        found: dict[int, str] = {}
        while self._hashes.get(header["number"]) != header["hash"]:
            found[header["number"]] = header["hash"]
            if header["number"] <= min(self._hashes, default=header["number"]):
                break
            header = self.market.node.block(header["parentHash"])
        return found

    def falsify(self, key: str) -> None:
        """Change every word of a pool in the file, block and checkpoints as they are."""
        with self._mdbx.write() as txn:
            for (account, slot), value in self._words[key].items():
                address_hash = keccak(bytes.fromhex(account[2:]))
                txn.set_word(address_hash, keccak(word32(slot)), value ^ 1)
                self._words[key][account, slot] = value ^ 1

    def _touched(self, block_hash: str) -> list[Pool]:
        known = self.market.by_key
        logs = self.market.node.logs(block_hash)
        named = [name for log in logs for name in (log["address"].lower(), *log["topics"][1:2])]
        return list({name: known[name] for name in named if name in known}.values())

    def _read(self, pools: list[Pool], block_hash: str) -> dict[str, dict[Place, int]]:
        """The words of each pool that are not zero."""
        asked: dict[str, list[Place]] = {}
        bitmaps: dict[Place, tuple[Pool, int]] = {}
        for pool in pools:
            if pool.kind == "uniswap_v2":
                asked[pool.key] = [(pool.address, slot) for slot in (6, 7, 8)]
                continue
            account, slot0, liquidity, ticks = self._place(pool)
            asked[pool.key] = [(account, slot0), (account, liquidity)]
            for position in pool.words:
                bitmaps[account, self._mapped(position, ticks + 1)] = pool, position
        found = self._ask([place for places in asked.values() for place in places], block_hash)
        found |= self._ask(list(bitmaps), block_hash)
        wanted = []
        for place, (pool, position) in bitmaps.items():
            account, _, _, ticks = self._place(pool)
            asked[pool.key].append(place)
            bits = found.get(place, 0)
            for bit in range(256):
                if bits >> bit & 1:
                    tick = ((position << 8) + bit) * pool.tick_spacing
                    wanted.append((account, self._mapped(tick, ticks)))
                    asked[pool.key].append(wanted[-1])
        found |= self._ask(wanted, block_hash)
        return {
            key: {place: found[place] for place in places if place in found}
            for key, places in asked.items()
        }

    @staticmethod
    def _place(pool: Pool) -> tuple[str, int, int, int]:
        """Account, and the slots of price, liquidity and the mapping of ticks."""
        fields = {"protocol": FORMATS[pool.kind], "key": pool.key, "manager": pool.address}
        return pool.address, *pool_place(fields)[1:]

    def _mapped(self, key: int, slot: int) -> int:
        known = f"{key}", slot
        if known not in self._slots:
            self._slots[known] = int.from_bytes(keccak(word32(key) + word32(slot)), "big")
        return self._slots[known]

    def _ask(self, places: list[Place], block_hash: str) -> dict[Place, int]:
        """The words that are not zero."""
        by_account: dict[str, list[int]] = {}
        for account, slot in places:
            by_account.setdefault(account, []).append(slot)
        calls = []
        for account, slots in by_account.items():
            for start in range(0, len(slots), 1000):
                asked = {
                    account: ["0x" + word32(slot).hex() for slot in slots[start : start + 1000]]
                }
                calls.append(("eth_getStorageValues", (asked, {"blockHash": block_hash})))
        found = {}
        for (_, (asked, _)), answer in zip(calls, self.market.node.batch(calls), strict=True):
            if isinstance(answer, Exception):
                raise answer
            for account, slots in asked.items():
                for slot, value in zip(slots, answer[account], strict=True):
                    if int(value, 16):
                        found[account, int(slot, 16)] = int(value, 16)
        return found

    def close(self) -> None:
        self._mdbx.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
