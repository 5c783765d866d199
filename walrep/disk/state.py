"""The state directory of one database: its lock, state.json, and the hash array.

    lock          held (flock) by the walrep that uses the directory
    state.json    `walrep.core.state.LocalState`, replaced atomically
    pages         the hash array after some segment: 16 bytes magic 89 77 61 6c 70 61 67 65 and xxh3-64 of the rest,
                  then u64 slots, native byte order (the directory never leaves the machine)
    pages.log     append log of what segments since then changed in it: journal entries without their block

Applying an entry twice, or entries that `pages` includes already, changes nothing: entries are absolute. So no order
of crashes between the files can make the array wrong, and its XOR is compared with the recorded checksum anyway.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec
from xxhash import xxh3_64_intdigest

from walrep.core.journal import JournalEntry, apply_entry, decode_entry, encode_entry
from walrep.core.pages import PageHashes
from walrep.core.state import STATE_FORMAT, LocalState
from walrep.disk.atomic import fsync_directory, map_os_errors, write_atomic
from walrep.disk.log import AppendLog, read_records
from walrep.errors import DatabaseInUse, SpoolError

__all__ = ["HashStore", "StateDirectory", "is_in_use"]

_PAGES_MAGIC = b"\x89walpage"
_COMPACT_BYTES_MIN = 4 << 20


class StateDirectory:
    """The directory, locked by this process; `close` lets it go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with map_os_errors(f"use {path}"):
            _make_durably(path)
            self._lock_fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._lock_fd, 64, 0).decode(errors="replace").strip()
            os.close(self._lock_fd)
            raise DatabaseInUse(
                "another walrep uses this state directory",
                detail=f"{path}, process {holder or 'unknown'}",
                hint="stop it first, or `walrep detach` the database",
            ) from error
        except OSError:
            os.close(self._lock_fd)
            with map_os_errors(f"lock {path}"):
                raise
        # The number is for people; on a full disk there is none.
        with suppress(OSError):
            os.ftruncate(self._lock_fd, 0)
            os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let the directory go."""
        os.close(self._lock_fd)

    def load(self) -> LocalState | None:
        """Return the state, None if there is none; raises `SpoolError` if it cannot be read."""
        path = self.path / "state.json"
        try:
            with map_os_errors(f"read {path}"):
                data = path.read_bytes() if path.exists() else None
            state = None if data is None else msgspec.json.decode(data, type=LocalState)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise SpoolError(
                "the local state cannot be read",
                detail=f"{path}: {error}",
                hint="remove the state directory and start with --new-timeline; nothing in the store is lost",
            ) from error
        if state is not None and state.format != STATE_FORMAT:
            raise SpoolError(
                f"the local state has format {state.format}, which this walrep does not know",
                detail=str(path),
                hint="use the version that wrote it",
            )
        return state

    def set_aside(self, now_ms: int) -> None:
        """Move what belongs to another lineage into a folder of its own; nothing of it is used, or lost."""
        names = (
            "state.json",
            "pages",
            "pages.log",
            "outbox",
            "base.part",
            *(p.name for p in self.path.glob("journal-*")),
        )
        aside = self.path / f"aside-{now_ms}"
        with map_os_errors(f"set {self.path} aside"):
            for name in names:
                if (self.path / name).exists():
                    aside.mkdir(mode=0o700, exist_ok=True)
                    (self.path / name).rename(aside / name)
            shutil.rmtree(self.path / "cache", ignore_errors=True)

    def save(self, state: LocalState) -> None:
        """Replace the state, durably."""
        with map_os_errors(f"write {self.path / 'state.json'}"):
            write_atomic(self.path / "state.json", msgspec.json.format(msgspec.json.encode(state)) + b"\n")


def is_in_use(state_dir: Path) -> bool:
    """Say whether a walrep holds the state directory; raises `SpoolError` where that cannot be asked."""
    with map_os_errors(f"ask who uses {state_dir}"):
        try:
            descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _make_durably(path: Path) -> None:
    """Make a directory, and those above it: lost in a power cut it would leave a replica that nobody may go on with."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    # One that was there may have been made by a walrep that was killed before its sync.
    for each in {path.parent, *(each.parent for each in missing)}:
        fsync_directory(each)


class HashStore:
    """The hash array on disk: a base and a log of changes, folded together when the log outgrows the base."""

    def __init__(self, directory: Path) -> None:
        self._base = directory / "pages"
        self._log_path = directory / "pages.log"
        self._log: AppendLog | None = None

    def reset(self, data: bytes) -> None:
        """Replace everything by this array, given as `PageHashes.to_bytes` does."""
        digest = xxh3_64_intdigest(data).to_bytes(8, "little")
        with map_os_errors(f"write {self._base}"):
            write_atomic(self._base, _PAGES_MAGIC + digest + data)
            self.close()
            self._log_path.unlink(missing_ok=True)

    def append(self, entries: list[JournalEntry]) -> None:
        """Note what chunks changed; `sync` makes it durable."""
        log = self._open()
        for entry in entries:
            log.append([encode_entry(msgspec.structs.replace(entry, block=b""))])

    def sync(self) -> None:
        """Make durable what was appended, and fold the log into the base when it has outgrown it."""
        log = self._open()
        log.sync()
        if log.size_bytes > max(_COMPACT_BYTES_MIN, 2 * self._base_bytes()):
            hashes = self.load()
            if hashes is not None:
                self.reset(hashes.to_bytes())

    def load(self) -> PageHashes | None:
        """Return the array after all that was appended; None if it is missing or damaged."""
        with map_os_errors(f"read {self._base}"):
            if not self._base.exists():
                return None
            data = self._base.read_bytes()
            has_log = self._log_path.exists()
        body = data[16:]
        if data[:8] != _PAGES_MAGIC or xxh3_64_intdigest(body).to_bytes(8, "little") != data[8:16] or len(body) % 8:
            return None
        hashes = PageHashes.from_bytes(body)
        if has_log:
            for record in read_records(self._log_path):
                apply_entry(hashes, decode_entry(record))
        hashes.rebuild()
        return hashes

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _open(self) -> AppendLog:
        if self._log is None:
            with map_os_errors(f"look for {self._log_path}"):
                exists = self._log_path.exists()
            if exists:
                self._log, records = AppendLog.open(self._log_path)
                del records
            else:
                self._log = AppendLog.create(self._log_path)
        return self._log

    def _base_bytes(self) -> int:
        with map_os_errors(f"read {self._base}"):
            return self._base.stat().st_size if self._base.exists() else 0
