"""How many files may be open: a protected database takes about a dozen, and the usual limit is 1024."""

from __future__ import annotations

import resource
from contextlib import suppress

__all__ = ["raise_descriptor_limit"]


def raise_descriptor_limit() -> None:
    """Raise the limit of open files of this process to what it may have without privileges."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Where the kernel's own limit is lower the one that is there has to do.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
