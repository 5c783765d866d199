"""Forks the children of a test from one process that has nothing open: `python -m tests.model.nursery FD`.

A fork of the test's own process would inherit its threads' locks and whatever pytest has open, and a fresh interpreter
for each start of walrep would take half a second.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from tests.model import app, sidecar
from tests.model.channel import Channel

__all__ = ["Child", "Nursery"]

_ROOT = Path(__file__).resolve().parents[2]
_ROLES = {"app": app.serve, "walrep": sidecar.serve}
_MESSAGE_BYTES_MAX = 1 << 16
_PR_SET_PDEATHSIG = 1


class Child:
    """A process of its own, and the channel to it."""

    def __init__(self, pid: int, channel: Channel) -> None:
        self.pid = pid
        self.channel = channel
        self._pidfd = os.pidfd_open(pid)

    def kill(self) -> None:
        """Kill it, and wait until all that it held is let go."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        """Wait until it has ended."""
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        ended.poll()
        os.close(self._pidfd)
        self.channel.close()


class Nursery:
    """Where children come from; all of them end with it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=_ROOT,
                env=os.environ | {"PYTHONHASHSEED": "0"},
                pass_fds=[theirs.fileno()],
            )

    def spawn(self, role: str, config: dict[str, Any]) -> Child:
        """Fork a child that plays a role."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._socket, [msgspec.msgpack.encode((role, config))], [theirs.fileno()])
        pid = int.from_bytes(self._socket.recv(8), "big")
        return Child(pid, Channel(ours))

    def close(self) -> None:
        """End it, and whatever it made."""
        self._socket.close()
        self._process.wait()


def _play(role: str, config: dict[str, Any], end: socket.socket) -> None:
    channel = Channel(end)
    try:
        _ROLES[role](channel, config)
    except (EOFError, BrokenPipeError):
        pass
    except BaseException:  # noqa: BLE001  the test is told, whatever it is
        channel.send("crashed", traceback.format_exc())
    finally:
        # Nothing may be tidied up behind what was asked for.
        os._exit(0)


def main() -> None:
    """Fork a child for each message."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    # The kernel reaps them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent = ctypes.CDLL(None).prctl
    while True:
        message, descriptors, _flags, _address = socket.recv_fds(requests, _MESSAGE_BYTES_MAX, 1)
        if not message:
            return
        pid = os.fork()
        end = socket.socket(fileno=descriptors[0])
        if pid == 0:
            die_with_parent(_PR_SET_PDEATHSIG, signal.SIGKILL)
            requests.close()
            role, config = msgspec.msgpack.decode(message)
            _play(role, config, end)
        end.close()
        requests.send(pid.to_bytes(8, "big"))


if __name__ == "__main__":
    main()
