"""Where a bucket is: the URL beats the file, the file beats the environment, and presets fill in what is known."""

from __future__ import annotations

import pytest

from tests.store.buckets import s3_url
from walrep.errors import UsageError
from walrep.store.providers import PROVIDERS, UNKNOWN, endpoint_for, provider_of_endpoint, region_in_endpoint
from walrep.store.s3_settings import S3Settings, resolve_settings
from walrep.store.s3_url import S3Access

R2 = "https://0123.r2.cloudflarestorage.com"


def resolved(query: str, environment: dict[str, str] | None = None, defaults: S3Access | None = None) -> S3Settings:
    return resolve_settings(s3_url(f"s3://bucket?{query}").access, environment or {}, defaults)


@pytest.mark.parametrize(
    ("query", "environment", "endpoint", "region", "path_style"),
    [
        ("", {}, "", "", None),
        ("region=eu-west-1", {"AWS_REGION": "us-west-2"}, "", "eu-west-1", None),
        ("", {"AWS_REGION": "us-west-2", "AWS_DEFAULT_REGION": "x"}, "", "us-west-2", None),
        ("", {"AWS_DEFAULT_REGION": "us-west-2"}, "", "us-west-2", None),
        ("path-style=true", {}, "", "", True),
        # An endpoint that tells its region, its provider and how buckets are addressed.
        ("endpoint=https://s3.us-west-004.backblazeb2.com", {"AWS_REGION": "x"}, None, "us-west-004", True),
        ("endpoint=https://s3.eu-west-1.amazonaws.com", {}, None, "eu-west-1", None),
        ("endpoint=https://s3.cn-north-1.amazonaws.com.cn", {}, None, "cn-north-1", None),
        ("endpoint=https://fsn1.your-objectstorage.com", {}, None, "fsn1", True),
        ("endpoint=https://fra1.digitaloceanspaces.com", {}, None, "fra1", False),
        ("endpoint=https://s3.fr-par.scw.cloud", {}, None, "fr-par", True),
        (f"endpoint={R2}", {"AWS_REGION": "eu-west-1"}, R2, "auto", True),
        ("endpoint=https://fly.storage.tigris.dev", {}, None, "auto", False),
        ("endpoint=https://storage.googleapis.com", {}, None, "auto", True),
        # A provider that tells its endpoint.
        ("provider=hetzner&region=hel1", {}, "https://hel1.your-objectstorage.com", "hel1", True),
        ("provider=tigris", {}, "https://t3.storage.dev", "auto", False),
        ("provider=gcs", {"AWS_ENDPOINT_URL": "http://x"}, "https://storage.googleapis.com", "auto", True),
        ("provider=aws", {"AWS_ENDPOINT_URL": "http://x"}, "", "", None),
        # A provider whose endpoint somebody else has to say.
        ("provider=r2", {"AWS_ENDPOINT_URL": R2, "AWS_REGION": "eu-1"}, R2, "auto", True),
        ("provider=garage&endpoint=http://g:3900", {"AWS_REGION": "eu-1"}, "http://g:3900", "garage", True),
        # A server of which nothing is known: the environment knows its region better than any preset.
        ("endpoint=http://h:1", {"AWS_REGION": "mine"}, "http://h:1", "mine", True),
        ("endpoint=http://h:1", {}, "http://h:1", "us-east-1", True),
        ("endpoint=http://h:1&path-style=false", {}, "http://h:1", "us-east-1", False),
        # The environment, as the AWS tools read it.
        ("", {"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_S3": "http://s3"}, "http://s3", "us-east-1", True),
        ("", {"AWS_ENDPOINT_URL": "http://all"}, "http://all", "us-east-1", True),
        ("", {"AWS_ENDPOINT_URL": "http://x", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "TRUE"}, "", "", None),
    ],
)
def test_the_way_to_a_bucket(
    query: str, environment: dict[str, str], endpoint: str | None, region: str, *, path_style: bool | None
) -> None:
    access = resolved(query, environment).access
    said = query.removeprefix("endpoint=") if endpoint is None else endpoint
    assert (access.endpoint, access.region, access.path_style) == (said, region, path_style)


def test_the_url_beats_the_file_and_the_file_beats_the_environment() -> None:
    environment = {"AWS_ENDPOINT_URL": "http://environment", "AWS_REGION": "e", "AWS_CA_BUNDLE": "/e.pem"}
    filed = S3Access(endpoint="http://file", region="f", ca_file="/f.pem", path_style=False)
    assert resolved("", environment).access.endpoint == "http://environment"
    access = resolved("", environment, filed).access
    assert (access.endpoint, access.region, access.ca_file, access.path_style) == ("http://file", "f", "/f.pem", False)
    access = resolved("endpoint=http://url&ca-file=/u.pem&path-style=true", environment, filed).access
    assert (access.endpoint, access.region, access.ca_file, access.path_style) == ("http://url", "f", "/u.pem", True)


def test_halves_of_different_origin_are_not_mixed() -> None:
    filed = S3Access(endpoint="http://file", provider="minio", access_key_id="f", secret_access_key="f")
    access = resolved("provider=hetzner&region=fsn1", {}, filed).access
    assert access.endpoint == "https://fsn1.your-objectstorage.com"
    access = resolved("", {}, filed).access
    assert (access.endpoint, access.access_key_id, access.secret_access_key) == ("http://file", "f", "f")
    access = resolved("profile=mine", {}, filed).access
    assert (access.profile, access.access_key_id, access.secret_access_key) == ("mine", "", "")
    access = resolved("access-key-id=u&secret-access-key=u", {}, filed).access
    assert (access.access_key_id, access.secret_access_key) == ("u", "u")


def test_credentials_of_the_environment_are_left_to_the_client_which_renews_them() -> None:
    access = resolved("", {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_PROFILE": "p"}).access
    assert (access.access_key_id, access.profile) == ("", "")


@pytest.mark.parametrize(
    ("query", "environment", "message", "hint"),
    [
        ("provider=hetzner", {}, "region of the store is not said", "region="),
        ("provider=b2", {}, "region of the store is not said", "s3.{region}.backblazeb2.com"),
        ("provider=r2", {}, "endpoint of the store is not said", "{account}.r2.cloudflarestorage.com"),
        ("provider=garage", {}, "endpoint of the store is not said", ":3900"),
        ("", {"AWS_ENDPOINT_URL": "minio:9000"}, "AWS_ENDPOINT_URL", "https://HOST"),
    ],
)
def test_what_is_missing_is_said(query: str, environment: dict[str, str], message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        resolved(query, environment)
    assert hint in caught.value.hint


def test_settings_are_equal_where_everything_is_and_show_no_secret() -> None:
    one, same, other = (resolved(f"access-key-id=a&secret-access-key={secret}") for secret in ("x1y", "x1y", "z"))
    assert len({one, same, other}) == 2
    assert "x1y" not in repr(one)


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_preset_knows_its_own_endpoint_again(name: str) -> None:
    provider = PROVIDERS[name]
    endpoint = provider.endpoint.replace("{region}", "north-1").replace("{account}", "0123")
    if "{" in endpoint:
        # One's own servers, which no host name tells.
        assert provider.hosts == ()
        assert endpoint_for(provider, "north-1") == ""
        return
    assert provider_of_endpoint(endpoint) is provider
    assert region_in_endpoint(provider, endpoint) == ("north-1" if "{region}" in provider.endpoint else "")
    assert endpoint_for(provider, "north-1") in (endpoint, "")


@pytest.mark.parametrize(
    "endpoint",
    ["https://example.com", "https://amazonaws.com.evil.example", "https://evilbackblazeb2.com", "http://[::1]:9000"],
)
def test_a_host_that_only_looks_like_one_is_unknown(endpoint: str) -> None:
    assert provider_of_endpoint(endpoint) is UNKNOWN
