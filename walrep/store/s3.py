"""A store in a bucket: `s3://`. One object is one object, its key below the prefix.

It takes ten calls of S3, as AWS and the others have them in common: no versions, tags, metadata or ACLs. What the
others lack is dealt with where it is met: `walrep.store.providers` has what is known beforehand, and the answers of
the store have the rest. Times are in whole seconds, which is what HEAD tells everywhere.

Its guarantees are those of the bucket. Where objects are versioned, a delete hides; where they are locked, it fails.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path
from typing import Any

from walrep.errors import NotSupported, ObjectNotFound, StoreError, StoreUnavailable, check
from walrep.runner import Runner
from walrep.store.base import ObjectInfo
from walrep.store.keys import check_key, check_prefix, check_range, key_problem
from walrep.store.observe import RequestCounter
from walrep.store.retry import Retries
from walrep.store.s3_client import S3Api, S3Client, S3Clients
from walrep.store.s3_errors import check_no_page, error_of_code, field_of, http_status
from walrep.store.s3_requests import S3Exchange, S3Place, do_each, seconds_for
from walrep.store.s3_upload import S3Uploads, UploadSizes
from walrep.store.s3_url import S3Url

__all__ = ["KEYS_PER_REQUEST", "S3Store"]

KEYS_PER_REQUEST = 1000
"""How many keys one LIST returns and one DELETE takes at most."""

_DELETES_IN_FLIGHT_MAX = 8
_READ_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_SIZES = UploadSizes()


class S3Store:
    """The objects below one prefix of a bucket. Its clients are shared, and closed by their owner.

    `counter` hears of the requests beyond the first one of a call; whoever calls counts that. `retries` try a request
    of an upload in parts again; without them, its failure is that of the upload.
    """

    def __init__(
        self,
        url: S3Url,
        clients: S3Clients,
        runner: Runner,
        counter: RequestCounter | None = None,
        retries: Retries | None = None,
        sizes: UploadSizes = _SIZES,
    ) -> None:
        self._place = S3Place(url, clients, counter or RequestCounter())
        self._uploads = S3Uploads(url, self._place, runner, retries, sizes)
        self._is_closed = False

    def held_bytes(self, size_bytes: int) -> int:
        """Return how much of a file of this size is in memory at once while it is stored, at most."""
        return self._uploads.held_bytes(size_bytes)

    def put_requests(self, size_bytes: int, if_absent: bool) -> int:  # noqa: FBT001 - as `MeteredStore` asks
        """Return how many requests of the class of PUT store so much, if none fails."""
        return self._uploads.put_requests(size_bytes, if_absent=if_absent)

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Store the bytes, or the content of the file, under `key`.

        Cancelled, it has an unknown outcome: the store may have the object.

        Raises:
            PreconditionFailed: `if_absent`, and the key exists.
            NotSupported: the store says that it has no conditions.
            StoreError: its other kinds, as `walrep.store.s3_errors` has them; every verb raises these.
            SpoolError: the source file cannot be read.

        """
        self._check_open()
        check_key(key)
        await self._uploads.put(key, source, if_absent=if_absent)

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the object, or `length` bytes of it from `start`.

        Raises:
            ObjectNotFound: no object has the key.

        """
        self._check_open()
        check_key(key)
        check_range(start, length)
        if length == 0:
            # HTTP has no way to ask for nothing; that there is an object is to be found out all the same.
            await self.head(key)
            return b""
        async with self._place.asking("get", key) as client:
            return await self._get(client, key, start, length)

    async def head(self, key: str) -> ObjectInfo:
        """Return what the store knows of the object.

        Raises:
            ObjectNotFound: no object has the key, or the bucket does not exist: the answer is the same.

        """
        self._check_open()
        check_key(key)
        answer = await S3Exchange(self._place).send(
            "head", key, lambda api: api.head_object(Bucket=self._place.bucket, Key=self._place.root + key)
        )
        named = self._place.named("head", key)
        size_bytes, modified = field_of(answer, "ContentLength", named), field_of(answer, "LastModified", named)
        return ObjectInfo(key=key, size_bytes=size_bytes, modified_ms=_modified_ms(modified))

    async def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix` and sort after `start_after`, in the order of their bytes.

        At most `limit` of them, and the store is asked for no more. What cannot be a key of ours is passed over.

        Raises:
            StoreError: the store does not keep to the order, as directory buckets do not; or its other kinds.

        """
        self._check_open()
        check_prefix(prefix)
        exchange = S3Exchange(self._place)
        token: str | None = None
        left_count = limit
        begin, last = self._place.root + prefix, self._place.root + start_after if start_after else ""
        if not last.startswith(begin):
            # MinIO and Garage list nothing, or too much, after a key that is not of the prefix.
            if last > begin:
                return
            last = ""
        while left_count is None or left_count > 0:
            answer = await exchange.send("list", prefix, self._listing(prefix, last, token, left_count))
            # A page that is no listing would read like one of an empty bucket.
            is_truncated = field_of(answer, "IsTruncated", self._place.named("list", prefix))
            keys = [content["Key"] for content in answer.get("Contents", ())]
            self._check_order(prefix, last, keys)
            for content in answer.get("Contents", ()):
                key = content["Key"].removeprefix(self._place.root)
                # Somebody may keep other things beside a replica, or have made a "folder" in a browser. And a store
                # that ignores MaxKeys sends too much.
                if key_problem(key) or left_count == 0:
                    continue
                yield ObjectInfo(key=key, size_bytes=content["Size"], modified_ms=_modified_ms(content["LastModified"]))
                left_count = None if left_count is None else left_count - 1
            token = answer.get("NextContinuationToken")
            if not is_truncated or not (keys or token):
                return
            last = keys[-1] if keys else last

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects; one that does not exist is no error.

        Raises:
            AccessDenied: of some object, while others may be deleted.

        """
        self._check_open()
        for key in keys:
            check_key(key)
        if not keys:
            return
        exchange = S3Exchange(self._place)
        client = await self._place.client()
        distinct = list(dict.fromkeys(keys))
        for start in range(0, len(distinct), KEYS_PER_REQUEST):
            batch = distinct[start : start + KEYS_PER_REQUEST]
            if len(batch) > 1 and client.deletes_batches:
                try:
                    await self._delete_batch(exchange, batch)
                except NotSupported:
                    client.deletes_batches = False
                else:
                    continue
            await do_each(iter(batch), lambda key: self._delete_one(exchange, key), at_once=_DELETES_IN_FLIGHT_MAX)

    async def aclose(self) -> None:
        """End the use of this store."""
        self._is_closed = True

    def _check_open(self) -> None:
        check(not self._is_closed, "a store is used after it was closed")

    async def _get(self, client: S3Client, key: str, start: int, length: int | None) -> bytes:
        end = None if length is None else start + length
        is_range = start > 0 or end is not None
        wanted = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if is_range else {}
        try:
            async with asyncio.timeout(seconds_for(0)):
                answer = await client.api.get_object(Bucket=self._place.bucket, Key=self._place.root + key, **wanted)
        except Exception as error:
            # There is an object, and nothing of it in the range.
            if http_status(error) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return b""
            raise
        # Any page of a proxy has a body; this one is an object.
        field_of(answer, "ETag", self._place.named("get", key))
        begin, size_bytes = self._part_of(answer, key, start)
        body = answer["Body"]
        async with body, asyncio.timeout(seconds_for(answer.get("ContentLength", 0))):
            data = await _read_slice(body, start - begin, None if end is None else end - begin)
        self._check_whole(key, data, start, _end_of(end, size_bytes))
        return data

    def _part_of(self, answer: Mapping[str, Any], key: str, start: int) -> tuple[int, int | None]:
        """Return where in the object the body begins, and the object's size where the store tells it.

        The body begins at the range that was asked for, or at 0 if that was ignored. The header says it better than
        the status: rclone sends ranges with a 200.
        """
        match = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
        if match is None:
            if answer["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.PARTIAL_CONTENT:
                return start, None
            return 0, answer.get("ContentLength")
        begin = int(match[1])
        if begin > start:
            raise StoreError(
                "the store sent another range than it was asked for",
                detail=f"{self._place.named('get', key)}: {match[0]} instead of {start}",
            )
        return begin, None if match[2] == "*" else int(match[2])

    def _check_whole(self, key: str, data: bytes, start: int, end: int | None) -> None:
        """Refuse what is not all up to `end`: a store or a cache may announce less than was asked for, and send that.

        Where neither the question nor the answer has an end, the length of the body is all that is known.
        """
        if end is not None and len(data) != max(0, end - start):
            raise StoreUnavailable(
                "the store sent another length than it was asked for",
                detail=f"{self._place.named('get', key)}: {len(data)} bytes from {start} instead of {end - start}",
            )

    def _listing(
        self, prefix: str, last: str, token: str | None, left_count: int | None
    ) -> Callable[[S3Api], Awaitable[Mapping[str, Any]]]:
        """Return the request for the next page; a key to begin after stands in for a token that a store lacks."""
        where = {"ContinuationToken": token} if token else {"StartAfter": last} if last else {}
        count = KEYS_PER_REQUEST if left_count is None else min(left_count, KEYS_PER_REQUEST)
        return lambda api: api.list_objects_v2(
            Bucket=self._place.bucket, Prefix=self._place.root + prefix, MaxKeys=count, **where
        )

    def _check_order(self, prefix: str, last: str, keys: Sequence[str]) -> None:
        """Refuse a listing that goes back: what is believed to be missing from it would be deleted, or never read."""
        begin = self._place.root + prefix
        for before, key in pairwise((last, *keys)):
            if not key.startswith(begin) or key <= before:
                raise StoreError(
                    "the store does not list in the order of keys",
                    detail=f"{self._place.named('list', prefix)}: {key!r} after {before!r}",
                    hint="walrep needs a store whose listings are sorted and honour start-after",
                )

    async def _delete_batch(self, exchange: S3Exchange, keys: Sequence[str]) -> None:
        objects = [{"Key": self._place.root + key} for key in keys]
        answer = await exchange.send(
            "delete",
            keys[0],
            lambda api: api.delete_objects(Bucket=self._place.bucket, Delete={"Objects": objects, "Quiet": True}),
        )
        check_no_page(answer, self._place.named("delete", keys[0]))
        for refused in answer.get("Errors", ()):
            key = str(refused.get("Key", "")).removeprefix(self._place.root)
            named = self._place.named("delete", key)
            error = error_of_code(str(refused.get("Code", "")), str(refused.get("Message", "")), named)
            if not isinstance(error, ObjectNotFound):
                raise error

    async def _delete_one(self, exchange: S3Exchange, key: str) -> None:
        with suppress(ObjectNotFound):
            answer = await exchange.send(
                "delete",
                key,
                lambda api: api.delete_object(Bucket=self._place.bucket, Key=self._place.root + key),
            )
            check_no_page(answer, self._place.named("delete", key))


async def _read_slice(body: Any, start: int, end: int | None) -> bytes:  # noqa: ANN401 - aiobotocore has no types
    """Return a range of a body, which for a store that has not heard of ranges is the whole object."""
    kept = []
    position = 0
    while end is None or position < end:
        # At the end of the body, this compares what came with Content-Length.
        chunk: bytes = await body.read(_READ_BYTES)
        if not chunk:
            break
        kept.append(chunk[max(0, start - position) : None if end is None else end - position])
        position += len(chunk)
    return kept[0] if len(kept) == 1 else b"".join(kept)


def _end_of(end: int | None, size_bytes: int | None) -> int | None:
    """Return where a range ends that was asked for up to `end`, in an object of this size; None: not known."""
    ends = [each for each in (end, size_bytes) if each is not None]
    return min(ends, default=None)


def _modified_ms(modified: datetime) -> int:
    return int(modified.timestamp()) * 1000
