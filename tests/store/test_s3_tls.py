"""TLS with a certificate authority of one's own, as in many a company."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from tests.store.scripted import OK, in_order, scripted
from walrep.errors import AccessDenied, StoreUnavailable, UsageError

AUTHORITY = trustme.CA()


def server_context(host: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(host).configure_cert(context)
    return context


@pytest.fixture
def ca_file(tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return str(path)


async def test_the_authority_of_ca_file_is_trusted_and_bodies_are_signed_all_the_same(ca_file: str) -> None:
    """Some stores take nothing else; AWS is content with the Content-MD5, which spares the hash of every body."""
    async with scripted(in_order(OK), server_context()) as server:
        for provider in ("minio", "aws"):
            store = server.store(ca_file=ca_file, provider=provider, path_style="true")
            await store.put("a", b"x")
            await store.aclose()
    signed, unsigned = (request.headers for request in server.requests)
    assert len(signed["x-amz-content-sha256"]) == 64
    assert unsigned["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert "content-md5" in unsigned["authorization"]


async def test_another_authority_is_not_trusted_and_the_hint_says_what_to_do() -> None:
    async with scripted(in_order(OK), server_context()) as server:
        store = server.store()
        with pytest.raises(AccessDenied, match="certificate of the store is not trusted") as caught:
            await store.put("a", b"x")
        await store.aclose()
    assert "ca-file" in caught.value.hint
    assert server.requests == []


async def test_a_certificate_of_another_host_is_not_trusted(ca_file: str) -> None:
    async with scripted(in_order(OK), server_context("elsewhere.example")) as server:
        store = server.store(ca_file=ca_file)
        with pytest.raises(AccessDenied, match="certificate of the store is not trusted"):
            await store.put("a", b"x")
        await store.aclose()


async def test_an_endpoint_without_tls_does_not_agree_on_it(ca_file: str) -> None:
    async with scripted(in_order(OK)) as server:
        server.endpoint = server.endpoint.replace("http:", "https:")
        store = server.store(ca_file=ca_file)
        with pytest.raises(StoreUnavailable) as caught:
            await store.put("a", b"x")
        await store.aclose()
    assert "https" in caught.value.hint or "endpoint" in caught.value.hint


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_ca_file_that_is_none_is_an_error_of_use(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "missing.pem"
    if content is not None:
        path.write_text(content)
    async with scripted(in_order(OK)) as server:
        store = server.store(ca_file=str(path))
        with pytest.raises(UsageError, match=r"ca-file cannot be read.*missing\.pem"):
            await store.put("a", b"x")
        await store.aclose()
