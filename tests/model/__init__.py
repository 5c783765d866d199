"""The model test: a real walrep and real apps, in lockstep and virtual time, against a list of database images.

Apps and walrep are processes of their own, so that a kill is a kill and a lock is a lock; they do something only when
the test tells them to, and so one seed gives one run. The store is in the test's process, where faults are.
"""
