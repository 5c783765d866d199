"""walrep: a sidecar that protects SQLite databases, transaction by transaction, in few objects."""

__version__ = "0.1.0"
__all__ = ["__version__"]
