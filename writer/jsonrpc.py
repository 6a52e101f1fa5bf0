"""JSON-RPC over HTTP, WebSocket or a local socket (IPC), called from any thread.

One background thread runs the connections. Every request is bounded in size, in time and in how
many are under way at once; what may pass by itself (connection lost, time-out, 429, 5xx, an answer cut
short, "slow down" in any words, an error that nobody knows) is tried again with growing pauses. A
batch that a node does not answer whole is cut, and its size remembered. Messages show host and port
of the address only: the rest of it often holds a key.
"""

import asyncio
import itertools
import logging
import math
import random
import re
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import orjson

from arena.errors import RpcAnswerInvalid, RpcError, RpcRefused, RpcUnavailable
from arena.writer.rpcerrors import TOO_LARGE, Meaning, meaning_of
from arena.writer.transports import (
    LONGEST_PAUSE_S,
    Limits,
    Transient,
    Transport,
    error_of,
    open_transport,
    shown_address,
    stream_of,
)

__all__ = ["TOO_LARGE", "Call", "JsonRpc", "Limits", "shown_address"]

log = logging.getLogger(__name__)

Call = tuple[str, Sequence[Any]]
"""Method and positional parameters."""

T = TypeVar("T")

# Limits of a rate are mostly of a second: where the node says it was asked too often, it is asked so
# often at least, which with the first pause of Limits takes 1.4 s.
RATE_TRIES = 4
LOST_TRIES = 2  # of a batch, before one call of it alone tells whether the node is there at all
MOST_CALLS = 1 << 20  # no bound of a batch is known
# How long one is kept. It may have been one large answer, or a node that was away for a moment.
SIZE_KEPT_S = 600.0
# An error of unknown words that did not pass is not waited for again so soon: less is asked at once.
VAIN_KEPT_S = 30.0
MOST_VAIN = 1000
_NUMBERS = re.compile(r"0x[0-9a-f]+|[0-9a-f-]{16,}|[0-9]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Unanswered:
    """In place of a result: the call is to be asked again. `meaning` is later, smaller or unclear, which
    is both; `refusal` where the node said why."""

    meaning: Meaning
    reason: str
    refusal: RpcRefused | None = None


class JsonRpc:
    """A node's JSON-RPC interface: `http(s)://`, `ws(s)://`, or the path of its IPC socket.

    Calls block and may come from several threads. Connects with the first call. ValueError for an
    address of another kind; RpcError, after `close` too.
    """

    def __init__(self, address: str, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.shown = shown_address(address)
        self._open_stream = stream_of(address, self.limits)
        self._address = address
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._transport: Transport | None = None
        self._sizes: dict[str, tuple[int, float]] = {}  # calls of a batch by method, until when
        self._vain: dict[tuple[str, int, str], float] = {}  # unknown errors that stay, until when
        self._named: set[tuple[str, int, str]] = set()  # in the log
        self._quiet_until = 0.0  # the node said it was asked too often
        self._under_way: asyncio.Semaphore | None = None
        self._closed = False

    # Calling

    def call(self, method: str, *parameters: Any) -> Any:
        """The result. RpcRefused when the node answers with an error, RpcUnavailable, RpcError."""
        return _unwrap(self.call_many([(method, parameters)])[0])

    def call_many(self, calls: Sequence[Call]) -> list[Any]:
        """Results in order, each call a request of its own, several under way at once.

        What the node refused is an RpcRefused in its place; anything else raises.
        """
        return self._gather([self._single(call) for call in calls])

    def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Results in order of one batch request. RpcRefused in place of what was refused; raised
        when the node refuses the batch as a whole."""
        results: list[Any] = _unwrap(self.batch_many([calls])[0])
        return results

    def batch_many(self, batches: Sequence[Sequence[Call]]) -> list[Any]:
        """Results of several batches, several under way at once. RpcRefused in place of a call or
        of a whole batch that was refused."""
        return self._gather([self._batch(calls) for calls in batches])

    @property
    def can_subscribe(self) -> bool:
        """The address is a connection that the node can speak on first: WebSocket or IPC."""
        return self._open_stream is not None

    def subscribe(
        self,
        *parameters: Any,
        on_message: Callable[[Any], None],
        on_end: Callable[[str], None],
    ) -> Callable[[], None]:
        """eth_subscribe on a connection of its own; returns what ends it again.

        `on_message` is called with each result, `on_end` once with the reason when the connection or
        the subscription could not be had or is over, both in the background thread. Nothing is
        tried again, and a node that falls silent is not noticed. RpcUnavailable after `close`.
        """
        work = self._submit(self._listen(parameters, on_message, on_end))

        def end() -> None:
            work.cancel()

        return end

    def close(self) -> None:
        """Close every connection and end the thread. Safe to call twice."""
        with self._lock:
            self._closed = True
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(self._shut(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def be_quiet(self, pause_s: float) -> None:
        """Ask nothing more for so long: the node said it was asked too often."""
        self._quiet_until = max(self._quiet_until, time.monotonic() + pause_s)

    # The background thread

    def _gather(self, work: list[Coroutine[Any, Any, T]]) -> list[T]:
        async def together() -> list[T]:
            tasks = [asyncio.ensure_future(item) for item in work]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()

        try:
            future = self._submit(together())
        except RpcError:
            for item in work:
                item.close()
            raise
        try:
            return future.result()
        except CancelledError:
            raise self._closed_error() from None
        except BaseException:
            future.cancel()
            raise

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._closed:
                work.close()
                raise self._closed_error()
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._under_way = asyncio.Semaphore(self.limits.concurrency)
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="jsonrpc", daemon=True
                )
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _closed_error(self) -> RpcUnavailable:
        return RpcUnavailable(
            f"the client of {self.shown} is closed; make a new one", address=self.shown
        )

    async def _shut(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._transport is not None:
            await self._transport.close()
            self._transport = None

    async def _listen(
        self,
        parameters: tuple[Any, ...],
        on_message: Callable[[Any], None],
        on_end: Callable[[str], None],
    ) -> None:
        request = self._request(("eth_subscribe", parameters))
        try:
            assert self._open_stream is not None, "look at can_subscribe first"
            async with asyncio.timeout(self.limits.timeout_s):
                stream = await self._open_stream()
            try:
                await stream.send(orjson.dumps(request))
                async with asyncio.timeout(self.limits.timeout_s):
                    self._result(orjson.loads(await stream.receive()), request)
                while True:
                    message = orjson.loads(await stream.receive())
                    if isinstance(message, dict) and message.get("method") == "eth_subscription":
                        on_message(message["params"]["result"])
            finally:
                await stream.close()
        except TimeoutError:
            reason = f"no answer within {self.limits.timeout_s:g} s"
        except (Transient, RpcError) as error:
            reason = str(error) or type(error).__name__
        except Exception as error:  # whatever the other side sent: a subscription is a hint only
            reason = f"{type(error).__name__}: {_redacted(error)}"
        on_end(reason)

    # One request

    def _request(self, call: Call) -> dict[str, Any]:
        method, parameters = call
        return {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": [*parameters]}

    async def _single(self, call: Call) -> Any:
        patience = _Patience(self, call[0])
        while True:
            try:
                return (await self._ask([call]))[0]
            except (Transient, RpcAnswerInvalid) as error:
                try:
                    await patience.wait(error)
                except RpcRefused as refusal:
                    return refusal

    async def _batch(self, calls: Sequence[Call]) -> Any:
        """Results in order, or why the batch was refused; cut as often as the node wants it.

        What was answered is kept, and only the rest is asked again.
        """
        method = calls[0][0] if calls else ""
        results: list[Any] = [None] * len(calls)
        waiting = list(range(len(calls)))
        patience = _Patience(self, f"batch of {len(calls)}, {method}")
        size = len(calls)
        too_many = 0  # so many at once were not answered, and fewer are tried
        refusal: RpcRefused | None = None  # of that many
        while waiting:
            size = max(1, min(size, self._size_of(method)))
            part = waiting[:size]
            try:
                outcomes = await self._ask([calls[index] for index in part])
            except RpcRefused as error:
                what = meaning_of(error.code, error.reason, method=method, calls=len(part))
                if what not in (Meaning.smaller, Meaning.unclear, Meaning.wrong):
                    return error
                refusal, too_many = error, len(part)
                size = len(part) // 2 if what is Meaning.smaller else 1
                continue
            except (Transient, RpcAnswerInvalid) as error:
                alone = len(part) == 1
                if too_many and not alone and not _is_rate(error):
                    too_many, size = len(part), len(part) // 2
                    continue
                try:
                    await patience.wait(error, may_end=alone)
                except RpcRefused as stays:
                    outcomes = [stays]
                else:
                    if alone:
                        continue
                    if _is_rate(error):
                        size = len(part) if patience.count < LOST_TRIES else len(part) // 8
                    elif patience.count >= min(LOST_TRIES, self.limits.tries):
                        # One call tells a node that is away from one that will not take so many.
                        too_many, size = len(part), 1
                    continue
            patience.count = 0
            is_first = len(waiting) == len(calls)
            if is_first and refusal is not None and _is_same(outcomes[0], refusal):
                return refusal
            left = [at for at, each in zip(part, outcomes, strict=True) if _is_unanswered(each)]
            for at, outcome in zip(part, outcomes, strict=True):
                results[at] = outcome
            waiting = left + waiting[len(part) :]
            if left:
                size = len(part) - len(left)
                unanswered = results[left[0]]
                if unanswered.meaning is not Meaning.smaller:
                    await patience.wait(Transient(unanswered.reason, is_rate=True), may_end=False)
                else:
                    too_many = len(part)
            elif too_many and len(part) == 1 and too_many > 3:
                size = too_many // 2
            elif too_many and not isinstance(outcomes[0], RpcRefused):
                self._keep_size(method, len(part), too_many)
                too_many, refusal = 0, None
        return results

    def _size_of(self, method: str) -> int:
        """How many calls of a method are asked in one batch."""
        size, until = self._sizes.get(method, (MOST_CALLS, math.inf))
        return size if time.monotonic() < until else MOST_CALLS

    def _keep_size(self, method: str, size: int, too_many: int) -> None:
        self._sizes[method] = (size, time.monotonic() + SIZE_KEPT_S)
        log.info(
            "event=rpc_batch_cut node=%s method=%s calls=%d refused=%d",
            self.shown,
            method,
            size,
            too_many,
        )

    async def _ask(self, calls: Sequence[Call]) -> list[Any]:
        """What came of each call: its result, RpcRefused, or _Unanswered in a batch that was not
        answered whole. Transient, RpcAnswerInvalid; RpcRefused when a batch is refused as such."""
        requests = [self._request(call) for call in calls]
        if len(calls) > 1:
            name = f"batch of {len(calls)}, {calls[0][0]}"
            return await self._exchange(requests, name, lambda got: self._results(got, requests))
        request, name = requests[0], calls[0][0]
        try:
            return [await self._exchange(request, name, lambda got: self._result(got, request))]
        except RpcRefused as error:
            if self._may_pass(error, name):
                text = f"{error.reason} (code {error.code})"
                raise Transient(text, is_rate=True, refusal=error) from None
            return [error]

    def _may_pass(self, error: RpcRefused, method: str) -> bool:
        """Whether to wait for the end of an error that nothing is known of; named once in the log."""
        if meaning_of(error.code, error.reason, method=method) is not Meaning.unclear:
            return False
        key = _kind_of(error, method)
        if key not in self._named and len(self._named) < MOST_VAIN:
            self._named.add(key)
            log.warning(
                "event=rpc_error_unknown node=%s method=%s code=%d reason=%r: asked again, and for less",
                self.shown,
                method,
                error.code,
                error.reason,
            )
        return time.monotonic() >= self._vain.get(key, 0.0)

    def _note_vain(self, error: RpcRefused) -> None:
        """This error stayed although it was waited for."""
        if len(self._vain) >= MOST_VAIN:
            self._vain.clear()
        self._vain[_kind_of(error, str(error.fields.get("method")))] = (
            time.monotonic() + VAIN_KEPT_S
        )

    async def _exchange(self, asked: Any, name: str, read: Callable[[Any], T]) -> T:
        """Ask once. Transient, RpcRefused, RpcAnswerInvalid, and nothing else."""
        limits = self.limits
        body = orjson.dumps(asked)
        if len(body) > limits.max_request_nbytes:
            raise RpcRefused(
                f"{name}: the request has {len(body)} bytes, the limit is "
                f"{limits.max_request_nbytes}; ask for less at once",
                address=self.shown,
                method=name,
                code=TOO_LARGE,
                reason="request too large",
            )
        while (left_s := self._quiet_until - time.monotonic()) > 0:
            await asyncio.sleep(left_s)
        assert self._under_way is not None
        async with self._under_way:
            if self._transport is None:
                self._transport = open_transport(self._address, limits, self._open_stream)
            try:
                async with asyncio.timeout(limits.timeout_s):
                    answer = await self._transport.exchange(body)
                return read(orjson.loads(answer))
            except RpcRefused as error:
                raise self._refused(name, error.code, error.reason) from None
            except (Transient, RpcAnswerInvalid) as error:
                failure: Transient | RpcAnswerInvalid = error
            except TimeoutError:
                failure = Transient(f"no answer within {limits.timeout_s:g} s")
            except orjson.JSONDecodeError as error:
                failure = Transient(f"the answer is no whole JSON text ({error})")
            except (OSError, aiohttp.ClientError) as error:
                failure = Transient(f"{type(error).__name__}: {_redacted(error)}")
            except Exception as error:  # what an answer can do is not to be foreseen
                log.warning("event=rpc_answer_odd node=%s", self.shown, exc_info=True)
                failure = self._no_answer(f"{name} ({type(error).__name__})")
            if self._open_stream is not None:
                # It may have been another request's answer; the next would be one too late as well.
                await self._transport.close()
        raise failure

    def _refused(self, name: str, code: int, reason: str) -> RpcRefused:
        is_unclear = meaning_of(code, reason, method=name) is Meaning.unclear
        remedy = "; see what the node's provider says of it, or use another node"
        return RpcRefused(
            f"{self.shown} refuses {name}: {reason} (code {code}){remedy if is_unclear else ''}",
            address=self.shown,
            method=name,
            code=code,
            reason=reason,
        )

    def _result(self, answer: Any, request: dict[str, Any], calls: int = 1) -> Any:
        """The result of one answer object. RpcRefused, RpcAnswerInvalid, Transient."""
        method = request["method"]
        if not isinstance(answer, dict) or _id_of(answer.get("id")) not in (request["id"], None):
            raise self._no_answer(method)
        if (error := answer.get("error")) is not None:
            code, reason = error_of(error)
            if meaning_of(code, reason, method=method, calls=calls) is Meaning.later:
                raise Transient(f"{reason} (code {code})", is_rate=True)
            raise self._refused(method, code, reason)
        if "result" not in answer:
            raise self._no_answer(method)
        return answer["result"]

    def _results(self, answer: Any, requests: list[dict[str, Any]]) -> list[Any]:
        """What came of each request; raises what is true of all of them."""
        name = f"batch of {len(requests)}, {requests[0]['method']}"
        whole = {"id": None, "method": requests[0]["method"]}
        count = len(requests)
        if isinstance(answer, dict):  # the batch as a whole was refused
            self._result(answer | {"id": None}, whole, count)
        if not isinstance(answer, list):
            raise self._no_answer(name)
        found: dict[int, Any] = {}
        doubled: set[int] = set()
        stray: dict[str, Any] | None = None
        for item in answer:
            if not isinstance(item, dict):
                continue
            key = _id_of(item.get("id"))
            if key is not None:
                if key in found and found[key] != item:
                    doubled.add(key)
                found[key] = item
            elif item.get("error") is not None:
                stray = item
        outcomes: list[Any] = []
        for request in requests:
            key = request["id"]
            try:
                if key not in found or key in doubled:
                    text = f"{len(found)} answers to {count} calls of a batch"
                    outcomes.append(_Unanswered(Meaning.smaller, text))
                else:
                    outcomes.append(self._result(found[key], request, count))
            except Transient as error:
                outcomes.append(_Unanswered(Meaning.later, str(error)))
            except RpcAnswerInvalid as error:
                outcomes.append(_Unanswered(Meaning.smaller, str(error)))
            except RpcRefused as error:
                code, reason = error.code, error.reason
                what = meaning_of(code, reason, method=request["method"], calls=count)
                is_kept = what is Meaning.unclear and not self._may_pass(error, request["method"])
                if what in (Meaning.smaller, Meaning.unclear) and not is_kept:
                    outcomes.append(_Unanswered(what, reason, error))
                else:
                    outcomes.append(error)
        if all(map(_is_unanswered, outcomes)):
            if any(each.meaning is Meaning.later for each in outcomes):
                raise Transient(outcomes[0].reason, is_rate=True)
            refused = next((each.refusal for each in outcomes if each.refusal is not None), None)
            if refused is not None:
                raise refused
            if stray is not None:
                self._result(stray | {"id": None}, whole, count)
            raise Transient(outcomes[0].reason)
        return outcomes

    def _no_answer(self, name: str) -> RpcAnswerInvalid:
        return RpcAnswerInvalid(
            f"{self.shown} answers {name} with something that is not a JSON-RPC answer; "
            "is this the address of a node?",
            address=self.shown,
            method=name,
        )


class _Patience:
    """How often one request is asked again, and how long to wait in between."""

    __slots__ = ("_name", "_reasons", "_rpc", "count")

    def __init__(self, rpc: JsonRpc, name: str) -> None:
        self._rpc = rpc
        self._name = name
        self._reasons: list[str] = []
        self.count = 0
        """Failures in a row."""

    async def wait(self, error: Transient | RpcAnswerInvalid, *, may_end: bool = True) -> None:
        """Sleep before the next try. When it was the last: RpcUnavailable, or the error itself where
        it is an RpcError or the node's own words, RpcRefused; over HTTP an answer that is
        none always is, as no other can have been meant."""
        rpc, limits = self._rpc, self._rpc.limits
        if isinstance(error, RpcAnswerInvalid) and not rpc.can_subscribe:
            raise error
        self.count += 1
        self._reasons.append(str(error))
        is_rate = _is_rate(error)
        tries = max(limits.tries, RATE_TRIES) if is_rate else limits.tries
        if may_end and self.count >= tries:
            if isinstance(error, RpcAnswerInvalid):
                raise error
            if error.refusal is not None:
                rpc._note_vain(error.refusal)
                raise error.refusal
            raise RpcUnavailable(
                f"{rpc.shown} gave no answer to {self._name} in {self.count} tries: "
                f"{'; '.join(dict.fromkeys(self._reasons))}; is the node up, and is this its "
                "address?",
                address=rpc.shown,
                method=self._name,
                tries=self.count,
                reason=self._reasons[-1],
            )
        pause_s = limits.first_pause_s * 2 ** min(self.count - 1, 16) * random.uniform(0.75, 1.25)
        if isinstance(error, Transient):
            pause_s = max(pause_s, error.pause_s)
        pause_s = min(pause_s, LONGEST_PAUSE_S)
        log.debug(
            'event=rpc_retry node=%s method="%s" try=%d pause_ms=%d reason="%s"',
            rpc.shown,
            self._name,
            self.count,
            int(pause_s * 1000),
            self._reasons[-1],
        )
        if is_rate:
            rpc.be_quiet(pause_s)
        await asyncio.sleep(pause_s)


def _is_rate(error: Exception) -> bool:
    return isinstance(error, Transient) and error.is_rate


def _is_unanswered(outcome: Any) -> bool:
    return isinstance(outcome, _Unanswered)


def _is_same(outcome: Any, refusal: RpcRefused) -> bool:
    """Whether a call alone is refused as the batch was, by an error that is not about its size."""
    if not isinstance(outcome, RpcRefused):
        return False
    same = (outcome.code, outcome.reason) == (refusal.code, refusal.reason)
    about_itself = (Meaning.unclear, Meaning.wrong)
    return same and meaning_of(outcome.code, outcome.reason) in about_itself


def _kind_of(error: RpcRefused, method: str) -> tuple[str, int, str]:
    """Method, code and words without their numbers."""
    return method, error.code, _NUMBERS.sub("#", error.reason)


def _id_of(value: Any) -> int | None:
    """The number of the request an answer names; None where it names none.

    Some proxies make a text of it. -1, no request's, for anything else.
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return -1


def _unwrap(result: Any) -> Any:
    if isinstance(result, RpcRefused):
        raise result
    return result


def _redacted(error: BaseException) -> str:
    """An error's text without the paths of URLs."""
    return re.sub(r"(\w+://[^/\s]*@?)[^\s'\"]*", r"\1", str(error))
