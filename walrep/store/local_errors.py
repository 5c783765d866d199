"""What the operating system refuses a folder store, as errors of the store."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from walrep.errors import AccessDenied, StoreError, StoreUnavailable

__all__ = ["link_refused", "local_error"]

_DENIED = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))
_MISSHAPEN = frozenset(
    (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.EXDEV, errno.ENOTSUP)
)
_HINTS = {
    errno.EACCES: "let the user that walrep runs as read and write the folder",
    errno.EPERM: "let the user that walrep runs as read and write the folder, on a file system with hard links",
    errno.EROFS: "the file system is mounted read-only; look for disk errors in the kernel log",
    errno.ENOTDIR: "a part of the path is a file where a folder should be",
    errno.EISDIR: "there is a folder where an object should be; a key cannot be both",
    errno.EEXIST: "there is a file where a folder should be, or the other way round; a key cannot be both",
    errno.ELOOP: "symbolic links in the folder of a replica are not followed; put the real file in its place",
    errno.EXDEV: "the folder of a replica has to be one file system; mount nothing inside",
    errno.ENOTSUP: "the file system has no hard links, which objects that must not exist yet need",
    errno.ENOSPC: "make room on the disk of the folder",
    errno.EDQUOT: "make room in the quota of the folder",
    errno.EIO: "the disk reports an error; look in the kernel log",
    errno.ENOENT: "the folder is gone; is its file system mounted?",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def local_error(error: OSError, message: str, root: Path) -> StoreError:
    """Return what the refusal of a call below a folder means."""
    code = error.errno or 0
    detail = f"{error.filename or root}: {os.strerror(code)}"
    hint = _HINTS.get(code, "look at the folder and its disk")
    if code in _DENIED:
        return AccessDenied(message, detail=detail, hint=hint)
    if code in _MISSHAPEN:
        return StoreError(message, detail=detail, hint=hint)
    return StoreUnavailable(message, detail=detail, hint=hint)


def link_refused(path: Path) -> AccessDenied:
    """Return the error of a symbolic link among the objects."""
    return AccessDenied("symbolic link in the folder of a replica", detail=str(path), hint=_HINTS[errno.ELOOP])
