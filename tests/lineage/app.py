"""An app in a process of its own, which tells the digest of its database after every commit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["DigestingApp"]

_APP = """
import sys, apsw, xxhash
connection = apsw.Connection(sys.argv[1])
connection.pragma("journal_mode", "wal")
connection.pragma("wal_autocheckpoint", 0)
connection.set_busy_timeout(5000)
def digest():
    return xxhash.xxh3_128_hexdigest(connection.serialize("main"))
print(digest(), flush=True)
for line in sys.stdin:
    told = []
    for sql in line.rstrip().split(";;"):
        if sql.startswith("pragma wal_checkpoint"):
            connection.execute(sql).fetchall()
        else:
            connection.execute(sql)
            told.append(digest())
    print(*told, flush=True)
connection.close()
"""


class DigestingApp:
    """One connection; `digests` are those of the database after every commit, the one that it began with first."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _APP, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.digests: list[str] = []
        self.wait()

    def begin(self, *statements: str) -> None:
        """Let it run statements, each of them a transaction or a checkpoint; `wait` takes what it tells."""
        assert self._process.stdin is not None
        self._process.stdin.write(";;".join(statements) + "\n")
        self._process.stdin.flush()

    def wait(self) -> None:
        """Wait for what was begun."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the app died"
        for digest in line.split():
            # What changed nothing was no transaction.
            if digest not in self.digests[-1:]:
                self.digests.append(digest)

    def run(self, *statements: str) -> None:
        """Run statements to their end."""
        self.begin(*statements)
        self.wait()

    def close(self) -> None:
        """Close the connection and end."""
        self._process.communicate()
