"""Litestream 0.5 as a strategy, when its binary is on PATH. Needs `litestream` 0.5, for instance by

go install github.com/benbjohnson/litestream/cmd/litestream@v0.5.18
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare.strategies import Mark, Place, Seen, Strategy, Wanted, format_time
from tests.store.servers import ACCESS_KEY, BUCKET, SECRET_KEY

PROGRAM = "litestream"
_LTX = re.compile(r"/(\d{4})/([0-9a-f]{16})-([0-9a-f]{16})\.ltx$")
SNAPSHOT_LEVEL = 9


def litestream_version() -> str:
    """Return the version of the binary on PATH, empty if there is none."""
    program = shutil.which(PROGRAM)
    if program is None:
        return ""
    return subprocess.run([program, "version"], capture_output=True, text=True, check=True).stdout.strip()


class Litestream(Strategy):
    """At its defaults."""

    name = "litestream"
    what = "Litestream at its defaults"
    settings: Mapping[str, Any] = {}
    database_settings: Mapping[str, Any] = {}

    def start(self, place: Place) -> None:
        databases = [
            {
                "path": str(path),
                **self.database_settings,
                "replica": {
                    "type": "s3",
                    "bucket": BUCKET,
                    "path": place.prefix_of(index),
                    "endpoint": place.endpoint,
                    "region": "us-east-1",
                    "access-key-id": ACCESS_KEY,
                    "secret-access-key": SECRET_KEY,
                    "force-path-style": True,
                },
            }
            for index, path in enumerate(place.databases)
        ]
        # JSON is YAML.
        (place.folder / "litestream.yml").write_text(json.dumps({**self.settings, "dbs": databases}, indent=1))
        super().start(place)

    def local_paths(self) -> Sequence[Path]:
        return [path.parent / f".{path.name}-litestream" for path in self.place.databases]

    def command(self) -> Sequence[str]:
        return [PROGRAM, "replicate", "-config", str(self.place.folder / "litestream.yml")]

    def restore_command(self, wanted: Wanted) -> Sequence[str]:
        at = [] if wanted.at_s is None else ["-timestamp", format_time(wanted.at_s)]
        config = str(self.place.folder / "litestream.yml")
        database = str(self.place.databases[wanted.index])
        return [PROGRAM, "restore", "-config", config, "-o", str(wanted.output), *at, database]

    def kind_of(self, key: str) -> str:
        """Return the level. A file that begins with the first transaction holds the whole database, on any level."""
        found = _LTX.search(key)
        if found is None:
            return "other"
        return "image" if int(found[1]) == SNAPSHOT_LEVEL or int(found[2], 16) == 1 else f"L{int(found[1])}"

    def marks(self, seen: Seen) -> list[Mark]:
        """Return what its L0 files hold: what had been committed at the time that a file says of itself."""
        first = [each for each in seen.objects if "/0000/" in each.key and each.ltx_ms]
        return [Mark(each.stored_s, bisect_right(seen.commits.at_s, each.ltx_ms / 1000)) for each in first]


class TunedLitestream(Litestream):
    """For few objects, as research/litestream.md, 5, asks of a fair comparison."""

    name = "litestream-tuned"
    what = "Litestream tuned for few objects"
    needs_s = 120.0
    together_only = True
    settings: Mapping[str, Any] = {
        "levels": [{"interval": "1h"}],
        "l0-retention-check-interval": "1h",
        "snapshot": {"interval": "24h", "retention": "720h"},
    }
    database_settings: Mapping[str, Any] = {"monitor-interval": "60s"}
