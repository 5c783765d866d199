"""The append log keeps every whole record and nothing else."""

from __future__ import annotations

import errno
import os
import resource
import struct
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from xxhash import xxh3_64_intdigest

from walrep.disk.atomic import FileCalls
from walrep.disk.log import HEADER_BYTES, PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES, AppendLog, read_records
from walrep.errors import InvariantViolated, SpoolError, SpoolFull
from walrep.testing.files import FileTrace

RECORDS = [b"first", b"second" * 100, b"\0" * 40, b"last"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def write_log(path: Path, records: list[bytes]) -> bytes:
    log = AppendLog.create(path)
    for record in records:
        log.append([record])
    log.close()
    return path.read_bytes()


def recover(path: Path) -> tuple[list[bytes], int]:
    log, records = AppendLog.open(path)
    found = list(records)
    assert log.size_bytes == path.stat().st_size
    log.close()
    return found, log.cut_bytes


def test_the_format_is_the_one_in_the_table(path: Path) -> None:
    content = write_log(path, [b"abc", b"de"])
    first, second = xxh3_64_intdigest(b"abc", seed=16), xxh3_64_intdigest(b"de", seed=35)
    assert content == b"".join(
        (
            bytes.fromhex("8977616c6c6f670a"),
            struct.pack("<II", 1, 0),
            struct.pack("<IIQ", 3, 0, first) + b"abc",
            struct.pack("<IIQ", 2, 0, second) + b"de",
        )
    )


def test_a_golden_log_is_read(path: Path) -> None:
    path.write_bytes(
        bytes.fromhex("8977616c6c6f670a0100000000000000")
        + bytes.fromhex("0600000000000000")
        + xxh3_64_intdigest(b"golden", seed=16).to_bytes(8, "little")
        + b"golden"
    )
    assert recover(path) == ([b"golden"], 0)


def test_records_come_back_in_order(path: Path) -> None:
    write_log(path, RECORDS)
    assert list(read_records(path)) == RECORDS
    assert recover(path) == (RECORDS, 0)


def test_a_record_may_be_given_in_parts(path: Path) -> None:
    log = AppendLog.create(path)
    pages = memoryview(b"0123456789" * 10)
    log.append([b"head", pages[10:20], b"", pages[:5].cast("B")])
    log.append([b"%d," % number for number in range(5000)])
    log.close()
    assert list(read_records(path)) == [b"head012345678901234", b"".join(b"%d," % number for number in range(5000))]


def test_appending_goes_on_after_recovery(path: Path) -> None:
    content = write_log(path, RECORDS)
    path.write_bytes(content[:-1])
    log, records = AppendLog.open(path)
    log.append([b"after"])
    assert list(records) == RECORDS[:-1], "what is appended later is not among the recovered records"
    log.close()
    assert list(read_records(path)) == [*RECORDS[:-1], b"after"]


def test_every_torn_end_is_cut_off(path: Path) -> None:
    content = write_log(path, RECORDS)
    ends = [HEADER_BYTES]
    for record in RECORDS:
        ends.append(ends[-1] + RECORD_HEADER_BYTES + len(record))
    assert ends[-1] == len(content)
    for size_bytes in range(HEADER_BYTES, len(content) + 1):
        path.write_bytes(content[:size_bytes])
        whole_count = sum(end <= size_bytes for end in ends) - 1
        assert list(read_records(path)) == RECORDS[:whole_count]
        assert recover(path) == (RECORDS[:whole_count], size_bytes - ends[whole_count])
        assert path.read_bytes() == content[: ends[whole_count]]


@settings(max_examples=150, deadline=None)
@given(offset=st.integers(min_value=HEADER_BYTES), flip=st.integers(1, 255))
def test_a_damaged_byte_ends_the_log_before_its_record(
    tmp_path_factory: pytest.TempPathFactory, offset: int, flip: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "journal"
    content = bytearray(write_log(path, RECORDS))
    offset = HEADER_BYTES + offset % (len(content) - HEADER_BYTES)
    content[offset] ^= flip
    path.write_bytes(content)
    end, intact = HEADER_BYTES, []
    for record in RECORDS:
        end += RECORD_HEADER_BYTES + len(record)
        if offset < end:
            break
        intact.append(record)
    assert recover(path)[0] == intact


def test_a_stale_record_at_another_offset_does_not_pass(path: Path) -> None:
    content = write_log(path, [b"same", b"same"])
    record_bytes = RECORD_HEADER_BYTES + 4
    path.write_bytes(content + content[-record_bytes:])
    assert recover(path) == ([b"same", b"same"], record_bytes)


@pytest.mark.parametrize("zero_bytes", [1, 15, 16, 17, 4096, PAYLOAD_BYTES_MAX + 100])
def test_zeros_at_the_end_are_no_record(path: Path, zero_bytes: int) -> None:
    path.write_bytes(write_log(path, RECORDS) + bytes(zero_bytes))
    assert recover(path) == (RECORDS, zero_bytes)


def test_a_record_over_the_limit_is_not_read(path: Path) -> None:
    payload = bytes(PAYLOAD_BYTES_MAX + 1)
    content = write_log(path, [b"first"])
    header = struct.pack("<IIQ", len(payload), 0, xxh3_64_intdigest(payload, seed=len(content)))
    path.write_bytes(content + header + payload)
    assert recover(path)[0] == [b"first"]


def test_the_largest_record_fits_and_no_larger_or_empty_one(path: Path) -> None:
    log = AppendLog.create(path)
    log.append([bytes(PAYLOAD_BYTES_MAX - 1), b"x"])
    for parts in ([bytes(PAYLOAD_BYTES_MAX), b"x"], [], [b""]):
        with pytest.raises(InvariantViolated):
            log.append(parts)
    log.close()
    assert [len(record) for record in read_records(path)] == [PAYLOAD_BYTES_MAX]


def test_reading_takes_the_memory_of_one_record(path: Path) -> None:
    write_log(path, [bytes([number]) * (1 << 20) for number in range(24)])
    tracemalloc.start()
    try:
        assert sum(record[0] for record in read_records(path)) == sum(range(24))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 << 20


def test_a_log_that_was_damaged_meanwhile_is_not_sealed_short(path: Path) -> None:
    content = bytearray(write_log(path, RECORDS))
    assert list(read_records(path, size_bytes=len(content))) == RECORDS
    inside: list[bytes] = []
    with pytest.raises(SpoolError, match="damaged"):
        inside.extend(read_records(path, size_bytes=len(content) - 1))
    assert inside == RECORDS[:-1], "a record that reaches past the end is not among them"
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(SpoolError, match="damaged"):
        list(read_records(path, size_bytes=len(content)))


def test_a_new_log_is_durable_and_there_whole_or_not_at_all(path: Path) -> None:
    trace = FileTrace()
    AppendLog.create(path, trace.calls()).close()
    directory = path.parent.name
    assert trace.entries == [
        "open *.tmp",
        "write *.tmp",
        "open *.tmp",
        "fsync *.tmp",
        "link *.tmp journal",
        "unlink *.tmp",
        f"open {directory}",
        f"fsync {directory}",
        "open journal",
    ]


def test_append_writes_once_and_syncs_only_when_told(path: Path) -> None:
    AppendLog.create(path).close()
    trace = FileTrace()
    log, _ = AppendLog.open(path, trace.calls())
    log.append([b"a", b"b"])
    log.append([b"c"])
    log.sync()
    log.close()
    assert trace.entries == [
        "open journal",
        "fdatasync journal",
        "pwritev journal",
        "pwritev journal",
        "fdatasync journal",
    ]


def test_recovery_cuts_before_it_syncs(path: Path) -> None:
    path.write_bytes(write_log(path, RECORDS)[:-1])
    trace = FileTrace()
    AppendLog.open(path, trace.calls())[0].close()
    assert trace.entries == ["open journal", "truncate journal", "fdatasync journal"]


def test_a_log_is_not_created_over_a_file(path: Path) -> None:
    write_log(path, RECORDS)
    with pytest.raises(SpoolError, match="cannot create"):
        AppendLog.create(path)
    assert list(read_records(path)) == RECORDS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a log"),
        (b"\x89wallog", "not a log"),
        (b"SQLite format 3\0" * 2, "not a log"),
        (b"\x89wallog\n" + struct.pack("<II", 2, 0), "version 2"),
        (b"\x89wallog\n" + struct.pack("<II", 1, 7), "version 1"),
    ],
)
def test_what_is_not_a_log_of_this_version_is_refused_and_left_alone(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(SpoolError, match=message) as caught:
        AppendLog.open(path)
    assert caught.value.hint
    with pytest.raises(SpoolError, match=message):
        list(read_records(path))
    assert path.read_bytes() == content


def test_a_missing_log_is_a_spool_error_that_names_it(path: Path) -> None:
    with pytest.raises(SpoolError, match="journal"):
        AppendLog.open(path)
    with pytest.raises(SpoolError, match="journal"):
        list(read_records(path))


def test_a_full_disk_leaves_the_log_as_it_was_and_usable(path: Path) -> None:
    write_log(path, RECORDS)
    full = os.open("/dev/full", os.O_WRONLY)
    is_full = True
    calls = FileCalls(
        pwritev=lambda descriptor, parts, offset: (
            os.writev(full, parts) if is_full else os.pwritev(descriptor, parts, offset)
        )
    )
    log, _ = AppendLog.open(path, calls)
    size_bytes = log.size_bytes
    with pytest.raises(SpoolFull, match="cannot append"):
        log.append([b"does not fit"])
    os.close(full)
    is_full = False
    assert (log.size_bytes, path.stat().st_size) == (size_bytes, size_bytes)
    log.append([b"fits"])
    log.sync()
    log.close()
    assert list(read_records(path)) == [*RECORDS, b"fits"]


@contextmanager
def short_files() -> Iterator[int]:
    """Let no file of this process grow past 1,000 bytes, pytest's own neither: short writes, then errors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield 1000
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_short_write_is_taken_back(path: Path) -> None:
    log = AppendLog.create(path)
    log.append([b"x" * 500])
    size_bytes = log.size_bytes
    with short_files() as file_limit, pytest.raises(SpoolFull, match=f"took {file_limit - size_bytes} of 616 bytes"):
        log.append([b"y" * 600])
    assert (log.size_bytes, path.stat().st_size) == (size_bytes, size_bytes)
    log.append([b"z" * (file_limit - size_bytes - RECORD_HEADER_BYTES)])
    with short_files(), pytest.raises(SpoolError, match="File too large") as caught:
        log.append([b"!"])
    assert not isinstance(caught.value, SpoolFull)
    log.close()
    assert [len(record) for record in read_records(path)] == [500, 452]


def test_where_the_torn_record_cannot_be_cut_the_next_one_overwrites_it(path: Path) -> None:
    def write_all_but_a_byte(descriptor: int, parts: Sequence[bytes | memoryview], offset: int) -> int:
        return os.pwrite(descriptor, b"".join(parts)[:-1], offset)

    def refuse(_descriptor: int, _size_bytes: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    write_log(path, RECORDS)
    torn, _ = AppendLog.open(path, FileCalls(pwritev=write_all_but_a_byte, truncate=refuse))
    with pytest.raises(SpoolFull):
        torn.append([b"torn" * 50])
    torn.close()
    assert path.stat().st_size > torn.size_bytes
    log, _ = AppendLog.open(path)
    log.append([b"short"])
    log.close()
    assert list(read_records(path)) == [*RECORDS, b"short"]


def test_a_failed_sync_ends_the_log(path: Path) -> None:
    def fail_after_the_append(_number: int, call: str) -> None:
        if call == "fdatasync" and "pwritev journal" in failing.entries:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    AppendLog.create(path).close()
    failing = FileTrace(fail_after_the_append)
    log, _ = AppendLog.open(path, failing.calls())
    log.append([b"a"])
    with pytest.raises(SpoolError, match="cannot sync"):
        log.sync()
    synced_count = failing.entries.count("fdatasync journal")
    for again in (log.sync, lambda: log.append([b"b"])):
        with pytest.raises(SpoolError, match="earlier sync"):
            again()
    assert failing.entries.count("fdatasync journal") == synced_count, "a second sync would report success"
    log.close()
    assert recover(path)[0] == [b"a"]


def test_a_closed_log_is_not_used(path: Path) -> None:
    log = AppendLog.create(path)
    log.close()
    log.close()
    for use in (log.sync, lambda: log.append([b"a"])):
        with pytest.raises(InvariantViolated, match="closed"):
            use()
