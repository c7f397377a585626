"""The partition dimensions: symbols, years, and the presets of each timeframe. Belongs here: keys, nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache

from dagster import (
    DynamicPartitionsDefinition,
    MultiPartitionsDefinition,
    TimeWindowPartitionsDefinition,
)

from coin_hts_pipelines.market import Span, Timeframe
from coin_hts_pipelines.settings import get_settings

# Tags of a run over a range of partitions.
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
SYMBOLS = "symbols"
SEPARATOR = "|"


def presets_name(timeframe: Timeframe) -> str:
    """Name of the dynamic set of presets of a timeframe."""
    return f"presets_{timeframe.value.lower()}"


@cache
def symbol_partitions() -> DynamicPartitionsDefinition:
    """Every registered symbol."""
    return DynamicPartitionsDefinition(name=SYMBOLS)


@cache
def year_partitions() -> TimeWindowPartitionsDefinition:
    """UTC years from the first configured one to the current one, which is still being filled."""
    return TimeWindowPartitionsDefinition(
        cron_schedule="0 0 1 1 *", fmt="%Y", start=str(get_settings().first_year), end_offset=1
    )


@cache
def symbol_years() -> MultiPartitionsDefinition:
    """Keys `KRW-BTC|2025`."""
    return MultiPartitionsDefinition({"symbol": symbol_partitions(), "year": year_partitions()})


@cache
def preset_partitions(timeframe: Timeframe) -> DynamicPartitionsDefinition:
    """Presets of a timeframe."""
    return DynamicPartitionsDefinition(name=presets_name(timeframe))


@cache
def preset_symbols(timeframe: Timeframe) -> MultiPartitionsDefinition:
    """Keys `volume_long_candle_1d|KRW-BTC`."""
    return MultiPartitionsDefinition({"preset": preset_partitions(timeframe), "symbol": symbol_partitions()})


def split_key(key: str) -> tuple[str, str]:
    """Both halves of a two-dimensional key, in the order of the dimensions' names."""
    first, _, second = key.partition(SEPARATOR)
    return first, second


def join_key(first: str, second: str) -> str:
    """Two-dimensional key of two halves."""
    return f"{first}{SEPARATOR}{second}"


def group_keys(keys: Iterable[str], *, by: int) -> list[tuple[str, tuple[str, ...]]]:
    """Group two-dimensional keys by their first (0) or second (1) half, both in order of appearance."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(split_key(key)[by], []).append(key)
    return [(name, tuple(members)) for name, members in groups.items()]


def year_span(year: int) -> Span:
    """UTC span of a year."""
    return Span(datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC))
