"""`walrep replicate --config FILE` with other spans of packs, for what takes a day: seconds come first.

    python -m benchmarks.compare.scaled_walrep QUARTER DAY SETTLE GRACE CONFIG

Everything else is the product's own: the spans are the one thing that no setting of the user changes.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import msgspec
import uvloop

from walrep import app
from walrep.cli.log import Log
from walrep.cli.replicate import stop_on_signals
from walrep.clock import SystemClock
from walrep.config import Overrides, load_settings
from walrep.core.compaction import CompactionPolicy
from walrep.engine.settings import ReplicateSettings


async def _replicate(settings: ReplicateSettings) -> None:
    clock = SystemClock()
    log = Log(sys.stderr, clock, form="json", level="info")
    with stop_on_signals(lambda: os._exit(1)) as stop:
        await app.replicate(settings, stop, report=log.report, clock=clock, environment=os.environ)


def main() -> None:
    """Replicate until stopped."""
    quarter_ms, day_ms, settle_ms, grace_ms = (int(float(text) * 1000) for text in sys.argv[1:5])
    settings = load_settings(Path(sys.argv[5]), Overrides(), os.environ)
    policy = CompactionPolicy(spans_ms=(quarter_ms, day_ms), settle_ms=settle_ms, grace_ms=grace_ms)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_replicate(msgspec.structs.replace(settings, compaction=policy)))


if __name__ == "__main__":
    main()
