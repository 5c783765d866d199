"""The map of foreign errors is complete: no exception of the client's libraries reaches a default."""

from __future__ import annotations

import importlib
import pkgutil
import ssl
from collections.abc import Iterator

import pytest

from walrep import errors
from walrep.clock import SystemClock
from walrep.errors import AccessDenied, StoreError, StoreUnavailable, UsageError, WalrepError
from walrep.store.s3_errors import (
    S3Call,
    class_row,
    error_of_code,
    http_status,
    map_s3_error,
    mapped,
)

CALL = S3Call("put", "bucket", "app/a", "https://store.example")
ROOTS = (
    "botocore.exceptions.BotoCoreError",
    "botocore.exceptions.HTTPClientError",
    "botocore.exceptions.ClientError",
    "aiohttp.client_exceptions.ClientError",
    "botocore.parsers.ResponseParserError",
)


def named(name: str) -> type[Exception]:
    module, _, attribute = name.rpartition(".")
    found: type[Exception] = getattr(importlib.import_module(module), attribute)
    return found


def load_everything() -> None:
    """Import every module that may define an exception."""
    for package in ("botocore", "aiobotocore"):
        path = importlib.import_module(package).__path__
        for module in pkgutil.iter_modules(path, f"{package}."):
            # A client without httpx cannot load what is for httpx.
            if module.name not in ("aiobotocore.httpxsession", "botocore.crt"):
                importlib.import_module(module.name)
    importlib.import_module("aioboto3")


def classes_below(kind: type[Exception]) -> Iterator[type[Exception]]:
    for each in kind.__subclasses__():
        yield each
        yield from classes_below(each)


def is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def test_every_exception_of_the_client_has_a_row_of_its_own() -> None:
    load_everything()
    roots = [named(name) for name in ROOTS]
    defaults = {class_row(named("botocore.exceptions.BotoCoreError")), class_row(named("aiohttp.ClientError"))}
    found = {each for root in roots for each in classes_below(root) if not each.__module__.startswith("tests.")}
    parsers = vars(importlib.import_module("botocore.parsers")).values()
    found |= {each for each in parsers if is_exception(each) and each.__module__ == "botocore.parsers"}
    assert len(found) > 100, "the rules see the libraries"
    assert named("botocore.parsers.ResponseParserError") in found
    assert {each for each in found if class_row(each) in defaults | {None}} == set()


def test_every_row_is_of_a_class_that_exists() -> None:
    from walrep.store.s3_errors import _CLASS_ROWS

    for name in _CLASS_ROWS:
        assert issubclass(named(name), Exception), name


@pytest.mark.parametrize("kind", [ZeroDivisionError, AssertionError, TypeError, KeyError])
def test_a_bug_passes_through(kind: type[Exception]) -> None:
    assert class_row(kind) is None
    with pytest.raises(kind), mapped(CALL, SystemClock()):
        raise kind("bug")


def test_an_error_of_walrep_passes_through() -> None:
    error = StoreError("ours")
    with pytest.raises(StoreError) as caught, mapped(CALL, SystemClock()):
        raise error
    assert caught.value is error


def fail(name: str, **arguments: object) -> WalrepError:
    error = named(name)(**arguments)
    found = map_s3_error(error, CALL, SystemClock())
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "hint"),
    [
        ("botocore.exceptions.NoCredentialsError", {}, AccessDenied, "AWS_ACCESS_KEY_ID"),
        ("botocore.exceptions.PartialCredentialsError", {"provider": "x", "cred_var": "y"}, AccessDenied, "access-key"),
        ("botocore.exceptions.ProfileNotFound", {"profile": "x"}, UsageError, "~/.aws/config"),
        ("botocore.exceptions.EndpointConnectionError", {"endpoint_url": "x"}, StoreUnavailable, "endpoint"),
        ("botocore.exceptions.ConnectTimeoutError", {"endpoint_url": "x"}, StoreUnavailable, ""),
        ("botocore.exceptions.ProxyConnectionError", {"proxy_url": "x"}, StoreUnavailable, "HTTPS_PROXY"),
        ("botocore.exceptions.IncompleteReadError", {"actual_bytes": 1, "expected_bytes": 2}, StoreUnavailable, ""),
        ("botocore.exceptions.ParamValidationError", {"report": "x"}, StoreError, "report"),
        ("botocore.exceptions.InvalidRegionError", {"region_name": "x"}, UsageError, "region"),
        ("botocore.exceptions.SSLError", {"endpoint_url": "x", "error": OSError("x")}, StoreUnavailable, "https"),
        (
            "botocore.exceptions.SSLError",
            {"endpoint_url": "x", "error": ssl.SSLCertVerificationError("x")},
            AccessDenied,
            "ca-file",
        ),
        ("aiohttp.ClientPayloadError", {}, StoreUnavailable, ""),
        ("builtins.TimeoutError", {}, StoreUnavailable, ""),
        ("builtins.ConnectionResetError", {}, StoreUnavailable, ""),
    ],
)
def test_an_exception_becomes_an_error_with_place_and_hint(
    name: str, arguments: dict[str, object], kind: type[WalrepError], hint: str
) -> None:
    error = fail(name, **arguments)
    assert type(error) is kind
    assert hint in error.hint
    assert "put s3://bucket/app/a at https://store.example" in error.detail


def test_an_error_of_one_object_has_the_kind_of_its_code() -> None:
    assert type(error_of_code("AccessDenied", "no", CALL)) is AccessDenied
    assert type(error_of_code("Unheard", "of", CALL)) is StoreError


def test_only_an_answer_has_a_status() -> None:
    answer = {"ResponseMetadata": {"HTTPStatusCode": 416}}
    assert http_status(named("botocore.exceptions.ClientError")(answer, "GetObject")) == 416
    assert http_status(ValueError()) == 0


def test_every_kind_of_store_error_can_come_of_it() -> None:
    """What S3 cannot say is not in walrep's tree for nothing."""
    from walrep.store.s3_errors import _CLASS_ROWS, _CODE_ROWS

    kinds = {row.kind for row in (*_CLASS_ROWS.values(), *_CODE_ROWS.values())}
    tree = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, StoreError)}
    assert tree <= kinds
