"""What a disk holds after a power cut: what was synced, and of the rest whatever a file system may have got round to.

While a life runs, `SyncedDisk.note` keeps a copy of every file that is synced, as it is then, and of the names in every
directory that is synced. `cut_power` makes the disk anew from that:

    synced      nothing but what was synced: contents by a sync of the file, names by a sync of their directory
    names       every name as it is, but only contents that were synced: a rename that overtook its content
    mixed       of each name and each content at random the synced one, the present one, or a part of it
A file system writes everything back before long, asked or not: what has been left alone for a minute counts as synced
(`SyncedDisk.settle`; the kernel's own limits are 5 s for names on ext4, and 30 s for contents).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec

__all__ = ["SyncedDisk", "cut_power", "cut_wal"]


_SHM_BACKFILLED, _SHM_ATTEMPTED = 96, 128
_WAL_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24


class _Entry(msgspec.Struct, frozen=True):
    """What a name stands for, and when that was last written."""

    inode: int
    is_folder: bool
    mtime_ns: int = 0


class _Synced(msgspec.Struct):
    """A line of the log. A file: its inode and the name of its copy. A directory: its path, and what it names."""

    inode: int = 0
    copy: str = ""
    directory: str = ""
    names: dict[str, _Entry] = {}


class SyncedDisk:
    """Notes what was synced. A file is kept open from then on, so that no other one gets its inode."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._log = (folder / "log").open("ab", buffering=0)
        self._kept: list[int] = []
        self._count = 0

    def note(self, descriptor: int) -> None:
        """Note a file or a directory that was just synced."""
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if os.path.isdir(path):
            self.note_names(Path(path))
            return
        self._count += 1
        kept = os.dup(descriptor)
        self._kept.append(kept)
        # A descriptor that was opened for writing only cannot be read.
        shutil.copyfile(f"/proc/self/fd/{kept}", self._folder / str(self._count))
        self._write(_Synced(inode=os.fstat(kept).st_ino, copy=str(self._count)))

    def settle(self, disk: Path) -> None:
        """Note everything as it is."""
        self.note_names(disk)
        for path in disk.rglob("*"):
            descriptor = os.open(path, os.O_RDONLY)
            self.note(descriptor)
            os.close(descriptor)

    def note_names(self, folder: Path) -> None:
        """Note the names in a directory."""
        self._write(_Synced(directory=str(folder), names=_names_in(str(folder))))

    def _write(self, line: _Synced) -> None:
        self._log.write(msgspec.json.encode(line) + b"\n")


def cut_power(disk: Path, synced: Path, variant: str, dice: Random) -> None:
    """Put in the place of `disk` what it would hold after a power cut."""
    rest = _Rest(disk, synced, variant, dice)
    made = disk.with_name("after-power-cut")
    rest.make(disk, made)
    shutil.rmtree(disk)
    made.rename(disk)


def cut_wal(database: Path, dice: Random) -> int:
    """Take frames off the end of a WAL that no sync has protected; return how many. Nobody has the database open."""
    wal, shm = (database.with_name(f"{database.name}-{end}") for end in ("wal", "shm"))
    if not wal.exists() or not shm.exists() or wal.stat().st_size < _WAL_HEADER_BYTES:
        return 0
    index = shm.read_bytes()
    # Before a checkpoint copies frames it syncs the log, so those are there.
    synced = max(int.from_bytes(index[at : at + 4], "little") for at in (_SHM_BACKFILLED, _SHM_ATTEMPTED))
    valid = int.from_bytes(index[16:20], "little")
    page_bytes = int.from_bytes(wal.read_bytes()[8:12], "big")
    kept = dice.randint(min(synced, valid), valid)
    os.truncate(wal, _WAL_HEADER_BYTES + kept * (page_bytes + _FRAME_HEADER_BYTES))
    shm.unlink()
    return valid - kept


class _Rest:
    def __init__(self, disk: Path, synced: Path, variant: str, dice: Random) -> None:
        self._synced, self._variant, self._dice = synced, variant, dice
        self._copies: dict[int, Path] = {}
        self._names: dict[str, dict[str, _Entry]] = {}
        self._present = {path.lstat().st_ino: path for path in disk.rglob("*") if path.is_file()}
        for line in self._lines():
            if line.directory:
                self._names[line.directory] = line.names
            else:
                self._copies[line.inode] = synced / line.copy

    def make(self, source: Path, target: Path) -> None:
        """Make a directory as it would be."""
        target.mkdir(mode=0o700)
        present = _names_in(str(source)) if source.is_dir() else {}
        for name, entry in sorted(self._entries(str(source), present).items()):
            if entry.is_folder:
                self.make(source / name, target / name)
            else:
                found = self._present.get(entry.inode)
                (target / name).write_bytes(self._content(entry.inode, found))
                # One that is gone has the time that it had; that of its copy is of this machine's clock.
                mtime_ns = entry.mtime_ns if found is None else found.stat().st_mtime_ns
                os.utime(target / name, ns=(mtime_ns, mtime_ns))

    def _lines(self) -> Iterator[_Synced]:
        log = self._synced / "log"
        return (msgspec.json.decode(line, type=_Synced) for line in log.read_bytes().splitlines())

    def _entries(self, path: str, present: dict[str, _Entry]) -> dict[str, _Entry]:
        synced = self._names.get(path, {})
        if self._variant == "synced":
            return synced
        if self._variant == "names":
            return present
        chosen = {name: self._dice.choice((synced, present)).get(name) for name in sorted({*synced, *present})}
        return {name: entry for name, entry in chosen.items() if entry is not None}

    def _content(self, inode: int, found: Path | None) -> bytes:
        copy = self._copies.get(inode)
        synced = copy.read_bytes() if copy is not None else b""
        if self._variant != "mixed" or found is None:
            return synced
        present = found.read_bytes()
        if not present.startswith(synced):
            return self._dice.choice((synced, present))
        # What was appended is there, or not, or in part; or only its length is.
        written = self._dice.randint(len(synced), len(present))
        length = self._dice.choice((written, len(present)))
        return present[:written] + bytes(length - written)


def _names_in(path: str) -> dict[str, _Entry]:
    with os.scandir(path) as entries:
        return {
            each.name: _Entry(each.inode(), each.is_dir(), each.stat(follow_symlinks=False).st_mtime_ns)
            for each in entries
        }
