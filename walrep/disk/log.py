r"""The append log: checksummed records in one file, of which a crash costs at most the end.

All integers are little-endian. The file begins with 16 bytes:

    0   8   magic 89 77 61 6c 6c 6f 67 0a ("\x89wallog\n")
    8   4   format version: 1
    12  4   zero

Then records, one after the other. Each is 16 bytes of header, then the payload:

    0   4   payload bytes, from 1 to 16 MiB
    4   4   zero
    8   8   xxh3-64 of the payload, seeded with the offset of the record in the file

The seed keeps a stale record from passing at another offset. There are no empty records, so that the zeros that a
file system leaves after a power cut are no record. The log ends before the first record that is not valid; nothing
tells a torn end from damage in the middle, hence `cut_bytes` for the caller to report.

A record is written by one call and is in the hands of the operating system when `append` returns; it is on the disk
when `sync` returns. This module must not know what a payload means. One thread at a time uses an `AppendLog`;
`read_records` may read the file meanwhile.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from xxhash import xxh3_64, xxh3_64_intdigest

from walrep.disk.atomic import FILE_CALLS, FileCalls, map_os_errors, publish_new, temporary_path, write_new
from walrep.errors import InvariantViolated, SpoolError, SpoolFull, check

__all__ = ["HEADER_BYTES", "PAYLOAD_BYTES_MAX", "RECORD_HEADER_BYTES", "AppendLog", "read_records"]

HEADER_BYTES = 16
RECORD_HEADER_BYTES = 16
PAYLOAD_BYTES_MAX = 16 << 20

_FORMAT_VERSION = 1
_MAGIC = b"\x89wallog\n"
_HEADER = struct.Struct("<8sII")
_RECORD = struct.Struct("<IIQ")
_READ_BUFFER_BYTES = 1 << 18
_PARTS_MAX = os.sysconf("SC_IOV_MAX") - 1


class AppendLog:
    """A log that is open for appending; `create` or `open` makes one."""

    def __init__(self, path: Path, descriptor: int, *, size_bytes: int, cut_bytes: int, calls: FileCalls) -> None:
        self._path = path
        self._descriptor: int | None = descriptor
        self._size_bytes = size_bytes
        self._cut_bytes = cut_bytes
        self._calls = calls
        self._is_broken = False

    @classmethod
    def create(cls, path: Path, calls: FileCalls = FILE_CALLS) -> AppendLog:
        """Create an empty log, durably.

        Raises:
            SpoolFull: the disk is full; there is no log.
            SpoolError: the path exists, or the operating system refused.

        """
        with map_os_errors(f"create {path}"):
            temporary = temporary_path(path.parent, f".{path.name}")
            write_new(temporary, (_HEADER.pack(_MAGIC, _FORMAT_VERSION, 0),), calls)
            publish_new(temporary, path, calls)
            descriptor = calls.open(path, os.O_RDWR | os.O_CLOEXEC, 0)
        return cls(path, descriptor, size_bytes=HEADER_BYTES, cut_bytes=0, calls=calls)

    @classmethod
    def open(cls, path: Path, calls: FileCalls = FILE_CALLS) -> tuple[AppendLog, Iterator[bytes]]:
        """Recover a log: cut off what follows its last valid record, sync it, and return it with its records.

        The records are read as they are asked for, one in memory at a time; later appends are not among them.

        Raises:
            SpoolError: there is no log at the path, it is of another version, or the operating system refused.

        """
        with map_os_errors(f"open {path}"):
            descriptor = calls.open(path, os.O_RDWR | os.O_CLOEXEC, 0)
            try:
                with path.open("rb", buffering=_READ_BUFFER_BYTES) as file:
                    file_bytes = _check_header(file, path)
                    end = HEADER_BYTES
                    for payload in _valid_records(file, file_bytes):
                        end += RECORD_HEADER_BYTES + len(payload)
                if end < file_bytes:
                    calls.truncate(descriptor, end)
                # A record may have been left in memory only by a writer that was killed before its sync.
                calls.fdatasync(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
        log = cls(path, descriptor, size_bytes=end, cut_bytes=file_bytes - end, calls=calls)
        return log, read_records(path, size_bytes=end)

    @property
    def path(self) -> Path:
        """Where the log is."""
        return self._path

    @property
    def size_bytes(self) -> int:
        """The size of the file: its header and every record."""
        return self._size_bytes

    @property
    def cut_bytes(self) -> int:
        """How much `open` cut off the end, because it was not valid."""
        return self._cut_bytes

    def append(self, parts: Sequence[bytes | memoryview]) -> None:
        """Append one record, whose payload is the parts joined; it is not durable before `sync`.

        Raises:
            SpoolFull: the disk is full; the log is as it was and takes further records.
            SpoolError: the operating system refused, likewise; or an earlier `sync` failed.

        """
        descriptor = self._usable_descriptor()
        payload_bytes = sum(memoryview(part).nbytes for part in parts)
        check(0 < payload_bytes <= PAYLOAD_BYTES_MAX, f"a record of {payload_bytes} bytes in {self._path}")
        digest = xxh3_64(seed=self._size_bytes)
        for part in parts:
            digest.update(part)
        header = _RECORD.pack(payload_bytes, 0, digest.intdigest())
        if len(parts) > _PARTS_MAX:
            parts = (b"".join(parts),)
        with map_os_errors(f"append to {self._path}"):
            try:
                written_bytes = self._calls.pwritev(descriptor, (header, *parts), self._size_bytes)
            except BaseException:
                self._cut(descriptor)
                raise
        record_bytes = RECORD_HEADER_BYTES + payload_bytes
        if written_bytes < record_bytes:
            self._cut(descriptor)
            raise SpoolFull(
                f"cannot append to {self._path}",
                detail=f"the disk took {written_bytes} of {record_bytes} bytes",
                hint="make room on the disk",
            )
        self._size_bytes += record_bytes

    def sync(self) -> None:
        """Make every record durable.

        A failed sync ends the log: the kernel may have dropped what it could not write, and would report success the
        next time.

        Raises:
            SpoolFull: the disk is full.
            SpoolError: the operating system refused, now or at an earlier `sync`.

        """
        descriptor = self._usable_descriptor()
        with map_os_errors(f"sync {self._path}"):
            try:
                self._calls.fdatasync(descriptor)
            except BaseException:
                self._is_broken = True
                raise

    def close(self) -> None:
        """Close the file, without a sync; closing twice is no error."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _usable_descriptor(self) -> int:
        descriptor = self._descriptor
        if descriptor is None:
            raise InvariantViolated(f"{self._path} is used after it was closed")
        if self._is_broken:
            raise SpoolError(
                f"cannot use {self._path}",
                detail="an earlier sync of it failed, so what it holds is not known",
                hint="look for disk errors in the kernel log, then start walrep again",
            )
        return descriptor

    def _cut(self, descriptor: int) -> None:
        # Where this fails too, the next append overwrites the torn record, and recovery cuts what is left of it.
        with suppress(OSError):
            self._calls.truncate(descriptor, self._size_bytes)


def read_records(path: Path, *, size_bytes: int | None = None) -> Iterator[bytes]:
    """Yield the payloads of a log from the first, one in memory at a time; opens the file read-only.

    It ends at the end of the log; where `size_bytes` is given, exactly there or with an error.

    Raises:
        SpoolError: there is no log, it is of another version or cannot be read, or it is damaged before `size_bytes`.

    """
    with map_os_errors(f"read {path}"), path.open("rb", buffering=_READ_BUFFER_BYTES) as file:
        file_bytes = _check_header(file, path)
        end = HEADER_BYTES
        for payload in _valid_records(file, file_bytes if size_bytes is None else min(size_bytes, file_bytes)):
            end += RECORD_HEADER_BYTES + len(payload)
            yield payload
    if size_bytes is not None and end != size_bytes:
        raise SpoolError(
            f"cannot read {path}",
            detail=f"the record at byte {end} is damaged; the log had {size_bytes} bytes",
            hint="look for disk errors in the kernel log",
        )


def _check_header(file: BinaryIO, path: Path) -> int:
    """Return the size of the file, which stands after its header then."""
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES or not header.startswith(_MAGIC):
        raise SpoolError(f"{path} is not a log of walrep", hint="move the file away")
    _, version, zero = _HEADER.unpack(header)
    if version != _FORMAT_VERSION or zero:
        raise SpoolError(
            f"{path} is a log of version {version}, which this walrep does not know",
            hint="use the version of walrep that wrote it",
        )
    return os.fstat(file.fileno()).st_size


def _valid_records(file: BinaryIO, end: int) -> Iterator[bytes]:
    offset = HEADER_BYTES
    while offset + RECORD_HEADER_BYTES < end:
        header = file.read(RECORD_HEADER_BYTES)
        if len(header) < RECORD_HEADER_BYTES:
            return
        payload_bytes, zero, digest = _RECORD.unpack(header)
        after = offset + RECORD_HEADER_BYTES + payload_bytes
        # The length is judged before it is used: a damaged one must not ask for gigabytes.
        if zero or not 0 < payload_bytes <= PAYLOAD_BYTES_MAX or after > end:
            return
        payload = file.read(payload_bytes)
        if len(payload) < payload_bytes or xxh3_64_intdigest(payload, seed=offset) != digest:
            return
        yield payload
        offset = after
