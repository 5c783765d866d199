"""Replication and restore as asyncio: task groups, queues, deadlines.

What happens here is decided in `walrep.core`; this package carries it out. It knows no command line and no concrete
store.
"""
