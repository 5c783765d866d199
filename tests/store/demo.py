"""The demo with a bucket of a real server on this machine: `make demo-s3`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.store.servers import ACCESS_KEY, BUCKET, SECRET_KEY, running


def main() -> int:
    """Run the demo as a user would with a bucket: credentials in the environment, and an endpoint in the URL."""
    with tempfile.TemporaryDirectory(prefix="walrep-demo-s3-") as folder, running("ministack", Path(folder)) as server:
        return subprocess.run(
            [sys.executable, "-m", "walrep.testing.demo", f"s3://{BUCKET}/app?endpoint={server.endpoint}"],
            env={**os.environ, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY},
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
