"""Restarts and rebuilds: what each uploads, and whether every transaction of all timelines is what the app had.

`python -m tests.lineage --restarts 60` plays a database of some 30 MB through random down-times: the app commits,
checkpoints, vacuums, changes its schema and closes while walrep is down; the state directory is lost; the database is
restored in place, also to an older position; days pass, and retention deletes.
"""
