"""Between people and walrep: arguments in; data, progress, logs and exit codes out. One file per command.

`main` is the only module that turns errors into exit codes, `output` the only one that prints. Nothing here decides
anything about replication, and nothing below imports this package.
"""
