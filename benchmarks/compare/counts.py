"""What requests to a store amount to: objects, bytes, verbs, and how many objects there were at any time. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from benchmarks.compare.wire import VERBS, Operation


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request as the proxy saw it. Times are those of the wall; bytes are those of bodies, without heads.

    `stored_bytes`: of the object or part that it brings. `ltx_ms`: the time that an LTX file says of itself.
    """

    began_s: float
    ended_s: float
    operation: Operation
    key: str
    status: int
    up_bytes: int = 0
    down_bytes: int = 0
    stored_bytes: int = 0
    upload: str = ""
    part: int = 0
    deleted: tuple[str, ...] = ()
    ltx_ms: int = 0

    @property
    def place(self) -> str:
        """What it is about: a key, or a prefix."""
        return self.key or (self.deleted[0] if self.deleted else "")

    @property
    def succeeded(self) -> bool:
        """Whether the server did it."""
        return 200 <= self.status < 300


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """An object that was stored; `deleted_s` is None while it lives."""

    key: str
    size_bytes: int
    stored_s: float
    deleted_s: float | None = None
    ltx_ms: int = 0


class Kind(msgspec.Struct, kw_only=True):
    """Objects of one kind."""

    created: int = 0
    bytes: int = 0
    live: int = 0
    live_bytes: int = 0


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What requests amount to. `failed`: answered with an error, a 404 of a HEAD or GET included."""

    requests: dict[str, int]
    failed: int
    up_bytes: int
    down_bytes: int
    created: int
    deleted: int
    live: int
    live_bytes: int
    kinds: dict[str, Kind]


def requests_below(requests: Iterable[Request], prefix: str) -> list[Request]:
    """Return the requests about objects below a prefix."""
    return [each for each in requests if each.place.startswith(prefix)]


def trace_objects(requests: Iterable[Request]) -> list[Stored]:
    """Follow every object from its PUT, or the end of its multipart upload, to its deletion, in order of storing."""
    objects: list[Stored] = []
    live: dict[str, int] = {}
    parts: defaultdict[tuple[str, str], dict[int, int]] = defaultdict(dict)

    def store(request: Request, size_bytes: int) -> None:
        # One that is overwritten is not there any more.
        remove(request.key, request.ended_s)
        live[request.key] = len(objects)
        objects.append(Stored(key=request.key, size_bytes=size_bytes, stored_s=request.ended_s, ltx_ms=request.ltx_ms))

    def remove(key: str, at_s: float) -> None:
        index = live.pop(key, None)
        if index is not None:
            objects[index] = msgspec.structs.replace(objects[index], deleted_s=at_s)

    for request in sorted((each for each in requests if each.succeeded), key=lambda each: each.ended_s):
        upload = request.key, request.upload
        match request.operation:
            case "put":
                store(request, request.stored_bytes)
            case "put-part":
                parts[upload][request.part] = request.stored_bytes
            case "finish-parts":
                store(request, sum(parts.pop(upload, {}).values()))
            case "abort-parts":
                parts.pop(upload, None)
            case "delete":
                remove(request.key, request.ended_s)
            case "delete-many":
                for key in request.deleted:
                    remove(key, request.ended_s)
            case _:
                pass
    return objects


def count(
    requests: Sequence[Request], kind_of: Callable[[str], str], *, from_s: float = 0.0, until_s: float = float("inf")
) -> Counted:
    """Add up what began within a time; what is live at its end counts whenever it was stored.

    `kind_of` tells of a key what kind of object it is.
    """
    verbs: Counter[str] = Counter()
    failed = up_bytes = down_bytes = 0
    for request in requests:
        if from_s <= request.began_s < until_s:
            verbs[VERBS[request.operation]] += 1
            failed += not request.succeeded
            up_bytes += request.up_bytes
            down_bytes += request.down_bytes
    kinds: defaultdict[str, Kind] = defaultdict(Kind)
    deleted = 0
    for each in trace_objects(requests):
        kind = kinds[kind_of(each.key)]
        if from_s <= each.stored_s < until_s:
            kind.created += 1
            kind.bytes += each.size_bytes
        if each.deleted_s is not None and from_s <= each.deleted_s < until_s:
            deleted += 1
        if each.stored_s < until_s and (each.deleted_s is None or each.deleted_s >= until_s):
            kind.live += 1
            kind.live_bytes += each.size_bytes
    return Counted(
        requests=dict(sorted(verbs.items())),
        failed=failed,
        up_bytes=up_bytes,
        down_bytes=down_bytes,
        created=sum(kind.created for kind in kinds.values()),
        deleted=deleted,
        live=sum(kind.live for kind in kinds.values()),
        live_bytes=sum(kind.live_bytes for kind in kinds.values()),
        kinds={name: kind for name, kind in sorted(kinds.items()) if kind.created or kind.live},
    )
