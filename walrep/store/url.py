"""The place that a user names: a URL, or the path of a folder. It opens nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import msgspec

from walrep.errors import UsageError

__all__ = ["StoreUrl", "parse_url"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)
_SUPPORTED = "a store is a folder: file:///backups/app, or a path such as /backups/app or ./backups"


class StoreUrl(msgspec.Struct, frozen=True, kw_only=True):
    """Where a store is; `path` is absolute."""

    scheme: Literal["file"]
    path: Path

    def __str__(self) -> str:
        return self.path.as_uri()


def parse_url(url: str) -> StoreUrl:
    """Parse what the user wrote for a store; a path is taken from the working directory, `~` is the home directory.

    Raises:
        UsageError: it is not a place that walrep can use; the hint says which are.

    """
    if not url.strip() or "\0" in url:
        raise UsageError("the URL of the store is empty or has a null character", hint=_SUPPORTED)
    match = _SCHEME.fullmatch(url)
    if match is None:
        return StoreUrl(scheme="file", path=_absolute(url))
    scheme, rest = match[1].lower(), match[2]
    if scheme == "s3":
        raise UsageError("S3 stores come with a later version of walrep", detail=url, hint=_SUPPORTED)
    if scheme != "file":
        raise UsageError(
            f"a store of the kind {scheme!r} is not supported",
            detail=url,
            hint=f"{_SUPPORTED}; write ./{url} for a folder of that name",
        )
    return StoreUrl(scheme="file", path=_file_path(url, rest))


def _file_path(url: str, rest: str) -> Path:
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise UsageError(
                f"a file URL names a folder of this machine, not the host {host!r}",
                detail=url,
                hint=f"write three slashes: file:///{host}{slash}{path}",
            )
        rest = slash + path
    if not rest.startswith("/"):
        raise UsageError("a file URL needs an absolute path", detail=url, hint=_SUPPORTED)
    if "?" in rest or "#" in rest:
        raise UsageError("a file URL has no parameters", detail=url, hint="write %3F for a ? and %23 for a # in a name")
    decoded = unquote(rest, errors="surrogateescape")
    if "\0" in decoded:
        raise UsageError("the URL of the store has a null character", detail=url, hint=_SUPPORTED)
    return Path(decoded)


def _absolute(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError("the home directory is not known", detail=text, hint="write the path in full") from error
