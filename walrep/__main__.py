"""Run the command line as `python -m walrep`."""

from walrep.cli.main import main

main()
