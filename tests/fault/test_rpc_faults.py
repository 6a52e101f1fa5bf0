"""A node that is slow, busy, gone, cut off, on another chain or without the state asked for.

Transport faults come from a server that answers by itself; faults of a scrape from the same server
in front of a real node (marker `node`).
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from builders.shown import scraped
from chains.market import Market, traded_market
from chains.process import Node
from doubles.proxy import Fault, FaultyServer, node_answer, plain_answer

from arena.errors import (
    BlockUnavailable,
    ChainMismatch,
    NodeSyncing,
    RpcAnswerInvalid,
    RpcRefused,
    RpcUnavailable,
)
from arena.writer.lists.pool_list import parse_pool_list
from arena.writer.node.head import block_by_hash, check_chain, head_block, is_canonical, sync_state
from arena.writer.node.jsonrpc import JsonRpc
from arena.writer.node.transports import Limits, pause_asked
from arena.writer.scrapers.rpc import RpcScraper
from arena.writer.scrapers.rpc_ways import Way

CHAIN_ID = 31337


def quick(**changed: Any) -> Limits:
    return Limits(**{"timeout_s": 10.0, "tries": 4, "first_pause_s": 0.01} | changed)


@contextmanager
def asking(*behaviour: Any) -> Iterator[JsonRpc]:
    """A client of a FaultyServer of that behaviour."""
    with FaultyServer(*behaviour) as server, JsonRpc(server.http, quick()) as rpc:
        yield rpc


# Transport


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429),
        Fault(status=429, headers={"Retry-After": "0"}),
        Fault(status=500),
        Fault(status=502),
        Fault(status=503),
        Fault(cut="json"),
        Fault(cut="connection"),
        Fault(body=b""),
        Fault(body=b"<html>busy</html>"),
        Fault(error=(429, "slow down")),
        Fault(error=(-32005, "rate limit reached")),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(fault: Fault) -> None:
    with (
        FaultyServer(plain_answer, lambda _, number: fault if number < 3 else None) as server,
        JsonRpc(server.http, quick()) as rpc,
    ):
        assert rpc.call("any_method", "value") == "value"
        assert server.request_count == 4


@pytest.mark.parametrize(
    "fault", [Fault(status=429), Fault(status=503), Fault(cut="json")], ids=str
)
def test_tries_end(fault: Fault) -> None:
    with (
        FaultyServer(plain_answer, lambda *_: fault) as server,
        JsonRpc(server.http + "/v3/secret-key", quick()) as rpc,
        pytest.raises(RpcUnavailable) as caught,
    ):
        rpc.call("any_method")
    assert server.request_count == 4
    assert caught.value.tries == 4
    assert "any_method" in str(caught.value)
    assert "4 tries" in str(caught.value)
    assert "secret-key" not in str(caught.value)


def test_the_pause_a_node_asks_for_is_kept() -> None:
    asked = Fault(status=429, headers={"Retry-After": "1"})
    arrivals: list[float] = []

    def rule(_: Any, number: int) -> Fault | None:
        arrivals.append(time.monotonic())
        return asked if number == 0 else None

    with FaultyServer(plain_answer, rule) as server, JsonRpc(server.http, quick()) as rpc:
        assert rpc.call("any_method", 1) == 1
    assert arrivals[1] - arrivals[0] >= 1


def test_a_time_out_is_tried_again_and_then_named() -> None:
    def slow_twice(_: Any, number: int) -> Fault | None:
        return Fault(delay_s=30) if number < 2 else None

    limits = quick(timeout_s=0.2, tries=3)
    patient = quick(timeout_s=0.2, tries=10)  # the server may be late with a good answer too
    with FaultyServer(plain_answer, slow_twice) as server, JsonRpc(server.http, patient) as rpc:
        assert rpc.call("any_method", 1) == 1
        assert server.request_count >= 3
    with (
        FaultyServer(plain_answer, lambda *_: Fault(delay_s=30)) as server,
        JsonRpc(server.http, limits) as rpc,
        pytest.raises(RpcUnavailable, match=r"no answer within 0\.2 s"),
    ):
        rpc.call("any_method")


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413])
def test_a_refusing_status_is_not_tried_again(code: int) -> None:
    with (
        FaultyServer(plain_answer, lambda *_: Fault(status=code)) as server,
        JsonRpc(server.http, quick()) as rpc,
    ):
        with pytest.raises(RpcRefused) as caught:
            rpc.call("any_method")
        assert server.request_count == 1
    assert caught.value.code == code


def test_an_error_of_the_node_keeps_code_and_reason() -> None:
    with (
        FaultyServer(plain_answer, lambda *_: Fault(error=(-32602, "bad parameters"))) as server,
        JsonRpc(server.http, quick()) as rpc,
    ):
        with pytest.raises(RpcRefused) as caught:
            rpc.call("any_method")
        assert server.request_count == 1
    assert (caught.value.code, caught.value.reason) == (-32602, "bad parameters")


UNKNOWN = (-32000, "words that nobody knows")


def test_an_unknown_error_is_waited_out_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    def rule(_: Any, number: int) -> Fault | None:
        return Fault(error=UNKNOWN) if number < 3 else None

    with FaultyServer(plain_answer, rule) as server, JsonRpc(server.http, quick()) as rpc:
        assert rpc.call("any_method", "value") == "value"
        assert server.request_count == 4
    said = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(said) == 1
    assert "event=rpc_error_unknown" in said[0]
    assert "code=-32000 reason='words that nobody knows'" in said[0]


def test_an_unknown_error_that_stays_is_named_and_not_waited_for_twice() -> None:
    with (
        FaultyServer(plain_answer, lambda *_: Fault(error=UNKNOWN)) as server,
        JsonRpc(server.http, quick()) as rpc,
    ):
        with pytest.raises(RpcRefused, match=r"words that nobody knows \(code -32000\).*provider"):
            rpc.call("any_method")
        assert server.request_count == 4
        with pytest.raises(RpcRefused):
            rpc.call("any_method")
        assert server.request_count == 5


def test_a_start_does_not_end_with_an_unknown_error() -> None:
    def rule(_: Any, number: int) -> Fault | None:
        return Fault(error=UNKNOWN) if number < 5 else Fault(body=b'{"id":null,"result":"0x1"}')

    with FaultyServer(plain_answer, rule) as server, JsonRpc(server.http, quick()) as rpc:
        assert check_chain(rpc, 1) == 1


@pytest.mark.parametrize("batch", [False, True])
def test_a_gateways_message_in_place_of_an_answer_is_taken_as_its_refusal(batch: bool) -> None:
    def ask(rpc: JsonRpc) -> Any:
        return rpc.batch([("echo", (1,)), ("echo", (2,))]) if batch else rpc.call("echo", 1)

    late = Fault(body=b'{"message": "API rate limit exceeded"}')
    with asking(plain_answer, lambda request, number: late if number < 2 else None) as rpc:
        assert ask(rpc) == ([1, 2] if batch else 1)
    gone = Fault(body=b'{"message": "invalid project id", "code": 1008}')
    with (
        asking(plain_answer, lambda request, number: gone) as rpc,
        pytest.raises(RpcRefused, match="invalid project id"),
    ):
        ask(rpc)


@pytest.mark.parametrize("whole", [pytest.param(True, marks=pytest.mark.slow), False])
def test_calls_a_second_in_unknown_words_are_waited_out(whole: bool) -> None:
    """Refused as a batch or call by call until the node was left alone for a while."""
    budget = {"left": 5, "since": 0.0}
    asked: list[int] = []

    def answer(body: bytes) -> bytes:
        wanted = json.loads(body)
        each = json.loads(plain_answer(body))
        now = time.monotonic()
        if now >= budget["since"] + 0.1:
            budget["left"] = 5
        budget["since"] = now
        error = {"code": UNKNOWN[0], "message": UNKNOWN[1]}
        answers = each if isinstance(each, list) else [each]
        asked.append(len(answers))
        if whole and len(answers) > budget["left"]:
            return json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
        for one in answers:
            budget["left"] -= 1
            if budget["left"] < 0:
                del one["result"]
                one["error"] = error
        return json.dumps(answers if isinstance(wanted, list) else answers[0]).encode()

    limits = quick(first_pause_s=0.05)
    with FaultyServer(answer) as server, JsonRpc(server.http, limits) as rpc:
        assert rpc.batch([("echo", [number]) for number in range(23)]) == list(range(23))
    assert len(asked) < 60


def test_one_odd_call_of_a_batch_costs_no_other() -> None:
    def answer(body: bytes) -> bytes:
        answers = json.loads(plain_answer(body))
        for each in answers if isinstance(answers, list) else [answers]:
            if each["result"] % 5 == 0:
                each["error"] = {"code": -32000, "message": f"odd thing {each.pop('result')}"}
        return json.dumps(answers).encode()

    with FaultyServer(answer) as server, JsonRpc(server.http, quick()) as rpc:
        found = rpc.batch([("echo", [number]) for number in range(40)])
        assert [each for each in found if not isinstance(each, RpcRefused)] == [
            number for number in range(40) if number % 5
        ]
        assert all(isinstance(found[at], RpcRefused) for at in range(0, 40, 5))
        assert server.request_count < 25


@pytest.mark.parametrize("body", [b"7", b"{}", b'{"id":99,"result":1}', b"[]"])
def test_an_answer_that_is_none_is_an_error(body: bytes) -> None:
    with asking(plain_answer, lambda *_: Fault(body=body)) as rpc, pytest.raises(RpcAnswerInvalid):
        rpc.call("any_method")


@pytest.mark.parametrize("body", [b"7", b"null", b"true", b"{}"])
def test_an_answer_to_a_batch_that_is_none_is_an_error(body: bytes) -> None:
    with asking(plain_answer, lambda *_: Fault(body=body)) as rpc, pytest.raises(RpcAnswerInvalid):
        rpc.batch([("any_method", [])])


def test_a_batch_is_matched_by_id_whatever_its_order() -> None:
    def reversed_answer(body: bytes) -> bytes:
        return json.dumps(json.loads(plain_answer(body))[::-1]).encode()

    with FaultyServer(reversed_answer) as server, JsonRpc(server.http, quick()) as rpc:
        assert rpc.batch([("echo", [number]) for number in range(50)]) == list(range(50))


def test_what_is_missing_of_a_batch_is_asked_for_again() -> None:
    served = []

    def short_once(body: bytes) -> bytes:
        answers = json.loads(plain_answer(body))
        served.append(len(answers))
        return json.dumps(answers[: 3 if len(served) == 1 else None]).encode()

    with FaultyServer(short_once) as server, JsonRpc(server.http, quick()) as rpc:
        assert rpc.batch([("echo", [number]) for number in range(5)]) == list(range(5))
    assert served == [5, 2]


def test_a_batch_refused_as_a_whole_is_refused() -> None:
    fault = Fault(whole_error=(-32600, "unauthorized"))
    with (
        FaultyServer(plain_answer, lambda *_: fault) as server,
        JsonRpc(server.http, quick()) as rpc,
        pytest.raises(RpcRefused, match="unauthorized"),
    ):
        rpc.batch([("echo", [1]), ("echo", [2])])


# A batch that a node will not answer whole

MOST = 7


def first_few(body: bytes) -> bytes:
    answers = json.loads(plain_answer(body))
    return json.dumps(answers[:MOST] if isinstance(answers, list) else answers).encode()


def few_and_errors(body: bytes) -> bytes:
    """go-ethereum's way of bounding the bytes of an answer."""
    answers = json.loads(plain_answer(body))
    for each in answers[MOST:] if isinstance(answers, list) else ():
        del each["result"]
        each["error"] = {"code": -32003, "message": "response too large"}
    return json.dumps(answers).encode()


def one_error_in_a_list(body: bytes) -> bytes:
    """go-ethereum's way of bounding calls: the first call's answer, and no other."""
    asked = json.loads(body)
    if not isinstance(asked, list) or len(asked) <= MOST:
        return plain_answer(body)
    error = {"code": -32600, "message": "batch too large"}
    return json.dumps([{"jsonrpc": "2.0", "id": asked[0]["id"], "error": error}]).encode()


def no_answer_in_a_list(body: bytes) -> bytes:
    asked = json.loads(body)
    if not isinstance(asked, list) or len(asked) <= MOST:
        return plain_answer(body)
    error = {"code": -32000, "message": "exceeds the maximum of calls"}
    return json.dumps([{"jsonrpc": "2.0", "id": None, "error": error}]).encode()


def above(fault: Fault, most: int = MOST) -> Callable[[Any, int], Fault | None]:
    return lambda asked, _: fault if isinstance(asked, list) and len(asked) > most else None


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        Fault(whole_error=(-32600, "batch too large")),
        Fault(whole_error=(-32007, "batch limit exceeded")),
        Fault(whole_error=(-32005, "Batched requests are limited")),
        Fault(whole_error=(-32000, "words that nobody knows")),
        Fault(error=(-32003, "response too large")),
        Fault(cut="connection"),
        Fault(cut="json"),
        Fault(body=b""),
        Fault(body=b"[]"),
        Fault(status=413),
        Fault(status=400),
        Fault(status=500),
        Fault(status=503),
        Fault(error=(-32007, "50/second request limit reached")),
    ],
    ids=str,
)
def test_a_bounded_batch_is_cut(fault: Fault) -> None:
    with (
        FaultyServer(plain_answer, above(fault)) as server,
        JsonRpc(server.http, quick()) as rpc,
    ):
        assert rpc.batch([("echo", [number]) for number in range(40)]) == list(range(40))


@pytest.mark.slow
@pytest.mark.parametrize("tries", [1, 2, 5])
@pytest.mark.parametrize(
    "answer", [first_few, few_and_errors, one_error_in_a_list, no_answer_in_a_list]
)
def test_what_was_answered_of_a_batch_is_kept(answer: Callable[[bytes], bytes], tries: int) -> None:
    sizes: list[int] = []

    def counted(body: bytes) -> bytes:
        asked = json.loads(body)
        sizes.append(len(asked) if isinstance(asked, list) else 1)
        return answer(body)

    with FaultyServer(counted) as server, JsonRpc(server.http, quick(tries=tries)) as rpc:
        assert rpc.batch([("echo", [number]) for number in range(40)]) == list(range(40))
        learned, sizes[:] = list(sizes), []
        assert rpc.batch([("echo", [number]) for number in range(40)]) == list(range(40))
    assert len(learned) <= 40 / MOST + 2 * 6
    assert max(sizes) <= MOST, "the size that worked is remembered"


def test_a_node_that_takes_no_batches_is_asked_one_by_one() -> None:
    refusal = Fault(whole_error=(-32600, "Invalid Request"))
    with (
        FaultyServer(plain_answer, above(refusal, most=0)) as server,
        JsonRpc(server.http, quick()) as rpc,
    ):
        assert rpc.batch([("echo", [number]) for number in range(9)]) == list(range(9))


@pytest.mark.parametrize("tries", [1, 4])
def test_a_node_that_is_away_is_no_bound(tries: int) -> None:
    """One call alone tells it, and the batch is not asked in ever smaller parts."""
    with (
        FaultyServer(plain_answer, lambda *_: Fault(cut="connection")) as server,
        JsonRpc(server.http, quick(tries=tries)) as rpc,
    ):
        with pytest.raises(RpcUnavailable):
            rpc.batch([("echo", [number]) for number in range(40)])
        assert server.request_count == max(tries, 2)
        server.rule = lambda *_: None
        server.request_count = 0
        assert rpc.batch([("echo", [number]) for number in range(40)]) == list(range(40))
        assert server.request_count == 1


def test_a_call_refused_for_its_own_sake_stays_alone() -> None:
    def answer(body: bytes) -> bytes:
        answers = json.loads(plain_answer(body))
        for each in answers if isinstance(answers, list) else [answers]:
            if each["result"] == 5:
                del each["result"]
                each["error"] = {
                    "code": -32005,
                    "message": "query returned more than 10000 results",
                }
        return json.dumps(answers).encode()

    with FaultyServer(answer) as server, JsonRpc(server.http, quick()) as rpc:
        found = rpc.batch([("echo", [number]) for number in range(9)])
    assert isinstance(found[5], RpcRefused)
    assert [each for at, each in enumerate(found) if at != 5] == [0, 1, 2, 3, 4, 6, 7, 8]


def test_calls_a_second_are_waited_out_and_answers_kept() -> None:
    """A node that answers five calls, then refuses until it was left alone for a while."""
    budget = {"left": 5, "since": 0.0}
    asked: list[int] = []

    def answer(body: bytes) -> bytes:
        now = time.monotonic()
        if now - budget["since"] > 0.05:
            budget.update(left=5, since=now)
        answers = json.loads(plain_answer(body))
        for each in answers if isinstance(answers, list) else [answers]:
            asked.append(each["result"])
            budget["left"] -= 1
            if budget["left"] < 0:
                del each["result"]
                each["error"] = {"code": -32012, "message": "credits limited to 5"}
        return json.dumps(answers).encode()

    with (
        FaultyServer(answer) as server,
        JsonRpc(server.http, quick(tries=9, first_pause_s=0.03)) as rpc,
    ):
        assert rpc.batch([("echo", [number]) for number in range(23)]) == list(range(23))
    assert asked.count(0) == 1, "what was answered is not asked again"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (-32007, "15/second request limit reached - reduce calls per second"),
        (-32012, "credits limited to 6000/min"),
        (-32016, "over rate limit"),
        (-32029, "anything"),
        (-32097, "anything"),
        (-32000, "Your app has exceeded its compute units per second capacity"),
        (-32005, "daily request count exceeded, request rate limited"),
        (0, "Too Many Requests"),
    ],
)
def test_slow_down_in_any_words_is_waited_out(code: int, text: str) -> None:
    fault = Fault(error=(code, text))
    with (
        FaultyServer(plain_answer, lambda _, number: fault if number < 3 else None) as server,
        JsonRpc(server.http, quick(tries=1)) as rpc,
    ):
        assert rpc.call("any_method", "value") == "value"
        assert server.request_count == 4
        server.rule = lambda *_: fault
        with pytest.raises(RpcUnavailable):
            rpc.call("any_method", "value")


class SocketServer:
    """A WebSocket that answers as `plain_answer`, or closes with the code that `rule` gives."""

    def __init__(self, rule: Callable[[Any, int], int | None]) -> None:
        self.count = 0
        self._rule = rule
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._ready.wait()

    def _run(self) -> None:
        async def start() -> web.AppRunner:
            app = web.Application()
            app.router.add_get("/", self._serve)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.address = f"ws://127.0.0.1:{runner.addresses[0][1]}"
            return runner

        runner = self._loop.run_until_complete(start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        found = web.WebSocketResponse()
        await found.prepare(request)
        async for message in found:
            asked = json.loads(message.data)
            code = self._rule(asked, self.count)
            self.count += 1
            if code is not None:
                await found.close(code=code, message=b"as told")
                break
            await found.send_bytes(plain_answer(message.data.encode()))
        return found

    def __enter__(self) -> "SocketServer":
        return self

    def __exit__(self, *unused: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.mark.parametrize("code", [1001, 1008, 1011, 1013])
def test_a_websocket_that_closes_is_opened_again(code: int) -> None:
    def rule(_: Any, number: int) -> int | None:
        return code if number < 2 else None

    with SocketServer(rule) as server, JsonRpc(server.address, quick()) as rpc:
        assert rpc.call("echo", "value") == "value"
        assert server.count == 3


def test_a_websocket_that_says_later_is_waited_for_where_nothing_else_is_tried_again() -> None:
    def rule(_: Any, number: int) -> int | None:
        return 1013 if number < 3 else None

    with SocketServer(rule) as server, JsonRpc(server.address, quick(tries=1)) as rpc:
        assert rpc.call("echo", "value") == "value"


def test_a_websocket_that_closes_on_a_message_too_big_gets_smaller_ones() -> None:
    def rule(asked: Any, number: int) -> int | None:
        return 1009 if isinstance(asked, list) and len(asked) > MOST else None

    with SocketServer(rule) as server, JsonRpc(server.address, quick(tries=1)) as rpc:
        assert rpc.batch([("echo", [number]) for number in range(40)]) == list(range(40))
    with SocketServer(lambda *_: 1009) as server, JsonRpc(server.address, quick()) as rpc:
        with pytest.raises(RpcRefused) as caught:
            rpc.call("echo", "value")
        assert caught.value.code == 1009
        assert server.count == 1


def test_an_answer_of_a_websocket_above_the_limit_is_refused() -> None:
    with (
        SocketServer(lambda *_: None) as server,
        JsonRpc(server.address, quick(max_response_nbytes=1000)) as rpc,
        pytest.raises(RpcRefused, match="above 1000 bytes"),
    ):
        rpc.call("echo", "x" * 2000)


@pytest.mark.parametrize(
    ("value", "least_s", "most_s"),
    [
        ("2", 2, 2),
        (" 1.5 ", 1.5, 1.5),
        ("-3", 0, 0),
        ("99999", 10, 10),
        ("1" * 300, 0, 0),
        ("²", 0, 0),
        ("soon", 0, 0),
        ("", 0, 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 10, 10),
    ],
)
def test_pauses_that_nodes_ask_for(value: str, least_s: float, most_s: float) -> None:
    assert least_s <= pause_asked(value) <= most_s


def test_no_more_requests_than_allowed_are_under_way() -> None:
    with (
        FaultyServer(plain_answer, lambda *_: Fault(delay_s=0.02)) as server,
        JsonRpc(server.http, quick(concurrency=3)) as rpc,
    ):
        calls = [("echo", [number]) for number in range(30)]
        assert rpc.call_many(calls) == list(range(30))
        assert server.most_at_once == 3


def test_a_request_above_the_limit_is_never_sent() -> None:
    with (
        FaultyServer(plain_answer) as server,
        JsonRpc(server.http, quick(max_request_nbytes=200)) as rpc,
    ):
        assert rpc.call("echo", "x" * 100) == "x" * 100
        with pytest.raises(RpcRefused) as caught:
            rpc.call("echo", "x" * 200)
        assert caught.value.code == 413
        assert server.request_count == 1


def test_an_answer_above_the_limit_is_refused() -> None:
    body = b'{"id":1,"result":"' + b"x" * 2000 + b'"}'
    with (
        FaultyServer(plain_answer, lambda *_: Fault(body=body)) as server,
        JsonRpc(server.http, quick(max_response_nbytes=1000)) as rpc,
        pytest.raises(RpcRefused, match="above 1000 bytes"),
    ):
        rpc.call("echo")


# A node that has not got its chain yet

HOUR_S = 3600


def chain_answer(syncing: Any, number: int, age_s: float) -> Callable[[bytes], bytes]:
    """A node's newest block and its word on syncing; an Exception is an error of the method."""
    block = {
        "number": hex(number),
        "hash": "0x" + "11" * 32,
        "parentHash": "0x" + "22" * 32,
        "timestamp": hex(int(time.time() - age_s)),
    }

    def answer(body: bytes) -> bytes:
        request = json.loads(body)
        head = {"jsonrpc": "2.0", "id": request["id"]}
        if request["method"] == "eth_syncing" and isinstance(syncing, Exception):
            return json.dumps(head | {"error": {"code": -32601, "message": str(syncing)}}).encode()
        result = {"eth_syncing": syncing, "eth_chainId": "0x1", "eth_getBlockByNumber": block}
        return json.dumps(head | {"result": result[request["method"]]}).encode()

    return answer


def told(current: int, highest: Any) -> dict[str, Any]:
    return {"startingBlock": "0x0", "currentBlock": hex(current), "highestBlock": highest}


@pytest.mark.parametrize(
    ("syncing", "number", "age_s"),
    [
        (told(100, hex(5000)), 0, 50 * HOUR_S),
        (told(100, hex(5000)), 100, 50 * HOUR_S),
        (told(100, "5000"), 100, 50 * HOUR_S),
        (told(4000, 5000), 4000, HOUR_S),
        (True, 100, 50 * HOUR_S),
        (False, 0, 90_000 * HOUR_S),
        (None, 0, 90_000 * HOUR_S),
        (RuntimeError("no such method"), 0, 90_000 * HOUR_S),
    ],
    ids=str,
)
def test_a_node_without_its_chain_is_syncing(syncing: Any, number: int, age_s: float) -> None:
    with asking(chain_answer(syncing, number, age_s)) as rpc:
        state = sync_state(rpc)
        assert state.reason is not None
        assert "syncing" in state.reason
        assert str(number) in state.reason
        with pytest.raises(NodeSyncing):
            RpcScraper(rpc, []).get_current_block_number()


@pytest.mark.parametrize(
    ("syncing", "number", "age_s"),
    [
        (False, 100, 0),
        (False, 100, 90_000 * HOUR_S),  # a chain of one's own that stands still
        (False, 0, 60),  # and one that begins
        (None, 100, 90_000 * HOUR_S),
        (RuntimeError("no such method"), 100, 90_000 * HOUR_S),
        (told(5000, hex(5000)), 5000, 90_000 * HOUR_S),  # told for ever
        (told(1, hex(5000)), 5003, 90_000 * HOUR_S),
        (told(100, hex(5000)), 100, 30),
        (True, 100, 30),
        ({}, 100, 90_000 * HOUR_S),
        ({"highestBlock": "many"}, 100, 90_000 * HOUR_S),
        ([1], 100, 90_000 * HOUR_S),
    ],
    ids=str,
)
def test_a_node_with_its_chain_is_not_syncing(syncing: Any, number: int, age_s: float) -> None:
    with asking(chain_answer(syncing, number, age_s)) as rpc:
        state = sync_state(rpc)
    assert state.reason is None
    assert state.is_old == (age_s > 2 * HOUR_S)


@pytest.mark.parametrize("scheme", ["http", "ws", "ipc"])
def test_nobody_there(scheme: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = str(tmp_path / "none.ipc") if scheme == "ipc" else f"{scheme}://127.0.0.1:{port}"
    with JsonRpc(address, quick(tries=2)) as rpc, pytest.raises(RpcUnavailable, match="2 tries"):
        rpc.call("eth_chainId")


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="none of"):
        JsonRpc("ftp://node")


def test_close_ends_a_waiting_call() -> None:
    outcome: list[BaseException] = []
    with FaultyServer(plain_answer, lambda *_: Fault(delay_s=30)) as server:
        rpc = JsonRpc(server.http, quick())

        def wait() -> None:
            try:
                rpc.call("echo")
            except RpcUnavailable as error:
                outcome.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        while server.request_count == 0:
            thread.join(0.01)
        rpc.close()
        thread.join(20)
        assert not thread.is_alive()
    assert "closed" in str(outcome[0])
    with pytest.raises(RpcUnavailable, match="closed"):
        rpc.call("echo")
    rpc.close()


class LocalServer:
    """A local socket whose every answer is what `answer` makes of the request and its number."""

    def __init__(self, path: Path, answer: Callable[[dict[str, Any], int], list[bytes]]) -> None:
        self.connections = 0
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while True:
            client, _ = self._listener.accept()
            with client, client.makefile("rb") as lines:
                self.connections += 1
                for line in lines:
                    if line == b"end\n":
                        return
                    for part in self._answer(json.loads(line), number):
                        client.sendall(part)
                    number += 1

    def __enter__(self) -> "LocalServer":
        return self

    def __exit__(self, *unused: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(self._listener.getsockname())
            last.sendall(b"end\n")
            self._thread.join()
        self._listener.close()


def echoed(request: dict[str, Any]) -> bytes:
    return plain_answer(json.dumps(request).encode())


def test_a_newline_that_comes_late_belongs_to_the_answer_before(tmp_path: Path) -> None:
    """The end of an answer and its newline are not always read at once."""

    def answer(request: dict[str, Any], number: int) -> list[bytes]:
        return [b"\n" * (number > 0) + echoed(request)]

    path = tmp_path / "node.ipc"
    with LocalServer(path, answer) as server, JsonRpc(str(path), quick(timeout_s=20)) as rpc:
        assert [rpc.call("echo", number) for number in range(5)] == list(range(5))
        assert server.connections == 1, "no answer was given up"


def test_a_message_nobody_asked_for_does_not_shift_the_answers(tmp_path: Path) -> None:
    """Each later request would get the answer of the one before it, for as long as the connection."""
    told = b'{"jsonrpc":"2.0","method":"eth_subscription","params":{"result":"0x7"}}\n'

    def answer(request: dict[str, Any], number: int) -> list[bytes]:
        return [told * (number == 1) + echoed(request) + b"\n"]

    path = tmp_path / "node.ipc"
    with LocalServer(path, answer), JsonRpc(str(path), quick()) as rpc:
        assert [rpc.call("echo", number) for number in range(5)] == list(range(5))


@pytest.mark.parametrize("given", [1, 7.5, "1", True])
def test_an_answer_to_another_request_is_never_taken(given: Any, tmp_path: Path) -> None:
    """It is asked again on another connection: here what is left would answer the next request."""

    def answer(request: dict[str, Any], number: int) -> list[bytes]:
        right = echoed(request) + b"\n"
        if number != 2:
            return [right]
        return [json.dumps({"jsonrpc": "2.0", "id": given, "result": -1}).encode() + b"\n" + right]

    path = tmp_path / "node.ipc"
    with LocalServer(path, answer) as server, JsonRpc(str(path), quick()) as rpc:
        assert [rpc.call("echo", number) for number in range(5)] == list(range(5))
        assert server.connections == 2


# A scrape


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    with traded_market(tmp_path_factory.mktemp("node"), seed=11, each=4) as made:
        yield made


def scraper(market: Market, address: str, **more: Any) -> RpcScraper:
    targets = parse_pool_list(market.pool_list(), name="pools").targets
    limits = more.pop("limits", quick())
    return RpcScraper(JsonRpc(address, limits), targets, **{"chain_id": CHAIN_ID} | more)


def read(source: RpcScraper) -> dict[str, dict[str, Any]]:
    try:
        found = source.read_pools([spec.key for spec in source.list_pools()])
    finally:
        source.close()
    assert found.invalid == ()
    return scraped(found)


def assert_found(market: Market, server: FaultyServer, way: Way) -> None:
    """The scraper takes this way, and reads the true states by it."""
    source = scraper(market, server.http)
    assert source.way(source.block()) is way
    assert read(source) == market.states()


def methods(request: Any) -> set[str]:
    return {item["method"] for item in (request if isinstance(request, list) else [request])}


@pytest.mark.node
@pytest.mark.parametrize("way", [None, *Way])
def test_a_scrape_survives_faults_of_every_kind(market: Market, way: Way | None) -> None:
    kinds = [Fault(status=429), Fault(status=502), Fault(cut="json"), Fault(cut="connection")]

    def rule(_: Any, number: int) -> Fault | None:
        return kinds[number // 2 % 4] if number % 2 else None

    with FaultyServer(node_answer(market.node.port), rule) as server:
        limits = quick(tries=30, first_pause_s=0.001)
        assert read(scraper(market, server.http, way=way, limits=limits)) == market.states()


@pytest.mark.node
@pytest.mark.parametrize("way", list(Way))
def test_a_node_that_takes_little_at_once_is_asked_for_less(market: Market, way: Way) -> None:
    def rule(request: Any, _: int) -> Fault | None:
        if isinstance(request, list):
            return Fault(whole_error=(-32600, "batch too large")) if len(request) > 100 else None
        return Fault(status=413) if len(str(request)) > 20_000 else None

    with FaultyServer(node_answer(market.node.port), rule) as server:
        assert read(scraper(market, server.http, way=way)) == market.states()


@pytest.mark.node
@pytest.mark.parametrize(
    ("hidden", "expected"),
    [
        (set(), {Way.storage_values, Way.code_override}),
        ({"eth_getStorageValues"}, {Way.code_override}),
        ({"override"}, {Way.storage_values}),
        ({"eth_getStorageValues", "override"}, {Way.extsload}),
        ({"eth_getStorageValues", "eth_call"}, {Way.storage_at}),
    ],
    ids=lambda names: "+".join(sorted(map(str, names))) or "nothing",
)
def test_the_way_is_what_the_node_offers(
    market: Market, hidden: set[str], expected: set[Way]
) -> None:
    def rule(request: Any, _: int) -> Fault | None:
        if methods(request) & hidden:
            return Fault(error=(-32601, "the method does not exist"))
        if "override" in hidden and methods(request) == {"eth_call"} and len(request["params"]) > 2:
            return Fault(error=(-32602, "too many arguments, want at most 2"))
        return None

    with FaultyServer(node_answer(market.node.port), rule) as server:
        source = scraper(market, server.http)
        assert source.way(source.block()) in expected
        assert read(source) == market.states()


@pytest.mark.node
def test_words_about_the_way_are_not_taken_for_words_about_the_block(market: Market) -> None:
    """What a node without a way answers can read as if it had dropped the block's state."""

    def rule(request: Any, _: int) -> Fault | None:
        if methods(request) == {"eth_getStorageValues"}:
            return Fault(error=(-32001, "resource not found"))
        if methods(request) == {"eth_call"} and len(request["params"]) > 2:
            return Fault(error=(-32000, "state override is not available"))
        return None

    with FaultyServer(node_answer(market.node.port), rule) as server:
        assert_found(market, server, Way.extsload)


@pytest.mark.node
def test_a_node_that_ignores_the_override_is_found_out(market: Market) -> None:
    forward = node_answer(market.node.port)

    def without_override(body: bytes) -> bytes:
        asked = json.loads(body)
        if isinstance(asked, dict) and asked["method"] == "eth_call":
            asked["params"] = asked["params"][:2]
        return forward(json.dumps(asked).encode())

    def rule(request: Any, _: int) -> Fault | None:
        no_values = methods(request) == {"eth_getStorageValues"}
        return Fault(error=(-32601, "no such method")) if no_values else None

    with FaultyServer(without_override, rule) as server:
        assert_found(market, server, Way.extsload)


@pytest.mark.node
def test_a_way_that_gives_other_words_is_not_taken(market: Market) -> None:
    forward = node_answer(market.node.port)

    def wrong_values(body: bytes) -> bytes:
        asked, answer = json.loads(body), forward(body)
        if isinstance(asked, dict) and asked["method"] == "eth_getStorageValues":
            zeros = {key: ["0x" + "00" * 32] * len(v) for key, v in asked["params"][0].items()}
            return json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": zeros}).encode()
        return answer

    with FaultyServer(wrong_values) as server:
        assert_found(market, server, Way.code_override)


@pytest.mark.node
@pytest.mark.parametrize("way", list(Way))
@pytest.mark.parametrize("body", [b"null", b'"0x"', b"[]", b"{}", b'"0x1234"', b"7"])
def test_answers_that_are_not_what_was_promised_are_an_error(
    market: Market, way: Way, body: bytes
) -> None:
    reads = {"eth_getStorageValues", "eth_call", "eth_getStorageAt"}

    def answer(asked: bytes) -> bytes:
        request = json.loads(asked)
        if not methods(request) & reads:
            return forward(asked)
        made = [
            {"jsonrpc": "2.0", "id": item["id"], "result": json.loads(body)}
            for item in (request if isinstance(request, list) else [request])
        ]
        return json.dumps(made if isinstance(request, list) else made[0]).encode()

    forward = node_answer(market.node.port)
    with FaultyServer(answer) as server:
        source = scraper(market, server.http, way=way)
        if way is Way.storage_at and body == b'"0x1234"':
            # A short word is a word: some nodes leave out leading zeros. The checks find it.
            found = source.read_pools([spec.key for spec in source.list_pools()])
            assert found.pools == ()
        else:
            with pytest.raises(RpcAnswerInvalid):
                source.read_pools([spec.key for spec in source.list_pools()])
        source.close()


@pytest.mark.node
@pytest.mark.parametrize("values", ["null", "7", '"0x1"', "{}", '["0x1"]', "[null, null]"])
def test_values_of_an_account_that_are_no_list_of_words_are_an_error(
    market: Market, values: str
) -> None:
    def answer(asked: bytes) -> bytes:
        request = json.loads(asked)
        if methods(request) != {"eth_getStorageValues"}:
            return forward(asked)
        found = dict.fromkeys(request["params"][0], json.loads(values))
        return json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": found}).encode()

    forward = node_answer(market.node.port)
    with FaultyServer(answer) as server:
        source = scraper(market, server.http, way=Way.storage_values)
        with pytest.raises(RpcAnswerInvalid):
            source.read_pools([spec.key for spec in source.list_pools()])
        source.close()


@pytest.mark.node
def test_another_chain_is_refused(market: Market) -> None:
    source = scraper(market, market.node.http, chain_id=1)
    with pytest.raises(ChainMismatch) as caught:
        source.get_current_block_number()
    source.close()
    assert (caught.value.found, caught.value.expected) == (CHAIN_ID, 1)


@pytest.mark.node
@pytest.mark.parametrize(
    "reason",
    [
        "missing trie node 8a5f (path ) state 0x8a5f is not available",
        "state at block #100 is pruned",
        "historical state 0x12 is not available",
        "required historical state unavailable (reexec=128)",
    ],
)
@pytest.mark.parametrize("way", list(Way))
def test_a_block_whose_state_is_gone_is_named(market: Market, way: Way, reason: str) -> None:
    reads = {"eth_getStorageValues", "eth_call", "eth_getStorageAt"}

    def rule(request: Any, _: int) -> Fault | None:
        return Fault(error=(-32000, reason)) if methods(request) & reads else None

    with FaultyServer(node_answer(market.node.port), rule) as server:
        source = scraper(market, server.http, way=way)
        with pytest.raises(BlockUnavailable, match="its state is gone") as caught:
            source.read_pools([spec.key for spec in source.list_pools()])
        source.close()
    assert caught.value.block_number == market.node.block()["number"]


@pytest.mark.node
def test_a_pruning_node_says_that_the_state_is_gone(tmp_path: Path) -> None:
    with Node(tmp_path, more=("--prune-history", "3")) as node:
        made = Market(node, seed=3)
        made.create_pools(v2=2, v3=1, v4=1, cake=1)
        old = made.node.block()["number"]
        for _ in range(8):
            made.step(3)
        for way in Way:
            source = scraper(made, node.http, way=way, block=old)
            with pytest.raises(BlockUnavailable):
                source.read_pools([spec.key for spec in source.list_pools()])
            source.close()
        assert read(scraper(made, node.http)) == made.states()


@pytest.mark.node
@pytest.mark.parametrize("way", list(Way))
def test_an_orphaned_block_is_not_read(market: Market, way: Way) -> None:
    source = scraper(market, market.node.http, way=way)
    block = source.block()
    keys = [spec.key for spec in source.list_pools()]
    assert is_canonical(source.rpc, block)
    assert block_by_hash(source.rpc, block.hash) == block
    market.reorg(2, method="anvil_reorg", operations=6)
    assert not is_canonical(source.rpc, block)
    with pytest.raises(BlockUnavailable, match="no longer part of the chain"):
        source.read_at(block, keys)
    assert head_block(source.rpc).number == block.number
    assert read(source) == market.states()


@pytest.mark.node
@pytest.mark.parametrize("way", list(Way))
@pytest.mark.parametrize("when", [3, 4, 6])
def test_a_reorg_in_the_middle_of_a_scrape_leaves_no_mixture(
    market: Market, way: Way, when: int
) -> None:
    changed = threading.Event()

    def rule(_: Any, number: int) -> Fault | None:
        if number >= when and not changed.is_set():
            changed.set()
            market.reorg(2, method="anvil_reorg", operations=12)
        return None

    # One request at a time and small ones, so that the reorg falls between two of them.
    with FaultyServer(node_answer(market.node.port), rule) as server:
        source = scraper(market, server.http, way=way, limits=quick(concurrency=1))
        source._slots_at_once[way] = 500
        assert read(source) == market.states()
    assert changed.is_set()


@pytest.mark.node
def test_a_chain_that_never_rests_ends_in_an_error(market: Market) -> None:
    reads = {"eth_getStorageValues"}

    def rule(request: Any, _: int) -> Fault | None:
        if methods(request) & reads:
            market.reorg(1, method="anvil_reorg", operations=1)
        return None

    with FaultyServer(node_answer(market.node.port), rule) as server:
        limits = quick(concurrency=1)
        source = scraper(market, server.http, way=Way.storage_values, limits=limits)
        with pytest.raises(BlockUnavailable, match="left the chain"):
            source.read_pools([source.list_pools()[0].key])
        source.close()


@pytest.mark.node
@pytest.mark.parametrize("transport", ["http", "ws", "ipc"])
def test_a_node_that_goes_and_comes_back(tmp_path: Path, transport: str) -> None:
    with Node(tmp_path) as node:
        made = Market(node, seed=5)
        made.create_pools(v2=3)
        source = scraper(made, str(getattr(node, transport)), limits=quick(tries=2))
        keys = [spec.key for spec in source.list_pools()]
        assert len(source.read_pools(keys).pools) == 3
        node.stop()
        with pytest.raises(RpcUnavailable):
            source.read_pools(keys)
        with Node(tmp_path, port=node.port) as again:
            assert str(getattr(again, transport)) == str(getattr(node, transport))
            revived = Market(again, seed=5)
            revived.create_pools(v2=3)
            assert read(source) == revived.states()
