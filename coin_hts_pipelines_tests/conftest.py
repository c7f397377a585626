"""Fixtures every test may use: shared real data, a project of its own with a real Postgres, and its command line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest

# A shell starts background jobs with SIGINT ignored, and what we start would inherit it: no Ctrl-C could be tested, and
# Dagster's servers, which treat SIGTERM as SIGINT, would not end.
signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKOUT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
# Variables of the person or CI who runs the tests; none may reach what is tested.
_OURS = ("COIN_HTS_", "DAGSTER_", "AWS_", "DATA_ROOT", "DATABASE_URL", "SLACK_", "SMTP_", "NUMBA_")


def clean_environment() -> dict[str, str]:
    """The environment of a fresh shell."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


@pytest.fixture(autouse=True, scope="session")
def _fresh_environment() -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(_OURS)}
    if "COIN_HTS_SHARED_DATA" in kept:
        os.environ["COIN_HTS_SHARED_DATA"] = kept["COIN_HTS_SHARED_DATA"]
    yield
    os.environ.update(kept)


@pytest.fixture(autouse=True)
def _secrets_of_its_own() -> Iterator[None]:
    """What a test has planted must not be hidden in the output of the next."""
    yield
    if "coin_hts_pipelines.operations.redaction" in sys.modules:
        sys.modules["coin_hts_pipelines.operations.redaction"].forget_secrets()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real candles, recorded answers and golden frames that are not part of the project."""
    path = Path(os.environ.get("COIN_HTS_SHARED_DATA", CHECKOUT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"the shared data is not at {path}")
    return path


@dataclass(frozen=True)
class Project:
    """A folder like a fresh clone: dagster.yaml, workspace.yaml, its own data and embedded Postgres."""

    home: Path

    @property
    def data(self) -> Path:
        return self.home / "data"

    def environment(self, **variables: str) -> dict[str, str]:
        return {**clean_environment(), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **variables}

    def run(self, *argv: str, timeout: float = 240, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the virtual environment in the project, as a person would in a fresh shell."""
        return subprocess.run(
            [str(BIN / argv[0]), *argv[1:]],
            cwd=self.home,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def coin_hts(self, *argv: str, timeout: float = 240, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `coin-hts` in the project."""
        return self.run("coin-hts", *argv, timeout=timeout, **variables)

    def start(self, *argv: str, **variables: str) -> subprocess.Popen[str]:
        """Start a program of the virtual environment in a process group of its own; the caller ends it."""
        return subprocess.Popen(
            [str(BIN / argv[0]), *argv[1:]],
            cwd=self.home,
            env=self.environment(**variables),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )


def make_project(home: Path) -> Project:
    """Make a project folder."""
    home.mkdir(parents=True, exist_ok=True)
    for name in ("dagster.yaml", "workspace.yaml", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, home / name)
    return Project(home)


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """A project for the tests of one module; its Postgres is stopped at the end."""
    # A short path: the name of a Unix socket is limited to 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="hts-"))
    made = make_project(home)
    try:
        yield made
    finally:
        made.coin_hts("db", "stop")
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real Postgres for the tests of rings 1 and 2."""
    from coin_hts_pipelines.operations.embedded_postgres import start_server, stop_server

    home = Path(tempfile.mkdtemp(prefix="hts-pg-"))
    try:
        url = start_server(home / "pg")
        # Nothing here outlives the tests; what becomes of data without power is not theirs to show.
        with closing(psycopg2.connect(url.replace("+psycopg2", ""))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("ALTER SYSTEM SET fsync = off")
                cursor.execute("SELECT pg_reload_conf()")
        yield url
    finally:
        stop_server(home / "pg")
        shutil.rmtree(home, ignore_errors=True)
