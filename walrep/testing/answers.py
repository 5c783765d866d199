"""What a store answers when it refuses, as the S3 store raises it: made by the very mapping that the product has.

It must not know what was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from walrep.clock import SystemClock
from walrep.errors import WalrepError, check
from walrep.store.s3_errors import S3Call, map_s3_error

__all__ = ["REFUSALS"]

_CALL = S3Call("request", "bucket", "key", "a store that was told to fail")


class _Answer(Exception):
    """An answer as botocore raises it."""

    def __init__(self, status: int, code: str, headers: Mapping[str, str]) -> None:
        super().__init__(code)
        self.response: dict[str, Any] = {
            "Error": {"Code": code, "Message": "injected"},
            "ResponseMetadata": {"HTTPStatusCode": int(status), "HTTPHeaders": headers},
        }


def _refusal(status: int, code: str, **headers: str) -> WalrepError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return _mapped(_Answer(status, code, named))


def _mapped(error: Exception) -> WalrepError:
    found = map_s3_error(error, _CALL, SystemClock())
    check(found is not None, "every answer of a store is mapped")
    return found or WalrepError("")


REFUSALS: Mapping[str, Callable[[], WalrepError]] = {
    "throttled": partial(_refusal, HTTPStatus.TOO_MANY_REQUESTS, "", retry_after="7"),
    "busy": partial(_refusal, HTTPStatus.SERVICE_UNAVAILABLE, "SlowDown"),
    "failed": partial(_refusal, HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError"),
    "denied": partial(_refusal, HTTPStatus.FORBIDDEN, "AccessDenied"),
    "no-bucket": partial(_refusal, HTTPStatus.NOT_FOUND, "NoSuchBucket"),
    "timeout": lambda: _mapped(TimeoutError("injected")),
}
"""By name: 429, 503, 500, 403, 404 and no answer in time. Each call makes an error of its own."""
