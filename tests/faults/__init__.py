"""The store fails: at every request of a life of walrep, in every way, once, a few times, or for long.

    python -m tests.faults                              # `make faults`: the whole matrix
    python -m tests.faults --case put-segments-2:denied:minutes

A *story* (`tests.faults.story`) is the life of `tests.crash`, with a stop and a start in the middle, and with people
who restore, keep, let go and list meanwhile, all by way of one `walrep.testing.faults.FaultyStore`. Nothing of the
product is replaced. When the fault is over walrep is started once more, and then everything has to be right.
"""
