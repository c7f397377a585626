"""Presets and the result index in Postgres. Belongs here: SQL. Not here: files, and Dagster's own storage."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Imported when they are asked for: who only looks into the database (`doctor`, `status`) waits neither for pandas nor
# for numba, which is most of a second.
_MODULES = {
    "Coverage": "coverage",
    "Database": "database",
    "ListedSymbol": "symbols",
    "Preset": "presets",
    "PresetCatalog": "presets",
    "ResultIndex": "result_index",
    "SymbolCatalog": "symbols",
    "UniverseChange": "symbols",
    "builtin_presets": "presets",
    "dagster_url": "database",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
