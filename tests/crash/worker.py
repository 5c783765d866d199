"""Runs cases one after the other: `python -m tests.crash.worker FOLDER CASE...`; a line of JSON is printed for each."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.crash.points import install

__all__ = ["main"]


def main() -> int:
    """Run what the arguments say."""
    points = install()
    # Only now: what is imported keeps the functions that it finds.
    import msgspec

    from tests.crash.cases import parse_case, run_case

    folder = Path(sys.argv[1])
    for text in sys.argv[2:]:
        report = run_case(parse_case(text), folder / text.replace(":", "-"), points)
        print(msgspec.json.encode(report).decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
