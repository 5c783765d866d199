"""A disk that fails under a restore, at each of its calls: `python -m tests.crash.restoring FOLDER`.

A line of JSON is printed for each case: a target, the call, the error number, and whether it is that call only or all
that follow. A target is absent, or an app's database that was killed, with its last transactions in its -wal; and for
`full` SQLite cannot copy that log into the file, since the disk takes no file that long.
"""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.crash.points import Points, Strike, install

__all__ = ["TARGETS", "main"]

TARGETS = ("absent", "killed", "full")
_PAGE = 4096
_ROWS = 40
_FILE_BYTES_MAX = 6 * _PAGE
"""Longer than what is restored, shorter than the app's database with its log."""


def main() -> int:
    """Run all cases."""
    points = install()
    # Only now: what is imported keeps the functions that it finds.
    import msgspec

    folder = Path(sys.argv[1])
    cases = _Cases(folder, points)
    for target in TARGETS:
        calls = cases.count(target)
        print(msgspec.json.encode({"target": target, "calls": calls}).decode(), flush=True)
        for number in range(1, len(calls) + 1):
            for kind in ("ENOSPC", "EIO"):
                for for_s in (0.0, 1000.0):
                    report = cases.run(target, Strike(number=number, kind=kind, for_s=for_s))
                    print(msgspec.json.encode(report).decode(), flush=True)
    return 0


class _Cases:
    def __init__(self, folder: Path, points: Points) -> None:
        import apsw

        from walrep.testing.history import HistoryBuilder, image_pages

        self._folder, self._points = folder, points
        source, history = folder / "source.db", HistoryBuilder(_PAGE)
        connection = apsw.Connection(str(source))
        connection.execute("create table t(a)")
        history.begin(image_pages(source.read_bytes(), _PAGE), 1000)
        for number in range(3):
            before = image_pages(source.read_bytes(), _PAGE)
            connection.execute("insert into t values(?)", (f"{number:3000}",))
            self.wanted = source.read_bytes()
            pages = image_pages(self.wanted, _PAGE)
            changed = [(pgno, content) for pgno, content in pages.items() if before.get(pgno) != content]
            history.commit(changed, len(pages), 2000 + number)
            history.seal()
        connection.close()
        self._objects = history.objects
        killed = folder / "killed.db"
        connection = apsw.Connection(str(killed))
        connection.pragma("journal_mode", "wal")
        connection.pragma("wal_autocheckpoint", 0)
        connection.execute("create table t(a)")
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        for number in range(_ROWS):
            connection.execute("insert into t values(?)", (f"{number:1000}",))
        self._killed = {suffix: Path(f"{killed}{suffix}").read_bytes() for suffix in ("", "-wal")}
        connection.close()

    def count(self, target: str) -> list[str]:
        """Return the calls of a restore that nothing happens to."""
        report = self.run(target, Strike())
        calls: list[str] = report["calls"]  # type: ignore[assignment]
        return calls

    def run(self, target: str, strike: Strike) -> dict[str, object]:
        """Restore, and tell what is there afterwards."""
        from walrep.engine.restorer import RestoreRequest
        from walrep.errors import WalrepError
        from walrep.testing.restores import restore_inline

        place = self._folder / "place"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        output, trace = place / "app.db", self._folder / "trace"
        if target != "absent":
            for suffix, content in self._killed.items():
                Path(f"{output}{suffix}").write_bytes(content)
        trace.unlink(missing_ok=True)
        error, exit_code, hint = "", 0, ""
        self._points.begin(place, trace, strike)
        try:
            with _short_files(target == "full"):
                restore_inline(self._objects, RestoreRequest(output=output, force=True, cache_bytes_max=_PAGE))
        except WalrepError as raised:
            error, exit_code, hint = str(raised), raised.exit_code, raised.hint
        except Exception as raised:  # noqa: BLE001  the test is told
            error, exit_code = repr(raised), 1
        self._points.end()
        calls = [line.split()[2] for line in trace.read_text().splitlines()]
        names = sorted(path.name for path in place.iterdir())
        return {
            "case": f"{target} {strike.kind}:{strike.number}:{strike.for_s:.0f}",
            "calls": calls,
            "error": error,
            "hint": hint,
            "exit_code": exit_code,
            "names": names,
            "holds": self._holds(output),
        }

    def _holds(self, output: Path) -> str:
        """Return what an app finds at the target."""
        import apsw

        if not output.exists():
            return "nothing"
        if output.read_bytes() == self.wanted and not Path(f"{output}-wal").exists():
            return "what was restored"
        connection = apsw.Connection(str(output))
        try:
            if connection.pragma("integrity_check") != "ok":
                return "damage"
            count = connection.execute("select count(*) from t").get
        finally:
            connection.close()
        return "what was there" if count == _ROWS else f"{count} rows"


@contextmanager
def _short_files(limited: bool) -> Iterator[None]:  # noqa: FBT001  a switch is all it is
    """Let no file become longer than the limit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limited:
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES_MAX, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


if __name__ == "__main__":
    sys.exit(main())
