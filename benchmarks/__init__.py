"""The benchmarks: each compares walrep with something measured in the same run, because machines differ and wobble."""
