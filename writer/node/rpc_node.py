"""A node asked over JSON-RPC for headers, logs and receipts; its answers become values here."""

import time
from collections.abc import Sequence
from typing import Any

from arena.errors import ChainMoved, LogInvalid, LogsRefused, RpcRefused, Scraper
from arena.writer.node.client import MAX_ASKED_BLOCKS, Caller, Header, Log, Receipts
from arena.writer.node.meanings import Meaning, demands_address, meaning

MAX_ASKED_ADDRESSES = 256  # of one eth_getLogs, until a node refuses so many
ADDRESSES_KEPT_S = 600.0  # how long it is asked for fewer then: it may have been one large answer


class RpcNode:
    """NodeClient over a JSON-RPC transport. Answers are checked strictly: LogInvalid."""

    def __init__(self, transport: Caller):
        self._transport = transport
        self._most_addresses = MAX_ASKED_ADDRESSES
        self._most_until = 0.0

    def chain_id(self) -> int:
        return _quantity(self._transport.call("eth_chainId"), "eth_chainId")

    def head_number(self) -> int:
        return _quantity(self._transport.call("eth_blockNumber"), "eth_blockNumber")

    def head(self) -> Header:
        """The newest block's header."""
        return read_header(self._transport.call("eth_getBlockByNumber", "latest", False))

    def words(self, block_hash: bytes, places: Sequence[tuple[bytes, bytes]]) -> list[int]:
        """Storage words by (account, slot) at the end of that block."""
        at = {"blockHash": "0x" + block_hash.hex()}
        calls = [
            ("eth_getStorageAt", ("0x" + account.hex(), "0x" + slot.hex(), at))
            for account, slot in places
        ]
        answers = self._batch(calls)
        return [_word(answer) for answer in answers]

    def headers(self, numbers: Sequence[int]) -> Sequence[Header | None]:
        found: list[Header | None] = []
        for start in range(0, len(numbers), MAX_ASKED_BLOCKS):
            asked = numbers[start : start + MAX_ASKED_BLOCKS]
            calls = [("eth_getBlockByNumber", (hex(number), False)) for number in asked]
            answers = self._transport.batch(calls) if calls else ()
            found += [_header_or_none(each) for each in answers]
        return found

    def logs(
        self, first: int, last: int, topics: Sequence[bytes], addresses: Sequence[bytes] = ()
    ) -> Sequence[Log]:
        place = {"fromBlock": hex(first), "toBlock": hex(last)}
        try:
            return self._logs_of([place], topics, addresses)[0]
        except RpcRefused as error:
            may_be_range = meaning(error) is Meaning.smaller or (
                _may_be_size(error) and first < last
            )
            if demands_address(error) or not may_be_range:
                raise
            raise LogsRefused(
                f"the node refuses the logs of blocks {first} to {last}: {error}",
                first=first,
                last=last,
            ) from error

    def block_logs(
        self, hashes: Sequence[bytes], topics: Sequence[bytes], addresses: Sequence[bytes] = ()
    ) -> Sequence[Sequence[Log]]:
        places = [{"blockHash": "0x" + each.hex()} for each in hashes]
        return self._logs_of(places, topics, addresses)

    def _logs_of(
        self, places: Sequence[dict[str, str]], topics: Sequence[bytes], addresses: Sequence[bytes]
    ) -> list[list[Log]]:
        """The logs of each place, with as many addresses at once as the node takes; the first of them
        alone, so that a refusal costs little."""
        now = time.monotonic()
        if now >= self._most_until:
            self._most_addresses = MAX_ASKED_ADDRESSES
        most = before = min(self._most_addresses, max(1, len(addresses)))
        is_bound = True  # it is not the range of blocks
        while True:
            wanted = _wanted(topics, addresses, most)
            calls = [("eth_getLogs", (place | each,)) for each in wanted for place in places]
            alone = len(places)
            try:
                answers = self._batch(calls[:alone]) + self._batch(calls[alone:])
                break
            except RpcRefused as error:
                place = places[0]
                is_one_block = place.get("fromBlock") == place.get("toBlock")
                is_told = is_one_block or _speaks_of_addresses(error)
                if most < 2 or not (_may_be_size(error) and (is_told or self._takes_one(calls[0]))):
                    raise
                is_bound &= is_told
                most //= 2
        if is_bound and most < before:
            self._most_addresses, self._most_until = most, now + ADDRESSES_KEPT_S
        found: list[list[Log]] = [[] for _ in places]
        for at, answer in enumerate(answers):
            found[at % len(places)] += _read_logs(answer)
        return found

    def _takes_one(self, call: tuple[str, Sequence[Any]]) -> bool:
        """Whether the same is answered for the first address alone."""
        method, (wanted,) = call
        try:
            self._batch([(method, (wanted | {"address": wanted["address"][:1]},))])
        except RpcRefused:
            return False
        return True

    def receipts(self, hashes: Sequence[bytes]) -> Sequence[Receipts | Scraper | None]:
        """Those of blocks by hash, in one request; None where the node does not know the block, and an
        error in place of what it refuses or gives in another form."""
        calls = [_receipts_call(each) for each in hashes]
        answers = self._transport.batch(calls) if calls else []
        return [_receipts_or_error(*each) for each in zip(hashes, answers, strict=True)]

    def block(
        self, block_hash: bytes, *, with_receipts: bool = False
    ) -> tuple[Header | None, Sequence[Log] | None, Receipts | Scraper | None]:
        """A block's header by hash, None where the node does not know it, and in the same request all
        its logs, None where they are refused or not as they should be, and its receipts if wished."""
        text = "0x" + block_hash.hex()
        calls: list[tuple[str, Sequence[Any]]] = [
            ("eth_getBlockByHash", (text, False)),
            ("eth_getLogs", ({"blockHash": text},)),
        ]
        if with_receipts:
            calls.append(_receipts_call(block_hash))
        answer, logs, *more = self._transport.batch(calls)
        header = _header_or_none(answer)
        if header is None:
            return None, None, None
        if header.hash != block_hash:
            raise LogInvalid(
                f"asked for block {text}, got 0x{header.hash.hex()}", block=header.number
            )
        receipts = _receipts_or_error(block_hash, more[0]) if more else None
        try:
            found = None if isinstance(logs, RpcRefused) else _read_logs(logs)
        except (LogInvalid, ChainMoved):
            found = None
        return header, found, receipts

    def _batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        answers = list(self._transport.batch(calls)) if calls else []
        for answer in answers:
            if isinstance(answer, RpcRefused):
                raise answer
        return answers


def _header_or_none(answer: Any) -> Header | None:
    """Some nodes say by an error that they do not have a block."""
    if isinstance(answer, RpcRefused):
        if meaning(answer) is not Meaning.no_block:
            raise answer
        return None
    return None if answer is None else read_header(answer)


def _may_be_size(error: RpcRefused) -> bool:
    """Words that nobody knows may say that it is too much, too."""
    return meaning(error) in (Meaning.smaller, Meaning.unclear, Meaning.wrong)


def _speaks_of_addresses(error: RpcRefused) -> bool:
    return "address" in str(error.fields.get("reason", error)).lower()


def _wanted(topics: Sequence[bytes], addresses: Sequence[bytes], most: int) -> list[dict[str, Any]]:
    """What is asked besides the blocks, of `most` addresses in one request."""
    wanted = {"topics": [["0x" + topic.hex() for topic in topics]]} if topics else {}
    if not addresses:
        return [wanted]
    pieces = [addresses[start : start + most] for start in range(0, len(addresses), most)]
    return [wanted | {"address": ["0x" + each.hex() for each in piece]} for piece in pieces]


def _read_logs(answer: Any) -> list[Log]:
    if not isinstance(answer, list):
        raise LogInvalid(f"eth_getLogs answered with a JSON {type(answer).__name__}")
    return [read_log(item) for item in answer]


def _receipts_call(block_hash: bytes) -> tuple[str, Sequence[Any]]:
    return "eth_getBlockReceipts", ("0x" + block_hash.hex(),)


def _receipts_or_error(block_hash: bytes, answer: Any) -> Receipts | Scraper | None:
    if answer is None or isinstance(answer, RpcRefused):
        return answer
    try:
        return read_receipts(block_hash, answer)
    except (LogInvalid, ChainMoved) as error:
        return error


def read_receipts(block_hash: bytes, answer: Any) -> Receipts:
    """eth_getBlockReceipts' answer for that block; a transaction's receipt told twice counts once.
    LogInvalid, ChainMoved."""
    if not isinstance(answer, list):
        raise LogInvalid(f"eth_getBlockReceipts answered with a JSON {type(answer).__name__}")
    logs: list[Log] = []
    transactions: set[int] = set()
    gas_used: int | None = None
    for at, receipt in enumerate(answer):
        if not isinstance(receipt, dict):
            raise LogInvalid(f"a receipt is a JSON {type(receipt).__name__}")
        told = receipt.get("blockHash")
        if told is not None and _bytes(told, "blockHash", 32) != block_hash:
            raise LogInvalid(f"asked for receipts of 0x{block_hash.hex()}, got one of {told}")
        index, gas = receipt.get("transactionIndex"), receipt.get("cumulativeGasUsed")
        transactions.add(at if index is None else _quantity(index, "transactionIndex"))
        if gas is not None:
            gas_used = max(gas_used or 0, _quantity(gas, "cumulativeGasUsed"))
        logs += _read_logs(receipt.get("logs"))
    return Receipts(len(transactions), gas_used, logs)


def read_header(answer: Any) -> Header:
    """A header of eth_getBlockByNumber's answer. LogInvalid."""
    if not isinstance(answer, dict):
        raise LogInvalid(f"a block is a JSON {type(answer).__name__}")
    base_fee, bloom = answer.get("baseFeePerGas"), answer.get("logsBloom")
    transactions, gas_used = answer.get("transactions"), answer.get("gasUsed")
    return Header(
        number=_quantity(answer.get("number"), "number"),
        hash=_bytes(answer.get("hash"), "hash", 32),
        parent_hash=_bytes(answer.get("parentHash"), "parentHash", 32),
        timestamp=_quantity(answer.get("timestamp"), "timestamp"),
        base_fee=0 if base_fee is None else _quantity(base_fee, "baseFeePerGas"),
        logs_bloom=b"" if bloom is None else _bytes(bloom, "logsBloom", 256),
        transaction_count=len(transactions) if isinstance(transactions, list) else None,
        gas_used=None if gas_used is None else _quantity(gas_used, "gasUsed"),
    )


def read_hash(head: Any) -> bytes:
    """The hash of a header of the newHeads subscription, of which nothing else is believed: some tell
    an empty filter, and no base fee. LogInvalid."""
    if not isinstance(head, dict):
        raise LogInvalid(f"a head is a JSON {type(head).__name__}")
    return _bytes(head.get("hash"), "hash", 32)


def read_log(answer: Any) -> Log:
    """One log of eth_getLogs' answer. LogInvalid; ChainMoved for one that was removed."""
    if not isinstance(answer, dict):
        raise LogInvalid(f"a log is a JSON {type(answer).__name__}")
    topics = answer.get("topics")
    if not isinstance(topics, list) or len(topics) > 4:
        raise LogInvalid("a log has no list of at most four topics")
    if answer.get("removed"):
        raise ChainMoved("the node names a removed log")
    return Log(
        address=_bytes(answer.get("address"), "address", 20),
        topics=tuple(_bytes(topic, "topic", 32) for topic in topics),
        data=_bytes(answer.get("data"), "data", None),
        block_number=_quantity(answer.get("blockNumber"), "blockNumber"),
        block_hash=_bytes(answer.get("blockHash"), "blockHash", 32),
        tx_index=_quantity(answer.get("transactionIndex"), "transactionIndex"),
        log_index=_quantity(answer.get("logIndex"), "logIndex"),
    )


def _quantity(value: Any, name: str) -> int:
    if not isinstance(value, str) or not value.startswith("0x") or len(value) < 3:
        raise LogInvalid(f"{name} is {value!r}, no 0x quantity")
    try:
        number = int(value, 16)
    except ValueError:
        raise LogInvalid(f"{name} is {value!r}, no 0x quantity") from None
    if number >> 64:
        raise LogInvalid(f"{name} is {value!r}, more than 64 bits")
    return number


def _word(value: Any) -> int:
    if isinstance(value, str) and value.startswith("0x") and 2 < len(value) <= 66:
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise LogInvalid(f"a word of storage is {value!r}, no 0x integer of 32 bytes")


def _bytes(value: Any, name: str, size: int | None) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise LogInvalid(f"{name} is {value!r}, no 0x bytes")
    try:
        found = bytes.fromhex(value[2:])
    except ValueError:
        raise LogInvalid(f"{name} is {value[:80]!r}, no 0x bytes") from None
    if size is not None and len(found) != size:
        raise LogInvalid(f"{name} has {len(found)} bytes, not {size}")
    return found
