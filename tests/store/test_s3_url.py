"""The URL of a bucket says what is wrong with it, and shows no secret to anybody."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, strategies as st

from tests.store.buckets import s3_url
from walrep.errors import UsageError
from walrep.store.s3_url import PREFIX_CHARACTERS_MAX, S3Access, check_access
from walrep.store.url import parse_url

SECRET = "Zm9v+YmFy/aGVq%23"
TOKEN = "tok+en=="
FULL = (
    "s3://my-bucket/a/b/?sse=aws:kms&endpoint=https://HOST.example:9000/s3/&region=eu-1&provider=minio&path-style=false"
    f"&access-key-id=AKIA1&secret-access-key={SECRET}&session-token={TOKEN}&ca-file=/etc/ca.pem"
    "&storage-class=STANDARD_IA&sse-kms-key-id=arn:aws:kms:eu-1:1:key/2"
)
SHOWN = (
    "s3://my-bucket/a/b?endpoint=https://host.example:9000/s3&region=eu-1&provider=minio&path-style=false"
    "&access-key-id=AKIA1&secret-access-key=***&session-token=***&ca-file=/etc/ca.pem"
    "&storage-class=STANDARD_IA&sse=aws:kms&sse-kms-key-id=arn:aws:kms:eu-1:1:key/2"
)


def test_every_parameter_is_understood() -> None:
    url = s3_url(FULL)
    assert (url.bucket, url.prefix) == ("my-bucket", "a/b")
    assert msgspec.structs.asdict(url.access) == {
        "endpoint": "https://host.example:9000/s3",
        "region": "eu-1",
        "provider": "minio",
        "path_style": False,
        "profile": "",
        "access_key_id": "AKIA1",
        "secret_access_key": "Zm9v+YmFy/aGVq#",
        "session_token": "tok+en==",
        "ca_file": "/etc/ca.pem",
    }
    assert (url.storage_class, url.sse, url.sse_kms_key_id) == (
        "STANDARD_IA",
        "aws:kms",
        "arn:aws:kms:eu-1:1:key/2",
    )


def test_the_text_is_canonical_and_shows_no_secret() -> None:
    url = s3_url(FULL)
    assert str(url) == SHOWN
    assert url.place == "s3://my-bucket/a/b?endpoint=https://host.example:9000/s3"
    for text in (str(url), repr(url), repr(url.access), f"{url!r:s}", str([url.access])):
        assert "Zm9v" not in text
        assert "tok" not in text.replace("session-token", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/", "s3://bucket/a"),
        ("s3://bucket/a%2Db", "s3://bucket/a-b"),
        ("s3://bucket.with.dots/a?&profile=x&", "s3://bucket.with.dots/a?profile=x"),
        ("s3://bucket?profile=a%26b", "s3://bucket?profile=a%26b"),
        ("s3://bucket?endpoint=http://[::1]:9000", "s3://bucket?endpoint=http://[::1]:9000"),
        ("s3://old_bucket", "s3://old_bucket"),
    ],
)
def test_what_is_shown_is_what_was_meant_and_means_the_same(text: str, shown: str) -> None:
    assert str(parse_url(text)) == shown
    assert parse_url(shown) == parse_url(text)


def test_a_relative_ca_file_is_taken_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert s3_url("s3://bucket?ca-file=ca.pem").access.ca_file == str(tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("s3:bucket/x", "two slashes", "s3://BUCKET/PREFIX"),
        ("s3://", "names no bucket", "s3://BUCKET/PREFIX"),
        ("s3:///x", "names no bucket", "s3://BUCKET/PREFIX"),
        ("s3://?region=x", "names no bucket", "s3://BUCKET/PREFIX"),
        ("s3://user:hush@bucket/x", "no user and password", "access-key-id"),
        ("s3://bucket/x#y", "no fragment", "%23"),
        ("s3://bucket/x&secret-access-key=hush", "question mark", "?endpoint"),
        ("s3://localhost:9000/real/x", "not a bucket", "s3://real/PREFIX?endpoint=https://localhost:9000"),
        ("s3://x.s3.amazonaws.com/real", "not a bucket", "endpoint"),
        ("s3://Bucket", "cannot be the name", "lower-case"),
        ("s3://ab", "cannot be the name", "3 to 63"),
        ("s3://a..b", "cannot be the name", "dots"),
        ("s3://-abc", "cannot be the name", "begins"),
        ("s3://192.168.0.1/x", "cannot be the name", "begins"),
        (f"s3://{'a' * 64}", "cannot be the name", "63"),
        ("s3://my--use1-az4--x-s3/a", "directory bucket", "general purpose"),
        ("s3://bucket//a", "prefix", "single slashes"),
        ("s3://bucket/a//b", "prefix", "single slashes"),
        ("s3://bucket/a%20b", "prefix", "letters"),
        ("s3://bucket/../a", "prefix", "letters"),
        ("s3://bucket/.tmp/a", "prefix", "letters"),
        (f"s3://bucket/{'a/' * 255}aa", "prefix", "letters"),
        ("s3://bucket?regoin=eu", "does not exist", "did you mean 'region'?"),
        ("s3://bucket?secret_access_key=hush", "does not exist", "did you mean 'secret-access-key'?"),
        ("s3://bucket?zzz", "does not exist", "there is endpoint, region"),
        ("s3://bucket?region=a&region=b", "says a parameter twice", ""),
        ("s3://bucket?region=", "without a value", ""),
        ("s3://bucket?provider=garbage", "provider is not known", "did you mean 'garage'?"),
        ("s3://bucket?provider=qq", "provider is not known", "there is aws, r2"),
        ("s3://bucket?path-style=yes", "true or false", ""),
        ("s3://bucket?endpoint=minio:9000", "not the URL of a host", "https://HOST"),
        ("s3://bucket?endpoint=https://", "not the URL of a host", "https://HOST"),
        ("s3://bucket?endpoint=https://h%20x", "not the URL of a host", "https://HOST"),
        ("s3://bucket?endpoint=https://h:port", "not a URL", "https://HOST"),
        ("s3://bucket?endpoint=https://h?x=y", "no parameters", "https://HOST"),
        ("s3://bucket?endpoint=https://u:hush@h", "no user and password", "access-key-id"),
        ("s3://bucket?access-key-id=a", "one is missing", "neither"),
        ("s3://bucket?secret-access-key=hush", "one is missing", "neither"),
        ("s3://bucket?session-token=hush", "belongs to an access key", "access-key-id"),
        ("s3://bucket?access-key-id=a&secret-access-key=***", "stands for a secret", "environment"),
        ("s3://bucket?profile=a&access-key-id=a&secret-access-key=hush", "two answers", "leave one"),
        ("s3://bucket?storage-class=DEEP_ARCHIVE", "cannot be read at once", "STANDARD_IA"),
        ("s3://bucket?storage-class=cold%20one", "written like STANDARD_IA", ""),
        ("s3://bucket?sse=aes256", "AES256 or aws:kms", "there is AES256"),
        ("s3://bucket?sse-kms-key-id=k", "needs sse=aws:kms", ""),
    ],
)
def test_what_is_wrong_is_said_without_a_secret(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_url(text)
    assert hint in caught.value.hint
    assert "hush" not in f"{caught.value}{caught.value.hint}"
    assert str(caught.value).count("s3:") <= 1, "the place is told once"


def test_a_prefix_leaves_room_for_the_longest_key() -> None:
    longest = f"{'a' * 255}/{'b' * 255}"
    assert len(longest) == PREFIX_CHARACTERS_MAX
    assert s3_url(f"s3://bucket/{longest}").prefix == longest
    with pytest.raises(UsageError, match="511"):
        parse_url(f"s3://bucket/{'a' * 254}/{'b' * 255}/c")


def test_the_defaults_of_a_file_are_held_against_the_same_rules() -> None:
    with pytest.raises(UsageError, match="provider"):
        check_access(S3Access(provider="x"))
    assert check_access(S3Access(endpoint="HTTP://HOST/")).endpoint == "http://host"


def test_a_configuration_file_writes_the_defaults_as_a_url_does() -> None:
    """The struct is ready for a table of TOML."""
    table = {"access-key-id": "a", "secret-access-key": "b", "path-style": True, "ca-file": "/x"}
    access = msgspec.convert(table, S3Access)
    assert (access.access_key_id, access.path_style) == ("a", True)
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"secret": "x"}, S3Access)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60))
def test_no_text_is_anything_but_a_place_or_an_error_of_use(text: str) -> None:
    try:
        url = s3_url(f"s3://{text}")
    except UsageError:
        return
    assert parse_url(str(url)) == url
