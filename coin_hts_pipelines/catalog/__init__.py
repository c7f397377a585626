"""Presets and the result index in Postgres. Belongs here: SQL. Not here: files, and Dagster's own storage."""

from coin_hts_pipelines.catalog.coverage import Coverage
from coin_hts_pipelines.catalog.database import Database, dagster_url
from coin_hts_pipelines.catalog.presets import Preset, PresetCatalog, builtin_presets
from coin_hts_pipelines.catalog.result_index import ResultIndex
from coin_hts_pipelines.catalog.symbols import ListedSymbol, SymbolCatalog, UniverseChange

__all__ = [
    "Coverage",
    "Database",
    "ListedSymbol",
    "Preset",
    "PresetCatalog",
    "ResultIndex",
    "SymbolCatalog",
    "UniverseChange",
    "builtin_presets",
    "dagster_url",
]
