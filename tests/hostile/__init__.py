"""The hostile harness: real apps and a real `walrep replicate`, side by side, with everything that goes wrong.

`python -m tests.hostile` runs scenarios one after the other; tests/e2e/test_hostile.py runs short versions.

    model       what the database holds after n transactions: a pure function of seed and n
    writers     the app, a child process: writers, readers, checkpointers
    processes   handles of the children: the app, and walrep by its command line
    stage       one run: a folder, a database, what runs beside it, and what was counted
    scenarios   what happens on the stage
    catalogue   which scenario is played with which app, and what it may do
    verify      what must be true afterwards
    harness     scenario + stage + verification = one record
    waiting     the one place that waits
"""
