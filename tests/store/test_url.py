"""What a user writes for a store is a folder, a bucket, or an error that says what to write."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from walrep.errors import UsageError
from walrep.store.url import FileUrl, parse_url


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("file:///backups/app", "/backups/app"),
        ("FILE:///backups/app/", "/backups/app"),
        ("file://localhost/backups", "/backups"),
        ("file:/backups/app", "/backups/app"),
        ("file:///with%20space/%C3%A4/100%25", "/with space/ä/100%"),
        ("file:///a%3Fb%23c", "/a?b#c"),
        ("/backups/app", "/backups/app"),
        ("/with space/%20", "/with space/%20"),
        ("/a:b", "/a:b"),
    ],
)
def test_a_folder_is_parsed(text: str, path: str) -> None:
    assert parse_url(text) == FileUrl(path=Path(path))


def test_a_relative_path_is_taken_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_url("backups") == FileUrl(path=tmp_path / "backups")
    assert parse_url("./s3:x") == FileUrl(path=tmp_path / "s3:x")


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_url("~/backups") == FileUrl(path=tmp_path / "backups")
    with pytest.raises(UsageError, match="home directory"):
        parse_url("~no-such-user-here/backups")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "empty", "file:///"),
        ("  ", "empty", "file:///"),
        ("/a\0b", "null", "file:///"),
        ("file:///a%00b", "null", "file:///"),
        ("S3:bucket", "begins with two slashes", "s3://BUCKET"),
        ("gs://bucket", "'gs' is not supported", "file:///"),
        ("https://host/x", "'https' is not supported", "file:///"),
        ("ftp://host/x?password=hush", "'ftp' is not supported", "s3://BUCKET"),
        ("backup:2026", "'backup' is not supported", "./backup:"),
        ("file://backups/app", "not the host 'backups'", "file:///backups/app"),
        ("file://backups", "not the host 'backups'", "file:///backups"),
        ("file:backups", "absolute path", "file:///"),
        ("file://", "absolute path", "file:///"),
        ("file:///a?region=eu", "no parameters", "%3F"),
        ("file:///a#b", "no parameters", "%23"),
    ],
)
def test_anything_else_is_refused_with_what_to_write_instead(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_url(text)
    assert hint in caught.value.hint
    assert "hush" not in f"{caught.value}{caught.value.hint}"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_what_is_printed_parses_to_the_same_place(name: str) -> None:
    url = FileUrl(path=Path("/", name))
    assert parse_url(str(url)) == url
    assert url.place == str(url)


def test_a_bucket_is_parsed() -> None:
    url = parse_url("S3://bucket/app")
    assert (str(url), url.place) == ("s3://bucket/app", "s3://bucket/app")
