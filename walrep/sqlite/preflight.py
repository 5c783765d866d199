"""What can be said of a path before SQLite opens it, each refusal with its own message and hint."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from walrep.core.wal import parse_page_size
from walrep.errors import DatabaseMissing, NotADatabase, NotWalMode, UnsupportedFilesystem
from walrep.sqlite.failures import map_database_errors

__all__ = ["check_database_file", "known_defect", "refused_filesystem"]

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_REFUSED = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse", "fuseblk", "gfs2", "glusterfs", "lustre"),
        *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "smb", "smb3", "smbfs", "vboxsf", "virtiofs"),
        "vmhgfs",
    }
)
"""File systems on which processes may not share one coherent memory mapping, which WAL mode needs."""


def check_database_file(path: Path, *, mountinfo: str, enable_wal: bool) -> None:
    """Refuse what cannot be protected. Opens and closes the file: call it while no connection to it is open.

    `mountinfo` is the content of /proc/self/mountinfo, empty where there is none.

    Raises:
        DatabaseMissing: there is no file, or nothing in it yet.
        NotADatabase: a directory, a short file, another kind of file, or an encrypted database.
        NotWalMode: the database does not use the WAL and `enable_wal` is False.
        UnsupportedFilesystem: a network or FUSE file system.
        DatabaseUnreadable: the operating system refuses it.

    """
    with map_database_errors(path):
        _check_file(path, mountinfo=mountinfo, enable_wal=enable_wal)


def _check_file(path: Path, *, mountinfo: str, enable_wal: bool) -> None:
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatabaseMissing(
            "no database here", detail=str(path), hint="check the path, or use --wait to wait until the app creates it"
        ) from error
    if stat.S_ISDIR(mode):
        raise NotADatabase("this is a directory", detail=str(path), hint="name the database file in it")
    if not stat.S_ISREG(mode):
        raise NotADatabase("this is not a regular file", detail=str(path))
    kind = refused_filesystem(mountinfo, os.path.realpath(path))
    if kind:
        raise UnsupportedFilesystem(
            f"SQLite's write-ahead log is not safe on {kind}",
            detail=str(path),
            hint="run walrep on the machine that holds the disk, beside the app, on a local file system",
        )
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    _check_header(header, path, enable_wal=enable_wal)


def _check_header(header: bytes, path: Path, *, enable_wal: bool) -> None:
    if not header:
        raise DatabaseMissing(
            "the database file is empty", detail=str(path), hint="let the app create its tables first, or use --wait"
        )
    if not header.startswith(_MAGIC):
        raise NotADatabase(
            "this is not a SQLite database",
            detail=str(path),
            hint="if it is an encrypted database (SQLCipher, SEE), walrep cannot read its pages",
        )
    if len(header) < _HEADER_BYTES or not parse_page_size(header):
        raise NotADatabase(
            "the database header is damaged", detail=str(path), hint="check it with `pragma integrity_check`"
        )
    if header[18] not in (1, 2) or header[19] not in (1, 2):
        raise NotADatabase("the database file has an unknown format version", detail=str(path))
    if header[19] != 2 and not enable_wal:
        raise NotWalMode(
            "the database is not in WAL mode",
            detail=str(path),
            hint="run `pragma journal_mode=wal` in the app, or let walrep do it with --enable-wal",
        )


def refused_filesystem(mountinfo: str, path: str) -> str | None:
    """Return the kind of the file system that holds `path` if it is one on which WAL mode is not safe."""
    best, kind = "", ""
    for line in mountinfo.splitlines():
        fields = line.split()
        if "-" not in fields or len(fields) < fields.index("-") + 2:
            continue
        mount_point = fields[4].encode().decode("unicode_escape")
        inside = path == mount_point or path.startswith(mount_point.rstrip("/") + "/")
        if inside and len(mount_point) >= len(best):
            best, kind = mount_point, fields[fields.index("-") + 1]
    return kind if kind.split(".", 1)[0] in _REFUSED else None


def known_defect(version: int) -> str | None:
    """Return the data-loss bug of the SQLite that wrote `version` (header bytes 96 to 99) into page 1, if any.

    Source: https://sqlite.org/changes.html, releases 3.50.2 and 3.51.3, and https://sqlite.org/wal.html#walresetbug.
    """
    if not 3_007_000 <= version < 3_051_003 or version in (3_044_006, 3_050_007):
        return None
    text = f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"
    if version < 3_050_002:
        return (
            f"the app's SQLite {text} can lose committed transactions when it crashes after a ROLLBACK TO (fixed in "
            "3.50.2), and has the WAL-reset bug (fixed in 3.51.3)"
        )
    return f"the app's SQLite {text} has the WAL-reset bug, which corrupts databases (fixed in 3.51.3)"
