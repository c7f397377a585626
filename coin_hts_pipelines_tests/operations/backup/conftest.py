"""A house to back up, and one that is empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines_tests.catalog.conftest import new_database
from coin_hts_pipelines_tests.operations.backup.helpers import House, make_house

__all__ = ["new_database"]


@pytest.fixture
def house(tmp_path: Path, new_database: Callable[[], str]) -> Iterator[House]:
    made = make_house(tmp_path / "house", new_database)
    yield made
    made.database.dispose()


@pytest.fixture
def empty(tmp_path: Path, new_database: Callable[[], str]) -> Iterator[House]:
    """A place to restore into: no folder yet, a database without our schemas."""
    made = House(tmp_path / "empty", Database(new_database(), pool_size=2))
    yield made
    made.database.dispose()
