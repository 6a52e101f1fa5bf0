"""arena-web: an arena as a web page and a JSON API, on this machine alone unless told otherwise.

Errors are one line on standard error and exit code 2.
"""

import argparse
import asyncio
import contextlib
import ipaddress
import signal
import socket
import sys
from collections.abc import Iterator, Sequence

from arena.errors import ArenaError
from arena.readers.cli import fail, parser_of
from arena.readers.views.monitor import Monitor

HOST, PORT = "127.0.0.1", 8650
INTERVAL_S = 0.2
_INTERVALS = (0.2, 3600.0)
_GRACE_S = 2


def _interval(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not _INTERVALS[0] <= found <= _INTERVALS[1]:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds from {_INTERVALS[0]} to {_INTERVALS[1]:.0f}"
        )
    return found


def _port(text: str) -> int:
    found = int(text) if text.isascii() and text.isdecimal() else -1
    if not 0 <= found < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 0 to 65535")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("arena-web", "Serve an arena as a live page and a JSON API, to read alone.")
    parser.add_argument("--host", default=HOST, help=f"address to listen on (default {HOST})")
    parser.add_argument(
        "--port", type=_port, default=PORT, help=f"port; 0 takes a free one (default {PORT})"
    )
    parser.add_argument(
        "--public",
        action="store_true",
        help="listen on an address that other machines reach: whoever reaches it can read",
    )
    parser.add_argument(
        "--interval",
        type=_interval,
        default=INTERVAL_S,
        metavar="S",
        help=f"seconds between two looks, at least {_INTERVALS[0]} (default {INTERVAL_S})",
    )
    return parser


def _refuse(line: str) -> None:
    print(f"arena-web: {line}", file=sys.stderr)
    raise SystemExit(2)


def web(arguments: Sequence[str] | None = None) -> None:
    """Serve an arena until SIGINT or SIGTERM."""
    options = _parser().parse_args(arguments)
    is_local = _is_loopback(options.host)
    if not (is_local or options.public):
        _refuse(f"{options.host} is not this machine's own: whoever reaches it can read; --public")
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        _refuse(f"{error.name} is not installed: pip install 'pool-state-arena[web]'")
    try:
        with (
            _listening(options.host, options.port) as listener,
            _monitor(options) as monitor,
        ):
            _say(listener, options, is_local)
            asyncio.run(_serve(monitor, listener, options.interval, not is_local))
    except KeyboardInterrupt:
        return
    except (ArenaError, ValueError, OSError, MemoryError) as error:
        fail("arena-web", error)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)


def _monitor(options: argparse.Namespace) -> Monitor:
    from arena.readers.web.watcher import KEPT_CHANGES

    return Monitor(
        options.name, timeout=options.timeout, owner=options.owner, kept_changes=KEPT_CHANGES
    )


def _say(listener: socket.socket, options: argparse.Namespace, is_local: bool) -> None:
    host, port = listener.getsockname()[:2]
    if not is_local:
        print(
            f"arena-web: warning: {host} is open to other machines, without password or encryption",
            file=sys.stderr,
        )
    shown = f"[{host}]" if ":" in host else host
    print(f"arena-web: arena {options.name} at http://{shown}:{port}/", flush=True)


async def _serve(
    monitor: Monitor, listener: socket.socket, interval: float, is_public: bool
) -> None:
    import uvicorn

    from arena.readers.web.server import MOST_STREAMS, Site
    from arena.readers.web.watcher import Watcher

    class Server(uvicorn.Server):
        """Ends its streams before it waits for them; a signal is an end, not an error."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.end)
            yield

        def end(self) -> None:
            site.watcher.close()
            self.should_exit = True

    def on_end() -> None:
        server.should_exit = True

    site = Site(Watcher(monitor, interval), public=is_public, on_end=on_end)
    config = uvicorn.Config(
        site.app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        ws="none",
        limit_concurrency=4 * MOST_STREAMS,
        lifespan="on",
    )
    server = Server(config)
    await server.serve(sockets=[listener])
    if site.failure is not None:
        raise site.failure
