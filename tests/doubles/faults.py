"""A node that fails and lies: HTTP and WebSocket in front of a real one, with faults while they are on.

Each kind is what some node or provider does: see FAULTS. Nothing of the product is imported. What is not
asked to be wrong is the node's own answer.
"""

import asyncio
import contextlib
import json
import random
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
from aiohttp import web

Call = dict[str, Any]

FAULTS = {
    "logs left out": "some logs are missing from an answer to eth_getLogs",
    "logs late": "eth_getLogs answers with nothing",
    "logs doubled": "a log comes twice",
    "logs foreign": "a log of another block is among them",
    "logs of another block": "all of them are another block's",
    "logs need an address": "eth_getLogs without addresses is refused",
    "logs of few blocks": "eth_getLogs of more than a few blocks is refused",
    "heads without bloom": "newHeads leaves the filter out",
    "heads with empty bloom": "newHeads has a filter of zeros",
    "heads of a wrong parent": "newHeads names another parent",
    "heads without base fee": "newHeads leaves it out",
    "heads silent": "the subscription says nothing more",
    "heads late and doubled": "newHeads comes seconds later, and twice",
    "slow down": "requests are refused for being too many, in the words of some provider",
    "slow down by status": "the same as HTTP status 429, with or without Retry-After",
    "batches of few calls": "longer batches are refused",
    "batches of few bytes": "what goes beyond a size is refused call by call",
    "batches closed": "the connection ends at a longer batch",
    "syncing": "eth_syncing says so",
    "head back": "the node knows the chain up to some blocks ago only",
    "down": "connections are closed at once",
    "silent": "nothing is answered on the connections there are",
    "closed": "the connections there are end",
    "slow": "answers take seconds",
    "garbage": "answers are no JSON, cut, or of a wrong shape",
}
SLOW_DOWN = (
    (-32005, "limit exceeded"),
    (-32005, "daily request count exceeded, request rate limited"),
    (429, "Your app has exceeded its compute units per second capacity."),
    (-32007, "50/second request limit reached - reduce calls per second"),
    (-32016, "over rate limit"),
    (-32090, "Too many requests, reason: call rate limit exhausted, retry in 1s"),
    (-32029, "Too Many Requests"),
    (-32097, "rate limited"),
    (-32000, "project ID request rate exceeded"),
)
TOO_MANY_CALLS = (
    (-32600, "batch too large"),
    (-32000, "maximum batch size exceeded"),
    (-32014, "batch of more calls than allowed: up to {most}"),
)
NEED_ADDRESS = (
    (-32602, "Please specify an address in your request"),
    (-32000, "eth_getLogs requires an address filter"),
)
FEW_BLOCKS = (
    (-32600, "eth_getLogs is limited to a {most} range"),
    (-32005, "query exceeds max block range {most}"),
    (-32602, "block range too large, maximum is {most}"),
)
GARBAGE = (b"<html>502 Bad Gateway</html>", b"", b"[]", b"{}", b'{"jsonrpc":"2.0","id":1,"resul')


@dataclass(slots=True)
class Fault:
    """One fault that is on. `once`: the next answer it fits is the last; `chance` of hitting others."""

    kind: str
    once: bool
    chance: float
    most: int  # calls, blocks or seconds, as the kind needs it
    variant: int  # which of its words
    hits: int = 0


class Ended(Exception):
    """The connection is to end without an answer."""


class FaultyNode:
    """Serves `http` and `ws`; a context manager with a thread of its own.

    `begin` and `end` switch faults; `hits` counts by kind what was made wrong.
    """

    def __init__(self, node_http: str, node_ws: str, *, seed: int) -> None:
        self._node_http, self._node_ws = node_http, node_ws
        self._random = random.Random(f"faulty node {seed}")
        self._on: dict[str, Fault] = {}
        self.hits: Counter[str] = Counter()
        self._sockets: set[web.WebSocketResponse] = set()
        self._mute: set[web.WebSocketResponse] = set()
        self._last = 0  # the newest block shown while the head is back
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = self._run(self._start())
        self.http = f"http://127.0.0.1:{self.port}"
        self.ws = f"ws://127.0.0.1:{self.port}"

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> int:
        self._session = aiohttp.ClientSession()
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def _stop(self) -> None:
        for each in tuple(self._sockets):
            self._cut(each)
        await self._runner.cleanup()
        await self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- faults, from any thread

    def begin(self, fault: Fault) -> None:
        self._run(self._begin(fault))

    def end(self, kind: str) -> None:
        self._run(self._end(kind))

    @property
    def active(self) -> tuple[str, ...]:
        return tuple(self._on)

    async def _begin(self, fault: Fault) -> None:
        if fault.kind in ("closed", "down"):
            self._hit(fault)
            for each in tuple(self._sockets):
                self._cut(each)
        if fault.kind == "silent":
            self._hit(fault)
            self._mute |= self._sockets
        if fault.kind == "head back":
            (head,) = await self._ask([_call("eth_blockNumber")])
            self._last = max(1, int(head["result"], 16) - fault.most)
        if fault.kind != "closed":
            self._on[fault.kind] = fault

    async def _end(self, kind: str) -> None:
        self._on.pop(kind, None)
        if (
            kind == "silent"
        ):  # what was swallowed never comes; connections end as they do after such
            for each in tuple(self._mute):
                self._cut(each)

    def _is_on(self, kind: str) -> Fault | None:
        """The fault, if it is on and hits now; then it counts."""
        fault = self._on.get(kind)
        if fault is None or (not fault.once and self._random.random() >= fault.chance):
            return None
        self._hit(fault)
        return fault

    def _hit(self, fault: Fault) -> None:
        self.hits[fault.kind] += 1
        fault.hits += 1
        if fault.once:
            self._on.pop(fault.kind, None)

    @staticmethod
    def _cut(socket: web.WebSocketResponse) -> None:
        transport = socket._req.transport if socket._req is not None else None
        if transport is not None:
            transport.abort()

    # -- connections

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self._is_on("down"):
            assert request.transport is not None
            request.transport.abort()
            raise asyncio.CancelledError
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._handle_socket(request)
        body = await request.read()
        if fault := self._is_on("slow down by status"):
            headers = ({}, {"Retry-After": "1"}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
            return web.Response(status=429, headers=headers[fault.variant % 3], text="slow down")
        try:
            content = await self._answer(json.loads(body))
        except Ended:
            assert request.transport is not None
            request.transport.abort()
            raise asyncio.CancelledError from None
        return web.Response(body=content, content_type="application/json")

    async def _handle_socket(self, request: web.Request) -> web.StreamResponse:
        client = web.WebSocketResponse(max_msg_size=0)
        await client.prepare(request)
        async with self._session.ws_connect(self._node_ws, max_msg_size=0) as node:
            self._sockets.add(client)
            told = asyncio.ensure_future(self._tell(node, client))
            works: set[asyncio.Future[Any]] = set()
            try:
                async for message in client:
                    asked = json.loads(message.data)
                    if isinstance(asked, dict) and "subscribe" in asked["method"]:
                        await node.send_str(message.data)
                        continue
                    work = asyncio.ensure_future(self._answer_socket(client, asked))
                    works.add(work)
                    work.add_done_callback(works.discard)
            finally:
                self._sockets.discard(client)
                self._mute.discard(client)
                for each in (told, *works):
                    each.cancel()
        return client

    async def _answer_socket(self, client: web.WebSocketResponse, asked: Any) -> None:
        try:
            content = await self._answer(asked)
        except Ended:
            self._cut(client)
            return
        await self._send(client, content.decode(errors="replace"))

    async def _send(self, client: web.WebSocketResponse, text: str) -> None:
        if client in self._mute:
            return
        with contextlib.suppress(ConnectionError):
            await client.send_str(text)

    async def _tell(
        self, node: aiohttp.ClientWebSocketResponse, client: web.WebSocketResponse
    ) -> None:
        """Pass on what the node says: answers to eth_subscribe, and heads."""
        later: set[asyncio.Future[None]] = set()
        async for message in node:
            said = json.loads(message.data)
            if said.get("method") == "eth_subscription":
                head = self._head(said["params"]["result"])
                if head is None:
                    continue
                said["params"]["result"] = head
                if fault := self._is_on("heads late and doubled"):
                    work = asyncio.ensure_future(self._tell_late(client, said, fault.most))
                    later.add(work)
                    work.add_done_callback(later.discard)
                    continue
            await self._send(client, json.dumps(said))
        self._cut(client)

    async def _tell_late(self, client: web.WebSocketResponse, said: Call, seconds: int) -> None:
        await asyncio.sleep(seconds / 2)
        await self._send(client, json.dumps(said))
        await self._send(client, json.dumps(said))

    def _head(self, head: Call) -> Call | None:
        """What newHeads says in place of this head; None for nothing."""
        if self._is_on("heads silent") or "head back" in self._on:
            return None
        head = dict(head)
        if self._is_on("heads without bloom"):
            head.pop("logsBloom", None)
        if self._is_on("heads with empty bloom"):
            head["logsBloom"] = "0x" + "00" * 256
        if self._is_on("heads of a wrong parent"):
            head["parentHash"] = "0x" + self._random.randbytes(32).hex()
        if self._is_on("heads without base fee"):
            head.pop("baseFeePerGas", None)
        return head

    # -- answers

    async def _ask(self, calls: list[Call]) -> list[Call]:
        """The node's own answers, in order."""
        async with self._session.post(self._node_http, json=calls) as answer:
            found = {each["id"]: each for each in json.loads(await answer.read())}
        return [found[call["id"]] for call in calls]

    async def _answer(self, asked: Any) -> bytes:
        if fault := self._is_on("slow"):
            await asyncio.sleep(fault.most * (0.1 + 0.9 * self._random.random()))
        if self._is_on("garbage"):
            return self._garbage(asked)
        if not isinstance(asked, list):
            (found,) = await self._answers([asked])
            return json.dumps(found).encode()
        refused = self._batch_refused(asked)
        if refused is not None:
            return refused
        found = await self._answers(asked)
        if fault := self._on.get("batches of few bytes"):
            found = self._bounded(found, fault)
        return json.dumps(found).encode()

    def _batch_refused(self, asked: list[Call]) -> bytes | None:
        for kind in ("batches of few calls", "batches closed"):
            fault = self._on.get(kind)
            if fault is None or len(asked) <= fault.most:
                continue
            self._hit(fault)
            if kind == "batches closed":
                raise Ended
            code, words = TOO_MANY_CALLS[fault.variant % len(TOO_MANY_CALLS)]
            error = {"code": code, "message": words.format(most=fault.most)}
            return json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
        return None

    def _bounded(self, found: list[Call], fault: Fault) -> list[Call]:
        """From where the answers exceed a size, each is refused; a single one never is."""
        size = 0
        for index, each in enumerate(found):
            size += len(json.dumps(each))
            if index and size > 1000 * fault.most:
                if fault.hits == 0 or not fault.once:
                    self._hit(fault)
                return [
                    *found[:index],
                    *(_refused(more, -32003, "response too large") for more in found[index:]),
                ]
        return found

    def _garbage(self, asked: Any) -> bytes:
        first = asked[0] if isinstance(asked, list) else asked
        wrong = {"jsonrpc": "2.0", "id": first["id"], "result": 5}
        strange = {"jsonrpc": "2.0", "id": "x" + str(first["id"]), "result": None}
        choices = [*GARBAGE, json.dumps(wrong).encode(), json.dumps([strange]).encode()]
        return self._random.choice(choices)

    async def _answers(self, calls: list[Call]) -> list[Call]:
        if fault := self._is_on("slow down"):
            return [_refused(call, *SLOW_DOWN[fault.variant % len(SLOW_DOWN)]) for call in calls]
        found: dict[int, Call] = {}
        passed = list(calls)
        if "head back" in self._on:
            passed = [await self._back(call, found) for call in calls]
        asked = [call for call in passed if id(call) not in found]
        for call, answer in zip(asked, await self._ask(asked) if asked else [], strict=True):
            found[id(call)] = answer
        return [await self._changed(call, found[id(call)]) for call in passed]

    async def _back(self, call: Call, found: dict[int, Call]) -> Call:
        """The call as a node asks itself that has seen nothing after a block; or its answer."""
        method, parameters = call["method"], call.get("params", [])
        last = hex(self._last)
        fault = self._on["head back"]
        call = dict(call)
        if method == "eth_blockNumber":
            found[id(call)] = {"jsonrpc": "2.0", "id": call["id"], "result": last}
        elif method == "eth_getBlockByNumber":
            name = parameters[0]
            if name in ("latest", "pending", "safe"):
                call["params"] = [last, *parameters[1:]]
            elif name.startswith("0x") and int(name, 16) > self._last:
                found[id(call)] = {"jsonrpc": "2.0", "id": call["id"], "result": None}
        elif method == "eth_getLogs" and "toBlock" in parameters[0]:
            top = min(int(parameters[0]["toBlock"], 16), self._last)
            if top < int(parameters[0]["fromBlock"], 16):
                found[id(call)] = {"jsonrpc": "2.0", "id": call["id"], "result": []}
            else:
                call["params"] = [parameters[0] | {"toBlock": hex(top)}]
        elif (block_hash := _hash_in(parameters)) is not None:
            (header,) = await self._ask([_call("eth_getBlockByHash", block_hash, False)])
            known = header.get("result")
            if known is None or int(known["number"], 16) > self._last:
                if method == "eth_getBlockByHash":
                    found[id(call)] = {"jsonrpc": "2.0", "id": call["id"], "result": None}
                else:
                    found[id(call)] = _refused(call, -32000, "header for hash not found")
        if id(call) in found:
            self._hit(fault)
        return call

    async def _changed(self, call: Call, answer: Call) -> Call:
        if call["method"] == "eth_syncing" and self._is_on("syncing"):
            progress = {"startingBlock": "0x0", "currentBlock": "0x1", "highestBlock": "0xffffff"}
            return answer | {"result": progress}
        if call["method"] != "eth_getLogs" or "result" not in answer:
            return answer
        wanted = call["params"][0]
        if not wanted.get("address") and (fault := self._is_on("logs need an address")):
            return _refused(call, *NEED_ADDRESS[fault.variant % len(NEED_ADDRESS)])
        fault = self._on.get("logs of few blocks")
        if fault is not None and _blocks_in(wanted) > fault.most:
            self._hit(fault)
            code, words = FEW_BLOCKS[fault.variant % len(FEW_BLOCKS)]
            return _refused(call, code, words.format(most=fault.most))
        return answer | {"result": await self._logs(wanted, answer["result"])}

    async def _logs(self, wanted: Call, logs: list[Call]) -> list[Call]:
        if self._fits("logs late", wanted):
            return []
        if logs and self._fits("logs left out", wanted):
            count = self._random.choice([1, 1, 1, 2, len(logs)])
            gone = self._random.sample(range(len(logs)), min(count, len(logs)))
            return [log for index, log in enumerate(logs) if index not in gone]
        if logs and self._fits("logs doubled", wanted):
            return [*logs, self._random.choice(logs)]
        for kind in ("logs foreign", "logs of another block"):
            fault = self._on.get(kind)
            if fault is not None and (other := await self._other_logs(wanted, logs)):
                if not self._fits(kind, wanted):
                    continue
                return other if kind == "logs of another block" else [*logs, other[-1]]
        return logs

    def _fits(self, kind: str, wanted: Call) -> bool:
        """Whether it hits this question; a fault may be one of ranges only, or of hashes only."""
        fault = self._on.get(kind)
        if fault is None or fault.variant % 3 == (1 if "blockHash" in wanted else 2):
            return False
        return self._is_on(kind) is not None

    async def _other_logs(self, wanted: Call, logs: list[Call]) -> list[Call]:
        """Logs of a block before those."""
        (head,) = await self._ask([_call("eth_blockNumber")])
        first = min([int(log["blockNumber"], 16) for log in logs] or [int(head["result"], 16)])
        before = {key: wanted[key] for key in ("topics", "address") if key in wanted}
        before |= {"fromBlock": hex(max(0, first - 3)), "toBlock": hex(max(0, first - 1))}
        (answer,) = await self._ask([_call("eth_getLogs", before)])
        found: list[Call] = answer.get("result") or []
        return [log for log in found if log["blockHash"] == found[-1]["blockHash"]]


def _call(method: str, *parameters: Any) -> Call:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(parameters)}


def _refused(call: Call, code: int, message: str) -> Call:
    return {"jsonrpc": "2.0", "id": call["id"], "error": {"code": code, "message": message}}


def _blocks_in(wanted: Call) -> int:
    """How many blocks a question for logs is about."""
    if "toBlock" not in wanted:
        return 1
    return int(wanted["toBlock"], 16) - int(wanted["fromBlock"], 16) + 1


def _hash_in(parameters: list[Any]) -> str | None:
    """The block hash a call names."""
    for each in parameters:
        if isinstance(each, dict) and "blockHash" in each:
            found: str = each["blockHash"]
            return found
    first = parameters[0] if parameters else None
    return first if isinstance(first, str) and len(first) == 66 else None


@dataclass(frozen=True, slots=True)
class Episode:
    """From `at_s` on a fault is on, for `lasts_s`."""

    at_s: float
    lasts_s: float
    fault: Fault


def schedule(seed: int, seconds: float) -> list[Episode]:
    """Every kind in turn, in a new order each time round: once, for a while, or for long; now and then two
    at a time."""
    chance = random.Random(f"schedule {seed}")
    found: list[Episode] = []
    at_s = 3.0
    left: list[str] = []
    while True:
        if not left:
            left = list(FAULTS)
            chance.shuffle(left)
        lasts_s = chance.choice((0.5, 2.0, 4.0, 4.0, 8.0, 15.0, 30.0)) * chance.uniform(0.7, 1.3)
        if at_s + lasts_s > seconds:
            return found
        fault = Fault(
            kind=left.pop(),
            once=chance.random() < 0.3,
            chance=chance.choice((0.3, 1.0, 1.0)),
            most=chance.randrange(1, 9),
            variant=chance.randrange(1000),
        )
        found.append(Episode(at_s, lasts_s, fault))
        if chance.random() < 0.8:
            at_s += lasts_s + chance.uniform(0.5, 4.0)
