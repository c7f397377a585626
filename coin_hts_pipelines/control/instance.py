"""Makes the instance ready for anybody: server running, catalog migrated, variables set, `.env` written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from coin_hts_pipelines.catalog import Database, dagster_url
from coin_hts_pipelines.errors import PermanentError, TransientError
from coin_hts_pipelines.lake.atomic import write_atomically
from coin_hts_pipelines.operations.backup import interrupted_restore
from coin_hts_pipelines.operations.embedded_postgres import start_server
from coin_hts_pipelines.settings import Settings, get_settings, publish

if TYPE_CHECKING:
    from dagster import DagsterInstance

_STATEMENT_TIMEOUT_MS = 60_000
MODULE = "coin_hts_pipelines.definitions"
_BEGIN = "# >>> written by coin-hts: how Dagster finds this instance"
_END = "# <<< written by coin-hts"


def database_url(settings: Settings) -> str:
    """URL of Postgres; starts the embedded server unless the settings name another."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return start_server(settings.postgres)


def instance_variables(settings: Settings, url: str) -> dict[str, str]:
    """Variables by which Dagster's own commands find the instance and the code."""
    return {
        "DAGSTER_HOME": str(settings.path(settings.dagster_home)),
        "DAGSTER_POSTGRES_URL": dagster_url(url),
        "DAGSTER_EVENT_BATCH_SIZE": "500",
        # Read only when the file is sourced: Dagster parses its options before it loads `.env`. The general
        # DAGSTER_MODULE_NAME would make `dagster dev` refuse its own workspace argument.
        "DAGSTER_CLI_ASSET_LIST_MODULE_NAME": MODULE,
        "DAGSTER_CLI_ASSET_MATERIALIZE_MODULE_NAME": MODULE,
        "COIN_HTS_DAGSTER_STORAGE": str(settings.root / "dagster"),
    }


def write_env_file(path: Path, variables: dict[str, str]) -> bool:
    """Put the variables between our two marks in `.env`, leaving every other line; false if nothing changed."""
    old = path.read_text() if path.exists() else ""
    before, found, rest = old.partition(_BEGIN)
    after = rest.partition(_END)[2].lstrip("\n") if found else ""
    before = before if before.endswith("\n") or not before else before + "\n"
    lines = "".join(f"{name}='{value}'\n" for name, value in variables.items())
    new = f"{before}{_BEGIN}\n{lines}{_END}\n{after}"
    if new == old:
        return False

    def write(stream: BinaryIO) -> None:
        # An external database's password stands in it: no other user may read it, not even for a moment.
        os.fchmod(stream.fileno(), 0o600)
        stream.write(new.encode())

    write_atomically(path, write)
    return True


@cache
def open_database() -> Database:
    """Connect this process to the catalog, starting the embedded server if need be; migrations are not run."""
    settings = get_settings()
    return Database(
        database_url(settings),
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_max_overflow,
        pool_recycle=settings.database_pool_recycle,
    )


def prepare() -> Database:
    """Start and migrate Postgres, set this process's variables and write `.env` beside `dagster.yaml`.

    Raises
    ------
    TransientError
        If Postgres cannot be started or reached.
    PermanentError
        If the folder cannot be written, or a restore was interrupted.
    """
    settings = get_settings()
    if problem := interrupted_restore(settings.root):
        raise PermanentError(problem)
    database = open_database()
    database.upgrade()
    variables = instance_variables(settings, database.url.render_as_string(hide_password=False))
    home = Path(variables["DAGSTER_HOME"])
    if not (home / "dagster.yaml").is_file():
        raise PermanentError(f"there is no dagster.yaml in {home}; run coin-hts in the checkout or set DAGSTER_HOME")
    try:
        Path(variables["COIN_HTS_DAGSTER_STORAGE"]).mkdir(parents=True, exist_ok=True)
        if os.access(home, os.W_OK):
            write_env_file(home / ".env", variables)
    except OSError as error:
        raise PermanentError(f"{home} cannot be prepared: {error}") from error
    publish(**variables)
    return database


def connection_errors() -> tuple[type[Exception], ...]:
    """Return what Dagster's storage raises when Postgres is gone."""
    from dagster_postgres.utils import DagsterPostgresException  # noqa: PLC0415
    from sqlalchemy.exc import InterfaceError, OperationalError  # noqa: PLC0415

    return DagsterPostgresException, InterfaceError, OperationalError


@contextmanager
def open_instance() -> Iterator[DagsterInstance]:
    """Dagster's instance on that Postgres; call `prepare` first.

    Raises
    ------
    TransientError
        If Postgres cannot be reached, or not any more.
    """
    from dagster import DagsterInstance  # noqa: PLC0415 - a second, and only after the variables are set
    from dagster._core.instance import InstanceRef  # noqa: PLC0415

    # Runs of this process print to the terminal: capturing their output costs two processes a run.
    silent = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
    home = str(get_settings().path(get_settings().dagster_home))
    recycle = get_settings().database_pool_recycle
    try:
        with DagsterInstance.from_ref(InstanceRef.from_dir(home, overrides={"compute_logs": silent})) as instance:
            # Keeps connections open as the web server does; otherwise every event of a run opens one of its own.
            instance.optimize_for_webserver(_STATEMENT_TIMEOUT_MS, pool_recycle=recycle, max_overflow=20)
            yield instance
    except connection_errors() as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise TransientError(f"Postgres at {open_database().label} cannot be reached: {reason}") from error
