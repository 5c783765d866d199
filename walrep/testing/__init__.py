"""The test kit that is shipped: the store contract, faults on demand, virtual time.

Here belongs what a test of walrep, or of a store that somebody else writes, needs. It may import everything; the
product imports nothing from here.
"""
