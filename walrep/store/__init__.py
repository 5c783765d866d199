"""Object stores: the protocol in `base`, one module per kind of store, and wrappers that add one behaviour each.

Here belongs how bytes get under a key and back. It must not know what an object holds, which objects exist or when to
write one, nor the live database: `walrep.sqlite` is a stranger. Wrappers are composed in `walrep.app` only.
"""
