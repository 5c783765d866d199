"""The main job in half a minute: an app that writes, walrep beside it, a restore to three seconds ago, a comparison.

Run it with `make demo` or `python -m walrep.testing.demo [URL]`. Everything happens in a new temporary folder, but for
the replica if a URL is given. App and walrep are processes of their own, started as a user starts them; what walrep
prints is shown as it is.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Event

__all__ = ["main"]

_APP = """
import random, sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("pragma journal_mode=wal")
connection.execute("create table if not exists orders(id integer primary key, customer text, total real)")
ends = time.monotonic() + float(sys.argv[2])
while time.monotonic() < ends:
    connection.execute("begin immediate")
    order = random.choice("ABC"), random.random() * 100
    connection.execute("insert into orders(customer, total) values(?, ?)", order)
    connection.execute("commit")
    print(time.time(), connection.execute("select count(*) from orders").fetchone()[0], flush=True)
    time.sleep(0.01)
connection.close()
"""

_COUNT = """
import sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro&immutable=1", uri=True)
print(connection.execute("select count(*) from orders").fetchone()[0])
"""

_APP_S = 8.0
_WAIT_S = 30.0


def main() -> None:
    """Run the demo; exits with 1 if what was restored is not what the app had."""
    with tempfile.TemporaryDirectory(prefix="walrep-demo-") as folder:
        replica = sys.argv[1] if len(sys.argv) > 1 else f"file://{folder}/replica"
        sys.exit(0 if _demo(Path(folder), replica) else 1)


def _demo(folder: Path, replica: str) -> bool:
    database = folder / "app.db"
    _say("An app writes a hundred orders a second into app.db:")
    app_log = (folder / "app.log").open("w+")
    app = subprocess.Popen([sys.executable, "-c", _APP, str(database), str(_APP_S)], stdout=app_log)
    _wait_for(lambda: database.exists() and database.stat().st_size > 0)
    command = ["replicate", str(database), replica, "--rpo", "2s", "--wait"]
    _say(f"walrep protects it:  walrep {' '.join(command)}")
    walrep = subprocess.Popen([sys.executable, "-m", "walrep", *command, "--log-format", "human"])
    app.wait()
    _say("The app has ended. walrep is asked to stop; it makes everything durable first:")
    walrep.terminate()
    if walrep.wait() != 0:
        return False
    _say("What lies in the store:")
    _walrep("list", replica)
    restored, latest = folder / "earlier.db", folder / "latest.db"
    ok = _walrep("restore", replica, "-o", str(restored), "--at", "3s ago") == 0
    ok = _walrep("restore", replica, "-o", str(latest)) == 0 and ok
    if not ok:
        return False
    app_log.seek(0)
    counts = [int(line.split()[1]) for line in app_log.read().splitlines()]
    earlier = int(subprocess.check_output([sys.executable, "-c", _COUNT, str(restored)]))
    same = latest.read_bytes() == database.read_bytes()
    _say(f"Three seconds before the end there were {earlier} orders, now there are {counts[-1]}.")
    _say(f"The latest restore and app.db are {'the same, byte for byte' if same else 'DIFFERENT'}.")
    return same and 0 < earlier < counts[-1]


def _walrep(*arguments: str) -> int:
    _say(f"walrep {' '.join(arguments)}")
    return subprocess.run([sys.executable, "-m", "walrep", *arguments], check=False).returncode


def _wait_for(condition: object) -> None:
    pause = Event()
    for _ in range(int(_WAIT_S / 0.05)):
        if callable(condition) and condition():
            return
        pause.wait(0.05)


def _say(text: str) -> None:
    sys.stdout.write(f"\n\033[1m{text}\033[0m\n" if sys.stdout.isatty() else f"\n{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
