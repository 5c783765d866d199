"""What the S3 client and the store raise, mapped once to the errors of walrep.

Two tables. `_CLASSES` has the exceptions of botocore, aiobotocore and aiohttp, found by the nearest class in their
order of inheritance; by name, so that nothing has to be imported to know them, and a test proves that none is missing.
`_CODES` has the codes of the store's answers, `_STATUSES` what remains where an answer has no code that is known (HEAD
has none at all).

An exception that is in no table is a bug, and passes through.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from textwrap import shorten
from typing import Any

import msgspec

from walrep.clock import Clock
from walrep.errors import (
    AccessDenied,
    NotSupported,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreMissing,
    StoreUnavailable,
    UsageError,
    WalrepError,
)

__all__ = [
    "S3Call",
    "check_no_page",
    "class_row",
    "concerns_credentials",
    "error_of_code",
    "field_of",
    "http_status",
    "map_s3_error",
    "mapped",
]


class S3Call(msgspec.Struct, frozen=True):
    """A request, for messages; `key` is that in the bucket."""

    verb: str
    bucket: str
    key: str
    endpoint: str

    def __str__(self) -> str:
        return f"{self.verb} s3://{self.bucket}/{self.key} at {self.endpoint}"


class _Row(msgspec.Struct, frozen=True):
    """What to raise, and what to say."""

    kind: type[WalrepError]
    message: str
    hint: str = ""


_SAID_CHARACTERS_MAX = 500

_DENIED_HINT = "let the access key get, put, list and delete objects below this prefix of the bucket"
_KEYS_HINT = "say access-key-id and secret-access-key or profile, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_REGION_HINT = "say the region and the endpoint of the bucket: region=..., endpoint=..."

_OBJECT_MISSING = _Row(ObjectNotFound, "no such object")
_UPLOAD_GONE = _Row(ObjectNotFound, "no such upload")
_EXISTS = _Row(PreconditionFailed, "the object exists already")
_BUCKET_MISSING = _Row(StoreMissing, "the bucket does not exist", "create it, or correct the name and the endpoint")
_BUSY = _Row(StoreUnavailable, "the store asks to be tried again later")
_DAMAGED = _Row(
    StoreUnavailable, "the object was damaged on its way", "if it happens again, check the network's proxies"
)
_REFUSED = _Row(StoreError, "the store refused the request")
_UNSUPPORTED = _Row(NotSupported, "the store does not support this")
_DENIED = _Row(AccessDenied, "the store denied the request", _DENIED_HINT)
_BAD_KEY = _Row(AccessDenied, "the store does not accept the access key", "check access-key-id and secret-access-key")
_EXPIRED = _Row(AccessDenied, "the credentials have expired", "renew them")
_CLOCK = _Row(
    AccessDenied, "the clocks of this machine and the store differ too much", "set this machine's clock; use NTP"
)
_ELSEWHERE = _Row(StoreError, "the bucket is in another region, or behind another endpoint", _REGION_HINT)
_NOT_S3_HINT = "is there a proxy or a portal in between, or is the endpoint another service?"
_NOT_S3 = _Row(StoreUnavailable, "what answered is not an S3 store", _NOT_S3_HINT)
_REDIRECTED = _Row(StoreUnavailable, "what answered sends elsewhere, as no S3 store does", _NOT_S3_HINT)

_NO_ANSWER = _Row(StoreUnavailable, "the store did not answer", "check the endpoint and the network")
_TIMEOUT = _Row(StoreUnavailable, "the store did not answer in time")
_BROKEN_OFF = _Row(StoreUnavailable, "the connection to the store broke off")
_PROXY = _Row(StoreUnavailable, "the proxy did not answer", "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY")
_TLS = _Row(StoreUnavailable, "the store did not agree on TLS", "does the endpoint speak https at this port?")
_UNTRUSTED = _Row(
    AccessDenied,
    "the certificate of the store is not trusted",
    "name the certificate authority's PEM file with ca-file, and the host as the certificate does",
)
_NO_KEYS = _Row(AccessDenied, "there are no usable credentials for the store", _KEYS_HINT)
_CONFIG = _Row(
    UsageError, "the configuration of the S3 client is wrong", "look at ~/.aws/config and the AWS_ variables"
)
_ENDPOINT = _Row(UsageError, "the endpoint of the store cannot be used", _REGION_HINT)
_MISUSE = _Row(StoreError, "the S3 client refused the call", "this is a defect of walrep; please report it")
_UNKNOWN = _Row(StoreError, "the S3 client failed")

_CLASSES: dict[str, Mapping[_Row, str]] = {
    "botocore.exceptions": {
        _NO_ANSWER: "ConnectionError HTTPClientError CapacityNotAvailableError",
        _TIMEOUT: "ConnectTimeoutError ReadTimeoutError",
        _BROKEN_OFF: "ConnectionClosedError ResponseStreamingError IncompleteReadError",
        _DAMAGED: "ChecksumError FlexibleChecksumError",
        _TLS: "SSLError",
        _PROXY: "ProxyConnectionError",
        _NO_KEYS: "NoCredentialsError NoAuthTokenError TokenRetrievalError PartialCredentialsError SSOError"
        " CredentialRetrievalError UnknownCredentialError RefreshWithMFAUnsupportedError MetadataRetrievalError",
        _CONFIG: "ProfileNotFound ConfigParseError ConfigNotFound InvalidConfigError InvalidProxiesConfigError"
        " InvalidIMDSEndpointError InvalidIMDSEndpointModeError InvalidRetryConfigurationError InvalidDefaultsMode"
        " InvalidS3AddressingStyleError InvalidS3UsEast1RegionalEndpointConfigError InvalidChecksumConfigError"
        " InvalidSTSRegionalEndpointsConfigError InvalidEndpointDiscoveryConfigurationError DataNotFoundError"
        " UnknownSignatureVersionError UnsupportedSignatureVersionError",
        _ENDPOINT: "BaseEndpointResolverError UnknownRegionError InvalidRegionError ServiceNotInRegionError"
        " InvalidEndpointConfigurationError EndpointProviderError InvalidDNSNameError InvalidHostLabelError"
        " UnsupportedS3ArnError UnsupportedS3ControlArnError UnsupportedOutpostResourceError"
        " UnsupportedS3ConfigurationError UnsupportedS3AccesspointConfigurationError"
        " UnsupportedS3ControlConfigurationError",
        _MISUSE: "ApiVersionNotFoundError MissingParametersError ValidationError ParamValidationError"
        " UnknownServiceStyle PaginationError OperationNotPageableError UnseekableStreamError WaiterError"
        " WaiterConfigError InvalidExpressionError UnknownClientMethodError StubResponseError MD5UnavailableError"
        " MissingDependencyException AwsChunkedWrapperError UnsupportedServiceProtocolsError",
        _REFUSED: "ClientError",
        _UNKNOWN: "BotoCoreError",
    },
    "botocore.discovery": {_ENDPOINT: "EndpointDiscoveryException"},
    # Not an error of botocore's tree: a body that is no XML.
    "botocore.parsers": {_NOT_S3: "ResponseParserError"},
    "aiohttp.client_exceptions": {
        _NO_ANSWER: "ClientConnectionError ClientResponseError",
        _TIMEOUT: "ServerTimeoutError",
        _BROKEN_OFF: "ClientPayloadError ServerDisconnectedError ClientConnectionResetError UploadAbortedError",
        _TLS: "ClientSSLError ServerFingerprintMismatch",
        _PROXY: "ClientHttpProxyError ClientProxyConnectionError",
        _ENDPOINT: "InvalidURL NonHttpUrlClientError",
        _ELSEWHERE: "RedirectClientError TooManyRedirects",
        _UNKNOWN: "ClientError",
    },
    # What a socket raises while a body is read, and asyncio.timeout around a request.
    "builtins": {_TIMEOUT: "TimeoutError", _NO_ANSWER: "OSError"},
}
_CLASS_ROWS = {
    f"{module}.{name}": row
    for module, rows in _CLASSES.items()
    for row, names in rows.items()
    for name in names.split()
}

_CODES: Mapping[_Row, str] = {
    _OBJECT_MISSING: "NoSuchKey",
    _BUCKET_MISSING: "NoSuchBucket",
    _EXISTS: "PreconditionFailed",
    _BUSY: "SlowDown SlowDownRead SlowDownWrite ServiceUnavailable InternalError InternalFailure RequestTimeout Busy"
    " RequestTimeoutException Throttling ThrottlingException RequestLimitExceeded TooManyRequests ServerBusy"
    " ConditionalRequestConflict OperationAborted RequestThrottled BandwidthLimitExceeded",
    _BROKEN_OFF: "IncompleteBody",
    _UPLOAD_GONE: "NoSuchUpload",
    _DAMAGED: "BadDigest XAmzContentSHA256Mismatch XAmzContentChecksumMismatch",
    _UNSUPPORTED: "NotImplemented MethodNotAllowed",
    _DENIED: "AccessDenied AccessForbidden Forbidden AllAccessDisabled AccountProblem",
    _BAD_KEY: "InvalidAccessKeyId SignatureDoesNotMatch InvalidToken InvalidSecurity Unauthorized NotSignedUp",
    _EXPIRED: "ExpiredToken TokenRefreshRequired RequestExpired",
    _CLOCK: "RequestTimeTooSkewed",
    _ELSEWHERE: "PermanentRedirect TemporaryRedirect Redirect AuthorizationHeaderMalformed InvalidRegionName"
    " IllegalLocationConstraintException IncorrectEndpoint",
}
_CODE_ROWS = {code: row for row, codes in _CODES.items() for code in codes.split()}

_ABOUT_CREDENTIALS = frozenset(row.message for row in (_BAD_KEY, _EXPIRED, _NO_KEYS))

_STATUSES: Mapping[int, _Row] = {
    HTTPStatus.MOVED_PERMANENTLY: _ELSEWHERE,
    HTTPStatus.PERMANENT_REDIRECT: _ELSEWHERE,
    HTTPStatus.UNAUTHORIZED: _BAD_KEY,
    HTTPStatus.FORBIDDEN: _DENIED,
    HTTPStatus.METHOD_NOT_ALLOWED: _UNSUPPORTED,
    HTTPStatus.REQUEST_TIMEOUT: _BUSY,
    HTTPStatus.PRECONDITION_FAILED: _EXISTS,
    HTTPStatus.TOO_MANY_REQUESTS: _BUSY,
    HTTPStatus.NOT_IMPLEMENTED: _UNSUPPORTED,
}


@contextmanager
def mapped(call: S3Call, clock: Clock) -> Iterator[None]:
    """Raise what the S3 client raises as an error of walrep; the one place that does."""
    try:
        yield
    except WalrepError:
        raise
    except Exception as error:
        found = map_s3_error(error, call, clock)
        if found is None:
            raise
        raise found from error


def map_s3_error(error: Exception, call: S3Call, clock: Clock) -> WalrepError | None:
    """Return the error of walrep for an exception of the S3 client; None for one that is not its."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return _map_answer(response, call, clock)
    row = class_row(type(error))
    if row is None:
        return None
    if row is _TLS and _is_distrust(error):
        row = _UNTRUSTED
    # Messages of the client name URLs and causes, never credentials; one of its parser has the whole body.
    return row.kind(row.message, detail=f"{call}: {shorten(str(error), _SAID_CHARACTERS_MAX)}", hint=row.hint)


def class_row(kind: type[BaseException]) -> _Row | None:
    """Return the row of the nearest class that has one."""
    names = (f"{each.__module__}.{each.__qualname__}" for each in kind.__mro__)
    return next((_CLASS_ROWS[name] for name in names if name in _CLASS_ROWS), None)


def concerns_credentials(error: WalrepError) -> bool:
    """Tell whether it is the credentials that were refused, not what they allow: then others may be found."""
    return error.message in _ABOUT_CREDENTIALS


def field_of(answer: Mapping[str, Any], field: str, call: S3Call) -> Any:  # noqa: ANN401 - as botocore parsed it
    """Return a field that every answer of an S3 store has.

    Raises:
        StoreUnavailable: it has not: a proxy, a portal or a page for maintenance has answered, with a 200.

    """
    if answer.get(field) is None:
        raise StoreUnavailable(_NOT_S3.message, detail=f"{call}: an answer without {field}", hint=_NOT_S3.hint)
    return answer[field]


def check_no_page(answer: Mapping[str, Any], call: S3Call) -> None:
    """Hold against the rules an answer that has no field which every store sends: a page for people is none.

    Raises:
        StoreUnavailable: it is one.

    """
    kind = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("content-type", "")
    if kind.startswith("text/html"):
        raise StoreUnavailable(_NOT_S3.message, detail=f"{call}: an answer of type {kind}", hint=_NOT_S3.hint)


def error_of_code(code: str, message: str, call: S3Call) -> WalrepError:
    """Return the error for one object's part of an answer that is about many."""
    row = _CODE_ROWS.get(code, _REFUSED)
    return row.kind(row.message, detail=f"{call}: {code}: {message}", hint=row.hint)


def http_status(error: BaseException) -> int:
    """Return the status of the answer that an exception of the client is about; 0 if there was none."""
    response = getattr(error, "response", None)
    return _status(response) if isinstance(response, dict) else 0


def _map_answer(response: dict[str, Any], call: S3Call, clock: Clock) -> WalrepError:
    answer = response.get("Error", {})
    code, message, status = str(answer.get("Code", "")), str(answer.get("Message", "")), _status(response)
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    row = _CODE_ROWS.get(code) or _row_of_status(status, call)
    region = headers.get("x-amz-bucket-region") or answer.get("Region")
    if row is _REDIRECTED and region:
        # The redirect of a store, which has no code where the answer is to a HEAD.
        row = _ELSEWHERE
    detail = f"{call}: {_said(code, message, status, headers)}"
    if row.kind is StoreUnavailable:
        retry_after_s = _retry_after_s(headers.get("retry-after", ""), clock)
        return StoreUnavailable(row.message, detail=detail, hint=row.hint, retry_after_s=retry_after_s)
    if row is _ELSEWHERE and region:
        return StoreError("the bucket is in another region", detail=detail, hint=f"say region={region}")
    if row is _ELSEWHERE and answer.get("Endpoint"):
        return StoreError(row.message, detail=detail, hint=f"the store names the endpoint {answer['Endpoint']}")
    if row is _CLOCK and headers.get("date"):
        detail += f"; its clock says {headers['date']}"
    return row.kind(row.message, detail=detail, hint=row.hint)


def _said(code: str, message: str, status: int, headers: Mapping[str, str]) -> str:
    said = ": ".join(filter(None, (code, message))) or f"status {status}"
    # Where to, without parameters, in which others have passwords.
    location = headers.get("location", "").partition("?")[0]
    return shorten(f"{said}, to {location}" if location else said, _SAID_CHARACTERS_MAX)


def _row_of_status(status: int, call: S3Call) -> _Row:
    if status in _STATUSES:
        return _STATUSES[status]
    if status == HTTPStatus.NOT_FOUND:
        # Without a code it is the object for the verbs that ask for one, as they say of a missing bucket, too.
        return _OBJECT_MISSING if call.verb in ("get", "head", "delete") else _BUCKET_MISSING
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return _REDIRECTED
    return _BUSY if status >= HTTPStatus.INTERNAL_SERVER_ERROR else _REFUSED


def _status(response: Mapping[str, Any]) -> int:
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _retry_after_s(text: str, clock: Clock) -> float:
    """Return the seconds of a Retry-After header, which are said as such or as a date (RFC 9110, 10.2.3)."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        then_s = parsedate_to_datetime(text).timestamp()
    except ValueError:
        return 0.0
    return max(0.0, then_s - clock.now_ms() / 1000)


def _is_distrust(error: BaseException) -> bool:
    """Tell a certificate that was not accepted from everything else that goes wrong with TLS."""
    kwargs = getattr(error, "kwargs", {})
    return any(isinstance(each, ssl.CertificateError) for each in (error, error.__cause__, kwargs.get("error")))
