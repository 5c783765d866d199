"""Runs cases one after the other: `python -m tests.crash.worker FOLDER`; cases come as lines, reports go as lines."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.crash.points import install

__all__ = ["main"]


def main() -> int:
    """Run what the lines say."""
    points = install()
    # Only now: what is imported keeps the functions that it finds.
    import msgspec

    from tests.crash.cases import parse_case, run_case

    folder = Path(sys.argv[1])
    for line in sys.stdin:
        text = line.strip()
        report = run_case(parse_case(text), folder / text.replace(":", "-"), points)
        print(msgspec.json.encode(report).decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
