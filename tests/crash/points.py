"""Every call that changes something on disk, numbered; one of them is the last, or fails.

`install` puts functions of its own into `os`, `io`, `fcntl` and `apsw`, before anything of walrep is imported, since
`walrep.disk.atomic.FILE_CALLS` keeps what it finds there. Until `begin` they only pass on what they are given.

A kill comes before its call takes effect. The state after the last call of all is that of a life that was not killed.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import apsw
import msgspec

__all__ = ["Points", "Strike", "install"]

StrikeKind = Literal["none", "kill", "ENOSPC", "EIO"]

_CHANGING = frozenset({"create", "write", "truncate", "fsync", "rename", "link", "mkdir"})
_REST_MS = 60_000
_FILLING = frozenset({"create", "write", "mkdir", "link"})
_SQLITE = frozenset({"begin", "begin immediate", "rollback"})


class Strike(msgspec.Struct, frozen=True, kw_only=True):
    """What happens at call `number`; a disk that fails does so `for_s` seconds of virtual time (0: for one call)."""

    number: int = 0
    kind: StrikeKind = "none"
    for_s: float = 0.0


class Points:
    """The calls below one folder, written to a trace file as `number time-ms call file`."""

    def __init__(self) -> None:
        self.root = ""
        self.now_ms: Callable[[], int] = lambda: 0
        self.synced: Callable[[int], None] = lambda _descriptor: None
        self.rested: Callable[[], None] = lambda: None
        """Called before a call that comes more than a minute after the one before."""
        self._reached_ms = 0
        self._strike = Strike()
        self._struck_ms: int | None = None
        self._number = 0
        self._trace: int | None = None

    def begin(self, root: Path, trace: Path, strike: Strike) -> None:
        """Count from now on, from 1."""
        self.root, self._strike, self._number, self._struck_ms = str(root), strike, 0, None
        self._trace = _REAL.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def end(self) -> None:
        """Count no more."""
        if self._trace is not None:
            _REAL.close(self._trace)
        self._trace = None

    def covers(self, path: str | os.PathLike[str]) -> bool:
        """Say whether a path is below the folder, while it is counted."""
        return self._trace is not None and os.fspath(path).startswith(self.root)

    def reach(self, call: str, path: object, size_bytes: int = 0) -> int:
        """Count a call; return how many of its bytes it may still write, or raise, or end the process."""
        self._number += 1
        now_ms = self.now_ms()
        if now_ms - self._reached_ms > _REST_MS:
            self.rested()
        self._reached_ms = now_ms
        line = f"{self._number} {now_ms} {call} {path}\n"
        _REAL.write(self._trace, line.encode())
        strike = self._strike
        if strike.kind == "kill":
            if self._number == strike.number:
                os.kill(os.getpid(), signal.SIGKILL)
        elif strike.kind != "none" and self._is_failing() and call in self._failing_calls():
            if call == "write" and strike.kind == "ENOSPC" and self._number == strike.number and size_bytes > 1:
                # As a disk that becomes full does: it takes a part first.
                return size_bytes // 2
            code = getattr(errno, strike.kind)
            raise OSError(code, os.strerror(code), str(path))
        return size_bytes

    def _is_failing(self) -> bool:
        if self._number < self._strike.number:
            return False
        if self._struck_ms is None:
            self._struck_ms = self.now_ms()
        return self._number == self._strike.number or self.now_ms() - self._struck_ms < self._strike.for_s * 1000

    def _failing_calls(self) -> frozenset[str]:
        return _CHANGING if self._strike.kind == "EIO" else _FILLING


_REAL: Any = SimpleNamespace(**vars(os), io_open=io.open, fcntl=fcntl.fcntl)
"""The functions as they were."""


def install() -> Points:
    """Put the functions in place; to be called once, first thing in a process."""
    points = Points()
    _install_descriptors(points)
    _install_syncs(points)
    _install_names(points)
    _install_opening(points)
    _install_locks(points)
    return points


def _path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _install_descriptors(points: Points) -> None:
    def taken(descriptor: int, data: bytes | memoryview) -> bytes | memoryview:
        """Return as much of the data as the disk takes."""
        if points.covers(path := _path_of(descriptor)):
            data = memoryview(data).cast("B")
            return data[: points.reach("write", path, data.nbytes)]
        return data

    def write(descriptor: int, data: bytes | memoryview) -> int:
        return int(_REAL.write(descriptor, taken(descriptor, data)))

    def pwrite(descriptor: int, data: bytes | memoryview, offset: int) -> int:
        return int(_REAL.pwrite(descriptor, taken(descriptor, data), offset))

    def pwritev(descriptor: int, parts: Sequence[bytes | memoryview], offset: int) -> int:
        return int(_REAL.pwrite(descriptor, taken(descriptor, b"".join(parts)), offset))

    def ftruncate(descriptor: int, size_bytes: int) -> None:
        if points.covers(path := _path_of(descriptor)):
            points.reach("truncate", path)
        _REAL.ftruncate(descriptor, size_bytes)

    for call in (write, pwrite, pwritev, ftruncate):
        setattr(os, call.__name__, call)


def _install_syncs(points: Points) -> None:
    def counted(real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            if not points.covers(path := _path_of(descriptor)):
                real(descriptor)
                return
            # On the real disk nothing has to be waited for: what a sync promises is kept in a copy.
            points.reach("fsync", path)
            points.synced(descriptor)

        return sync

    vars(os).update(fsync=counted(_REAL.fsync), fdatasync=counted(_REAL.fdatasync))


def _install_names(points: Points) -> None:
    def moving(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def move(source: Any, target: Any, **folders: Any) -> None:
            if points.covers(source):
                # The store's times are those of the virtual clock.
                _REAL.utime(source, ns=(points.now_ms() * 1_000_000,) * 2)
                points.reach(name, target)
            real(source, target, **folders)

        return move

    def changing(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def change(path: Any, *arguments: Any, **folders: Any) -> None:
            if points.covers(path):
                points.reach(name, path)
            real(path, *arguments, **folders)

        return change

    vars(os).update(
        rename=moving("rename", _REAL.rename),
        replace=moving("rename", _REAL.replace),
        link=moving("link", _REAL.link),
        unlink=changing("unlink", _REAL.unlink),
        remove=changing("unlink", _REAL.unlink),
        rmdir=changing("rmdir", _REAL.rmdir),
        mkdir=changing("mkdir", _REAL.mkdir),
    )


def _install_opening(points: Points) -> None:
    class CountedFile(io.FileIO):
        """What a buffered file writes to."""

        def write(self, data: Any, /) -> int:
            """Write what the disk takes."""
            view = memoryview(data).cast("B")
            return super().write(view[: points.reach("write", self.name, view.nbytes)])

    def open_descriptor(path: Any, flags: int, mode: int = 0o777, **folders: Any) -> int:
        if flags & os.O_CREAT and points.covers(path):
            points.reach("create", path)
        return int(_REAL.open(path, flags, mode, **folders))

    def open_file(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wxa+") or not points.covers(file):
            return _REAL.io_open(file, mode, *arguments, **options)
        points.reach("create", file)
        raw = CountedFile(file, mode.replace("b", ""))
        if options.get("buffering", -1) == 0 or 0 in arguments[:1]:
            return raw
        return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

    vars(os).update(open=open_descriptor)
    vars(io).update(open=open_file)


def _install_locks(points: Points) -> None:
    class CountedConnection(apsw.Connection):
        """A keeper's connection, whose steps are points, too."""

        def execute(self, statements: str, *arguments: Any, **options: Any) -> Any:
            """Run a statement."""
            if statements in _SQLITE and points.covers(points.root):
                points.reach(statements.replace(" ", "-"), "keeper")
            return super().execute(statements, *arguments, **options)

        def wal_checkpoint(self, *arguments: Any, **options: Any) -> tuple[int, int]:
            """Run a checkpoint."""
            if points.covers(points.root):
                points.reach("checkpoint", "keeper")
            return super().wal_checkpoint(*arguments, **options)

    def lock(descriptor: int, command: int, argument: Any = 0) -> Any:
        if command == fcntl.F_OFD_SETLK and points.covers(points.root):
            points.reach("lock", "keeper")
        return _REAL.fcntl(descriptor, command, argument)

    vars(apsw).update(Connection=CountedConnection)
    vars(fcntl).update(fcntl=lock)
