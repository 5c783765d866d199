"""The checksum of SQLite's write-ahead log, for one header and for thousands of frames at once.

The rule (https://sqlite.org/fileformat2.html#checksum_algorithm), over pairs of 32-bit words:

    s0 += x0 + s1
    s1 += x1 + s0        (mod 2^32)

is the linear map s' = A s + B x with A = [[1, 1], [1, 2]] and B = [[1, 0], [1, 1]]. Over the N pairs of one frame:

    s_out = A^N s_in + sum_k A^(N-1-k) B x_k

which is two dot products with fixed vectors of Fibonacci numbers. A frame records its own s_out, and the s_in of
frame i is the recorded s_out of frame i-1, so all frames of a buffer are verified without any chaining.

SQLite before 3.50.2 commits *unchecked* frames after some ROLLBACK TO: where salts and checksum belong are zeros. Their
pages cannot be verified. The frame after one continues the zeros. Behind a commit it may also continue what the
wal-index had as its checksum then, which may stand nowhere in the log any more (walRewriteChecksums was to begin behind
the last frame, and took what a frame that was rolled back had there). Measured with SQLite 3.40.1.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = [
    "FRAME_HEADER_BYTES",
    "FrameHeaders",
    "checksum_words",
    "committed_frame_count",
    "frame_headers",
    "unchecked_frames",
    "valid_frame_count",
]

FRAME_HEADER_BYTES = 24
_MASK = 0xFFFF_FFFF

FrameHeaders = npt.NDArray[np.uint32]
"""uint32[frames, 6]: pgno, database size after a commit (else 0), salt 1, salt 2, checksum 1, checksum 2."""


def checksum_words(words: Sequence[int], s0: int = 0, s1: int = 0) -> tuple[int, int]:
    """Return the checksum of an even number of 32-bit words; the plain form of the rule above."""
    for i in range(0, len(words), 2):
        s0 = (s0 + words[i] + s1) & _MASK
        s1 = (s1 + words[i + 1] + s0) & _MASK
    return s0, s1


@functools.cache
def _coefficients(page_size: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], tuple[int, int, int, int]]:
    """Return the weights of the two header words, of the page words (each uint32[2, n]), and A^N."""
    word_count = 2 + page_size // 4
    weights = np.zeros((2, word_count), np.uint32)
    a, b, c, d = 1, 0, 0, 1
    for k in range(word_count // 2 - 1, -1, -1):
        weights[0, 2 * k] = (a + b) & _MASK
        weights[1, 2 * k] = (c + d) & _MASK
        weights[0, 2 * k + 1] = b
        weights[1, 2 * k + 1] = d
        a, b, c, d = (a + b) & _MASK, (a + 2 * b) & _MASK, (c + d) & _MASK, (c + 2 * d) & _MASK
    return np.ascontiguousarray(weights[:, :2]), np.ascontiguousarray(weights[:, 2:]), (a, b, c, d)


def frame_headers(buffer: bytes | memoryview, page_size: int) -> FrameHeaders:
    """Return the headers of the whole frames at the start of `buffer`, as host integers."""
    frame_bytes = page_size + FRAME_HEADER_BYTES
    count = len(buffer) // frame_bytes
    words = np.frombuffer(buffer, ">u4", count=count * frame_bytes // 4).reshape(count, frame_bytes // 4)
    return words[:, :6].astype(np.uint32)


def valid_frame_count(
    buffer: bytes | memoryview,
    headers: FrameHeaders,
    *,
    page_size: int,
    salts: tuple[int, int],
    before: tuple[int, int],
    big_endian: bool,
) -> int:
    """Return how many frames at the start of `buffer` are valid.

    Valid means: the salts are those of the WAL header, the page number is not 0, and the checksum continues the one
    before it. `before` is the checksum of the frame before the first (or of the WAL header). `big_endian` is the
    byte order of checksums, bit 0 of the WAL's magic.
    """
    return _leading(_valid(buffer, headers, page_size, salts, before, big_endian=big_endian))


def committed_frame_count(
    buffer: bytes | memoryview,
    headers: FrameHeaders,
    *,
    page_size: int,
    salts: tuple[int, int],
    before: tuple[int, int] | None,
    big_endian: bool,
) -> tuple[int, int]:
    """Return how many frames at the start of `buffer` may be what SQLite committed, and how many of them are not valid.

    Those are unchecked, or the first behind a commit that is. Nothing proves them: whoever takes them must know from
    the wal-index that they are committed, and which pages they hold. `before` is None where it is not known.
    """
    valid = _valid(buffer, headers, page_size, salts, before or (0, 0), big_endian=big_endian)
    unchecked = unchecked_frames(headers)
    behind = np.empty(len(headers), np.bool_)
    behind[:1] = before is None
    behind[1:] = (unchecked & (headers[:, 1] != 0))[:-1]
    count = _leading(valid | (unchecked & (headers[:, 0] != 0)) | (behind & _named(headers, salts)))
    return count, int(np.count_nonzero(~valid[:count]))


def unchecked_frames(headers: FrameHeaders) -> npt.NDArray[np.bool_]:
    """Return of each frame whether zeros stand where its salts and its checksum belong."""
    unchecked: npt.NDArray[np.bool_] = np.logical_not(headers[:, 2:].any(axis=1))
    return unchecked


def _valid(
    buffer: bytes | memoryview,
    headers: FrameHeaders,
    page_size: int,
    salts: tuple[int, int],
    before: tuple[int, int],
    *,
    big_endian: bool,
) -> npt.NDArray[np.bool_]:
    """Return of each frame whether it is valid, given that the checksum that stands before it is right."""
    count = len(headers)
    if count == 0:
        return np.empty(0, np.bool_)
    frame_bytes = page_size + FRAME_HEADER_BYTES
    words = np.frombuffer(buffer, np.uint32, count=count * frame_bytes // 4).reshape(count, frame_bytes // 4)
    if big_endian:
        words = words.byteswap()
    head, page, (a, b, c, d) = _coefficients(page_size)
    pages = words[:, FRAME_HEADER_BYTES // 4 :]
    previous0 = np.empty(count, np.uint32)
    previous1 = np.empty(count, np.uint32)
    previous0[0], previous1[0] = before
    previous0[1:] = headers[:-1, 4]
    previous1[1:] = headers[:-1, 5]
    u = np.uint32
    expected0 = np.einsum("ij,j->i", pages, page[0]) + words[:, 0] * head[0, 0] + words[:, 1] * head[0, 1]
    expected1 = np.einsum("ij,j->i", pages, page[1]) + words[:, 0] * head[1, 0] + words[:, 1] * head[1, 1]
    expected0 += u(a) * previous0 + u(b) * previous1
    expected1 += u(c) * previous0 + u(d) * previous1
    valid: npt.NDArray[np.bool_] = (expected0 == headers[:, 4]) & (expected1 == headers[:, 5]) & _named(headers, salts)
    return valid


def _named(headers: FrameHeaders, salts: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return of each frame whether it is of this generation and has a page number."""
    u = np.uint32
    named: npt.NDArray[np.bool_] = (
        (headers[:, 2] == u(salts[0])) & (headers[:, 3] == u(salts[1])) & (headers[:, 0] != 0)
    )
    return named


def _leading(valid: npt.NDArray[np.bool_]) -> int:
    return len(valid) if valid.all() else int(np.argmin(valid))
