"""`FileCalls` that keep a record of their order, and fail or kill where a test says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from walrep.disk.atomic import FILE_CALLS, FileCalls

__all__ = ["FileTrace"]


class FileTrace:
    """The calls that some code made: each as its name and the names of its files, a temporary one as `*.tmp`.

    `before(number, call)` is asked before each call takes effect, with its number from 1; it may raise, or kill.
    """

    def __init__(self, before: Callable[[int, str], None] | None = None) -> None:
        self.entries: list[str] = []
        self._before = before
        self._names: dict[int, str] = {}

    def calls(self) -> FileCalls:
        """Return calls that go to the operating system by way of this record."""
        return FileCalls(
            open=self._open,
            write=self._write,
            pwritev=self._pwritev,
            truncate=self._truncate,
            fsync=self._fsync,
            fdatasync=self._fdatasync,
            rename=self._rename,
            link=self._link,
            unlink=self._unlink,
            mkdir=self._mkdir,
        )

    def _note(self, call: str, *names: str) -> None:
        shown = ("*.tmp" if name.endswith(".tmp") and name != ".tmp" else name for name in names)
        self.entries.append(" ".join((call, *shown)))
        if self._before is not None:
            self._before(len(self.entries), call)

    def _open(self, path: Path, flags: int, mode: int) -> int:
        self._note("open", path.name)
        descriptor = FILE_CALLS.open(path, flags, mode)
        self._names[descriptor] = path.name
        return descriptor

    def _write(self, descriptor: int, data: bytes | memoryview) -> int:
        self._note("write", self._names[descriptor])
        return FILE_CALLS.write(descriptor, data)

    def _pwritev(self, descriptor: int, parts: Sequence[bytes | memoryview], offset: int) -> int:
        self._note("pwritev", self._names[descriptor])
        return FILE_CALLS.pwritev(descriptor, parts, offset)

    def _truncate(self, descriptor: int, size_bytes: int) -> None:
        self._note("truncate", self._names[descriptor])
        FILE_CALLS.truncate(descriptor, size_bytes)

    def _fsync(self, descriptor: int) -> None:
        self._note("fsync", self._names[descriptor])
        FILE_CALLS.fsync(descriptor)

    def _fdatasync(self, descriptor: int) -> None:
        self._note("fdatasync", self._names[descriptor])
        FILE_CALLS.fdatasync(descriptor)

    def _rename(self, source: Path, target: Path) -> None:
        self._note("rename", source.name, target.name)
        FILE_CALLS.rename(source, target)

    def _link(self, source: Path, target: Path) -> None:
        self._note("link", source.name, target.name)
        FILE_CALLS.link(source, target)

    def _unlink(self, path: Path) -> None:
        self._note("unlink", path.name)
        FILE_CALLS.unlink(path)

    def _mkdir(self, path: Path, mode: int) -> None:
        self._note("mkdir", path.name)
        FILE_CALLS.mkdir(path, mode)
