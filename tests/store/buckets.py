"""Places in buckets for tests: every one is empty at first, whatever else the server holds."""

from __future__ import annotations

import uuid

from walrep.runner import InlineRunner, Runner
from walrep.store.observe import RequestCounter
from walrep.store.retry import Retries
from walrep.store.s3 import S3Store
from walrep.store.s3_client import S3Api, S3Client, S3Clients
from walrep.store.s3_settings import S3Settings
from walrep.store.s3_upload import UploadSizes
from walrep.store.s3_url import S3Url
from walrep.store.url import parse_url


class OwningStore(S3Store):
    """A store that closes its clients with itself, as nobody else uses them."""

    def __init__(
        self,
        url: S3Url,
        *,
        counter: RequestCounter | None = None,
        sizes: UploadSizes | None = None,
        runner: Runner | None = None,
        clients: S3Clients | None = None,
        retries: Retries | None = None,
    ) -> None:
        self.clients = clients or S3Clients({})
        super().__init__(url, self.clients, runner or InlineRunner(), counter, retries, sizes or UploadSizes())

    async def aclose(self) -> None:
        await super().aclose()
        await self.clients.aclose()


class OneClient(S3Clients):
    """Clients of which there is one, whatever the settings: what a test has made of S3."""

    def __init__(self, api: S3Api) -> None:
        super().__init__({})
        self._api = api

    async def get(self, settings: S3Settings) -> S3Client:
        return S3Client(self._api, settings, self.aclose)


def new_prefix() -> str:
    return f"place-{uuid.uuid4().hex}"


def s3_url(text: str) -> S3Url:
    url = parse_url(text)
    assert isinstance(url, S3Url)
    return url
