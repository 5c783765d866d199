"""The checksum of the write-ahead log: the fast form equals the rule, and the first invalid frame is found."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings, strategies as st

from walrep.core.units import PAGE_SIZES
from walrep.core.walsum import FRAME_HEADER_BYTES, checksum_words, frame_headers, valid_frame_count

SALTS = (0x1234_5678, 0x9ABC_DEF0)
SEED = (0xFFFF_FFF0, 7)
BIG = pytest.mark.parametrize("big_endian", [False, True])


def make_frames(
    dice: random.Random, page_size: int, count: int, *, big_endian: bool, before: tuple[int, int] = SEED
) -> bytes:
    """Return valid frames, their checksums computed by the scalar rule."""
    order = ">" if big_endian else "<"
    frames = b""
    for _ in range(count):
        head = struct.pack(">2I", dice.randrange(1, 1 << 32), dice.choice([0, 9]))
        page = dice.randbytes(page_size)
        before = checksum_words(struct.unpack(f"{order}{2 + page_size // 4}I", head + page), *before)
        frames += head + struct.pack(">4I", *SALTS, *before) + page
    return frames


def count_valid(
    frames: bytes, page_size: int, *, big_endian: bool, salts: tuple[int, int] = SALTS, before: tuple[int, int] = SEED
) -> int:
    headers = frame_headers(frames, page_size)
    return valid_frame_count(frames, headers, page_size=page_size, salts=salts, before=before, big_endian=big_endian)


def test_the_rule_is_the_one_that_sqlite_documents() -> None:
    assert checksum_words([1, 2, 3, 4]) == (7, 14)
    assert checksum_words([0xFFFF_FFFF, 1], 2, 3) == (4, 8)
    assert checksum_words([]) == (0, 0)
    assert checksum_words([3, 4], *checksum_words([1, 2])) == checksum_words([1, 2, 3, 4])


@BIG
@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_frames_of_every_page_size_are_verified(page_size: int, *, big_endian: bool) -> None:
    frames = make_frames(random.Random(page_size), page_size, 3, big_endian=big_endian)
    assert count_valid(frames, page_size, big_endian=big_endian) == 3
    assert count_valid(frames, page_size, big_endian=not big_endian) == 0


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1 << 32), count=st.integers(1, 6), big_endian=st.booleans(), data=st.data())
def test_the_first_changed_frame_is_the_first_invalid_one(
    *, seed: int, count: int, big_endian: bool, data: st.DataObject
) -> None:
    """Wherever it is changed: page, page number, size, salts or checksum."""
    frames = bytearray(make_frames(random.Random(seed), 512, count, big_endian=big_endian))
    at = data.draw(st.integers(0, len(frames) - 1))
    frames[at] ^= data.draw(st.integers(1, 255))
    assert count_valid(bytes(frames), 512, big_endian=big_endian) == at // (512 + FRAME_HEADER_BYTES)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1 << 32), s0=st.integers(0, (1 << 32) - 1), s1=st.integers(0, (1 << 32) - 1))
def test_the_checksum_before_is_part_of_it(seed: int, s0: int, s1: int) -> None:
    frames = make_frames(random.Random(seed), 512, 2, big_endian=False, before=(s0, s1))
    assert count_valid(frames, 512, big_endian=False, before=(s0, s1)) == 2
    assert count_valid(frames, 512, big_endian=False, before=(s0 ^ 1, s1)) == 0
    assert count_valid(frames, 512, big_endian=False, before=(s0, s1 ^ 1 << 31)) == 0


@pytest.mark.parametrize("salts", [(SALTS[0] + 1, SALTS[1]), (SALTS[0], SALTS[1] + 1)])
def test_frames_of_another_generation_are_invalid(salts: tuple[int, int]) -> None:
    """Salts are not covered by the checksum, so they are compared on their own."""
    frames = make_frames(random.Random(1), 1024, 4, big_endian=False)
    assert count_valid(frames, 1024, big_endian=False, salts=salts) == 0


def test_a_frame_of_page_0_is_invalid_though_its_checksum_is_right() -> None:
    page = bytes(512)
    checksum = checksum_words(struct.unpack("<130I", bytes(8) + page), *SEED)
    frame = bytes(8) + struct.pack(">4I", *SALTS, *checksum) + page
    assert count_valid(frame, 512, big_endian=False) == 0


def test_headers_of_whole_frames_only_are_returned() -> None:
    frames = make_frames(random.Random(2), 512, 2, big_endian=False)
    assert len(frame_headers(frames[:-1], 512)) == 1
    assert len(frame_headers(b"", 512)) == 0
    assert count_valid(b"", 512, big_endian=False) == 0
    assert frame_headers(frames, 512)[0].tolist() == list(struct.unpack(">6I", frames[:24]))
