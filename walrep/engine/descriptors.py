"""How many files may be open: a protected database takes ten or more, and the usual limit is 1024."""

from __future__ import annotations

import os
import resource
from contextlib import suppress

__all__ = ["check_descriptors", "raise_descriptor_limit"]

_OF_A_DATABASE = 12


def raise_descriptor_limit() -> None:
    """Raise the limit of open files of this process to what it may have without privileges."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Where the kernel's own limit is lower the one that is there has to do.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_descriptors() -> None:
    """Make sure that a database can be opened: of a lack of descriptors SQLite says only that it cannot open the file.

    Raises:
        OSError: no more files can be opened.

    """
    opened: list[int] = []
    try:
        opened.extend(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(_OF_A_DATABASE))
    finally:
        for descriptor in opened:
            os.close(descriptor)
