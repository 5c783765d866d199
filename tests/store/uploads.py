"""Uploads in parts for tests: a script of a server that takes them, and sizes that make them of little."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.store.scripted import OK, Answer, Request
from walrep.store.s3_upload import UploadSizes

MIB = 1 << 20
SIZES = UploadSizes(part_bytes=5 * MIB, single_bytes_max=MIB, conditional_bytes_max=2 * MIB)
CONTENT = Random(5).randbytes(11 * MIB + 7)
CREATED = Answer(body=b"<InitiateMultipartUploadResult><UploadId>up/1+</UploadId></InitiateMultipartUploadResult>")
COMPLETED = Answer(body=b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")


class Parts:
    """A script: an upload in parts where `fault` may answer a request instead."""

    def __init__(self, fault: Callable[[Request], Answer | None] = lambda _request: None) -> None:
        self.aborted: list[str] = []
        self.parts: dict[int, Request] = {}
        self._fault = fault

    def __call__(self, request: Request) -> Answer:
        answer = self._fault(request)
        if answer is not None:
            return answer
        match request.method:
            case "POST":
                return CREATED if "uploads" in request.query else COMPLETED
            case "DELETE":
                self.aborted.append(request.query["uploadId"])
                return Answer(204)
            case "HEAD":
                return Answer(404)
            case _:
                self.parts[int(request.query["partNumber"])] = request
                return OK


def is_part(request: Request, number: int) -> bool:
    """Tell whether a request brings the part of this number."""
    return request.query.get("partNumber") == str(number)


def is_completion(request: Request) -> bool:
    """Tell whether a request makes an object of the parts."""
    return request.method == "POST" and "uploadId" in request.query


class LossyApi:
    """A client of a real server that loses the answer to the first completion."""

    def __init__(self, api: object) -> None:
        self.completion_count = 0
        self._api = api

    def __getattr__(self, name: str) -> object:
        return getattr(self._api, name)

    async def complete_multipart_upload(self, **parameters: object) -> object:
        self.completion_count += 1
        answer = await self._api.complete_multipart_upload(**parameters)  # type: ignore[attr-defined]
        if self.completion_count == 1:
            raise ConnectionResetError
        return answer
