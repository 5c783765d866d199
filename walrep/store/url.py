"""The place that a user names: a URL, or the path of a folder. It opens nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import msgspec

from walrep.errors import UsageError
from walrep.store.s3_url import S3Url, parse_s3_url

__all__ = ["FileUrl", "StoreUrl", "parse_url"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)
_FOLDERS = "a folder is file:///backups/app, or a path such as /backups/app or ./backups"
_SUPPORTED = f"{_FOLDERS}; a bucket is s3://BUCKET/PREFIX"


class FileUrl(msgspec.Struct, frozen=True, kw_only=True):
    """A folder; `path` is absolute."""

    path: Path
    scheme: Literal["file"] = "file"

    @property
    def place(self) -> str:
        """The place without the way to it, which for a folder is its URL."""
        return str(self)

    def __str__(self) -> str:
        return self.path.as_uri()


StoreUrl = FileUrl | S3Url
"""Where a store is. As text it is canonical and shows no secret: it may be logged, and kept on disk."""


def parse_url(url: str) -> StoreUrl:
    """Parse what the user wrote for a store; a path is taken from the working directory, `~` is the home directory.

    Raises:
        UsageError: it is not a place that walrep can use; the hint says which are. It shows no secret.

    """
    if not url.strip() or "\0" in url:
        raise UsageError("the URL of the store is empty or has a null character", hint=_SUPPORTED)
    match = _SCHEME.fullmatch(url)
    if match is None:
        return FileUrl(path=_absolute(url))
    scheme, rest = match[1].lower(), match[2]
    if scheme == "s3":
        return parse_s3_url(rest)
    if scheme != "file":
        raise UsageError(
            f"a store of the kind {scheme!r} is not supported",
            # Without parameters, in which other programs have passwords.
            detail=url.partition("?")[0],
            hint=f"{_SUPPORTED}; write ./{scheme}:... for a folder of that name",
        )
    return FileUrl(path=_file_path(url, rest))


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
        raise UsageError("a file URL needs an absolute path", detail=url, hint=_FOLDERS)
    if "?" in rest or "#" in rest:
        raise UsageError("a file URL has no parameters", detail=url, hint="write %3F for a ? and %23 for a # in a name")
    decoded = unquote(rest, errors="surrogateescape")
    if "\0" in decoded:
        raise UsageError("the URL of the store has a null character", detail=url, hint=_FOLDERS)
    return Path(decoded)


def _absolute(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError("the home directory is not known", detail=text, hint="write the path in full") from error
