"""walrep beside other ways to protect the same database: the same app, the same store, everything counted outside."""
