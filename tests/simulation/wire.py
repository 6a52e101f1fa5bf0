"""The producer's end of the socket."""

import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from pathlib import Path


class Wire:
    """`arrived` is called when there is something new for the client, `accepted` with each new one."""

    def __init__(
        self, path: Path, arrived: Callable[[], None], accepted: Callable[[], None]
    ) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(8)
        self.listener.setblocking(False)
        self.client: socket.socket | None = None
        self._arrived = arrived
        self._accepted = accepted
        self._left = bytearray()  # what the socket has no room for yet

    def accept(self) -> bool:
        while True:
            try:
                found, _ = self.listener.accept()
            except BlockingIOError:
                return self.client is not None
            self.drop()
            found.setblocking(False)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
            self.client = found
            self._accepted()

    def send(self, data: bytes) -> None:
        self.accept()
        if self.client is None:
            return
        self._left += data
        self.push()

    def push(self) -> None:
        """Send on what is left."""
        if self.client is None or not self._left:
            return
        try:
            sent = self.client.send(self._left)
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self.drop()
            return
        del self._left[:sent]
        self._arrived()

    def drop(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None
            self._left.clear()
            self._arrived()

    def unread(self) -> int:
        """Bytes the client has not received."""
        self.push()
        if self.client is None:
            return 0
        answer = fcntl.ioctl(self.client, termios.TIOCOUTQ, b"\0" * 4)
        return int(struct.unpack("i", answer)[0]) + len(self._left)

    def close(self) -> None:
        self.drop()
        self.listener.close()
