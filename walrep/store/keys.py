"""What a key may be: narrow enough that every store takes it as it is.

Keys are built by `walrep.core.names` only, so one that breaks a rule is a bug of ours, never the user's doing.
"""

from __future__ import annotations

import re

from walrep.errors import check

__all__ = [
    "KEY_CHARACTERS_MAX",
    "PART_CHARACTERS_MAX",
    "RESERVED_PART",
    "check_key",
    "check_prefix",
    "check_range",
    "is_part",
    "key_problem",
    "may_hold",
]

KEY_CHARACTERS_MAX = 512
PART_CHARACTERS_MAX = 255
RESERVED_PART = ".tmp"
"""Where a folder store keeps unfinished objects."""

_CHARACTERS = re.compile(r"[A-Za-z0-9._/-]*")
_PART = re.compile(rf"(?!\.\.?\Z)[A-Za-z0-9._-]{{1,{PART_CHARACTERS_MAX}}}")


def check_key(key: str) -> None:
    """Hold a key against every rule.

    Raises:
        InvariantViolated: the key breaks one.

    """
    problem = key_problem(key)
    check(not problem, problem)


def key_problem(key: str) -> str:
    """Return which rule a key breaks, or "": for names that are not of our own making."""
    # S3 allows 1,024 bytes; half of them are left for the prefix that the user puts before a replica.
    if len(key) > KEY_CHARACTERS_MAX:
        return f"key of {len(key)} characters"
    # The same in a URL, a shell, every file system and every listing; and a character is a byte.
    if not _CHARACTERS.fullmatch(key):
        return f"key {key!r} has a character that is not allowed"
    parts = key.split("/")
    # Under this name a folder store keeps unfinished objects. Refused by all, so that stores can be copied as files.
    if parts[0] == RESERVED_PART:
        return f"key {key!r} begins with a name that is reserved"
    return next(filter(None, (_part_problem(part, key) for part in parts)), "")


def check_prefix(prefix: str) -> None:
    """Hold a prefix against the rules: it is how some key begins.

    Raises:
        InvariantViolated: no key begins like this.

    """
    check(len(prefix) <= KEY_CHARACTERS_MAX, f"prefix of {len(prefix)} characters")
    check(_CHARACTERS.fullmatch(prefix), f"prefix {prefix!r} has a character that is not allowed")
    *folders, _ = prefix.split("/")
    for part in folders:
        problem = _part_problem(part, prefix)
        check(not problem, problem)
    check(folders[:1] != [RESERVED_PART], f"prefix {prefix!r} begins with a name that is reserved")


def is_part(name: str) -> bool:
    """Tell whether a name can stand between the slashes of a key; a folder may hold others that are not ours."""
    return _PART.fullmatch(name) is not None


def check_range(start: int, length: int | None) -> None:
    """Hold a range against the rules.

    Raises:
        InvariantViolated: the start or the length is negative.

    """
    check(start >= 0 and (length is None or length >= 0), f"range {start}+{length}")


def _part_problem(part: str, key: str) -> str:
    # S3 keeps `a//b` apart from `a/b`, a file system does not; and a leading slash would leave the folder.
    if not part:
        return f"{key!r} has an empty part"
    # A file system walks along these instead of naming something.
    if part in (".", ".."):
        return f"{key!r} has a part that a file system walks along"
    # The longest name that ext4, XFS, APFS and NTFS take.
    if len(part) > PART_CHARACTERS_MAX:
        return f"{key!r} has a part of {len(part)} characters"
    # No name is let through that a listing would then pass over.
    return "" if is_part(part) else f"{key!r} has a part that is not a name"


def may_hold(folder: str, prefix: str, start_after: str) -> bool:
    """Tell whether a key below a folder (with its slash) can begin with `prefix` and sort after `start_after`."""
    if not (folder.startswith(prefix) or prefix.startswith(folder)):
        return False
    return folder > start_after or start_after.startswith(folder)
