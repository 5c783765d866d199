"""What `s3://` costs above the client library: puts a second, CPU for each, memory; against a real server in one run.

Both sides are processes of their own, on the same server, alternating: a bare aioboto3 client with the settings that
walrep gives it, and walrep's whole stack (retries, counts, limits, Content-MD5, the mapping of errors).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.children import ROOT
from benchmarks.report import Row
from benchmarks.settings import Settings
from tests.store.servers import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, running

SIZE_BYTES = 4096
AT_ONCE = 16

_COMMON = """
import asyncio, hashlib, base64, json, os, resource, sys, time
import uvloop
endpoint, key, secret, bucket, count, size = sys.argv[1:5] + [int(sys.argv[5]), int(sys.argv[6])]
data = os.urandom(size)

async def measure(put):
    await put("warm/0")
    answer = {}
    for name, at_once in (("alone", 1), ("together", 16)):
        began, cpu = time.perf_counter(), time.process_time()
        left = iter(range(count))
        async def work():
            for number in left:
                await put(f"{name}/{number}")
        await asyncio.gather(*(work() for _ in range(at_once)))
        answer[name] = {"puts_per_s": count / (time.perf_counter() - began),
                        "cpu_us": (time.process_time() - cpu) / count * 1e6}
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS:"):
            answer["rss_bytes"] = int(line.split()[1]) << 10
    print(json.dumps(answer))
"""

_BARE = (
    _COMMON
    + """
import aioboto3
from aiobotocore.config import AioConfig

async def main():
    config = AioConfig(signature_version="s3v4", request_checksum_calculation="when_required",
                       response_checksum_validation="when_required", retries={"total_max_attempts": 1},
                       max_pool_connections=16, s3={"addressing_style": "path"})
    session = aioboto3.Session(aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1")
    async with session.client("s3", endpoint_url=endpoint, config=config) as client:
        async def put(name):
            digest = base64.b64encode(hashlib.md5(data).digest()).decode()
            await client.put_object(Bucket=bucket, Key=f"bare/{name}", Body=data, ContentMD5=digest, IfNoneMatch="*")
        await measure(put)

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
    loop.run(main())
"""
)

_WALREP = (
    _COMMON
    + """
from walrep import app
from walrep.clock import SystemClock
from walrep.store.retry import RetryPolicy
from walrep.store.s3_url import S3Access
from walrep.store.url import parse_url

async def main():
    clock = SystemClock()
    access = S3Access(endpoint=endpoint, access_key_id=key, secret_access_key=secret)
    async with app.open_stores(4, clock, {}, access, RetryPolicy()) as stores:
        store = stores.open(parse_url(f"s3://{bucket}/walrep"), lambda error, delay: None).store
        async def put(name):
            await store.put(name, data, if_absent=True)
        await measure(put)
        await store.aclose()

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
    loop.run(main())
"""
)


def run(settings: Settings) -> list[Row]:
    """Measure both on ministack, alternating, and return the medians."""
    count, rounds = (200, 1) if settings.quick else (1000, 3)
    bare, ours = [], []
    for number in range(rounds):
        folder = settings.directory / f"server-{number}"
        folder.mkdir()
        with running("ministack", folder) as server:
            bare.append(_measure(_BARE, server, count))
            ours.append(_measure(_WALREP, server, count))
    rows = []
    for name, what in (("alone", "one at a time"), ("together", f"{AT_ONCE} at once")):
        for field, unit in (("puts_per_s", "PUT/s"), ("cpu_us", "us CPU per PUT")):
            ratio, note = _ratio([each[name][field] for each in ours], [each[name][field] for each in bare])
            rows.append(Row(benchmark="s3", what=f"{what}: {unit}, ratio to bare aioboto3", value=ratio, note=note))
    more = [(mine["rss_bytes"] - theirs["rss_bytes"]) / (1 << 20) for mine, theirs in zip(ours, bare, strict=True)]
    note = f"{statistics.median(each['rss_bytes'] for each in ours) / (1 << 20):.0f} MiB"
    rows.append(
        Row(benchmark="s3", what="memory above bare aioboto3", value=statistics.median(more), unit="MiB", note=note)
    )
    return rows


def _measure(code: str, server: S3Server, count: int) -> dict[str, Any]:
    command = [sys.executable, "-c", code, server.endpoint, ACCESS_KEY, SECRET_KEY, BUCKET, str(count), str(SIZE_BYTES)]
    run = subprocess.run(command, cwd=Path(ROOT), capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr)
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def _ratio(ours: list[float], bare: list[float]) -> tuple[float, str]:
    ratios = [mine / theirs for mine, theirs in zip(ours, bare, strict=True)]
    note = f"{statistics.median(ours):.0f} against {statistics.median(bare):.0f}"
    return statistics.median(ratios), note
