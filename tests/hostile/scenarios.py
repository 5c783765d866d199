"""What happens on the stage. A scenario leaves the app stopped; walrep may still run, and is stopped then.

Every function takes a stage whose database does not exist yet.
"""

from __future__ import annotations

import shutil
from typing import Any

import msgspec

from tests.hostile.stage import Stage
from tests.hostile.waiting import pause, until

# -- the app is hostile, walrep runs all the time ----------------------------------------------------------------------


def one_writer(stage: Stage) -> None:
    """One process of the app."""
    stage.start_app()
    stage.start_walrep()
    stage.play(stage.seconds)
    stage.stop_apps()


def three_writers(stage: Stage) -> None:
    """Three processes, one sequence of transactions."""
    for _ in range(3):
        stage.start_app()
    stage.start_walrep()
    stage.play(stage.seconds)
    stage.stop_apps()


def checkpointer_beside(stage: Stage) -> None:
    """A writer, and another process that checkpoints."""
    stage.start_app(checkpoint="")
    stage.start_app(role="checkpoint")
    stage.start_walrep()
    stage.play(stage.seconds)
    stage.stop_apps()


def long_readers(stage: Stage) -> None:
    """A writer, and two processes with read transactions that last."""
    stage.start_app()
    stage.start_app(role="read", hold_s=min(3.0, stage.seconds / 3))
    stage.start_app(role="read", hold_s=min(1.1, stage.seconds / 5))
    stage.start_walrep()
    stage.play(stage.seconds)
    stage.stop_apps()


def bursts(stage: Stage) -> None:
    """A writer that now and then rests until everything is at rest."""
    app = stage.start_app()
    stage.start_walrep()
    spent_s = 0.0
    while spent_s < stage.seconds:
        work_s, rest_s = stage.between(0.05, 0.6), stage.between(0.02, 1.5)
        stage.play(work_s)
        app.ask("pause")
        stage.play(rest_s)
        app.ask("go")
        spent_s += work_s + rest_s
    stage.stop_apps()


def huge_transaction(stage: Stage) -> None:
    """One transaction far larger than what walrep may hold in memory."""
    target = stage.plan.shape.huge_at
    bytes_ = int(stage.seconds * 7_500_000)
    shape = msgspec.structs.replace(stage.plan.shape, huge_bytes=bytes_)
    stage.plan = msgspec.structs.replace(stage.plan, shape=shape)
    app = stage.start_app()
    stage.start_walrep()
    until(lambda: app.ask("go")["n"] > target, "the huge transaction is committed", 300)
    stage.play(1.0)
    stage.stop_apps()
    stage.notes["huge_bytes"] = bytes_
    stage.notes["rss_limit_bytes"] = 170 << 20


def killed_app(stage: Stage) -> None:
    """The app is killed again and again, by chance also within commits and checkpoints."""
    app = stage.start_app()
    stage.start_walrep()
    spent_s = 0.0
    while spent_s < stage.seconds:
        work_s = stage.between(0.02, 0.5)
        stage.play(work_s)
        stage.kill_app(app)
        app = stage.start_app()
        stage.counts.app_restarts += 1
        spent_s += work_s + 0.15
    stage.stop_apps()


def killed_crowd(stage: Stage) -> None:
    """Two writers and a checkpointer; one of them is killed again and again."""
    roles: list[dict[str, Any]] = [{}, {}, {"role": "checkpoint", "checkpoint": "TRUNCATE", "checkpoint_s": 0.02}]
    running = [(changes, stage.start_app(**changes)) for changes in roles]
    stage.start_walrep()
    spent_s = 0.0
    while spent_s < stage.seconds:
        work_s = stage.between(0.02, 0.4)
        stage.play(work_s)
        changes, app = running.pop(stage.rng.randrange(len(running)))
        stage.kill_app(app)
        running.append((changes, stage.start_app(**changes)))
        stage.counts.app_restarts += 1
        spent_s += work_s + 0.15
    stage.stop_apps()


def lost_tail(stage: Stage) -> None:
    """A recovery takes back commits that walrep has captured.

    SQLite before 3.50.2 commits frames without checksums after some ROLLBACK TO. When the app is killed while it
    writes the header of the wal-index, the next connection recovers, beside walrep, and drops them.
    """
    spent_s = 0.0
    stage.start_app().ask("pause")
    stage.start_walrep()
    while spent_s < stage.seconds:
        other = stage.apps[0]
        app = stage.start_app(savepoint_every=1)
        stage.play(0.3)
        app.ask("pause")
        stage.play(stage.rng.choice([0.0, 0.1]))
        stage.kill_app(app)
        with stage.database.with_name(stage.database.name + "-shm").open("r+b") as file:
            file.seek(8)
            file.write(stage.rng.randbytes(4))
        # Another process of the app goes on at once, and recovers before walrep has given up.
        other.ask("go")
        stage.play(stage.rng.choice([0.01, 0.1, 0.5]))
        other.ask("pause")
        stage.counts.app_restarts += 1
        stage.play(0.1)
        stage.walrep.wait_until_protecting()
        spent_s += 0.7
    stage.stop_apps()


# -- walrep is killed or stopped ---------------------------------------------------------------------------------------


def interrupted(stage: Stage, *, kill: bool) -> None:
    """Walrep goes away again and again, while the app does one of several things."""
    app = stage.start_app()
    stage.start_walrep()
    spent_s = 0.0
    while spent_s < stage.seconds:
        work_s = stage.between(0.05, 1.2)
        stage.play(work_s)
        stage.kill_walrep() if kill else stage.stop_walrep()
        what = stage.rng.choice(["on", "pause", "checkpoint", "restarts", "stopped", "reopened"])
        stage.notes[what] = stage.notes.get(what, 0) + 1
        if what in {"pause", "checkpoint"}:
            app.ask("pause")
        if what in {"checkpoint", "restarts"}:
            for _ in range(stage.rng.randrange(1, 4)):
                app.ask(f"checkpoint {stage.rng.choice(['PASSIVE', 'RESTART', 'TRUNCATE'])}")
        if what in {"stopped", "reopened"}:
            stage.stop_app(app)
        if what == "reopened":
            app = stage.start_app()
        down_s = stage.between(0.0, 0.5)
        stage.play(down_s)
        # Sometimes it is killed again before it protects anything.
        wait = not kill or stage.rng.random() < 0.75
        stage.start_walrep(wait=wait and what != "stopped")
        if what == "stopped":
            app = stage.start_app()
        else:
            app.ask("go")
        if wait:
            stage.walrep.wait_until_protecting()
        spent_s += work_s + down_s + 0.5
    stage.walrep.wait_until_protecting()
    stage.stop_apps()


def killed_walrep(stage: Stage) -> None:
    """Walrep is killed in a loop."""
    interrupted(stage, kill=True)


def stopped_walrep(stage: Stage) -> None:
    """Walrep is stopped and started in a loop."""
    interrupted(stage, kill=False)


def everything_killed(stage: Stage) -> None:
    """Both are killed, in turn or together."""
    app = stage.start_app()
    stage.start_walrep()
    spent_s = 0.0
    while spent_s < stage.seconds:
        work_s = stage.between(0.05, 0.6)
        stage.play(work_s)
        whom = stage.rng.choice(["app", "walrep", "both"])
        if whom != "walrep":
            stage.kill_app(app)
        if whom != "app":
            stage.kill_walrep()
        if whom != "walrep":
            app = stage.start_app()
            stage.counts.app_restarts += 1
        if whom != "app":
            stage.start_walrep(wait=stage.rng.random() < 0.7)
        spent_s += work_s + 0.4
    stage.walrep.wait_until_protecting()
    stage.stop_apps()


def resumes(stage: Stage) -> None:
    """A clean stop with the app idle, or gone, is always resumed: one timeline."""
    app = stage.start_app()
    stage.start_walrep()
    spent_s, gone = 0.0, False
    while spent_s < stage.seconds:
        work_s = stage.between(0.05, 0.5)
        stage.play(work_s)
        if gone:
            stage.stop_app(app)
        else:
            app.ask("pause")
        stage.stop_walrep()
        stage.start_walrep()
        if gone:
            app = stage.start_app()
        else:
            app.ask("go")
        gone = not gone
        spent_s += work_s + 0.8
    stage.stop_apps()


# -- around the start and the end --------------------------------------------------------------------------------------


def app_comes_late(stage: Stage) -> None:
    """The database exists and nobody has it open; the app comes, goes, and comes again."""
    stage.stop_app(stage.start_app())
    stage.start_walrep()
    stage.play(0.3)
    app = stage.start_app()
    stage.play(stage.seconds / 3)
    stage.stop_app(app)
    stage.play(min(1.0, stage.seconds / 3))
    stage.start_app()
    stage.play(stage.seconds / 3)
    stage.stop_apps()
    stage.play(0.3)


def walrep_comes_first(stage: Stage) -> None:
    """`--wait` waits for a database that the app creates."""
    stage.options.append("--wait")
    sidecar = stage.start_walrep(wait=False)
    sidecar.wait_for("alarm")
    stage.start_app()
    sidecar.wait_until_protecting()
    stage.play(stage.seconds)
    stage.stop_apps()


def replaced(stage: Stage) -> None:
    """Another database takes the place of the one that is protected."""
    other = stage.folder / "other.db"
    first = stage.start_app(path=str(other))
    pause(0.2)
    stage.stop_app(first)
    stage.start_app()
    sidecar = stage.start_walrep()
    stage.play(stage.seconds / 2)
    stage.stop_apps()
    until(lambda: _is_captured(stage), "the log is at rest")
    new = other.read_bytes()
    for suffix in ("-wal", "-shm"):
        stage.database.with_name(stage.database.name + suffix).unlink(missing_ok=True)
    shutil.move(other, stage.database)
    until(lambda: _broke(stage), "the replacement is noticed", 1.0)
    until(lambda: sum(e["event"] == "snapshot-written" for e in sidecar.events()) == 2, "a new timeline", 10.0)
    if stage.database.read_bytes() != new:
        raise AssertionError("the new database was written to")
    stage.start_app()
    stage.play(stage.seconds / 2)
    stage.stop_apps()


def replaced_and_started(stage: Stage) -> None:
    """As `replaced`, but the app is back at once, so that its new -wal may get the inode number of the old one."""
    other = stage.folder / "other.db"
    app = stage.start_app(path=str(other))
    pause(0.2)
    stage.stop_app(app)
    stage.start_app()
    sidecar = stage.start_walrep()
    stage.play(stage.seconds / 2)
    stage.stop_apps()
    for suffix in ("-wal", "-shm"):
        stage.database.with_name(stage.database.name + suffix).unlink(missing_ok=True)
    shutil.move(other, stage.database)
    stage.start_app()
    until(lambda: _broke(stage), "the replacement is noticed", 2.0)
    until(lambda: sum(e["event"] == "snapshot-written" for e in sidecar.events()) == 2, "a new timeline", 10.0)
    stage.play(stage.seconds / 2)
    stage.stop_apps()


def _is_captured(stage: Stage) -> bool:
    """Whether everything that is in the log is durable: the last flush is older than the app's end."""
    before = sum(event["event"] == "flushed" for event in stage.walrep.events())
    pause(1.2)
    return bool(before == sum(event["event"] == "flushed" for event in stage.walrep.events()))


def _broke(stage: Stage) -> bool:
    return any(event.get("key") == "timeline-ended" for event in stage.walrep.events())
