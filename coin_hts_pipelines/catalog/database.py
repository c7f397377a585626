"""The connection to Postgres, its schemas and migrations; what goes wrong there comes out as our own errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session

from coin_hts_pipelines.catalog.models import SCHEMA
from coin_hts_pipelines.errors import InvalidRequest, PermanentError, TransientError

HEAD_REVISION = "0006"
DAGSTER_SCHEMA = "dagster"
_MIGRATIONS = Path(__file__).parent / "migrations"
# Two processes that start at once must not migrate at once; the number is arbitrary, but ours.
_MIGRATION_LOCK = 7_201_403


def driver_url(url: str) -> sa.URL:
    """Parse a Postgres URL and name the driver: SQLAlchemy 2.1 would take psycopg 3 for `postgresql://`.

    Raises
    ------
    InvalidRequest
        If it is not the URL of a Postgres.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise InvalidRequest(
            "COIN_HTS_DATABASE_URL cannot be read; expected postgresql://user:pass@host/name"
        ) from None
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise InvalidRequest(f"COIN_HTS_DATABASE_URL names {parsed.drivername}; expected a postgresql:// URL")
    return parsed.set(drivername="postgresql+psycopg2")


def dagster_url(url: str) -> str:
    """URL for Dagster's storage: the same database, its own schema."""
    parsed = driver_url(url).update_query_dict({"options": f"-csearch_path={DAGSTER_SCHEMA}"})
    return parsed.render_as_string(hide_password=False)


class Database:
    """The catalog's Postgres; connections are pooled and renewed."""

    def __init__(self, url: str, *, pool_size: int = 20, max_overflow: int = 40, pool_recycle: int = 3600) -> None:
        self.url = driver_url(url)
        try:
            self.engine = sa.create_engine(
                self.url,
                pool_size=pool_size,
                max_overflow=max_overflow,
                pool_recycle=pool_recycle,
                pool_pre_ping=True,
                connect_args={"connect_timeout": 10, "application_name": "coin-hts"},
            )
        except NoSuchModuleError as error:
            raise InvalidRequest(f"COIN_HTS_DATABASE_URL names an unknown driver: {error}") from None

    @property
    def label(self) -> str:
        """The URL without its password, which libpq takes as a parameter too."""
        return self.url.difference_update_query(["password", "sslpassword"]).render_as_string(hide_password=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, InterfaceError) as error:
            reason = str(error.orig).strip().splitlines()[0] if error.orig else str(error)
            raise TransientError(f"Postgres at {self.label} cannot be reached: {reason}") from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise TransientError(f"Postgres at {self.label} dropped the connection") from error
            raise

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a session in one transaction, committed at the end.

        Raises
        ------
        TransientError
            If Postgres cannot be reached or drops the connection.
        """
        with self._translated(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def revision(self) -> str | None:
        """Migration the catalog is at, None before the first and after a full downgrade."""
        with self._translated(), self.engine.connect() as connection:
            if connection.scalar(sa.text("SELECT to_regclass(:name)"), {"name": f"{SCHEMA}.alembic_version"}) is None:
                return None
            found: str | None = connection.scalar(sa.text(f"SELECT version_num FROM {SCHEMA}.alembic_version"))  # noqa: S608
            return found

    def version(self) -> str:
        """Version of the Postgres server."""
        with self._translated(), self.engine.connect() as connection:
            return str(connection.scalar(sa.text("SHOW server_version")))

    def upgrade(self, revision: str = "head") -> None:
        """Create the schemas and bring the catalog to a revision; does nothing when it is there already.

        Raises
        ------
        PermanentError
            If a newer version of the project made the database.
        """
        found = self.revision()
        if revision == "head" and found == HEAD_REVISION:
            return
        if found is not None and found > HEAD_REVISION:
            raise PermanentError(
                f"the catalog is at revision {found}, this version of the project knows up to {HEAD_REVISION}; use the "
                "newer version, or restore a backup of this one (docs/operations.md, go back)"
            )
        self._migrate("upgrade", revision)

    def downgrade(self, revision: str) -> None:
        """Take migrations back to a revision (`base`: all)."""
        self._migrate("downgrade", revision)

    def _migrate(self, direction: str, revision: str) -> None:
        from alembic import command  # noqa: PLC0415 - 0.2 s, and only when there is something to migrate
        from alembic.config import Config  # noqa: PLC0415

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        with self._translated(), self.engine.begin() as connection:
            connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
            for schema in (SCHEMA, DAGSTER_SCHEMA):
                connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
            config.attributes["connection"] = connection
            getattr(command, direction)(config, revision)

    def dispose(self) -> None:
        """Close all connections."""
        self.engine.dispose()
