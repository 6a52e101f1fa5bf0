"""Logging in to a real NATS server: passwords with any character, tokens, nkeys, JWTs, certificates.

Keys and tokens are made here, as their formats say; certificates by openssl.
"""

import asyncio
import base64
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nkeys
import pytest
from doubles.nats_server import NatsServer

from arena.errors import PoolListError
from arena.writer.lists.natslink import NatsAddress, open_link
from arena.writer.lists.natslogin import NatsLogin

pytestmark = pytest.mark.nats

SECONDS = 60.0
PASSWORD = "p@ss/w#rd?:%41 é&="


def log_in(url: str, login: NatsLogin | None = None) -> None:
    """Connect, subscribe, and be answered. PoolListError."""

    async def story() -> None:
        link = await open_link(NatsAddress.read(url), "whitelist.>", login)
        assert link.is_open
        await link.close()

    asyncio.run(story())


def refused(url: str, login: NatsLogin | None = None) -> str:
    with pytest.raises(PoolListError, match="cannot be reached") as caught:
        log_in(url, login)
    return str(caught.value)


def server(folder: Path, config: str) -> NatsServer:
    path = folder / "server.conf"
    path.write_text(config)
    return NatsServer(folder, "-c", str(path))


# ---- passwords and tokens


def test_a_password_of_any_characters_is_given_percent_encoded(tmp_path: Path) -> None:
    users = json.dumps([{"user": "bot/1", "password": PASSWORD}], ensure_ascii=False)
    with server(tmp_path, f"authorization {{ users: {users} }}") as running:
        host = running.url.removeprefix("nats://")
        log_in(f"nats://{quote('bot/1', safe='')}:{quote(PASSWORD, safe='')}@{host}")
        text = refused(f"nats://{quote('bot/1', safe='')}:{quote(PASSWORD + 'x', safe='')}@{host}")
    assert PASSWORD not in text
    assert quote(PASSWORD, safe="") not in text


def test_a_token_of_any_characters_is_given_percent_encoded(tmp_path: Path) -> None:
    token = "t/o@k#e:n"
    with server(tmp_path, f"authorization {{ token: {json.dumps(token)} }}") as running:
        host = running.url.removeprefix("nats://")
        log_in(f"nats://{quote(token, safe='')}@{host}")
        assert token not in refused(f"nats://{quote(token[1:], safe='')}@{host}")


# ---- nkeys and JWTs


@dataclass(frozen=True)
class Key:
    seed: str
    public: str

    @classmethod
    def make(cls, prefix: int) -> "Key":
        seed = nkeys.encode_seed(secrets.token_bytes(32), prefix)
        pair = nkeys.from_seed(bytearray(seed))
        return cls(bytes(seed).decode(), pair.public_key.decode())

    def sign(self, content: bytes) -> bytes:
        signed: bytes = nkeys.from_seed(bytearray(self.seed.encode())).sign(content)
        return signed


def jwt(issuer: Key, subject: Key, name: str, nats: dict[str, Any]) -> str:
    """A NATS JWT (version 2 of its claims)."""

    def part(content: dict[str, Any] | bytes) -> str:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    claims = {"iat": int(time.time()), "iss": issuer.public, "name": name, "sub": subject.public}
    claims |= {"nats": {"version": 2} | nats}
    claims["jti"] = hashlib.sha256(json.dumps(claims).encode()).hexdigest()
    signed = f"{part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{part(claims)}"
    return f"{signed}.{part(issuer.sign(signed.encode()))}"


def creds(path: Path, token: str, seed: str) -> Path:
    """As `nsc generate creds` writes it."""
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        "NKEY Seed printed below can be used to sign and prove identity.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    return path


def test_a_seed_logs_in_and_another_does_not(tmp_path: Path) -> None:
    user, other = Key.make(nkeys.PREFIX_BYTE_USER), Key.make(nkeys.PREFIX_BYTE_USER)
    with server(tmp_path, f"authorization {{ users: [ {{ nkey: {user.public} }} ] }}") as running:
        seed = tmp_path / "user.nk"
        for text in (user.seed, f"# my key\n\n{user.seed}\n"):
            seed.write_text(text)
            log_in(running.url, NatsLogin(nkey=seed))
        seed.write_text(other.seed)  # read anew for each connection
        for secret in (other.seed, user.seed):
            assert secret not in refused(running.url, NatsLogin(nkey=seed))
        seed.unlink()
        assert "cannot be read" in refused(running.url, NatsLogin(nkey=seed))


def test_credentials_of_an_operators_user_log_in(tmp_path: Path) -> None:
    operator = Key.make(nkeys.PREFIX_BYTE_OPERATOR)
    account = Key.make(nkeys.PREFIX_BYTE_ACCOUNT)
    user, other = Key.make(nkeys.PREFIX_BYTE_USER), Key.make(nkeys.PREFIX_BYTE_USER)
    everything = dict.fromkeys(
        ("subs", "conn", "leaf", "imports", "exports", "data", "payload"), -1
    )
    of_account = jwt(
        operator,
        account,
        "A",
        {"type": "account", "limits": everything | {"wildcards": True}},
    )
    limits = {"subs": -1, "data": -1, "payload": -1}
    of_user = jwt(account, user, "U", {"type": "user", "pub": {}, "sub": {}} | limits)
    config = (
        f"operator: {jwt(operator, operator, 'O', {'type': 'operator'})}\n"
        f"resolver: MEMORY\nresolver_preload: {{ {account.public}: {of_account} }}\n"
    )
    with server(tmp_path, config) as running:
        log_in(running.url, NatsLogin(creds=creds(tmp_path / "u.creds", of_user, user.seed)))
        wrong = creds(tmp_path / "w.creds", of_user, other.seed)
        assert other.seed not in refused(running.url, NatsLogin(creds=wrong))
        assert refused(running.url)


# ---- certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server's and a client's certificate of it, and another authority."""
    assert shutil.which("openssl"), "openssl is missing: apt-get install openssl"
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *(
                "-keyout",
                f"{name}.key",
                "-out",
                f"{name}.pem",
                "-days",
                "2",
                "-subj",
                f"/CN={name}",
            ),
        )
    for name in ("server", "client"):
        (folder / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"),
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", f"{name}.ext"),
        )
    openssl("ec", "-in", "client.key", "-aes256", "-passout", "pass:x", "-out", "locked.key")
    return folder


def tls(folder: Path, *, verify: bool) -> str:
    return (
        f'tls {{ cert_file: "{folder}/server.pem", key_file: "{folder}/server.key", '
        f'ca_file: "{folder}/ca.pem", verify: {str(verify).lower()} }}'
    )


@pytest.mark.parametrize("scheme", ["nats", "tls"])
def test_a_server_that_asks_for_a_certificate_gets_it(
    scheme: str, certificates: Path, tmp_path: Path
) -> None:
    ca, other = certificates / "ca.pem", certificates / "other.pem"
    mine = {"cert": certificates / "client.pem", "key": certificates / "client.key"}
    with server(tmp_path, tls(certificates, verify=True)) as running:
        url = running.url.replace("nats", scheme)
        log_in(url, NatsLogin(ca=ca, **mine))
        refused(url, NatsLogin(ca=ca))  # without the client's certificate
        refused(url, NatsLogin(ca=other, **mine))  # the server's is of another authority
        refused(url, NatsLogin(**mine))  # and of none of the system's
        locked = NatsLogin(ca=ca, cert=mine["cert"], key=certificates / "locked.key")
        assert "unencrypted" in refused(url, locked)


def test_nothing_is_said_to_a_server_without_tls_where_it_was_asked_for(
    certificates: Path, tmp_path: Path
) -> None:
    with server(tmp_path, "authorization { user: bot, password: s3cret }") as running:
        plain = running.url.replace("://", "://bot:s3cret@")
        log_in(plain)
        assert "offers no TLS" in refused(plain.replace("nats://", "tls://"))
        assert "offers no TLS" in refused(plain, NatsLogin(ca=certificates / "ca.pem"))


# ---- the command


def test_a_run_refuses_files_that_are_none_and_shows_nothing_of_them(tmp_path: Path) -> None:
    user = Key.make(nkeys.PREFIX_BYTE_USER)
    seed, damaged = tmp_path / "user.nk", tmp_path / "damaged.nk"
    seed.write_text(user.seed)
    damaged.write_text(user.seed[:-2] + "AA")
    nats = ("--nats", "nats://127.0.0.1:1")
    secret = ("--nats", "nats://bot:s3cret@127.0.0.1:1")
    cases: list[tuple[tuple[str, ...], str]] = [
        ((*nats, "--nats-nkey", str(damaged)), "--nats-nkey: "),
        ((*nats, "--nats-nkey", str(tmp_path / "none")), "cannot be read"),
        ((*nats, "--nats-creds", str(seed)), "--nats-creds: "),
        ((*nats, "--nats-ca", str(seed)), "--nats-ca: "),
        ((*nats, "--nats-cert", str(seed)), "go together"),
        ((*nats, "--nats-cert", str(seed), "--nats-key", str(seed)), "PEM"),
        ((*secret, "--nats-nkey", str(seed)), "exclude each other"),
        (("--pools", str(seed), "--nats-nkey", str(seed)), "goes with --nats"),
    ]
    where = ("--name", "a", "--socket", "s", "--rpc", "http://127.0.0.1:1", "--check")
    for words, said in cases:
        found = subprocess.run(
            [str(Path(sys.executable).parent / "arena-writer"), "config", *where, *words],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=os.environ | {"COLUMNS": "400"},
        )
        assert found.returncode == 2, found
        assert said in found.stderr, found.stderr
        for hidden in (user.seed, user.seed[:-2], "s3cret"):
            assert hidden not in found.stderr + found.stdout
