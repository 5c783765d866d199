"""What cannot be protected is refused before anything is opened or made, each with its own message and hint."""

from __future__ import annotations

import os
from pathlib import Path

import apsw
import pytest

from walrep.errors import DatabaseError, DatabaseMissing, NotADatabase, NotWalMode, UnsupportedFilesystem
from walrep.sqlite.preflight import check_database_file, known_defect, refused_filesystem

MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:30 / /srv/net rw,relatime shared:2 - nfs4 server:/export rw
31 21 0:31 / /srv/net/local rw,relatime - xfs /dev/sdb1 rw
32 21 0:32 / /home/me/my\\040cloud rw,nosuid - fuse.rclone remote: rw
33 21 0:33 / /mnt/vm rw - virtiofs share rw
34 21 0:34 / /srv/network rw - btrfs /dev/sdc1 rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/app.db", None),
        ("/srv/net/app.db", "nfs4"),
        ("/srv/net/local/app.db", None),
        ("/srv/network/app.db", None),
        ("/home/me/my cloud/app.db", "fuse.rclone"),
        ("/home/me/app.db", None),
        ("/mnt/vm/app.db", "virtiofs"),
    ],
)
def test_a_file_system_is_found_by_the_longest_mount_point(path: str, kind: str | None) -> None:
    assert refused_filesystem(MOUNTS, path) == kind


@pytest.mark.parametrize(
    ("version", "is_defective"),
    [
        (3_006_023, False),
        (3_040_001, True),
        (3_044_006, False),
        (3_050_001, True),
        (3_050_002, True),
        (3_050_007, False),
        (3_051_002, True),
        (3_051_003, False),
        (3_054_001, False),
    ],
)
def test_versions_with_a_known_defect_are_told(version: int, is_defective: bool) -> None:  # noqa: FBT001
    assert (known_defect(version) is not None) == is_defective


def make(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def make_database(path: Path, journal_mode: str) -> Path:
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", journal_mode)
    connection.execute("create table t(x)")
    connection.close()
    return path


def refusal(path: Path, *, mountinfo: str = "", enable_wal: bool = False) -> DatabaseError:
    with pytest.raises(DatabaseError) as caught:
        check_database_file(path, mountinfo=mountinfo, enable_wal=enable_wal)
    return caught.value


def test_each_refusal_has_its_own_class_message_and_hint(tmp_path: Path) -> None:
    mounts = f"30 21 0:30 / {os.path.realpath(tmp_path)} rw - nfs server:/export rw\n"
    header = make_database(tmp_path / "good.db", "wal").read_bytes()
    os.mkfifo(tmp_path / "pipe")
    refusals = [
        (DatabaseMissing, refusal(tmp_path / "none.db")),
        (DatabaseMissing, refusal(make(tmp_path / "file", b"x") / "below.db")),
        (NotADatabase, refusal(tmp_path)),
        (NotADatabase, refusal(tmp_path / "pipe")),
        (DatabaseMissing, refusal(make(tmp_path / "empty.db", b""))),
        (NotADatabase, refusal(make(tmp_path / "random.db", os.urandom(8192)))),
        (NotADatabase, refusal(make(tmp_path / "short.db", header[:60]))),
        (NotADatabase, refusal(make(tmp_path / "size.db", header[:16] + b"\0\7" + header[18:]))),
        (NotADatabase, refusal(make(tmp_path / "future.db", header[:18] + b"\3\3" + header[20:]))),
        (NotWalMode, refusal(make_database(tmp_path / "delete.db", "delete"))),
        (UnsupportedFilesystem, refusal(tmp_path / "good.db", mountinfo=mounts)),
    ]
    assert [(type(error), bool(error.detail)) for _, error in refusals] == [(each, True) for each, _ in refusals]
    assert "encrypted" in refusals[5][1].hint
    assert "--enable-wal" in refusals[9][1].hint
    assert "--wait" in refusals[0][1].hint


def test_a_database_that_can_be_protected_passes(tmp_path: Path) -> None:
    check_database_file(make_database(tmp_path / "wal.db", "wal"), mountinfo=MOUNTS, enable_wal=False)
    check_database_file(make_database(tmp_path / "delete.db", "delete"), mountinfo="", enable_wal=True)
