"""A way to a server that can be closed and opened: cut connections are what an outage looks like from a host."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_RESET_AT_ONCE = struct.pack("ii", 1, 0)
"""For SO_LINGER: a close drops what is under way, and says so."""


class Gate:
    """Forwards connections on a port of its own to a server while it is open, and turns them away while it is not."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._server = (parts.hostname or "", parts.port or 0)
        self.turned_away_count = 0
        self._port = 0
        self._is_open = False
        self._listener: socket.socket | None = None
        self._connections: list[socket.socket] = []

    @property
    def endpoint(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self.open()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
        if self._listener is not None:
            # A thread that waits in accept does not notice a close.
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def open(self) -> None:
        """Let connections through."""
        self._is_open = True

    def close(self) -> None:
        """Cut all connections, and turn new ones away."""
        self._is_open = False
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                if not self._is_open:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_ONCE)
                    client.close()
                    self.turned_away_count += 1
                    continue
                server = socket.create_connection(self._server)
                self._connections += [client, server]
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
