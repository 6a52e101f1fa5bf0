"""Addresses of NATS servers, and what is no server at all; tests/e2e/test_nats.py has real ones."""

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from arena.errors import PoolListError
from arena.writer.lists import natslink
from arena.writer.lists.nats import NatsPools
from arena.writer.lists.natslink import NatsAddress
from arena.writer.lists.saved import SavedList

SECRETS = ("hunter", "s3cret")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
        ("127.0.0.1", "nats://127.0.0.1"),
        ("hunter:s3cret@example.org:4222", "nats://example.org:4222"),
        ("NATS://hunter:s3cret@example.org", "nats://example.org"),
        ("tls://s3cret@example.org:4443", "tls://example.org:4443"),
        ("wss://hunter:s3cret@example.org/s3cret?s3cret", "wss://example.org"),
        ("nats://hunter:s3c:ret@example.org", "nats://example.org"),
    ],
)
def test_addresses_are_shown_without_what_is_secret(url: str, shown: str) -> None:
    address = NatsAddress.read(url)
    assert address.shown == shown
    assert repr(address) == f"NatsAddress({shown!r})"
    assert NatsPools(url, "ethereum").status()["address"] == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nats://",
        "http://hunter:s3cret@example.org",
        "nats://hunter:s3cret@",
        "nats://hunter:s3/cret@example.org",
        "nats://hun/ter:s3cret@example.org",
        "nats://hunter:s3c://ret@example.org",
        "nats://s3#cret@example.org",
        "nats://example.org:s3cret",
        "nats://hunter:s3cret@example.org:99999",
        "nats://hunter:s3cret@[example.org",
    ],
)
def test_what_is_no_address_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ValueError, match="nats://HOST:PORT") as caught:
        NatsPools(url, "ethereum")
    for secret in (*SECRETS, "cret", "s3"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("nats://example.org", {}),
        ("nats://bot:p%40ss%2Fw%23rd@example.org", {"user": "bot", "password": "p@ss/w#rd"}),
        ("nats://b%3Aot:pl+us%2B%25@example.org", {"user": "b:ot", "password": "pl+us+%"}),
        ("nats://bot:%C3%A9@example.org", {"user": "bot", "password": "é"}),
        ("nats://bot:a:b@example.org", {"user": "bot", "password": "a:b"}),
        ("nats://bot:@example.org", {"user": "bot", "password": ""}),
        ("nats://t%2Fo%40ken@example.org", {"token": "t/o@ken"}),
        ("nats://100%sure@example.org", {"token": "100%sure"}),
    ],
)
def test_what_is_percent_encoded_is_decoded(url: str, login: dict[str, str]) -> None:
    address = NatsAddress.read(url)
    assert address.login == login
    assert address.url == address.shown == "nats://example.org"
    said = address.reason(OSError(f"{url} {login.get('password', '')} {login.get('token', '')}"))
    for secret in (*login.values(), url.partition("://")[2].rpartition("@")[0]):
        assert len(secret) < 3 or secret in ("bot", "b:ot") or secret not in said


def test_what_is_encoded_and_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        NatsAddress.read("nats://bot:%FF@example.org")


def test_a_password_with_a_slash_is_refused_with_how_to_write_it() -> None:
    with pytest.raises(ValueError, match="%2F"):
        NatsAddress.read("nats://bot:p/w@example.org")


def test_an_error_is_shown_without_what_is_secret() -> None:
    address = NatsAddress.read("nats://hunter:s3cret@example.org")
    assert address.reason(OSError("no hunter:s3cret@example.org, s3cret")) == (
        "OSError: no ...@example.org, ..."
    )
    token = NatsAddress.read("nats://s3cret@example.org")
    assert token.reason(OSError("s3cret")) == "OSError: ..."
    assert token.reason(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize("chain", ["", "a.b", "*", ">", "a b", "a\n"])
def test_a_chain_must_be_one_word(chain: str) -> None:
    with pytest.raises(ValueError, match="the chain's name"):
        NatsPools("nats://127.0.0.1", chain)


@contextlib.contextmanager
def listener(greeting: bytes | None) -> Iterator[int]:
    """A TCP server that sends one greeting and closes, or with None stays silent."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    accepted, _ = server.accept()
                    if greeting is None:
                        kept.append(accepted)
                        continue
                    with accepted, contextlib.suppress(OSError):
                        accepted.sendall(greeting)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        assert not thread.is_alive()
        for each in kept:
            each.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "greeting",
    [
        None,
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"INFO []\r\n",
        b"INFO {\r\n",
        b"INFO {}\r\n",
        b"INFO {}\r\n-ERR 'no'\r\n",
        b"\xff" * 100_000,
    ],
    ids=lambda greeting: repr(greeting)[:20],
)
def test_what_is_no_server_is_an_error_at_the_start(
    tmp_path: Path,
    greeting: bytes | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(natslink, "CONNECT_S", 0.5)
    caplog.set_level(logging.DEBUG)
    saved = SavedList(tmp_path / "pools.json")
    with listener(greeting) as port:
        source = NatsPools(
            f"nats://hunter:s3cret@127.0.0.1:{port}", "ethereum", wait_s=1.2, saved=saved
        )
        with pytest.raises(PoolListError) as caught:
            source.first()
    text = str(caught.value)
    assert f"nats://127.0.0.1:{port} cannot be reached" in text
    assert str(saved.path) in text
    assert "give a file of pools" in text
    assert source.counts["connects_failed"] >= 1
    assert source.counts["connects"] == 0
    for secret in SECRETS:
        assert secret not in text + caplog.text
