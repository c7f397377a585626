"""A running OpenStack Swift with its S3 interface for tests: the process of `swift_server.py`, its users and clients.

It is installed apart (`make .venv-swift/.installed`), because eventlet patches the whole process it is imported in.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines.storage import s3_client

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-swift" / "bin" / "python"
SERVER = Path(__file__).with_name("swift_server.py")
ADMIN, READER = "test:tester", "test:reader"
REGION = "us-east-1"
START_SECONDS = 60


class SwiftServer:
    """One server process on a folder; after `kill` or `stop` it can be started again on what is left there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret = f"secret-{secrets.token_hex(12)}"
        self.certificate = folder / "cert.pem"
        self.port = 0
        self.admin: Any = None  # one client for all who hook nothing into it: making one takes 0.15 s
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it answers."""
        ready, log = self.folder / "port", self.folder / "log"
        ready.unlink(missing_ok=True)
        with log.open("ab") as out:
            command = [PYTHON, "-P", SERVER, self.folder, self.secret]  # -P: else `swift` is this very file
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Swift did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.02)
        self.port = int(ready.read_text())
        self.admin = self.client()

    def kill(self) -> None:
        """End the process at once (SIGKILL), whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def endpoint_url(self) -> str:
        """Return where the server listens."""
        return f"https://127.0.0.1:{self.port}"

    def client(self, user: str = ADMIN, secret: str | None = None, *, max_attempts: int = 1) -> Any:
        """Return a new boto3 client of a user; `secret` may be a wrong one."""
        secret = self.secret if secret is None else secret
        return s3_client(
            self.endpoint_url, REGION, user, secret, verify=str(self.certificate), max_attempts=max_attempts
        )

    def new_bucket(self) -> str:
        """Create an empty bucket and return its name."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.admin.create_bucket(Bucket=name)
        return name


def require_swift() -> None:
    """Skip the test where Swift is not installed; in continuous integration that is a failure."""
    if not PYTHON.exists():
        reason = f"no Swift in {PYTHON.parents[1]}: run `make .venv-swift/.installed`"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def running_swift(folder: Path) -> Iterator[SwiftServer]:
    """Run a server of one's own on a folder: what a test needs that kills it."""
    require_swift()
    server = SwiftServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    """One Swift server for the whole session; make a bucket of your own with `new_bucket`."""
    yield from running_swift(tmp_path_factory.mktemp("swift"))
