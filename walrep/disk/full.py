"""The hash array of the last full snapshot, so that the next ones need to hold only what differs.

    full    8 bytes magic 89 77 61 6c 66 75 6c 6c, xxh3-64 of the rest, then a MessagePack map: timeline, txid, seen_ms,
            and hashes, u64 slots in native byte order (the directory never leaves the machine)

It is lost at no loss: the next snapshot is a full one then.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from xxhash import xxh3_64_intdigest

from walrep.core.snapshots import FullSnapshot
from walrep.disk.atomic import fsync_directory, map_os_errors, write_atomic

__all__ = ["FullHashes", "forget_full", "load_full", "save_full"]

_NAME = "full"
_MAGIC = b"\x89walfull"
_START = 16


class FullHashes(msgspec.Struct, frozen=True, kw_only=True):
    """A full snapshot and the hashes of its pages, as `PageHashes.to_bytes` gives them."""

    snapshot: FullSnapshot
    hashes: bytes


def save_full(directory: Path, full: FullHashes) -> None:
    """Replace what is remembered, durably."""
    data = msgspec.msgpack.encode(full)
    digest = xxh3_64_intdigest(data).to_bytes(8, "little")
    with map_os_errors(f"write {directory / _NAME}"):
        write_atomic(directory / _NAME, _MAGIC + digest + data)


def forget_full(directory: Path) -> None:
    """Remember nothing, durably, so that the next snapshot is a full one."""
    with map_os_errors(f"remove {directory / _NAME}"):
        (directory / _NAME).unlink(missing_ok=True)
        fsync_directory(directory)


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
