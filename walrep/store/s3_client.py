"""S3 clients: made when the first `s3://` store is used, shared by all stores with the same settings, closed together.

aioboto3 and botocore are imported in here only, and only then: they cost 200 ms and 40 MB, which a walrep that
replicates to folders does not pay. Retries and redirects are off, botocore's and aiohttp's, because each attempt is to
be counted, and because a repeated create-only PUT would meet its own object: `walrep.store.retry` tries again.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from functools import cache, partial
from typing import Any, Protocol

import walrep
from walrep.clock import Clock, SystemClock
from walrep.errors import StoreUnavailable, UsageError, check
from walrep.store.rate import UploadRate, send_slowly
from walrep.store.s3_credentials import start_program
from walrep.store.s3_errors import S3Call, mapped
from walrep.store.s3_settings import S3Settings, resolve_settings
from walrep.store.s3_url import S3Access, S3Url

__all__ = ["CONNECTIONS_MAX", "OPEN_S", "S3Api", "S3Client", "S3Clients"]

CONNECTIONS_MAX = 16
"""How many connections a client has open at most; further requests wait for one."""

OPEN_S = 60.0
"""How long it may take to make a client: a program or a service may be asked for the credentials."""

_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 60
"""The longest silence of a connection; `walrep.store.s3` bounds whole requests."""

_UNANNOUNCED_BYTES_MAX = 1 << 20
_SYSTEM_CLOCK = SystemClock()

Answer = Mapping[str, Any]


class S3Api(Protocol):
    """The calls of botocore's S3 client that walrep makes."""

    async def put_object(self, **parameters: object) -> Answer: ...  # noqa: D102 - documented by S3
    async def get_object(self, **parameters: object) -> Answer: ...  # noqa: D102
    async def head_object(self, **parameters: object) -> Answer: ...  # noqa: D102
    async def list_objects_v2(self, **parameters: object) -> Answer: ...  # noqa: D102
    async def delete_object(self, **parameters: object) -> Answer: ...  # noqa: D102
    async def delete_objects(self, **parameters: object) -> Answer: ...  # noqa: D102
    async def create_multipart_upload(self, **parameters: object) -> Answer: ...  # noqa: D102
    async def upload_part(self, **parameters: object) -> Answer: ...  # noqa: D102
    async def complete_multipart_upload(self, **parameters: object) -> Answer: ...  # noqa: D102
    async def abort_multipart_upload(self, **parameters: object) -> Answer: ...  # noqa: D102


class S3Client:
    """A client, and what was learnt of its store."""

    def __init__(self, api: S3Api, settings: S3Settings, close: Callable[[], Awaitable[None]]) -> None:
        self.api = api
        self.settings = settings
        self.close = close
        self.in_flight_count = 0
        self.deletes_batches = settings.provider.deletes_batches
        """Whether DeleteObjects is worth trying; false from the first time that the store says it has no such thing."""

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep it from being closed meanwhile."""
        self.in_flight_count += 1
        try:
            yield
        finally:
            self.in_flight_count -= 1


class S3Clients:
    """The clients of a process, one for each distinct settings. They belong to the event loop that first used them."""

    def __init__(
        self,
        environment: Mapping[str, str],
        defaults: S3Access | None = None,
        clock: Clock = _SYSTEM_CLOCK,
        open_s: float = OPEN_S,
        rate: UploadRate | None = None,
    ) -> None:
        self._environment = environment
        self._defaults = defaults
        self._open_s = open_s
        self._rate = rate
        self.clock = clock
        self._clients: dict[S3Settings, S3Client] = {}
        self._retired: list[S3Client] = []
        self._opening: dict[S3Settings, asyncio.Lock] = {}
        self._is_closed = False

    def resolve(self, url: S3Url) -> S3Settings:
        """Return the settings for a place.

        Raises:
            UsageError: they contradict themselves, or say too little.

        """
        return resolve_settings(url.access, self._environment, self._defaults)

    async def get(self, settings: S3Settings) -> S3Client:
        """Return the client with these settings, made if it is the first time.

        Raises:
            UsageError: the files of the AWS tools, or the certificates, cannot be used.
            AccessDenied: there are no credentials.
            StoreUnavailable: it takes too long to find them.

        """
        check(not self._is_closed, "an S3 client is asked for after all were closed")
        client = self._clients.get(settings)
        if client is None:
            # Each settings for themselves: one that hangs does not hold up the others.
            async with self._opening.setdefault(settings, asyncio.Lock()):
                client = self._clients.get(settings) or await self._open_in_time(settings)
                self._clients[settings] = client
        return client

    async def retire(self, client: S3Client) -> None:
        """Have another client made in its place when next one is asked for.

        A client reads the files of the AWS tools once. When the store does not accept what it found, somebody will
        put it right there, and walrep has not to be started anew for that. Requests in flight are not disturbed.
        """
        if self._clients.get(client.settings) is client and not client.settings.access.access_key_id:
            self._retired.append(self._clients.pop(client.settings))
        idle = [client for client in self._retired if not client.in_flight_count]
        self._retired = [client for client in self._retired if client.in_flight_count]
        await _close_all(idle)

    async def aclose(self) -> None:
        """Close all clients, also when one of them fails to; nobody uses one any more."""
        self._is_closed = True
        clients = (*self._clients.values(), *self._retired)
        self._clients.clear()
        self._retired.clear()
        await _close_all(clients)

    async def _open_in_time(self, settings: S3Settings) -> S3Client:
        with mapped(S3Call("open", "", "", settings.shown_endpoint), self.clock):
            try:
                async with asyncio.timeout(self._open_s):
                    return await self._open(settings)
            except TimeoutError as error:
                raise StoreUnavailable(
                    "the credentials for the store were not found in time",
                    detail=f"profile {settings.access.profile or 'default'}, for {settings.shown_endpoint}",
                    hint="look at credential_process and the sign-on in ~/.aws/config",
                ) from error

    async def _open(self, settings: S3Settings) -> S3Client:
        import aioboto3  # noqa: PLC0415 - see the text of this module

        access = settings.access
        _check_certificates(access.ca_file)
        found = _botocore_session()
        session = aioboto3.Session(
            aws_access_key_id=access.access_key_id or None,
            aws_secret_access_key=access.secret_access_key or None,
            aws_session_token=access.session_token or None,
            profile_name=access.profile or None,
            region_name=access.region or None,
            botocore_session=found,
        )
        _replace_process_provider(found)
        opening = session.client(
            "s3",
            endpoint_url=access.endpoint or None,
            verify=access.ca_file or None,
            config=_config(settings, self._rate),
        )
        api = await opening.__aenter__()
        api.meta.events.register("before-call.s3", _do_not_redirect)
        api.meta.events.register("before-call.s3", _do_not_wait_with_little)
        api.meta.events.register("before-sign.s3.DeleteObjects", _add_content_md5)
        return S3Client(api, settings, partial(opening.__aexit__, None, None, None))


async def _close_all(clients: Iterable[S3Client]) -> None:
    """Close each of them; what fails is raised when all are closed."""
    async with AsyncExitStack() as stack:
        for client in clients:
            stack.push_async_callback(client.close)


def _config(settings: S3Settings, rate: UploadRate | None) -> object:
    from aiobotocore.config import AioConfig  # noqa: PLC0415 - see the text of this module

    s3: dict[str, object] = {}
    if settings.access.path_style is not None:
        s3["addressing_style"] = "path" if settings.access.path_style else "virtual"
    if settings.provider.signs_bodies:
        s3["payload_signing_enabled"] = True
    return AioConfig(
        http_session_cls=_session_class(rate),
        signature_version="s3v4",
        s3=s3 or None,
        retries={"total_max_attempts": 1},
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        max_pool_connections=CONNECTIONS_MAX,
        # Other stores than AWS refuse the checksums that are the default since 2025. Content-MD5 is understood by all.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        ignore_configured_endpoint_urls=True if settings.access.provider == "aws" else None,
        user_agent_extra=f"walrep/{walrep.__version__}",
    )


@cache
def _session_class(rate: UploadRate | None) -> type:
    """Return aiobotocore's session of HTTP with three things put right, for which it has no settings, and a rate.

    aiohttp sends everything again whose method is idempotent, PUT among them, when a connection ends before there was
    an answer: unseen, and to the wrong effect for one that is create-only. And botocore turns the check of host names
    off because urllib3 has its own, which aiohttp has not: any host with any certificate could pose as the store
    (aiobotocore 2.25.1). And aiohttp follows redirects: a PUT that ends on the login page of a proxy, with a 200, would
    count as stored.
    """
    from aiobotocore.httpsession import AIOHTTPSession  # noqa: PLC0415 - see the text of this module

    class CarefulSession(AIOHTTPSession):  # type: ignore[misc]  # aiobotocore has no types
        async def _get_session(self, proxy_url: str | None) -> object:
            session = await super()._get_session(proxy_url)
            session._retry_connection = False  # noqa: SLF001 - see above
            return _Unredirected(session)

        async def send(self, request: Any) -> object:  # noqa: ANN401 - botocore has no types
            body = request.body
            if rate is not None and body and isinstance(body, bytes | bytearray | io.BufferedIOBase):
                request.body = send_slowly(body, rate)
            try:
                return await super().send(request)
            finally:
                request.body = body

        def _get_ssl_context(self) -> ssl.SSLContext:
            context: ssl.SSLContext = super()._get_ssl_context()
            context.check_hostname = True
            return context

    return CarefulSession


class _Unredirected:
    """A session of aiohttp that hands on a redirect as the answer that it is."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401 - aiohttp is not imported here
        self._session = session

    def request(self, method: str, **parameters: object) -> object:
        """Send a request."""
        return self._session.request(method, **parameters, allow_redirects=False)


def _botocore_session() -> object:
    from aiobotocore.session import get_session  # noqa: PLC0415 - see the text of this module

    session = get_session()
    session.register_component("data_loader", _loader())
    return session


def _replace_process_provider(session: Any) -> None:  # noqa: ANN401 - aiobotocore has no types
    """Have a session whose profile is set start a program for credentials so that it ends."""
    from aiobotocore.credentials import AioProcessProvider  # noqa: PLC0415 - see the text of this module

    resolver, name = session.get_component("credential_provider"), AioProcessProvider.METHOD
    provider = AioProcessProvider(
        profile_name=session.get_config_variable("profile") or "default",
        load_config=lambda: session.full_config,
        popen=start_program,
    )
    # Of two with the same name the first is removed.
    resolver.insert_after(name, provider)
    resolver.remove(name)


@cache
def _loader() -> object:
    """Return what reads botocore's descriptions of services: 8 MB and 100 ms for each session that has its own."""
    from aiobotocore.session import get_session  # noqa: PLC0415 - see the text of this module

    return get_session().get_component("data_loader")


def _check_certificates(ca_file: str) -> None:
    if not ca_file:
        return
    try:
        ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise UsageError(
            "the certificates of ca-file cannot be read",
            detail=f"{ca_file}: {error}",
            hint="name a file of certificates in the PEM format",
        ) from error


def _do_not_redirect(context: dict[str, Any], **_: object) -> None:
    """Tell botocore that it has followed a redirect already: it would look for the bucket's region, and try again."""
    redirect = context.get("s3_redirect")
    if redirect is not None:
        redirect["redirected"] = True


def _do_not_wait_with_little(params: dict[str, Any], **_: object) -> None:
    """Send a small body at once: `Expect: 100-continue`, which botocore adds to all, would cost a round trip."""
    if int(params["headers"].get("Content-Length", 0)) <= _UNANNOUNCED_BYTES_MAX:
        params["headers"].pop("Expect", None)


def _add_content_md5(request: Any, **_: object) -> None:  # noqa: ANN401 - botocore has no types
    """Give DeleteObjects the header that stores demand which are older than its CRC32, or not AWS."""
    digest = hashlib.md5(request.body, usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()
