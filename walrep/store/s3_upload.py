"""How an object gets into a bucket: in one PUT, or in parts that appear together as one object.

One PUT carries its condition (`If-None-Match: *`), which `walrep.engine.prove` has tried, so create-only objects go in
one PUT for as long as that is reasonable. Beyond that the condition stands on the completion of the parts, behind a
HEAD. What is left: a store that ignores it there (Ceph before Tentacle) overwrites an object that another writer
creates between the HEAD and the completion.

A request of an upload in parts that fails for now is tried again by itself: an upload of many gigabytes does not begin
anew because of one of its parts. It keeps its place in the limits of the process meanwhile, so that lasts minutes only.

Every body is protected by Content-MD5, which all stores check that check anything.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from walrep.disk.atomic import map_os_errors
from walrep.errors import ObjectNotFound, PreconditionFailed, SpoolError, StoreUnavailable, WalrepError
from walrep.runner import Runner
from walrep.store.observe import Verb
from walrep.store.retry import Retries
from walrep.store.s3_client import S3Api
from walrep.store.s3_errors import field_of
from walrep.store.s3_requests import S3Exchange, S3Place, do_each
from walrep.store.s3_url import S3Url
from walrep.store.source import source_bytes

__all__ = ["PARTS_IN_FLIGHT_MAX", "PARTS_MAX", "S3Uploads", "UploadSizes", "part_bytes_for"]

PARTS_MAX = 10_000
"""How many parts an object may have, says S3."""

PARTS_IN_FLIGHT_MAX = 2
"""Cloudflare R2 takes no more at once; and each is in memory."""

_PART_UNIT_BYTES = 1 << 20
_INLINE_BYTES_MAX = 1 << 20
_ABORT_S = 10.0


_File = io.BufferedReader | io.BytesIO


class UploadSizes(msgspec.Struct, frozen=True, kw_only=True):
    """Up to which sizes an object is one PUT, and how large parts are at least. S3 wants 5 MiB, and 5 GiB at most."""

    part_bytes: int = 16 << 20
    single_bytes_max: int = 16 << 20
    conditional_bytes_max: int = 128 << 20


class S3Uploads:
    """The uploads to one place."""

    def __init__(self, url: S3Url, place: S3Place, runner: Runner, retries: Retries | None, sizes: UploadSizes) -> None:
        self._place = place
        self._runner = runner
        self._retries = retries
        self._sizes = sizes
        self._object = _object_parameters(url)

    def held_bytes(self, size_bytes: int) -> int:
        """Return how much of a file of this size is in memory at once, at most: one that is streamed takes less."""
        if size_bytes <= self._sizes.single_bytes_max:
            return size_bytes
        return min(size_bytes, PARTS_IN_FLIGHT_MAX * part_bytes_for(size_bytes, self._sizes.part_bytes))

    def put_requests(self, size_bytes: int, *, if_absent: bool) -> int:
        """Return how many requests of the class of PUT store so much, if none fails: one, or parts and two more."""
        sizes = self._sizes
        if size_bytes <= max(sizes.single_bytes_max, sizes.conditional_bytes_max if if_absent else 0):
            return 1
        return -(-size_bytes // part_bytes_for(size_bytes, sizes.part_bytes)) + 2

    async def put(self, key: str, source: bytes | Path, *, if_absent: bool) -> None:
        """Store the bytes, or the content of the file, under `key`; see `S3Store.put`."""
        size_bytes = await self._runner.run(partial(source_bytes, source))
        if size_bytes <= self._sizes.single_bytes_max:
            await self._put_at_once(key, _Content(source, 0, size_bytes), if_absent=if_absent)
        elif if_absent and size_bytes <= self._sizes.conditional_bytes_max:
            await self._put_streamed(key, source, size_bytes)
        else:
            await self._put_in_parts(key, source, size_bytes, if_absent=if_absent)

    async def _put_at_once(self, key: str, content: _Content, *, if_absent: bool) -> None:
        body, digest = await self._read(content)
        await self._put_object(key, body, digest, content.size_bytes, if_absent=if_absent)

    async def _put_streamed(self, key: str, source: bytes | Path, size_bytes: int) -> None:
        file = io.BytesIO(source) if isinstance(source, bytes) else await self._runner.run(partial(_open, source))
        with file:
            digest = await self._runner.run(partial(_digest_of_file, file, size_bytes, _name(source)))
            await self._put_object(key, file, digest, size_bytes, if_absent=True)

    async def _put_object(
        self, key: str, body: bytes | _File, digest: str, size_bytes: int, *, if_absent: bool
    ) -> None:
        parameters: dict[str, object] = {"ContentMD5": digest, "ContentLength": size_bytes, **self._object}
        if if_absent:
            parameters["IfNoneMatch"] = "*"
        answer = await S3Exchange(self._place).send(
            "put",
            key,
            lambda api: api.put_object(Bucket=self._place.bucket, Key=self._place.root + key, Body=body, **parameters),
            size_bytes=size_bytes,
        )
        # Whatever answers without it has not stored the object.
        field_of(answer, "ETag", self._place.named("put", key))

    async def _put_in_parts(self, key: str, source: bytes | Path, size_bytes: int, *, if_absent: bool) -> None:
        exchange = S3Exchange(self._place)
        names = {"Bucket": self._place.bucket, "Key": self._place.root + key}
        created = await exchange.send("put", key, lambda api: api.create_multipart_upload(**names, **self._object))
        names["UploadId"] = field_of(created, "UploadId", self._place.named("put", key))
        upload = _Upload(exchange, key, names, if_absent)
        try:
            parts = await self._send_parts(upload, _Content(source, 0, size_bytes))
            if if_absent:
                await self._refuse_existing(upload)
            await self._complete(upload, parts, size_bytes)
        except BaseException:
            # Parts that belong to no object are paid for until somebody removes them. Whoever cancels waits for it; if
            # they cancel again, they are in a hurry, and it is left to the bucket's rule for incomplete uploads.
            await self._abort(upload)
            raise

    async def _send_parts(self, upload: _Upload, content: _Content) -> list[_Part]:
        """Return the parts in their order."""
        sent: dict[int, _Part] = {}

        async def send_part(numbered: tuple[int, _Content]) -> None:
            number, part = numbered
            body, digest = await self._read(part)
            answer = await self._send(
                "put",
                upload,
                lambda api: api.upload_part(
                    **upload.names, PartNumber=number, Body=body, ContentMD5=digest, ContentLength=len(body)
                ),
                size_bytes=part.size_bytes,
            )
            sent[number] = _Part(number, answer["ETag"], digest)

        parts = content.parts(part_bytes_for(content.size_bytes, self._sizes.part_bytes))
        try:
            await do_each(enumerate(parts, start=1), send_part, at_once=PARTS_IN_FLIGHT_MAX)
        except ObjectNotFound as error:
            raise self._lost(upload) from error
        return [part for _number, part in sorted(sent.items())]

    async def _complete(self, upload: _Upload, parts: Sequence[_Part], size_bytes: int) -> None:
        """Make an object of the parts.

        Where an answer was lost, the next attempt finds the object (of ours or of another, which only the caller can
        tell), or that the upload is gone.
        """
        condition = {"IfNoneMatch": "*"} if upload.if_absent else {}
        listed = {"Parts": [{"PartNumber": part.number, "ETag": part.tag} for part in parts]}
        try:
            await self._send(
                "put",
                upload,
                lambda api: api.complete_multipart_upload(**upload.names, **condition, MultipartUpload=listed),
                size_bytes=size_bytes,
            )
        except ObjectNotFound as error:
            if not await self._is_complete(upload, parts):
                raise self._lost(upload) from error

    async def _is_complete(self, upload: _Upload, parts: Sequence[_Part]) -> bool:
        """Tell whether an upload that is gone has become the object: only its content proves that.

        Raises:
            PreconditionFailed: it had to be created, and there is an object: the caller can tell whose it is.

        """
        if upload.if_absent:
            await self._refuse_existing(upload)
            return False
        try:
            return str((await self._head(upload))["ETag"]).strip('"') == _tag_of(parts)
        except ObjectNotFound:
            return False

    async def _refuse_existing(self, upload: _Upload) -> None:
        with suppress(ObjectNotFound):
            await self._head(upload)
            raise PreconditionFailed("the object exists already", detail=str(self._place.named("put", upload.key)))

    async def _head(self, upload: _Upload) -> Mapping[str, Any]:
        bucket, key = upload.names["Bucket"], upload.names["Key"]
        return await self._send("head", upload, lambda api: api.head_object(Bucket=bucket, Key=key))

    async def _send(
        self, verb: Verb, upload: _Upload, request: Callable[[S3Api], Awaitable[Mapping[str, Any]]], size_bytes: int = 0
    ) -> Mapping[str, Any]:
        """Return the answer to a request of an upload, which has the tag of a part or of the object; try again."""

        async def send() -> Mapping[str, Any]:
            answer = await upload.exchange.send(verb, upload.key, request, size_bytes=size_bytes)
            field_of(answer, "ETag", self._place.named(verb, upload.key))
            return answer

        if self._retries is None:
            return await send()
        return await self._retries.call(send, deadline_s=self._retries.policy.part_deadline_s)

    def _lost(self, upload: _Upload) -> StoreUnavailable:
        """Return the error of an upload that somebody, or a rule of the bucket, has removed: another one passes."""
        return StoreUnavailable(
            "the upload was removed before it was complete",
            detail=str(self._place.named("put", upload.key)),
            hint="if it happens again, look at the bucket's rule for incomplete multipart uploads",
        )

    async def _abort(self, upload: _Upload) -> None:
        # What went wrong before is what the caller has to hear of.
        with suppress(WalrepError, TimeoutError):
            async with asyncio.timeout(_ABORT_S):
                await upload.exchange.send("delete", upload.key, lambda api: api.abort_multipart_upload(**upload.names))

    async def _read(self, content: _Content) -> tuple[bytes, str]:
        """Return the content and its Content-MD5."""
        if isinstance(content.source, bytes) and content.size_bytes <= _INLINE_BYTES_MAX:
            # A thread would take longer than the 2 ms at most that this does.
            return content.read()
        return await self._runner.run(content.read)


class _Upload(msgspec.Struct, frozen=True):
    """An upload in parts: `names` are those of the bucket, the key in it and the upload."""

    exchange: S3Exchange
    key: str
    names: dict[str, str]
    if_absent: bool


class _Part(msgspec.Struct, frozen=True):
    """A part that is stored: its tag, which the store wants back, and its Content-MD5."""

    number: int
    tag: str
    digest: str


class _Content(msgspec.Struct, frozen=True):
    """Some of the bytes of a source."""

    source: bytes | Path
    start: int
    size_bytes: int

    def parts(self, part_bytes: int) -> Iterator[_Content]:
        """Yield it in pieces of this size; the last one may be smaller."""
        for start in range(self.start, self.start + self.size_bytes, part_bytes):
            yield _Content(self.source, start, min(part_bytes, self.start + self.size_bytes - start))

    def read(self) -> tuple[bytes, str]:
        """Return the bytes and their Content-MD5."""
        if isinstance(self.source, bytes):
            data = self.source[self.start : self.start + self.size_bytes]
        else:
            with map_os_errors(f"read {self.source}"), self.source.open("rb") as file:
                file.seek(self.start)
                data = file.read(self.size_bytes)
            _check_size(_name(self.source), len(data), self.size_bytes)
        return data, _content_md5(hashlib.md5(data, usedforsecurity=False).digest())


def part_bytes_for(size_bytes: int, part_bytes: int) -> int:
    """Return the size of parts: all the same, as R2 wants it, and so large that S3's number of them is enough."""
    needed = -(-size_bytes // PARTS_MAX)
    return max(part_bytes, -(-needed // _PART_UNIT_BYTES) * _PART_UNIT_BYTES)


def _tag_of(parts: Sequence[_Part]) -> str:
    """Return the tag of an object in parts as AWS makes it, and those that do as AWS does; others have other tags."""
    digests = b"".join(base64.b64decode(part.digest) for part in parts)
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"


def _object_parameters(url: S3Url) -> dict[str, object]:
    parameters = {
        "StorageClass": url.storage_class,
        "ServerSideEncryption": url.sse,
        "SSEKMSKeyId": url.sse_kms_key_id,
    }
    return {name: value for name, value in parameters.items() if value}


def _open(source: Path) -> _File:
    with map_os_errors(f"read {source}"):
        return source.open("rb")


def _digest_of_file(file: _File, size_bytes: int, name: str) -> str:
    """Return the Content-MD5 of a file, and leave it at its beginning."""
    with map_os_errors(f"read {name}"):
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()
        _check_size(name, file.seek(0, io.SEEK_END), size_bytes)
        file.seek(0)
    return _content_md5(digest)


def _content_md5(digest: bytes) -> str:
    """Return the header of RFC 1864."""
    return base64.b64encode(digest).decode()


def _name(source: bytes | Path) -> str:
    return str(source) if isinstance(source, Path) else "memory"


def _check_size(name: str, size_bytes: int, expected_bytes: int) -> None:
    # The spool does not change what it hands out. Sent all the same, it would be an object that nobody can decode.
    if size_bytes != expected_bytes:
        raise SpoolError("a file changed while it was uploaded", detail=name)
