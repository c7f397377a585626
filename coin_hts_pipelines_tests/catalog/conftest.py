"""Scratch databases on the tests' Postgres."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.database import driver_url
from coin_hts_pipelines.catalog.models import Base


@pytest.fixture(scope="session")
def new_database(postgres_url: str) -> Iterator[Callable[[], str]]:
    """Make an empty database and return its URL; all are dropped at the end."""
    server = sa.create_engine(driver_url(postgres_url), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    names: list[str] = []

    def make() -> str:
        names.append(f"scratch_{uuid.uuid4().hex[:12]}")
        with server.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {names[-1]}"))
        return driver_url(postgres_url).set(database=names[-1]).render_as_string(hide_password=False)

    yield make
    with server.connect() as connection:
        for name in names:
            connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


@pytest.fixture(scope="session")
def _migrated(new_database: Callable[[], str]) -> Iterator[Database]:
    made = Database(new_database(), pool_size=2)
    made.upgrade()
    yield made
    made.dispose()


@pytest.fixture
def database(_migrated: Database) -> Iterator[Database]:
    """A migrated catalog without rows."""
    yield _migrated
    with _migrated.session() as session:
        names = ", ".join(str(table) for table in Base.metadata.sorted_tables)
        session.execute(sa.text(f"TRUNCATE {names}"))
