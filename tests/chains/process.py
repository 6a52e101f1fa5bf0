"""The node process, the npm packages behind it, and a minimal JSON-RPC client."""

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent
CHAIN_ID = 31337
SECONDS = 60.0
"""How long the node may take to answer one request, or to start."""


class NodeError(Exception):
    """The node refused a request; `code` and `message` as it gave them."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@cache
def packages() -> Path:
    """The installed node_modules; installs them the first time, one process at once."""
    folder = Path(os.environ.get("PSA_NODE_DIR", HERE))
    folder.mkdir(parents=True, exist_ok=True)
    pinned = (HERE / "package.json").read_text()
    stamp = folder / "node_modules" / ".installed"
    with (folder / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != pinned:
            npm = shutil.which("npm")
            assert npm, "tests with the marker `node` need npm (Debian: nodejs npm)"
            if folder != HERE:
                (folder / "package.json").write_text(pinned)
            subprocess.run(
                [
                    npm,
                    "install",
                    "--no-audit",
                    "--no-fund",
                    "--no-package-lock",
                    "--ignore-scripts",
                ],
                cwd=folder,
                check=True,
                capture_output=True,
                text=True,
                timeout=600,
            )
            stamp.write_text(pinned)
    return folder / "node_modules"


def artifact(path: str) -> dict[str, Any]:
    """One contract's build file, by its path inside node_modules."""
    result: dict[str, Any] = json.loads((packages() / path).read_text())
    return result


def bytecode(path: str, field: str = "bytecode") -> bytes:
    """Creation code, or with `deployedBytecode` runtime code, of a published contract."""
    code = artifact(path)[field]
    return bytes.fromhex((code["object"] if isinstance(code, dict) else code).removeprefix("0x"))


class Client:
    """JSON-RPC over one kept HTTP connection. Not for several threads."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: http.client.HTTPConnection | None = None
        self._id = 0

    def call(self, method: str, *parameters: Any) -> Any:
        answer = self.batch([(method, parameters)])[0]
        if isinstance(answer, NodeError):
            raise answer
        return answer

    def batch(self, calls: list[tuple[str, Any]]) -> list[Any]:
        """Results in order; a refused one is a NodeError object."""
        if not calls:
            return []
        first = self._id + 1
        self._id += len(calls)
        body = json.dumps(
            [
                {
                    "jsonrpc": "2.0",
                    "id": first + index,
                    "method": method,
                    "params": list(parameters),
                }
                for index, (method, parameters) in enumerate(calls)
            ]
        )
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)
        try:
            self._connection.request("POST", "/", body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        assert response.status == 200, (response.status, text[:200])
        answers = json.loads(text)
        assert isinstance(answers, list), answers
        by_id = {answer["id"]: answer for answer in answers}
        results: list[Any] = []
        for index in range(len(calls)):
            answer = by_id[first + index]
            if "error" in answer:
                results.append(NodeError(answer["error"]["code"], answer["error"]["message"]))
            else:
                results.append(answer["result"])
        return results

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Node(Client):
    """An anvil process on 127.0.0.1 that mines only when told to.

    `http`, `ws` and `ipc` are its addresses; files (log, socket) go below `folder`. `account` is
    unlocked and rich. `port` None is a free one; `more` are further command line options.
    """

    def __init__(
        self, folder: Path, *, port: int | None = None, more: tuple[str, ...] = ()
    ) -> None:
        binary = next(packages().glob("@foundry-rs/anvil-*/bin/anvil"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = port or probe.getsockname()[1]
        super().__init__(self.port)
        self.http = f"http://127.0.0.1:{self.port}"
        self.ws = f"ws://127.0.0.1:{self.port}"
        self.ipc = folder / f"node-{self.port}.ipc"
        self.log = folder / f"node-{self.port}.log"
        command = [str(binary), "--host", "127.0.0.1", "--port", str(self.port), "--no-mining"]
        command += ["--order", "fifo", "--base-fee", "0", "--gas-price", "0", "--silent"]
        command += ["--disable-block-gas-limit", "--hardfork", "cancun", "--ipc", str(self.ipc)]
        command += ["--no-request-size-limit", "--accounts", "2", "--timestamp", "1700000000"]
        self._command = [*command, *more]
        self._folder = folder
        (folder / "home").mkdir(exist_ok=True)
        self._start()
        self.call("anvil_setBalance", self.account, hex(10**40))
        self._selectors: dict[str, bytes] = {}

    def _start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=os.environ | {"HOME": str(self._folder / "home")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                self.account: str = self.call("eth_accounts")[0]
                break
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, "the node does not answer"
                time.sleep(0.02)

    def restart(self, *, down_s: float = 0.0) -> None:
        """End it and start it again at the same place. With `--state FILE` among `more` it has its
        chain back."""
        self.stop()
        time.sleep(down_s)
        self._start()

    def keccak(self, *values: bytes) -> list[bytes]:
        answers = self.batch([("web3_sha3", ("0x" + value.hex(),)) for value in values])
        return [bytes.fromhex(answer[2:]) for answer in answers]

    def selector(self, signature: str) -> bytes:
        """The first four bytes of the hash of a function's signature."""
        if signature not in self._selectors:
            self._selectors[signature] = self.keccak(signature.encode())[0][:4]
        return self._selectors[signature]

    def transaction(
        self, to: str | None, data: bytes, *, value: int = 0, gas: int = 30_000_000
    ) -> dict[str, str]:
        """Parameters of a transaction from `account`."""
        sent = {"from": self.account, "data": "0x" + data.hex(), "gas": hex(gas)}
        sent |= {"value": hex(value), "gasPrice": "0x0"}
        return sent if to is None else sent | {"to": to}

    def send(self, transactions: list[dict[str, str]]) -> list[str]:
        """Queue them in this order; their hashes."""
        # Explicit nonces: the node works on the calls of one batch at the same time.
        nonce = int(self.call("eth_getTransactionCount", self.account, "pending"), 16)
        hashes = self.batch(
            [
                ("eth_sendTransaction", (item | {"nonce": hex(nonce + index)},))
                for index, item in enumerate(transactions)
            ]
        )
        for answer in hashes:
            if isinstance(answer, NodeError):
                raise answer
        return hashes

    def mine(self) -> dict[str, Any]:
        """Put everything queued into one block; the block's header."""
        self.call("evm_mine")
        return self.block()

    def run(self, transactions: list[dict[str, str]]) -> list[dict[str, Any]]:
        """Send, mine, and require success; the receipts."""
        hashes = self.send(transactions)
        self.mine()
        receipts = self.batch([("eth_getTransactionReceipt", (item,)) for item in hashes])
        for receipt, sent in zip(receipts, transactions, strict=True):
            assert int(receipt["status"], 16) == 1, (receipt, sent.get("to"), sent["data"][:200])
        return receipts

    def block(self, which: int | str = "latest") -> dict[str, Any]:
        """Header by number, hash or tag, numbers as int."""
        if isinstance(which, str) and len(which) == 66:
            found = self.call("eth_getBlockByHash", which, False)
        else:
            found = self.call(
                "eth_getBlockByNumber", hex(which) if isinstance(which, int) else which, False
            )
        assert found is not None, which
        header: dict[str, Any] = found
        return header | {name: int(found[name], 16) for name in ("number", "timestamp")}

    def logs(self, block_hash: str) -> list[dict[str, Any]]:
        """Every log of a block, in order."""
        found: list[dict[str, Any]] = self.call("eth_getLogs", {"blockHash": block_hash})
        return sorted(found, key=lambda item: int(item["logIndex"], 16))

    def eth_call(self, to: str, data: bytes, block: int | str = "latest") -> bytes:
        """Returned bytes at a block, by number, tag or hash."""
        at: Any = hex(block) if isinstance(block, int) else block
        if isinstance(at, str) and len(at) == 66:
            at = {"blockHash": at}
        answer: str = self.call("eth_call", {"to": to, "data": "0x" + data.hex()}, at)
        return bytes.fromhex(answer[2:])

    def stop(self) -> None:
        self.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        with contextlib.suppress(FileNotFoundError):
            self.ipc.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
