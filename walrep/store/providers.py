"""Presets of the providers of S3: where they are, how a bucket is addressed, and what they cannot do.

Data only, chosen by the `provider` of a URL or by the host name of its endpoint. Whether a store honours create-only
PUTs is not in here, because documents do not tell: `walrep.engine.prove` finds out. Sources: the documentation of the
providers, and Litestream's docs/PROVIDER_COMPATIBILITY.md for who takes nothing but signed bodies.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import msgspec

__all__ = [
    "PROVIDERS",
    "UNKNOWN",
    "Provider",
    "endpoint_for",
    "find_provider",
    "provider_of_endpoint",
    "region_in_endpoint",
]


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of S3 store.

    `endpoint` is a template: of its blanks only `{region}` can be filled in, any other is for the user to say.
    `path_style` is None where the client decides by the name of the bucket. `signs_bodies` has a body's SHA-256 signed
    also under TLS, which costs its computation; AWS is content with the signed Content-MD5 there.
    """

    name: str
    endpoint: str
    hosts: tuple[str, ...] = ()
    region: str = ""
    path_style: bool | None = True
    deletes_batches: bool = True
    signs_bodies: bool = True


UNKNOWN = Provider(
    # What every server understands: no wildcard DNS or certificate is needed for path style, and all check a signature
    # over the body. us-east-1 is what servers without regions expect.
    name="",
    endpoint="https://{host}",
    region="us-east-1",
)
"""A server of which nothing is known."""

_PRESETS = (
    # The client knows the endpoints itself, also those of China, FIPS and dual stack; it addresses buckets by host
    # name unless theirs has a dot, which no wildcard certificate matches.
    Provider(
        name="aws",
        endpoint="https://s3.{region}.amazonaws.com",
        hosts=(".amazonaws.com", ".amazonaws.com.cn"),
        path_style=None,
        signs_bodies=False,
    ),
    # The account is part of the host; the one region is `auto`. One write a second and key: more get 429.
    Provider(
        name="r2",
        endpoint="https://{account}.r2.cloudflarestorage.com",
        hosts=(".r2.cloudflarestorage.com",),
        region="auto",
    ),
    # The region in the host has to be the one that is signed. Create-only PUTs get 501.
    Provider(name="b2", endpoint="https://s3.{region}.backblazeb2.com", hosts=(".backblazeb2.com",)),
    # Buckets made since 2025 are addressed by host name only. Sheds load with 408.
    Provider(
        name="tigris",
        endpoint="https://t3.storage.dev",
        hosts=("t3.storage.dev", ".storage.dev", ".tigris.dev"),
        region="auto",
        path_style=False,
    ),
    # With HMAC keys. Ignores If-None-Match (it has x-goog-if-generation-match). The XML API documents the deletion of
    # many objects, but buckets were seen in 2026 to answer NotImplemented, or 400 for a POST that "creates buckets".
    Provider(
        name="gcs",
        endpoint="https://storage.googleapis.com",
        hosts=("storage.googleapis.com",),
        region="auto",
        deletes_batches=False,
    ),
    # One's own servers: no host name tells, so these are chosen by name, or treated alike as unknown.
    # MinIO before 2025 refuses DeleteObjects without Content-MD5, which walrep always sends.
    Provider(name="minio", endpoint="http://{host}:9000", region="us-east-1"),
    # Garage refuses signatures for any region but the one in its s3_region, `garage` by default. It ignores
    # If-None-Match, by design. A LIST reads MaxKeys rows from another zone: the limit of a listing is its price.
    Provider(name="garage", endpoint="http://{host}:3900", region="garage"),
    # Ceph takes any region. Before Tentacle, completing a multipart upload ignores If-None-Match.
    Provider(name="ceph", endpoint="https://{host}", region="us-east-1"),
    # Ceph behind a host name for each location. Bills 64 KB for a smaller object.
    Provider(name="hetzner", endpoint="https://{region}.your-objectstorage.com", hosts=(".your-objectstorage.com",)),
    Provider(name="scaleway", endpoint="https://s3.{region}.scw.cloud", hosts=(".scw.cloud",)),
    # Ceph with buckets addressed by host name.
    Provider(
        name="digitalocean",
        endpoint="https://{region}.digitaloceanspaces.com",
        hosts=(".digitaloceanspaces.com",),
        path_style=False,
    ),
)

PROVIDERS = {provider.name: provider for provider in _PRESETS}
"""All presets, by the name that a user writes."""


def find_provider(name: str, endpoint: str) -> Provider:
    """Return the preset of this name; without one, that of the endpoint; AWS if neither is said."""
    if name:
        return PROVIDERS[name]
    return provider_of_endpoint(endpoint) if endpoint else PROVIDERS["aws"]


def provider_of_endpoint(endpoint: str) -> Provider:
    """Return the preset that the host name of an endpoint belongs to, or that of an unknown server."""
    host = urlsplit(endpoint).hostname or ""
    for provider in _PRESETS:
        if any(host == known or (known.startswith(".") and host.endswith(known)) for known in provider.hosts):
            return provider
    return UNKNOWN


def endpoint_for(provider: Provider, region: str) -> str:
    """Return the provider's endpoint; "" if the user has to say it, or the client knows it (AWS)."""
    if provider.name == "aws":
        return ""
    filled = provider.endpoint.replace("{region}", region) if region else provider.endpoint
    return "" if "{" in filled else filled


def region_in_endpoint(provider: Provider, endpoint: str) -> str:
    """Return the region that the endpoint names; "" if it names none."""
    if "{region}" not in provider.endpoint:
        return ""
    before, after = (re.escape(part) for part in provider.endpoint.split("{region}"))
    match = re.fullmatch(rf"{before}([a-z0-9-]+){after}(?:\.cn)?(?::443)?", endpoint)
    return match[1] if match else ""
