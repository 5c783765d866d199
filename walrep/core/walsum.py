"""The checksum of SQLite's write-ahead log, for one header and for thousands of frames at once.

The rule (https://sqlite.org/fileformat2.html#checksum_algorithm), over pairs of 32-bit words:

    s0 += x0 + s1
    s1 += x1 + s0        (mod 2^32)

is the linear map s' = A s + B x with A = [[1, 1], [1, 2]] and B = [[1, 0], [1, 1]]. Over the N pairs of one frame:

    s_out = A^N s_in + sum_k A^(N-1-k) B x_k

which is two dot products with fixed vectors of Fibonacci numbers. A frame records its own s_out, and the s_in of
frame i is the recorded s_out of frame i-1, so all frames of a buffer are verified without any chaining.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["FRAME_HEADER_BYTES", "FrameHeaders", "checksum_words", "frame_headers", "valid_frame_count"]

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
    count = len(headers)
    if count == 0:
        return 0
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
    valid = (
        (expected0 == headers[:, 4])
        & (expected1 == headers[:, 5])
        & (headers[:, 2] == u(salts[0]))
        & (headers[:, 3] == u(salts[1]))
        & (headers[:, 0] != 0)
    )
    return count if valid.all() else int(np.argmin(valid))
