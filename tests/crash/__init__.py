"""Crash points, power loss and disk faults: one short life of walrep, ended or disturbed at each call in turn.

    python -m tests.crash                  # `make crash`: every point, both workers, half an hour
    python -m tests.crash --case kill:137:goes-on:0

A *life* (`tests.crash.life`) is the real engine with a folder store, in virtual time and in one process, so that the
same number means the same call in every run: bases, segments, packs, deletions, a snapshot, retention, a stop. The app
is a process of its own (`tests.crash.app`), which survives what happens to walrep.

Nothing of the product is replaced: `tests.crash.points` stands between Python and the operating system, and counts
every call that changes a file below the life's disk, every lock, and every statement on a keeper's connection.
"""
