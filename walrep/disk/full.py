"""The hash array of the last full snapshot, so that the next ones need to hold only what differs.

    full    8 bytes magic 89 77 61 6c 66 75 6c 6c, xxh3-64 of the rest, then a MessagePack map: the replica and the name
            of the snapshot, page size and database checksum, and hashes, u64 slots in native byte order (the directory
            never leaves the machine)

It outlives the timeline of the snapshot, and is lost at no loss: the next snapshot is a full one then. Beside it may
lie the object itself (`walrep.disk.kept`).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from walrep.core.names import SnapshotName
from walrep.core.snapshots import FullSnapshot
from walrep.core.state import LocalState
from walrep.core.units import Seq, TimelineId
from walrep.disk.atomic import fsync_directory, map_os_errors, write_atomic
from walrep.errors import SpoolError, check

__all__ = ["KEPT_NAME", "FullHashes", "drop_kept", "forget_full", "load_full", "remember_full", "save_full"]

KEPT_NAME = "full.snapshot"
"""Name in the state directory of the object of the last full snapshot."""

_NAME = "full"
_MAGIC = b"\x89walfull"
_START = 16


class FullHashes(msgspec.Struct, frozen=True, kw_only=True):
    """A full snapshot and the hashes of its pages, as `PageHashes.to_bytes` gives them."""

    snapshot: FullSnapshot
    hashes: bytes

    def array(self) -> npt.NDArray[np.uint64]:
        """Return the hashes by page number; nobody changes them."""
        return np.frombuffer(self.hashes, np.uint64)


def save_full(directory: Path, full: FullHashes) -> None:
    """Replace what is remembered, durably."""
    data = msgspec.msgpack.encode(full)
    digest = xxh3_64_intdigest(data).to_bytes(8, "little")
    with map_os_errors(f"write {directory / _NAME}"):
        write_atomic(directory / _NAME, _MAGIC + digest + data)


def remember_full(directory: Path, state: LocalState, hashes: bytes) -> None:
    """Remember the full snapshot of a state that was just made; where that fails the next one is full, too."""
    check(state.timeline is not None, "a snapshot belongs to a timeline")
    name = SnapshotName(
        timeline=state.timeline or TimelineId(""),
        txid=state.txid,
        seen_ms=state.snapshot_ms,
        seq=Seq(state.next_seq - 1),
    )
    full = FullSnapshot(replica=state.replica, name=name, page_size=state.page_size, checksum=state.checksum)
    with suppress(SpoolError):
        save_full(directory, FullHashes(snapshot=full, hashes=hashes))


def forget_full(directory: Path) -> None:
    """Remember nothing, durably, so that the next snapshot is a full one; of no use is its object, either."""
    with map_os_errors(f"remove {directory / _NAME}"):
        (directory / _NAME).unlink(missing_ok=True)
        drop_kept(directory)
        fsync_directory(directory)


def drop_kept(directory: Path) -> bool:
    """Remove the object of the last full snapshot; say whether there was one. That it cannot be removed is no error."""
    try:
        (directory / KEPT_NAME).unlink()
    except OSError:
        return False
    return True


def load_full(directory: Path) -> FullHashes | None:
    """Return what is remembered; None if there is nothing, or it is damaged."""
    path = directory / _NAME
    with map_os_errors(f"read {path}"):
        data = path.read_bytes() if path.exists() else b""
    if data[:8] != _MAGIC or xxh3_64_intdigest(data[_START:]).to_bytes(8, "little") != data[8:_START]:
        return None
    try:
        return msgspec.msgpack.decode(data[_START:], type=FullHashes)
    except msgspec.DecodeError:
        return None
