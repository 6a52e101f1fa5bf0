"""What errors mean, on texts that nodes and providers are known to send."""

import pytest

from arena.errors import RpcRefused
from arena.writer.rpcerrors import Meaning, meaning, meaning_of

LATER = [
    (429, "anything"),
    (-32005, "project ID request rate exceeded"),
    (-32005, "daily request count exceeded, request rate limited"),
    (-32005, "rate limit exceeded"),
    (-32005, "exceeded project rate limit"),
    (-32005, "limit exceeded"),
    (-32005, "You've exceeded the RPS limit available on the current plan"),
    (-32005, "Too Many Requests"),
    (-32007, "15/second request limit reached - reduce calls per second"),
    (-32007, "50/second request limit reached"),
    (-32012, "credits limited to 6000/min"),
    (-32016, "over rate limit"),
    (-32029, "slow"),
    (-32029, "Too many requests, please try again later"),
    (-32097, "too fast"),
    (-32090, "Too many requests, retry in 10m"),
    (-32000, '429 Too Many Requests: {"jsonrpc":"2.0"}'),
    (-32000, "Your app has exceeded its compute units per second capacity."),
    (-32000, "Monthly capacity limit exceeded. Visit the dashboard to upgrade"),
    (-32000, "Application 1 has exceeded its throughput limit"),
    (-32000, "request was throttled"),
    (-32000, "you have exceeded your quota"),
    (-32000, "RPC_RATE_LIMIT"),
    (-32603, "server is busy"),
    (-32009, "upstream node is overloaded"),
    (-32000, "Rate limit exceeded for your ip, please wait 1min and retry. Rpc method: eth_call."),
    (-32000, "Maximum requests per second exceeded"),
    (-32000, "call rate limit exhausted, retry in 10s"),
    (0, "slow down"),
    (1013, ""),
]
SMALLER = [
    (413, "anything"),
    (1009, ""),
    (-32005, "query returned more than 10000 results"),
    (-32005, "query returned more than 10000 results. Try with this block range [0x1, 0x2]."),
    (-32005, "query timeout exceeded. Consider reducing your block range."),
    (-32005, "block range too large, max range: 1000"),
    (-32602, "range 1000000 exceeds limit of 10000"),
    (-32602, "invalid params range 9009594 is bigger than range limit 2000"),
    (-32602, "query exceeds max results 20000, retry with the range 24383075-24383096"),
    (-32602, "query exceeds max block range 100000"),
    (-32602, "eth_getLogs is limited to 1024 block range. Please check the parameters"),
    (-32603, "eth_getLogs range is too large, max is 1k blocks"),
    (35, "ranges over 10000 blocks are not supported on freetier"),
    (-32614, "eth_getLogs is limited to a 10,000 range"),
    (-32000, "Log response size exceeded. Please reduce query block range."),
    (-32000, "block range is larger than max block range, block range = 5120, max = 5000"),
    (-32000, "exceed maximum block range: 5000"),
    (-32000, "block range is too wide (maximum 10)"),
    (-32600, "Under the Free tier you can make eth_getLogs requests with up to a 10 block range."),
    (-32003, "response too large"),
    (-32008, "Response is too big Exceeded max limit of 10485760"),
    (-32007, "Request is too big"),
    (-32000, "too many logs"),
    (-32000, "out of gas"),
    (-32000, "execution aborted (timeout = 5s)"),
    (-32000, "request timed out"),
    (-32015, "upstream"),
]
NO_BLOCK = [
    (-32000, "header not found"),
    (-32000, "header for hash not found"),
    (-32000, "unknown block"),
    (-32000, "missing trie node 1234 (path ) state 0x12 is not available"),
    (-32001, "Resource not found"),
    (-32014, "anything"),
    (4444, "pruned history unavailable"),
    (-32000, "block not found: 0x1234"),
    (-32000, "required historical state unavailable (reexec=0)"),
    (-32602, "block range extends beyond current head block"),
    (-32000, "cannot query unfinalized data"),
    (-39001, "Unknown block"),
    (-32000, "state at block #12 is pruned"),
    (-32000, "distance to target block exceeds maximum proof window"),
]
OTHER_WAY = [
    (-32601, "the method eth_getStorageValues does not exist/is not available"),
    (-32601, "anything at all"),
    (-32000, "Method not found"),
    (-32004, "Method eth_foo is not supported"),
    (-32600, "rpc method is not whitelisted"),
    (-32000, "eth_getStorageValues is not implemented"),
    (-32602, "too many arguments, want at most 2"),
]
GIVE_UP = [
    (401, "HTTP status 401 Unauthorized"),
    (403, "HTTP status 403 Forbidden"),
    (-32000, "invalid api key"),
    (-32051, "API key is not allowed to access blockchain"),
    (-32600, "Must be authenticated!"),
    (-32002, "App is inactive"),
]
UNCLEAR = [
    (3, "execution reverted"),
    (3, "execution reverted: too many requests"),
    (-32000, "execution reverted"),
    (-32000, "stack underflow (0 <=> 1)"),
    (-32603, "internal error"),
    (-32602, "invalid argument 0: hex string without 0x prefix"),
    (-32600, "invalid json request"),
    (0, ""),
]
WANTED = [
    (wanted, code, reason)
    for wanted, rows in (
        (Meaning.later, LATER),
        (Meaning.smaller, SMALLER),
        (Meaning.no_block, NO_BLOCK),
        (Meaning.other_way, OTHER_WAY),
        (Meaning.give_up, GIVE_UP),
        (Meaning.unclear, UNCLEAR),
    )
    for code, reason in rows
]


@pytest.mark.parametrize(("wanted", "code", "reason"), WANTED)
def test_words_and_codes_have_one_meaning(wanted: Meaning, code: int, reason: str) -> None:
    assert meaning_of(code, reason) is wanted


@pytest.mark.parametrize(("wanted", "code", "reason"), WANTED)
def test_case_does_not_matter(wanted: Meaning, code: int, reason: str) -> None:
    assert meaning_of(code, reason.upper()) is wanted


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (-32600, "batch too large"),
        (-32600, "batch too large: at most 10 calls"),
        (-32007, "batch limit exceeded"),
        (-32010, "The batch request was too large Exceeded max limit of 50"),
        (-32011, "The batch response was too large"),
        (-32005, "Batched requests are not supported by this server"),
        (31, "Batch of more than 3 requests are not allowed on free tier"),
        (-32600, "Number of requests in batch exceeds batch size limit"),
        (-32000, "too many requests in batch"),
        (-32600, "exceeded maximum batch size"),
        (-32003, "response too large"),
        (-32000, "Unsupported methods [trace_block] in batch call"),
    ],
)
def test_a_batch_is_cut_whatever_the_code(code: int, reason: str) -> None:
    assert meaning_of(code, reason, calls=20) is Meaning.smaller


def test_a_rate_of_batches_is_a_rate_for_a_single_call() -> None:
    assert meaning_of(-32005, "batch request rate limit exceeded", calls=1) is Meaning.later


def test_a_bare_limit_is_the_range_where_logs_were_asked_for() -> None:
    assert meaning_of(-32005, "limit exceeded", method="eth_getLogs") is Meaning.smaller
    assert meaning_of(-32005, "limit exceeded", method="eth_call") is Meaning.later


def test_an_error_is_read_by_its_fields() -> None:
    error = RpcRefused("shown", code=-32007, reason="too fast", method="eth_call")
    assert meaning(error) is Meaning.later
    assert meaning(RpcRefused("limit exceeded", method="eth_getLogs")) is Meaning.smaller
    assert meaning(RpcRefused("rate limit", code="odd")) is Meaning.later
