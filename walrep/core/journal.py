"""The journal of the open segment: what was captured and is not yet sealed, as records of an append log.

A record is a MessagePack array of `JournalEntry`'s fields, in order. `block` is a chunk block as it will stand in the
segment; the other fields let a start rebuild the hash array and the position without decoding it. Page numbers and
hashes are u32 and u64, little-endian, one for each frame of the chunk. `supersedes` says how many of the entries
directly before it an entry replaces: small chunks are journaled at once, and again merged (`walrep.core.merge`). Only
an entry that ends a transaction is a place to resume from: entries after the last such one are ignored.
"""

from __future__ import annotations

import msgspec
import numpy as np

from walrep.core.chunk import compress_pages, encode_table
from walrep.core.container import BlockType, encode_block
from walrep.core.encoder import ChunkJob
from walrep.core.pages import PageHashes
from walrep.core.state import CaptureMark
from walrep.errors import CorruptObject

__all__ = ["JournalEntry", "apply_entry", "decode_entry", "encode_entry", "entry_from_job"]


class JournalEntry(msgspec.Struct, frozen=True, array_like=True):
    """One chunk with everything that local state needs of it."""

    mark: CaptureMark
    txid_after: int
    checksum_after: int
    pages_after: int
    ends_transaction: bool
    commit_count: int
    first_looked_ms: int
    first_seen_ms: int
    last_seen_ms: int
    earliest_seen_ms: int
    latest_seen_ms: int
    pgnos: bytes
    hashes: bytes
    cuts: list[tuple[int, int]]
    block: bytes
    supersedes: int = 0


def entry_from_job(job: ChunkJob, mark: CaptureMark, *, supersedes: int = 0, hasty: bool = False) -> JournalEntry:
    """Compress a chunk. `mark` is where capture stood after its last frame; `hasty` as in `compress_pages`."""
    table = job.table
    commits = table.commits
    body = compress_pages(job.pages, job.references, hasty=hasty)
    block = encode_block(BlockType.CHUNK, encode_table(table), body)
    return JournalEntry(
        mark=mark,
        txid_after=table.txid_before + len(commits),
        checksum_after=job.checksum_after,
        pages_after=job.pages_after,
        ends_transaction=bool(table.flags[-1] & 1),
        commit_count=len(commits),
        first_looked_ms=commits[0].looked_ms if commits else 0,
        first_seen_ms=commits[0].seen_ms if commits else 0,
        last_seen_ms=commits[-1].seen_ms if commits else 0,
        earliest_seen_ms=min((commit.seen_ms for commit in commits), default=0),
        latest_seen_ms=max((commit.seen_ms for commit in commits), default=0),
        pgnos=np.array(table.pgnos, "<u4").tobytes(),
        hashes=np.array(job.hashes, "<u8").tobytes(),
        cuts=job.cuts,
        block=block,
        supersedes=supersedes,
    )


def encode_entry(entry: JournalEntry) -> bytes:
    """Return the record of an entry."""
    return msgspec.msgpack.encode(entry)


def decode_entry(record: bytes) -> JournalEntry:
    """Parse a record; raises `CorruptObject`."""
    try:
        return msgspec.msgpack.decode(record, type=JournalEntry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptObject("malformed journal entry", offset=0, detail=str(error)) from error


def apply_entry(hashes: PageHashes, entry: JournalEntry) -> None:
    """Move a hash array over an entry; `hashes.rebuild()` afterwards makes the checksum right."""
    pgnos = np.frombuffer(entry.pgnos, "<u4").astype(np.uint32)
    values = np.frombuffer(entry.hashes, "<u8").astype(np.uint64)
    start = 0
    for index, page_count in entry.cuts:
        hashes.set_many(pgnos[start : index + 1], values[start : index + 1])
        hashes.commit(page_count)
        start = index + 1
    hashes.set_many(pgnos[start:], values[start:])
    hashes.page_count = entry.pages_after
