"""Other ways to hand a process the state of pools, beside the product's: all hold the same, changed alike.

The state is a V3 pool of 300 ticks and 1,000 V2 pools. A peer writes it whole with every change, as one
value each, and hands out arrays of its own: what the product's calls give. What is not installed says so.

Run as a program this is the writing process: `peers.py FOLDER PEER...` makes every store, and obeys lines
on stdin, each answered by one on stdout: `PEER SECONDS` changes that peer's state 1,000 times a second. It
ends, stores removed, when stdin closes.
"""

import ctypes
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from workload import limbs_array, symmetric_ticks

import arena
from arena.layouts.events import EVENT
from arena.native import lib
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

TICKS = 300
POOLS = 1_000
RESERVE = 10**12
RATE = 1_000  # changes a second
V3_KEY = b"\xff" * 20
V2_KEYS = [index.to_bytes(20, "big") for index in range(1, POOLS + 1)]

V3 = np.dtype(
    [
        ("block", "<u8"),
        ("sqrt_price_x96", "<u8", 3),
        ("tick", "<i8"),
        ("liquidity", "<u8", 2),
        ("ticks", "<i4", TICKS),
        ("gross", "<u8", (TICKS, 2)),
        ("net", "<u8", (TICKS, 2)),
    ]
)
V2 = np.dtype([("block", "<u8"), ("reserves", "<u8", (POOLS, 2, 2))])
Record = npt.NDArray[np.void]
Words = npt.NDArray[np.uint64]  # (n, 2)


@dataclass(frozen=True, slots=True)
class Change:
    """The n-th change: liquidity of 1 added between two ticks, and 1 from one V2 pool to another."""

    number: int

    @property
    def bounds(self) -> tuple[int, int]:
        """Indices of the two ticks; the pool's tick is between them."""
        half = TICKS // 2
        return self.number % half, half + self.number % (half - 1) + 1

    @property
    def pools(self) -> tuple[int, int]:
        return self.number % POOLS, (self.number * 7 + 1) % POOLS


class State:
    """The state after any number of changes, as peers hold it: (1,) of V3 and (1,) of V2."""

    def __init__(self) -> None:
        rows, self.liquidity = symmetric_ticks(TICKS)
        self.rows = rows
        self.v3, self.v2 = np.zeros(1, V3), np.zeros(1, V2)
        one = self.v3[0]
        one["block"] = self.v2["block"] = 1
        one["sqrt_price_x96"][:] = (2**64 - 1, 2**32 - 1, 0)
        one["tick"] = -1
        one["liquidity"][0] = self.liquidity
        one["ticks"][:] = [tick for tick, _, _ in rows]
        one["gross"][:] = limbs_array([gross for _, gross, _ in rows], 2)
        one["net"][:] = limbs_array([net for _, _, net in rows], 2)
        self.v2["reserves"][0, :, :, 0] = RESERVE

    def make_up_to(self, number: int) -> None:
        for each in range(int(self.v2["block"][0]), number + 1):
            self.make(Change(each))

    def make(self, change: Change) -> None:
        one = self.v3[0]
        lower, upper = change.bounds
        one["block"] = self.v2["block"] = change.number + 1
        one["liquidity"][0] += 1
        one["gross"][[lower, upper], 0] += 1
        one["net"][lower, 0] += 1
        one["net"][upper, 0] -= 1  # nets above are negative and small: the high limb stays
        more, less = change.pools
        self.v2["reserves"][0, more, 0, 0] += 1
        self.v2["reserves"][0, less, 0, 0] -= 1


def is_whole_v3(one: Record) -> bool:
    """Whether its parts are of one block: each change adds 1 to the liquidity and 2 to the gross sum."""
    changes = int(one["block"][0]) - 1
    half, start = TICKS // 2, 10**15
    return (
        int(one["liquidity"][0, 0]) == half * start + changes
        and int(one["gross"][0, :, 0].sum()) == TICKS * start + 2 * changes
    )


def is_whole_v2(one: Record) -> bool:
    """Whether the pools are of one block: a change leaves their sum as it is."""
    return int(one["reserves"][0, :, 0, 0].sum()) == POOLS * RESERVE


@dataclass(frozen=True, slots=True)
class Read:
    """One way to read: its name, the call that is timed, and its answer as a peer's."""

    name: str
    call: Callable[[], Any]
    record: Callable[[Any], Record] = lambda answer: answer


class Peer:
    """A way to share state. `start`, `write` and `stop` are called where it is written, the rest where
    it is read; `folder` is the same for both, and its name nobody else's."""

    name = ""
    package: str | None = None
    waits = False  # for another process, when it reads

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def missing(self) -> str | None:
        """What has to be installed first."""
        if self.package is None or importlib.util.find_spec(self.package):
            return None
        return f"Python package {self.package}"

    def start(self, state: State) -> None:
        raise NotImplementedError

    def write(self, state: State, change: Change) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        pass

    def open(self) -> None:
        raise NotImplementedError

    def v3_reads(self) -> list[Read]:
        raise NotImplementedError

    def v2_reads(self) -> list[Read]:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Product(Peer):
    name = "product"

    @property
    def _name(self) -> str:
        return f"{self.folder.name}-arena"

    def start(self, state: State) -> None:
        self._writer = writer = WriterArena.create(self._name, max_pools=2 * POOLS)
        first = PoolValues(
            1,
            3000,
            sqrt_price_x96=(1 << 96) - 1,
            tick=-1,
            liquidity=state.liquidity,
            ticks=state.rows,
        )
        writer.install(writer.add_pool(_spec(V3_KEY, lib.PSA_UNISWAP_V3)), first, status=2)
        for key in V2_KEYS:
            values = PoolValues(1, 3000, reserve0=RESERVE, reserve1=RESERVE)
            writer.install(writer.add_pool(_spec(key, lib.PSA_UNISWAP_V2)), values, status=2)
        writer.set_head(1)
        writer.commit()
        self._events = events = np.zeros(5, EVENT)
        events["kind"] = (
            lib.PSA_EVENT_BEGIN_BLOCK,
            lib.PSA_EVENT_CL_LIQUIDITY,
            lib.PSA_EVENT_V2_SYNC,
            lib.PSA_EVENT_V2_SYNC,
            lib.PSA_EVENT_END_BLOCK,
        )
        events["flags"][1:4] = lib.PSA_EVENT_IN_BLOCK
        events["key_nbytes"] = 20
        events["protocol"][1] = lib.PSA_UNISWAP_V3
        events["protocol"][2:4] = lib.PSA_UNISWAP_V2
        events["variant"][1] = 3
        events["update_type"][1] = lib.PSA_UPDATE_MINT
        events["key"][1, :20] = 255
        events["amount"][1, 0] = 1
        events["log_index"] = np.arange(5)
        events["words"][4, 0] = 3
        self._keys = np.frombuffer(b"".join(V2_KEYS), "u1").reshape(POOLS, 20)

    def write(self, state: State, change: Change) -> None:
        events = self._events
        events["block_number"] = change.number + 1
        lower, upper = change.bounds
        events["tick_lower"][1] = state.rows[lower][0]
        events["tick_upper"][1] = state.rows[upper][0]
        for row, pool in zip((2, 3), change.pools, strict=True):
            events["key"][row, :20] = self._keys[pool]
            events["words"][row, 0] = state.v2["reserves"][0, pool, 0, 0]
            events["words"][row, 4] = RESERVE
        self._writer.apply(events)

    def stop(self) -> None:
        self._writer.close(unlink=True)

    def open(self) -> None:
        self._arena = arena.attach(self._name)
        self._pool = self._arena[V3_KEY]
        self._references = self._arena.slots(V2_KEYS)

    def v3_reads(self) -> list[Read]:
        pool = self._pool
        return [
            Read("state()", pool.state, _v3_of_state),
            Read("state().tick_arrays", lambda: _with(pool.state(), "tick_arrays"), _v3_of_arrays),
            Read("state().ticks", lambda: _with(pool.state(), "ticks"), _v3_of_state),
        ]

    def v2_reads(self) -> list[Read]:
        attached, references = self._arena, self._references
        reserves, lines = attached.group(V2_KEYS, fields="reserves"), attached.group(V2_KEYS)
        return [
            Read(
                "group.read(), reserves",
                reserves.read,
                lambda found: _v2_of(reserves.block_number, found["reserve0"], found["reserve1"]),
            ),
            Read(
                "group.read()",
                lines.read,
                lambda found: _v2_of(lines.block_number, found["a"], found["b"]),
            ),
            Read("snapshot(references)", lambda: attached.snapshot(references), _v2_of_frozen),
        ]

    def close(self) -> None:
        self._arena.close()


def _spec(key: bytes, protocol: int) -> PoolSpec:
    first, second = (TokenSpec(address=bytes([n]) * 20, decimals=18, symbol="T") for n in (1, 2))
    spacing = 10 if protocol == lib.PSA_UNISWAP_V3 else 0
    return PoolSpec(
        key=key, protocol=protocol, token0=first, token1=second, fee_pips=3000, tick_spacing=spacing
    )


def _v3_of_state(state: arena.PoolState) -> Record:
    assert state.ticks is not None
    ticks, gross, net = zip(*state.ticks, strict=True)
    return _v3_of(state, ticks, limbs_array(gross, 2), limbs_array(net, 2))


def _v3_of_arrays(state: arena.PoolState) -> Record:
    arrays = state.tick_arrays
    assert arrays is not None
    return _v3_of(state, arrays.tick, arrays.gross, arrays.net)


def _v3_of(state: arena.PoolState, tick: Any, gross: Words, net: Words) -> Record:
    one = np.zeros(1, V3)
    assert state.sqrt_price_x96 is not None
    assert state.liquidity is not None
    one["block"] = state.block_number
    one["sqrt_price_x96"] = limbs_array([state.sqrt_price_x96], 3)
    one["tick"] = state.tick
    one["liquidity"] = limbs_array([state.liquidity], 2)
    one["ticks"], one["gross"], one["net"] = tick, gross, net
    return one


def _with(state: arena.PoolState, field: str) -> arena.PoolState:
    getattr(state, field)
    return state


def _v2_of(block: int, reserve0: Words, reserve1: Words) -> Record:
    one = np.zeros(1, V2)
    one["block"] = block
    one["reserves"][0, :, 0], one["reserves"][0, :, 1] = reserve0, reserve1
    return one


def _v2_of_frozen(frozen: arena.FrozenSnapshot) -> Record:
    table = frozen.table()
    return _v2_of(frozen.block_number, table["reserve0"], table["reserve1"])


class Values(Peer):
    """A peer that holds two values of bytes, and reads one of them."""

    def get(self, key: str) -> Any:
        raise NotImplementedError

    def v3_reads(self) -> list[Read]:
        return [Read(self.name, lambda: np.frombuffer(self.get("v3"), V3))]

    def v2_reads(self) -> list[Read]:
        return [Read(self.name, lambda: np.frombuffer(self.get("v2"), V2))]


class Lmdb(Values):
    """Both values in one transaction; the file lies in memory and is never synced."""

    name = "LMDB"
    package = "lmdb"

    def _environment(self, **options: Any) -> Any:
        import lmdb

        return lmdb.open(str(self.folder / "lmdb"), map_size=64 << 20, **options)

    def start(self, state: State) -> None:
        self._writing = self._environment(sync=False, metasync=False, writemap=True)
        self._put(state)

    def _put(self, state: State) -> None:
        with self._writing.begin(write=True) as transaction:
            transaction.put(b"v3", state.v3.view("u1"))
            transaction.put(b"v2", state.v2.view("u1"))

    def write(self, state: State, change: Change) -> None:
        self._put(state)

    def stop(self) -> None:
        self._writing.close()

    def open(self) -> None:
        self._reading = self._environment(readonly=True)

    def get(self, key: str) -> Any:
        with self._reading.begin() as transaction:
            return transaction.get(key.encode())

    def close(self) -> None:
        self._reading.close()


# iceoryx2 takes values of ctypes.
_BOARD_KEYS = {key: ctypes.c_uint64(number) for number, key in enumerate(("v3", "v2"))}
_BOARD_TYPES: dict[str, Any] = {
    key: type(
        f"Peers{key.upper()}",
        (ctypes.Structure,),
        {"_fields_": [("words", ctypes.c_uint64 * (dtype.itemsize // 8))]},
    )
    for key, dtype in (("v3", V3), ("v2", V2))
}


class Iceoryx2(Values):
    """Two entries of a blackboard, which it updates and reads whole."""

    name = "iceoryx2"
    package = "iceoryx2"

    def _service(self) -> Any:
        import iceoryx2

        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        self._node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        return self._node.service_builder(iceoryx2.ServiceName.new(f"peers/{self.folder.name}"))

    def start(self, state: State) -> None:
        creator = self._service().blackboard_creator(ctypes.c_uint64)
        for key, record in (("v3", state.v3), ("v2", state.v2)):
            creator = creator.add(_BOARD_KEYS[key], _BOARD_TYPES[key].from_buffer_copy(record))
        self._board = creator.create()
        self._port = self._board.writer_builder().create()
        self._entries = {
            key: self._port.entry(_BOARD_KEYS[key], _BOARD_TYPES[key]) for key in _BOARD_KEYS
        }

    def write(self, state: State, change: Change) -> None:
        for key, record in (("v3", state.v3), ("v2", state.v2)):
            self._entries[key].update_with_copy(_BOARD_TYPES[key].from_buffer(record))

    def open(self) -> None:
        self._board = self._service().blackboard_opener(ctypes.c_uint64).open()
        self._port = self._board.reader_builder().create()
        self._entries = {
            key: self._port.entry(_BOARD_KEYS[key], _BOARD_TYPES[key]) for key in _BOARD_KEYS
        }

    def get(self, key: str) -> Any:
        return self._entries[key].get().decode_as(_BOARD_TYPES[key])

    def stop(self) -> None:
        del self._entries, self._port, self._board, self._node

    close = stop


class Redis(Values):
    """Two strings, set together, of a server on a Unix socket."""

    name = "Redis"
    package = "redis"
    waits = True

    def missing(self) -> str | None:
        program = None if shutil.which("redis-server") else "program redis-server"
        return super().missing() or program

    def _connect(self) -> Any:
        import redis

        return redis.Redis(unix_socket_path=str(self.folder / "redis.sock"))

    def start(self, state: State) -> None:
        command = ["redis-server", "--port", "0", "--unixsocket", str(self.folder / "redis.sock")]
        self._server = subprocess.Popen(
            [*command, "--save", "", "--dir", str(self.folder)], stdout=subprocess.DEVNULL
        )
        while not (self.folder / "redis.sock").exists():
            assert self._server.poll() is None, "redis-server ended"
            time.sleep(0.01)
        self._client = self._connect()
        self._put(state)

    def _put(self, state: State) -> None:
        self._client.mset({"v3": state.v3.tobytes(), "v2": state.v2.tobytes()})

    def write(self, state: State, change: Change) -> None:
        self._put(state)

    def stop(self) -> None:
        self._client.close()
        self._server.terminate()
        self._server.wait()

    def open(self) -> None:
        self._client = self._connect()

    def get(self, key: str) -> Any:
        return self._client.get(key)

    def close(self) -> None:
        self._client.close()


PEERS: tuple[type[Peer], ...] = (Product, Lmdb, Iceoryx2, Redis)


class Writing:
    """The writing process, seen from the reading one."""

    def __init__(self, folder: Path, peers: Sequence[Peer]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(folder), *(peer.name for peer in peers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline() or "null")

    def begin(self, peer: Peer, seconds: float) -> None:
        """Have the peer's state changed for so long."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{peer.name} {seconds}\n")
        self._process.stdin.flush()

    def end(self) -> tuple[int, float]:
        """How many changes the peer has by then, and the median of what one took, in seconds."""
        number, seconds = self._answer()
        return number, seconds

    def close(self) -> None:
        self._process.communicate()


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    peers = {kind.name: kind(folder) for kind in PEERS if kind.name in names}
    states = {name: State() for name in peers}
    numbers = dict.fromkeys(peers, 0)
    started: list[Peer] = []
    try:
        for name, peer in peers.items():
            peer.start(states[name])
            started.append(peer)
        print("true", flush=True)
        for line in sys.stdin:
            name, seconds = line.split()
            took = []
            begin = time.perf_counter()
            for turn in range(max(1, int(float(seconds) * RATE))):
                time.sleep(max(0.0, begin + turn / RATE - time.perf_counter()))
                numbers[name] += 1
                change = Change(numbers[name])
                states[name].make(change)
                start = time.perf_counter()
                peers[name].write(states[name], change)
                took.append(time.perf_counter() - start)
            print(json.dumps([numbers[name], sorted(took)[len(took) // 2]]), flush=True)
    finally:
        for peer in started:
            peer.stop()


if __name__ == "__main__":
    main()
