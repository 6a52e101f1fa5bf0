"""What errors mean, on texts that nodes and providers are known to send."""

import pytest

from arena.errors import RpcRefused
from arena.writer.node.meanings import Meaning, meaning, meaning_of

CALL, LOGS, SLOT = "eth_call", "eth_getLogs", "eth_getStorageAt"
LATE, LESS, GONE = Meaning.later, Meaning.smaller, Meaning.no_block
OTHER, OUT, WRONG_ONE, BLUR = Meaning.other_way, Meaning.give_up, Meaning.wrong, Meaning.unclear

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
    (-32000, "limit exceeded for your IP address, retry in 10s"),
    (-32000, "Rate limit exceeded for your ip, please wait 1min and retry. Rpc method: eth_call."),
    (-32000, "Maximum requests per second exceeded"),
    (-32000, "call rate limit exhausted, retry in 10s"),
    (-32001, "Requests exceeded the allowed rate"),
    (-32602, "exceeded maximum retries"),
    (-32601, "rate limit exceeded"),
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
    (-32602, "too many addresses: at most 20 are allowed"),
    (-32005, "address limit exceeded for your plan"),
    (-32600, "you can only query 20 addresses at a time"),
    (-32602, "addresses length must be <= 20"),
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
    (-32000, "invalid block range params"),
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
    (-32000, "the method eth_getBlockReceipts does not exist/is not available"),
    (-32000, "the method eth_getBlockReceipts is not available on your plan"),
    (-32600, "eth_getBlockReceipts is disabled"),
]
GIVE_UP = [
    (401, "HTTP status 401 Unauthorized"),
    (403, "HTTP status 403 Forbidden"),
    (-32000, "invalid api key"),
    (-32051, "API key is not allowed to access blockchain"),
    (-32600, "Must be authenticated!"),
    (-32002, "App is inactive"),
]
WRONG = [
    (3, "execution reverted"),
    (3, "execution reverted: too many requests"),
    (-32000, "execution reverted"),
    (-32000, "stack underflow (0 <=> 1)"),
    (-32015, "VM execution error. Reverted 0x"),
    (-32602, "invalid argument 0: hex string without 0x prefix"),
    (-32602, "words that nobody knows"),
    (-32600, "invalid json request"),
    (400, "HTTP status 400 Bad Request"),
]
UNCLEAR = [
    (-32603, "internal error"),
    (-32000, "words that nobody knows"),
    (-32600, "words that nobody knows"),
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
        (Meaning.wrong, WRONG),
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


# Source, code, text, method, calls of the batch, what it means.
PROVIDERS = [
    # docs.alchemy.com/reference/error-reference, /throughput, bancorprotocol/webapp#523
    ("alchemy", 429, "Your app has exceeded its compute units per second capacity.", CALL, 1, LATE),
    ("alchemy", -32000, "Monthly capacity limit exceeded.", CALL, 1, LATE),
    ("alchemy", -32600, "Must be authenticated!", CALL, 1, OUT),
    (
        "alchemy",
        -32602,
        "Log response size exceeded. You can make eth_getLogs requests with up to a "
        "2K block range and no limit on the response size",
        LOGS,
        1,
        LESS,
    ),
    (
        "alchemy",
        -32600,
        "Under the Free tier plan, you can make eth_getLogs requests with up to a 10 "
        "block range. Based on your parameters, this block range should work: [0x1, 0xa]",
        LOGS,
        1,
        LESS,
    ),
    # docs.infura.io, INFURA/infura#237
    ("infura", -32005, "project ID request rate exceeded", CALL, 1, LATE),
    ("infura", -32005, "daily request count exceeded, request rate limited", CALL, 1, LATE),
    (
        "infura",
        -32005,
        "query returned more than 10000 results. Try with this block range [0x1, 0x2].",
        LOGS,
        1,
        LESS,
    ),
    ("infura", -32002, "invalid project id", CALL, 1, OUT),
    # quicknode.com/docs error-references, wevm/viem#5082
    (
        "quicknode",
        -32007,
        "50/second request limit reached - reduce calls per second or upgrade your "
        "account at quicknode.com",
        CALL,
        20,
        LATE,
    ),
    ("quicknode", -32614, "eth_getLogs is limited to a 10,000 range", LOGS, 1, LESS),
    ("quicknode", -32009, "trace requests limited to 1 per second", CALL, 1, LATE),
    ("quicknode", -32011, "upstream is busy", CALL, 1, LATE),
    # ankr.com/docs/rpc-service/errors
    ("ankr", -32090, "Too many requests, retry in 10m0s", CALL, 1, LATE),
    ("ankr", -32062, "Block range is too large", LOGS, 1, LESS),
    (
        "ankr",
        -32000,
        "Unauthorized: You must authenticate your request with an API key.",
        CALL,
        1,
        OUT,
    ),
    ("ankr", -32052, "API key is not allowed to access blockchain", CALL, 1, OUT),
    # docs.chainstack.com/docs/limits, chainstack/dev-portal#288
    (
        "chainstack",
        -32005,
        "You've exceeded the RPS limit available on the current plan.",
        CALL,
        1,
        LATE,
    ),
    ("chainstack", -32000, "Block range limit exceeded. See more details at docs", LOGS, 1, LESS),
    (
        "chainstack",
        -32002,
        "Archive, Debug and Trace requests are not available on your current plan",
        CALL,
        1,
        BLUR,
    ),
    # drpc.org/docs, foundry-rs/foundry#12687
    (
        "drpc",
        31,
        "Batch of more than 3 requests are not allowed on free tier, to use more than 3 "
        "requests upgrade your tier to paid",
        CALL,
        20,
        LESS,
    ),
    ("drpc", 35, "ranges over 10000 blocks are not supported on freetier", LOGS, 1, LESS),
    (
        "drpc",
        30,
        "Request timeout on the free tier, please upgrade your tier to the paid one",
        LOGS,
        1,
        LESS,
    ),
    ("drpc", 15, "You've reached the usage limit for your current plan", CALL, 1, LATE),
    # developers.cloudflare.com/web3/ethereum-gateway
    ("cloudflare", -32046, "Cannot fulfill request", CALL, 1, LATE),
    (
        "cloudflare",
        -32047,
        "Invalid eth_getLogs request. 'fromBlock'-'toBlock' range too large. Max range: 800",
        LOGS,
        1,
        LESS,
    ),
    ("cloudflare", 1015, "You are being rate limited", CALL, 1, LATE),
    ("envoy", -32603, "upstream connect error or disconnect/reset before headers", CALL, 1, LATE),
    # docs.blastapi.io
    ("blastapi", -32097, "Too Many Requests, please reduce call rate", CALL, 1, LATE),
    (
        "blastapi",
        -32602,
        "You can make eth_getLogs requests with up to a 500 block range",
        LOGS,
        1,
        LESS,
    ),
    ("blastapi", -32600, "You can only send 10 calls in one request", CALL, 20, LESS),
    # publicnode, 1rpc and others: foundry-rs/foundry#12687, ethereum/go-ethereum#27823
    (
        "publicnode",
        -32701,
        "Please specify an address in your request or, to remove restrictions, "
        "order a dedicated full node",
        LOGS,
        1,
        WRONG_ONE,
    ),
    ("publicnode", -32701, "exceed maximum block range: 50000", LOGS, 1, LESS),
    ("1rpc", -32001, "usage limit reached: please wait", CALL, 1, LATE),
    ("blockvision", -32605, "", CALL, 1, LATE),
    ("blockvision", -32607, "The call limit has been reached", CALL, 1, LATE),
    ("megaeth", -32005, "rabbit hole is full. Please try again later", CALL, 1, LATE),
    ("bnb", -32005, "limit exceeded", LOGS, 1, LESS),
    ("bnb", -32005, "limit exceeded", CALL, 1, LATE),
    # ethereum-optimism/infra proxyd errors.go
    ("proxyd", -32011, "no backend is currently healthy to serve traffic", CALL, 1, LATE),
    ("proxyd", -32016, "over rate limit", CALL, 1, LATE),
    ("proxyd", -32012, "too many RPC calls in batch request", CALL, 20, LESS),
    ("proxyd", -32021, "backend returned an invalid response: upstream error", CALL, 1, LATE),
    # go-ethereum rpc/errors.go, internal/ethapi, eth/filters
    ("geth", -32000, "missing trie node 1a2b (path ) state 0x1a is not available", SLOT, 1, GONE),
    ("geth", -32000, "header not found", SLOT, 1, GONE),
    (
        "geth",
        -32601,
        "the method eth_getStorageValues does not exist/is not available",
        SLOT,
        1,
        OTHER,
    ),
    ("geth", -32600, "batch too large", CALL, 20, LESS),
    ("geth", -32003, "response too large", CALL, 20, LESS),
    ("geth", -32602, "exceed max addresses or topics per search position", LOGS, 1, LESS),
    ("geth", 4444, "pruned history unavailable", LOGS, 1, GONE),
    ("geth", -32000, "execution reverted", CALL, 1, WRONG_ONE),
    ("geth", -32602, "missing value for required argument 1", CALL, 1, WRONG_ONE),
    # erigon rpc/errors.go, turbo/jsonrpc
    ("erigon", -32000, "query returned more than 20000 results", LOGS, 1, LESS),
    (
        "erigon",
        -32000,
        "batch limit 100 exceeded (can increase by --rpc.batch.limit). Requested "
        "batch of size: 200",
        CALL,
        200,
        LESS,
    ),
    ("erigon", -32000, "old data not available due to pruning", SLOT, 1, GONE),
    # reth rpc-eth-types, jsonrpsee types/error.rs
    ("reth", -32602, "query exceeds max block range 100000", LOGS, 1, LESS),
    ("reth", -32602, "query exceeds max results 20000, retry with the range 1-2", LOGS, 1, LESS),
    ("reth", -32008, "Response is too big Exceeded max limit of 167772160", LOGS, 1, LESS),
    ("reth", -32010, "The batch request was too large Exceeded max limit of 50", CALL, 60, LESS),
    ("reth", -32001, "block not found: hash 0x12", SLOT, 1, GONE),
    ("reth", -32009, "Server is busy, try again later", CALL, 1, LATE),
    # Nethermind.JsonRpc ErrorCodes.cs
    ("nethermind", -32015, "VM execution error. revert", CALL, 1, WRONG_ONE),
    ("nethermind", -32005, "Batch size limit exceeded", CALL, 20, LESS),
    ("nethermind", -32002, "No state available for block 0x12", SLOT, 1, GONE),
    ("nethermind", -32000, "Too many concurrent requests", CALL, 1, LATE),
    ("nethermind", -32603, "Internal error", CALL, 1, BLUR),
    # Both a size and a wait: a smaller request helps at once.
    ("any", -32000, "block range too large, please retry with a smaller range", LOGS, 1, LESS),
    ("any", -32602, "Block range is too wide for your plan limit", LOGS, 1, LESS),
    ("any", -32000, "query timeout, please wait or narrow the filter", LOGS, 1, LESS),
    ("any", -32000, "response is too big, retry later with narrower range", LOGS, 1, LESS),
    ("any", -32000, "max 5 block range per request, 100 requests per second", LOGS, 1, LESS),
    # "Slow down" in other words.
    ("any", -32000, "usage cap exceeded", CALL, 1, LATE),
    ("any", -32000, "flood protection: calm down", CALL, 1, LATE),
    ("any", -32000, "You have hit your bandwidth ceiling", CALL, 1, LATE),
    (
        "any",
        -32005,
        "you've exceeded the rate limit. Batch requests count each call",
        CALL,
        20,
        LATE,
    ),
]


@pytest.mark.parametrize(("source", "code", "reason", "method", "calls", "wanted"), PROVIDERS)
def test_what_providers_say(
    source: str, code: int, reason: str, method: str, calls: int, wanted: Meaning
) -> None:
    assert meaning_of(code, reason, method=method, calls=calls) is wanted, source


def test_one_thing_cannot_be_asked_for_in_smaller_parts() -> None:
    text = "exceeded your 15 hits"
    assert meaning_of(-32000, text, method=SLOT, calls=20) is Meaning.smaller
    assert meaning_of(-32000, text, method=SLOT) is Meaning.unclear


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
