"""Messages between the test and its children: MessagePack behind a length, on a pair of sockets."""

from __future__ import annotations

import socket
from typing import Any

import msgspec

__all__ = ["Channel"]

_LENGTH_BYTES = 4


class Channel:
    """One end; whoever waits for a message waits in real time, while virtual time stands still."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, *message: object) -> None:
        """Send one message; raises `OSError` if nobody is there."""
        data = msgspec.msgpack.encode(message)
        self._socket.sendall(len(data).to_bytes(_LENGTH_BYTES, "big") + data)

    def receive(self) -> list[Any]:
        """Return the next message; raises `EOFError` when the other end is gone."""
        length = int.from_bytes(self._read(_LENGTH_BYTES), "big")
        message: list[Any] = msgspec.msgpack.decode(self._read(length))
        return message

    def close(self) -> None:
        """End it; the other side finds out."""
        self._socket.close()

    def _read(self, count: int) -> bytes:
        parts = []
        while count:
            try:
                part = self._socket.recv(min(count, 1 << 20))
            except ConnectionError as error:
                raise EOFError from error
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)
