"""A bucket for the stand-ins: PUT, GET and LIST without signatures, which the test servers do not ask for."""

from __future__ import annotations

import http.client
import re
import signal
from html import unescape
from pathlib import Path
from types import FrameType
from urllib.parse import quote, urlsplit

import msgspec


class StandinPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a stand-in is told: databases, and the prefix of each in the bucket of a server."""

    databases: tuple[str, ...]
    prefixes: tuple[str, ...]
    endpoint: str
    bucket: str
    day_s: float = 86_400.0


class Bucket:
    """One connection to a bucket, for one thread."""

    def __init__(self, plan: StandinPlan) -> None:
        self.name = plan.bucket
        parts = urlsplit(plan.endpoint)
        self.connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)

    def put(self, key: str, data: bytes) -> None:
        """Store an object."""
        self._ask("PUT", f"/{self.name}/{quote(key)}", data)

    def get(self, key: str) -> bytes:
        """Read an object."""
        return self._ask("GET", f"/{self.name}/{quote(key)}")

    def keys(self, prefix: str) -> list[str]:
        """List all keys below a prefix."""
        found: list[str] = []
        more = ""
        while True:
            text = self._ask("GET", f"/{self.name}?list-type=2&prefix={quote(prefix, safe='')}{more}").decode()
            found += [unescape(key) for key in re.findall(r"<Key>([^<]*)</Key>", text)]
            token = re.search(r"<NextContinuationToken>([^<]*)</NextContinuationToken>", text)
            if token is None:
                return sorted(found)
            more = f"&continuation-token={quote(unescape(token[1]), safe='')}"

    def _ask(self, method: str, target: str, data: bytes | None = None) -> bytes:
        try:
            answer = self._send(method, target, data)
        except (ConnectionError, http.client.HTTPException):
            # The connection was closed while nothing came on it.
            self.connection.close()
            answer = self._send(method, target, data)
        body = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {target}: {answer.status} {body[:200]!r}")
        return body

    def _send(self, method: str, target: str, data: bytes | None) -> http.client.HTTPResponse:
        self.connection.request(method, target, data)
        return self.connection.getresponse()


class Stop:
    """Becomes true at the first SIGTERM."""

    def __init__(self) -> None:
        self.wanted = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.wanted = True


def read_plan(path: str) -> StandinPlan:
    """Read a plan."""
    return msgspec.json.decode(Path(path).read_bytes(), type=StandinPlan)


def newest_before(keys: list[str], at_ms: int) -> list[str]:
    """Return the keys up to a time, which stands in front of their last part in milliseconds."""
    return [key for key in keys if int(key.rpartition("/")[2].split("-")[0]) <= at_ms]
