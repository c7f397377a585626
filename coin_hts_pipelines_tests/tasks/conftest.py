"""The scratch databases of the catalog's tests."""

from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database

__all__ = ["_migrated", "database", "new_database"]
