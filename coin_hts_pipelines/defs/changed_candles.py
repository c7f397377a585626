"""Candles that changed outside Dagster's runs (a repair, a copied file) are recorded; what lies below them follows.

Only what is stored is looked at: a file that was removed is noticed by the next run over its year.
"""

import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from dagster._core.definitions.partitions.utils import get_tags_from_multi_partition_key
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.tags import PARTITION_NAME_TAG

from coin_hts_pipelines.defs.jobs import refresh_job
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START, SYMBOLS, join_key, split_key, year_partitions
from coin_hts_pipelines.errors import NoCandles, PermanentError, TransientError
from coin_hts_pipelines.lake import CandleStore, candles_digest
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.settings import get_settings

IMPORT_JOB = "import_inbox"
# Whoever copies by hand, or fetches page after page, is done when nothing has changed for so long.
_STILL_NANOSECONDS = 30 * 10**9
# Dagster gives a tick a minute; the years of one more series take a few seconds.
_LOOK_SECONDS = 20.0
# The log has them all.
_SHOWN = 5

# By timeframe and symbol, when the newest change happened that was looked at. A symbol without one is looked at whole:
# its candles may have been stored long before somebody switched it on.
Watermarks = dict[str, dict[str, int]]


def candles_key(timeframe: Timeframe) -> dg.AssetKey:
    """Asset of a timeframe's candles."""
    return dg.AssetKey(f"candles_{timeframe.value.lower()}")


def change_event(
    instance: dg.DagsterInstance, store: CandleStore, symbol: str, timeframe: Timeframe, year: int, by: str
) -> dg.AssetMaterialization | None:
    """Event of a year whose candles are not those of its last materialization, None if they are.

    Parameters
    ----------
    by
        What changed them, for the people who read the event.

    Raises
    ------
    NoCandles, InvalidCandles, PermanentError, TransientError
        As `CandleStore.read_year`.
    """
    asset, key = candles_key(timeframe), dg.MultiPartitionKey({"symbol": symbol, "year": str(year)})
    frame = store.read_year(symbol, timeframe, year)
    digest = candles_digest(frame)
    if digest == _recorded_digest(instance, asset, join_key(symbol, str(year))):
        return None
    metadata: dict[str, Any] = {
        "dagster/row_count": len(frame),
        "source": store.source_of(symbol, timeframe),
        "changed_by": by,
        "candles_digest": digest,
    }
    tags = get_tags_from_multi_partition_key(key)
    return dg.AssetMaterialization(asset, partition=key, metadata=metadata, tags=tags)


def _recorded_digest(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str) -> str | None:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[partition]), limit=1
    ).records
    if not records or records[0].asset_materialization is None:
        return None
    value = records[0].asset_materialization.metadata.get("candles_digest")
    return None if value is None else str(value.value)


@dataclass(frozen=True)
class _Series:
    """Years of a series that changed since they were looked at, and when."""

    timeframe: Timeframe
    symbol: str
    years: dict[int, int]


@dataclass
class Looked:
    """What came of a look: events to be stored, what a person should know, and how far it got."""

    watermarks: Watermarks
    events: list[dg.AssetMaterialization] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    held: int = 0
    left: int = 0

    def __str__(self) -> str:
        parts = [
            f"{len(self.events)} partitions of candles changed" if self.events else "",
            f"{self.held} series wait for a run" if self.held else "",
            f"{self.left} series wait for the next look" if self.left else "",
            *self.problems[:_SHOWN],
        ]
        return "; ".join(filter(None, parts)) or "no candles have changed"


def look(
    instance: dg.DagsterInstance,
    store: CandleStore,
    timeframes: Collection[Timeframe],
    watermarks: Watermarks,
    *,
    now: int,
    tired: Callable[[], bool],
) -> Looked:
    """Compare the years whose files changed with what was recorded of them.

    A file that cannot be read is a problem once, until it changes; one that may be read later stays where it is.

    Parameters
    ----------
    now
        Nanoseconds since the epoch, by the clock that stamps the files.
    tired
        Asked before each series but the first: whether the rest is for the next look.
    """
    symbols = list(instance.get_dynamic_partitions(SYMBOLS))
    kept = {timeframe.value: dict(watermarks.get(timeframe.value, {})) for timeframe in timeframes}
    found = sorted(_changed(store, timeframes, symbols, kept, now), key=lambda series: min(series.years.values()))
    # After the files: a run that wrote them is still there, or has recorded them.
    held = _held(instance, timeframes, symbols)
    free = [series for series in found if (series.timeframe, series.symbol) not in held]
    looked = Looked(kept, held=len(found) - len(free))
    for done, series in enumerate(free):
        if done and tired():
            looked.left = len(free) - done
            break
        _look_at(instance, store, series, looked)
    return looked


def _changed(
    store: CandleStore, timeframes: Collection[Timeframe], symbols: Sequence[str], watermarks: Watermarks, now: int
) -> Iterator[_Series]:
    served = {int(year) for year in year_partitions().get_partition_keys()}
    for symbol in store.symbols():
        if symbol not in symbols:
            continue
        for timeframe in store.timeframes(symbol):
            if timeframe not in timeframes:
                continue
            after = watermarks[timeframe.value].get(symbol, -1)
            moments = {
                year: store.files.changed_at(symbol, timeframe, year)
                for year in store.years(symbol, timeframe)
                if year in served
            }
            years = {
                year: moment
                for year, moment in moments.items()
                if moment is not None and after < moment <= now - _STILL_NANOSECONDS
            }
            if years:
                yield _Series(timeframe, symbol, years)


def _held(
    instance: dg.DagsterInstance, timeframes: Collection[Timeframe], symbols: Sequence[str]
) -> set[tuple[Timeframe, str]]:
    """Series that an unfinished run may be writing: it records them itself."""
    return {
        (timeframe, symbol)
        for run in instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES))
        for timeframe in timeframes
        if _writes(run, timeframe)
        for symbol in _symbols_of(run, symbols)
    }


def _writes(run: dg.DagsterRun, timeframe: Timeframe) -> bool:
    if run.asset_selection is not None:
        return candles_key(timeframe) in run.asset_selection
    # What a schedule starts has no selection but its job's.
    return run.job_name in (refresh_job(timeframe).name, IMPORT_JOB)


def _symbols_of(run: dg.DagsterRun, symbols: Sequence[str]) -> Sequence[str]:
    """Symbols of a run's partitions; all where it does not say, or says what is no partition any more."""
    alone = run.tags.get(PARTITION_NAME_TAG, "")
    first, last = (split_key(run.tags.get(tag, alone))[0] for tag in (RANGE_START, RANGE_END))
    if first not in symbols or last not in symbols:
        return symbols
    return symbols[symbols.index(first) : symbols.index(last) + 1]


def _look_at(instance: dg.DagsterInstance, store: CandleStore, series: _Series, looked: Looked) -> None:
    symbol, timeframe = series.symbol, series.timeframe
    for year, moment in series.years.items():
        try:
            event = change_event(instance, store, symbol, timeframe, year, "a file changed outside Dagster's runs")
        except NoCandles:  # removed meanwhile
            continue
        except PermanentError as error:
            looked.problems.append(str(error))
            continue
        except TransientError as error:
            looked.problems.append(str(error))
            return
        # One that changed meanwhile is looked at when it is still: what was read may be what a run records.
        if event is not None and store.files.changed_at(symbol, timeframe, year) == moment:
            looked.events.append(event)
    looked.watermarks[timeframe.value][symbol] = max(series.years.values())


def changed_candles_sensor(now: Callable[[], int] = time.time_ns) -> dg.SensorDefinition:
    """Record what changed outside Dagster's runs; the automation does the rest.

    Parameters
    ----------
    now
        Nanoseconds since the epoch; files carry the system's time, whatever clock the exchange goes by.
    """

    @dg.sensor(
        name="changed_candles",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Records candles that `coin-hts data` or a copied file changed once they have been still for half "
        "a minute, for exactly the years that changed; what lies below follows by automation.",
    )
    def changed_candles(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        settings = get_settings()
        timeframes = [Timeframe.parse(text) for text in settings.timeframes]
        enough = time.monotonic() + _LOOK_SECONDS
        looked = look(
            context.instance,
            CandleStore(settings.root),
            timeframes,
            _read(context.cursor),
            now=now(),
            tired=lambda: time.monotonic() > enough,
        )
        for problem in looked.problems:
            context.log.warning(problem)
        return dg.SensorResult(
            asset_events=looked.events,
            skip_reason=dg.SkipReason(str(looked)),
            cursor=json.dumps(looked.watermarks, separators=(",", ":")),
        )

    return changed_candles


def _read(cursor: str | None) -> Watermarks:
    try:
        read: Any = json.loads(cursor or "{}")
        return {str(name): {str(key): int(mark) for key, mark in marks.items()} for name, marks in read.items()}
    except (AttributeError, TypeError, ValueError):
        return {}
