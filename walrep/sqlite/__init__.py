"""The live database: SQLite's files and locks. Blocking; one thread at a time for each database.

The only package that imports apsw. It knows nothing of object stores. Two rules hold everywhere in it: no second
SQLite library in the process, and no file of a database is opened and closed while a connection to it is open,
because closing any descriptor of a file drops all POSIX locks that the process holds on it.
"""
