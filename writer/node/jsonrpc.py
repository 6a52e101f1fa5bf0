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
import re
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Self, TypeVar

import aiohttp
import orjson

from arena.errors import RpcAnswerInvalid, RpcError, RpcRefused, RpcUnavailable
from arena.writer.node.answers import Answers, is_same, is_unanswered
from arena.writer.node.bearing import Bearing
from arena.writer.node.meanings import TOO_LARGE, Meaning, meaning_of
from arena.writer.node.patience import LOST_TRIES, Patience, speaks_of_rate
from arena.writer.node.transports import (
    Limits,
    Transient,
    Transport,
    open_transport,
    shown_address,
    stream_of,
)

log = logging.getLogger(__name__)
T = TypeVar("T")


Call = tuple[str, Sequence[Any]]
"""Method and positional parameters."""


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
        self._bearing = Bearing(self.shown)
        self._answers = Answers(self._bearing)
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

    def __exit__(self, *exc: object) -> None:
        self.close()

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
                    self._answers.result(orjson.loads(await stream.receive()), request)
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

    def _patience(self, name: str) -> Patience:
        return Patience(self._bearing, self.limits, name, is_stream=self.can_subscribe)

    async def _single(self, call: Call) -> Any:
        patience = self._patience(call[0])
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
        patience = self._patience(f"batch of {len(calls)}, {method}")
        size = len(calls)
        too_many = 0  # so many at once were not answered, and fewer are tried
        refusal: RpcRefused | None = None  # of that many
        while waiting:
            size = max(1, min(size, self._bearing.size_of(method)))
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
                if too_many and not alone and not speaks_of_rate(error):
                    too_many, size = len(part), len(part) // 2
                    continue
                try:
                    await patience.wait(error, may_end=alone)
                except RpcRefused as stays:
                    outcomes = [stays]
                else:
                    if alone:
                        continue
                    if speaks_of_rate(error):
                        size = len(part) if patience.count < LOST_TRIES else len(part) // 8
                    elif patience.count >= min(LOST_TRIES, self.limits.tries):
                        # One call tells a node that is away from one that will not take so many.
                        too_many, size = len(part), 1
                    continue
            patience.count = 0
            is_first = len(waiting) == len(calls)
            if is_first and refusal is not None and is_same(outcomes[0], refusal):
                return refusal
            left = [at for at, each in zip(part, outcomes, strict=True) if is_unanswered(each)]
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
                self._bearing.keep_size(method, len(part), too_many)
                too_many, refusal = 0, None
        return results

    async def _ask(self, calls: Sequence[Call]) -> list[Any]:
        """What came of each call: its result, RpcRefused, or Unanswered in a batch that was not
        answered whole. Transient, RpcAnswerInvalid; RpcRefused when a batch is refused as such."""
        requests = [self._request(call) for call in calls]
        if len(calls) > 1:
            name = f"batch of {len(calls)}, {calls[0][0]}"
            return await self._exchange(
                requests, name, lambda got: self._answers.results(got, requests)
            )
        request, name = requests[0], calls[0][0]
        try:
            return [
                await self._exchange(request, name, lambda got: self._answers.result(got, request))
            ]
        except RpcRefused as error:
            if self._bearing.may_pass(error, name):
                text = f"{error.reason} (code {error.code})"
                raise Transient(text, is_rate=True, refusal=error) from None
            return [error]

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
        while (left_s := self._bearing.quiet_s()) > 0:
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
                raise self._answers.refused(name, error.code, error.reason) from None
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
                failure = self._answers.no_answer(f"{name} ({type(error).__name__})")
            if self._open_stream is not None:
                # It may have been another request's answer; the next would be one too late as well.
                await self._transport.close()
        raise failure


def _unwrap(result: Any) -> Any:
    if isinstance(result, RpcRefused):
        raise result
    return result


def _redacted(error: BaseException) -> str:
    """An error's text without the paths of URLs."""
    return re.sub(r"(\w+://[^/\s]*@?)[^\s'\"]*", r"\1", str(error))
