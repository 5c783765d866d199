"""The encoder against a fake log: which content is the pre-image of a page, and which page has none."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from walrep.core.chunk import FLAG_COMMIT, FLAG_REFERENCE
from walrep.core.encoder import ChunkEncoder, ChunkJob, FrameRun
from walrep.core.pages import PageHashes, page_hash
from walrep.core.walsum import FRAME_HEADER_BYTES

PAGE_SIZE = 512
Frame = tuple[int, int, bytes]
"""Page number, database size after a commit (else 0), content."""


def page(number: int) -> bytes:
    return random.Random(number).randbytes(PAGE_SIZE)


class FakeLog:
    """A database file and a WAL generation in dictionaries; notes what was read of either."""

    def __init__(self, file: dict[int, bytes], page_size: int = PAGE_SIZE) -> None:
        self.file = dict(file)
        self.frames: list[Frame] = []
        self.read: list[tuple[str, int]] = []
        self.encoder = ChunkEncoder(page_size)
        self.page_size = page_size
        hashes = PageHashes()
        for pgno, content in file.items():
            hashes.set(pgno, page_hash(content, pgno))
        hashes.commit(max(file, default=0))
        self.encoder.start(hashes, 0)

    def frame_page(self, frame: int) -> bytes:
        """Return the page in a frame."""
        self.read.append(("frame", frame))
        return self.frames[frame - 1][2]

    def file_page(self, pgno: int) -> bytes:
        """Return a page of the file."""
        self.read.append(("file", pgno))
        return self.file.get(pgno, bytes(self.page_size))

    def run(self, frames: Sequence[Frame], *, seen_ms: int = 1000, looked_ms: int = 900) -> FrameRun:
        """Add frames to the log and return them as they are read from it."""
        first = len(self.frames) + 1
        self.frames += frames
        headers = np.array([[pgno, size, 1, 2, 0, 0] for pgno, size, _ in frames], np.uint32)
        buffer = b"".join(bytes(FRAME_HEADER_BYTES) + content for _, _, content in frames)
        return FrameRun(headers, buffer, first, seen_ms, looked_ms)

    def add(self, *frames: Frame) -> list[ChunkJob]:
        """Encode frames."""
        self.read.clear()
        return self.encoder.add(self.run(frames), self)

    def restart(self, *, backfill: bool = True) -> None:
        """Begin a generation; SQLite does only after all was copied into the file."""
        for pgno, _, content in self.frames if backfill else ():
            self.file[pgno] = content
        self.frames.clear()
        self.encoder.begin_generation()


def references(job: ChunkJob) -> list[bytes]:
    return [bytes(content) for content in job.references]


def test_a_page_without_a_frame_is_referenced_from_the_file() -> None:
    """INV-08: nobody is writing that page."""
    log = FakeLog({1: page(1), 2: page(2)})
    (job,) = log.add((2, 2, page(12)))
    assert log.read == [("file", 2)]
    assert (references(job), job.table.flags) == ([page(2)], bytes([FLAG_COMMIT | FLAG_REFERENCE]))


def test_the_wal_comes_before_the_file() -> None:
    """INV-07: a page with a captured frame is read from the log; a backfill may be writing the file."""
    log = FakeLog({1: page(1), 2: page(2)})
    log.add((2, 2, page(12)))
    log.file[2] = b"torn" * 128
    (job,) = log.add((2, 2, page(22)))
    assert log.read == [("frame", 1)]
    assert references(job) == [page(12)]
    assert log.encoder.counts.mismatches == 0


def test_the_newest_captured_frame_counts() -> None:
    log = FakeLog({1: page(1)})
    log.add((1, 0, page(11)), (1, 1, page(12)))
    log.add((1, 1, page(13)))
    (job,) = log.add((1, 1, page(14)))
    assert (log.read, references(job)) == ([("frame", 3)], [page(13)])


def test_within_a_run_the_pre_image_is_taken_from_what_was_read() -> None:
    """A chunk's reference is the state before its first frame, so the second chunk's lies in the first."""
    log = FakeLog({pgno: page(pgno) for pgno in range(1, 66)})
    frames = [(pgno, 0, page(100 + pgno)) for pgno in range(1, 65)]
    first, second = log.add(*frames, (3, 65, page(200)))
    assert (len(first.pages), len(second.pages)) == (64, 1)
    assert references(second) == [page(103)]
    assert log.encoder.counts.from_run == 1
    assert all(kind == "file" for kind, _ in log.read)


def test_a_page_is_referenced_once_in_a_chunk_at_its_first_frame() -> None:
    log = FakeLog({1: page(1)})
    (job,) = log.add((1, 1, page(11)), (1, 1, page(12)), (1, 1, page(13)))
    assert references(job) == [page(1)]
    assert [flag & FLAG_REFERENCE for flag in job.table.flags] == [FLAG_REFERENCE, 0, 0]


def test_a_page_beyond_the_size_has_no_pre_image() -> None:
    """INV-10: what the file or an old frame still holds there does not count."""
    log = FakeLog({1: page(1), 2: page(2)})
    log.file[3] = page(3)
    (job,) = log.add((3, 3, page(13)))
    assert (log.read, references(job), log.encoder.counts.new_pages) == ([], [], 1)


def test_a_page_that_comes_back_after_a_shrink_has_no_pre_image() -> None:
    """INV-10: its old frame and its old place in the file are of a page that was gone in between."""
    log = FakeLog({pgno: page(pgno) for pgno in range(1, 5)})
    log.add((4, 4, page(14)))
    (shrink,) = log.add((1, 2, page(11)))
    assert shrink.cuts == [(0, 2)]
    (job,) = log.add((4, 0, page(24)), (1, 4, page(21)))
    assert references(job) == [page(11)]
    assert ("file", 4) not in log.read
    assert ("frame", 1) not in log.read


def test_a_shrink_and_a_regrowth_inside_one_chunk() -> None:
    """The page exists before the chunk, so it has a pre-image; the reader applies the cut in between."""
    log = FakeLog({pgno: page(pgno) for pgno in range(1, 4)})
    (job,) = log.add((1, 2, page(11)), (3, 3, page(13)))
    assert (job.cuts, references(job)) == ([(0, 2)], [page(1), page(3)])
    assert job.checksum_after == page_hash(page(11), 1) ^ page_hash(page(2), 2) ^ page_hash(page(13), 3)
    assert job.pages_after == 3


def test_pages_that_a_transaction_writes_and_cuts_off_again_leave_no_trace() -> None:
    """A shrink inside a transaction: frames beyond its final size are in the log all the same."""
    log = FakeLog({1: page(1), 2: page(2)})
    (job,) = log.add((9, 0, page(19)), (1, 1, page(11)))
    assert (job.cuts, job.pages_after) == ([(1, 1)], 1)
    assert job.checksum_after == page_hash(page(11), 1)
    assert log.encoder.frame_of == {1: 2}
    (again,) = log.add((9, 9, page(29)))
    assert references(again) == []


def test_a_shrink_without_pages_to_drop_is_no_cut() -> None:
    log = FakeLog({1: page(1), 2: page(2)})
    (job,) = log.add((2, 2, page(12)))
    assert job.cuts == []


def test_the_map_dies_with_the_generation() -> None:
    """INV-09: frame numbers begin anew, and a frame of that number holds something else now."""
    log = FakeLog({1: page(1), 2: page(2)})
    log.add((2, 2, page(12)))
    log.restart()
    (job,) = log.add((1, 0, page(21)), (2, 2, page(22)))
    assert log.read == [("file", 1), ("file", 2)]
    assert references(job) == [page(1), page(12)]
    assert log.encoder.counts.mismatches == 0


def test_a_content_that_is_not_the_page_goes_plain_and_is_counted() -> None:
    """INV-11: whatever was read, it is used only if it has the hash of the page that is meant."""
    log = FakeLog({1: page(1), 2: page(2), 3: page(3)})
    log.file[2] = page(99)
    (job,) = log.add((1, 0, page(11)), (2, 0, page(12)), (3, 3, page(13)))
    assert references(job) == [page(1), page(3)]
    assert list(job.table.flags) == [FLAG_REFERENCE, 0, FLAG_REFERENCE | FLAG_COMMIT]
    assert log.encoder.counts.mismatches == 1


def test_transactions_are_numbered_timed_and_summed() -> None:
    log = FakeLog({1: page(1)})
    (job,) = log.encoder.add(
        log.run([(1, 1, page(11)), (2, 0, page(12)), (1, 2, page(13)), (2, 0, page(14))], seen_ms=50, looked_ms=40), log
    )
    one, two = job.table.commits
    assert (job.table.txid_before, log.encoder.txid) == (0, 2)
    assert (one.pages_after, one.checksum) == (1, page_hash(page(11), 1))
    assert (two.pages_after, two.checksum) == (2, page_hash(page(13), 1) ^ page_hash(page(12), 2))
    assert {(commit.seen_ms, commit.looked_ms) for commit in job.table.commits} == {(50, 40)}
    assert job.table.flags[-1] & FLAG_COMMIT == 0


def test_what_is_returned_owns_its_bytes() -> None:
    """Compression happens later, when the log may hold other frames."""
    log = FakeLog({1: page(1), 2: page(2)})
    (job,) = log.add((1, 2, page(11)))
    log.restart()
    log.add((2, 2, page(22)))
    assert (references(job), bytes(job.pages[0])) == ([page(1)], page(11))


def test_tracked_frames_are_known_where_encoding_begins() -> None:
    """Before a timeline has its base frames are only noted; the pages they hold come from them afterwards."""
    log = FakeLog({1: page(1), 2: page(2), 3: page(3)})
    log.encoder = ChunkEncoder(PAGE_SIZE)
    log.encoder.track(
        log.run([(3, 3, page(13)), (2, 0, page(12)), (1, 2, page(11)), (3, 0, page(23)), (1, 3, page(21))])
    )
    hashes = PageHashes()
    for pgno, content in {1: page(21), 2: page(12), 3: page(23)}.items():
        hashes.set(pgno, page_hash(content, pgno))
    hashes.commit(3)
    log.encoder.start(hashes, 0)
    (job,) = log.add((1, 0, page(31)), (2, 0, page(32)), (3, 3, page(33)))
    assert references(job) == [page(21), page(12), page(23)]
    assert log.read == [("frame", 5), ("frame", 2), ("frame", 4)]


@pytest.mark.parametrize("page_size", [512, 65536])
@pytest.mark.parametrize("seed", range(6))
def test_pre_images_and_checksums_are_right_on_any_history(page_size: int, seed: int) -> None:
    """Random transactions with shrinks and restarts; every reference is the page as it was before its chunk."""
    dice = random.Random(seed)
    state = {pgno: dice.randbytes(page_size) for pgno in range(1, 6)}
    log = FakeLog(state, page_size)
    for _ in range(60):
        frames: list[Frame] = []
        for _ in range(dice.choice([1, 1, 2])):
            size = max(1, dice.choice([max(state), max(state), max(state) + 2, max(state) - 2]))
            pgnos = [dice.randrange(1, max(size, *state) + 3) for _ in range(dice.randrange(1, 9))] + [1]
            pgnos += [pgno for pgno in range(max(state) + 1, size + 1) if pgno not in pgnos]
            frames += [(pgno, 0, dice.randbytes(page_size)) for pgno in pgnos[:-1]]
            frames.append((pgnos[-1], size, dice.randbytes(page_size)))
        for job in log.add(*frames):
            check_job(job, state, page_size)
        if dice.random() < 0.2:
            log.restart()
    assert log.encoder.counts.mismatches == 0
    assert log.encoder.counts.from_wal > 20


def check_job(job: ChunkJob, state: dict[int, bytes], page_size: int) -> None:
    """Compare a job's references with the state before it, and move the state over it."""
    table = job.table
    flagged = [pgno for pgno, flag in zip(table.pgnos, table.flags, strict=True) if flag & FLAG_REFERENCE]
    assert flagged == [pgno for pgno in dict.fromkeys(table.pgnos) if pgno in state]
    assert references(job) == [state[pgno] for pgno in flagged]
    commits = iter(table.commits)
    for pgno, flag, content in zip(table.pgnos, table.flags, job.pages, strict=True):
        assert len(content) == page_size
        state[pgno] = bytes(content)
        if flag & FLAG_COMMIT:
            commit = next(commits)
            for gone in [pgno for pgno in state if pgno > commit.pages_after]:
                del state[gone]
            total = 0
            for each, page_content in state.items():
                total ^= page_hash(page_content, each)
            assert commit.checksum == total
