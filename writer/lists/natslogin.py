"""How a connection to NATS proves who it is, and whom it believes: files, read anew each time.

A key or certificate that is exchanged is thus in force with the next connection.
"""

import base64
import binascii
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nats.aio.client import RawCredentials

MAX_FILE_NBYTES = 1 << 20
_JWT = re.compile(r"-----BEGIN NATS USER JWT-----\s+([\w.-]+)\s+-")
_SEED = re.compile(r"-----BEGIN USER NKEY SEED-----\s+(SU[A-Z2-7]+)\s+-")


@dataclass(frozen=True, slots=True)
class NatsLogin:
    """Paths of files; None is not used.

    `creds` holds a user's JWT and seed as `nsc` writes them, `nkey` a seed alone; `cert` and `key` are a
    client certificate, `ca` who must have signed the server's, the system's authorities unless given.
    With any of the last three, and for `tls` and `wss`, nothing is sent without TLS.
    """

    creds: Path | None = None
    nkey: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def check_together(self, *, has_secret: bool) -> None:
        """ValueError for files that exclude or need each other; `has_secret`: the address holds one."""
        if (self.cert is None) != (self.key is None):
            raise ValueError("--nats-cert and --nats-key go together")
        proofs = ["--nats-creds"] * (self.creds is not None) + ["--nats-nkey"] * (
            self.nkey is not None
        )
        proofs += ["the user or token in the address"] * has_secret
        if len(proofs) > 1:
            raise ValueError(f"{' and '.join(proofs)} exclude each other")

    @property
    def wants_tls(self) -> bool:
        return any(path is not None for path in (self.ca, self.cert, self.key))

    def options(self, *, is_secure: bool) -> dict[str, Any]:
        """What the client is told; `is_secure`: the address asks for TLS. ValueError, which names the
        file and holds nothing of it."""
        found: dict[str, Any] = {}
        if self.creds is not None:
            found["user_credentials"] = RawCredentials(read_creds(self.creds))
        if self.nkey is not None:
            found["nkeys_seed_str"] = read_seed(self.nkey)
        if self.wants_tls or is_secure:
            found["tls"] = self._context()
        return found

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context() if self.ca is None else read_ca(self.ca)
        if self.cert is not None and self.key is not None:
            try:
                # An encrypted key would be asked for on the terminal.
                context.load_cert_chain(self.cert, self.key, password="")
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"{self.cert} and {self.key} are no certificate with its unencrypted key in PEM: "
                    f"{_reason(error)}"
                ) from None
        return context


def read_creds(path: Path) -> str:
    """A user's JWT and seed as the client wants them. ValueError."""
    text = _read(path)
    jwt, seed = _JWT.search(text), _SEED.search(text)
    if jwt is None or seed is None:
        raise ValueError(
            f"{path} holds no user's JWT and seed: give a file of `nsc generate creds`"
        )
    _check_seed(path, seed[1])
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt[1]}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed[1]}\n------END USER NKEY SEED------\n"
    )


def read_seed(path: Path) -> str:
    """A user's seed. ValueError."""
    lines = [line.strip() for line in _read(path).splitlines()]
    lines = [line for line in lines if line and not line.startswith(("#", "-"))]
    if len(lines) != 1 or not lines[0].startswith("SU"):
        raise ValueError(f"{path} holds no user's seed: one line that begins with SU")
    _check_seed(path, lines[0])
    return lines[0]


def read_ca(path: Path) -> ssl.SSLContext:
    """A context that believes the authorities in a file of certificates. ValueError."""
    _read(path)
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no certificates in PEM: {_reason(error)}") from None


def check_readable(path: Path) -> None:
    """ValueError when a file cannot be read."""
    _read(path)


def _check_seed(path: Path, seed: str) -> None:
    """ValueError unless its checksum is right (CRC-16/XMODEM, little-endian); the library asks for none."""
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except binascii.Error:
        raw = b""
    if len(raw) != 36 or binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little"):
        raise ValueError(f"{path} holds a seed that is damaged: its length or checksum is wrong")


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_NBYTES + 1)
        if len(content) > MAX_FILE_NBYTES:
            raise ValueError(f"{path} has more than {MAX_FILE_NBYTES} bytes")
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def _reason(error: BaseException) -> str:
    """What the library says of a file, without a file's content."""
    return error.reason if isinstance(error, ssl.SSLError) and error.reason else "not readable"
