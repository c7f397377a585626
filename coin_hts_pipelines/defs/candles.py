"""Candle assets, one per timeframe: from the source into the store, validated on the way."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import cast

import dagster as dg

from coin_hts_pipelines import clock
from coin_hts_pipelines.catalog import Coverage
from coin_hts_pipelines.defs.partitioned_work import (
    RETRY,
    Done,
    Outcome,
    Progress,
    Recorded,
    check_specs,
    never_retried,
    requested_keys,
    work_on,
)
from coin_hts_pipelines.defs.partitions import group_keys, join_key, split_key, symbol_years, year_span
from coin_hts_pipelines.defs.resources import CatalogResource, LakeResource, open_source
from coin_hts_pipelines.errors import Cancelled, NoCandles
from coin_hts_pipelines.lake import CandleStore, is_synthetic
from coin_hts_pipelines.lake.candle_checks import Covered, covered_spans, missing_bars, year_problems
from coin_hts_pipelines.lake.collector import Collector, PagedSource
from coin_hts_pipelines.lake.sources import CandleSource, StoredSource
from coin_hts_pipelines.market import Span, Timeframe, parse_span
from coin_hts_pipelines.settings import get_settings

CHECKS = {
    "schema": dg.AssetCheckSeverity.ERROR,
    "grid": dg.AssetCheckSeverity.ERROR,
    "gaps": dg.AssetCheckSeverity.WARN,
    "freshness": dg.AssetCheckSeverity.WARN,
    "outliers": dg.AssetCheckSeverity.WARN,
    "agreement": dg.AssetCheckSeverity.WARN,
}
_CHECK_DOCS = {
    "schema": "Stored candles have every column, finite numbers and prices that fit together.",
    "grid": "Open times are strictly increasing, on the grid of the timeframe and of the file's year.",
    "gaps": "No bar is missing between the first and the last, but for those an exchange was asked for and has not.",
    "freshness": "The year of the latest closed bar holds it, or its exchange was asked and has none.",
    "outliers": "No bar's range is more than 20 times the median range of the 100 bars before it.",
    "agreement": "The bars equal those made of the next finer candles that are stored, where both are complete.",
}
_QUALITY = dg.TableSchema([dg.TableColumn(name) for name in ("check", "passed", "finding")])


class CandleConfig(dg.Config):
    """Where this run takes its candles from; what is left out comes from the settings."""

    source: str | None = None
    path: str | None = None
    start: str | None = None
    end: str | None = None

    def open(self, store_root: Path) -> CandleSource:
        """Open the source."""
        settings = get_settings()
        path = Path(self.path) if self.path else settings.source_path
        return open_source(self.source or settings.source, path and settings.path(path), store_root)

    @property
    def span(self) -> Span:
        """Span of the run."""
        return parse_span(self.start, self.end)


def _clip(span: Span, year: int) -> Span | None:
    whole = year_span(year)
    starts = [moment for moment in (span.start, whole.start) if moment is not None]
    ends = [moment for moment in (span.end, whole.end) if moment is not None]
    start, end = max(starts), min(ends)
    return Span(start, end) if start < end else None


@dataclass(frozen=True)
class Brought:
    """What came into the store: new and changed rows, synthetic years that went, and whether real ones were kept.

    It was asked for at a moment, and took some seconds.
    """

    added: int = 0
    changed: int = 0
    replaced_synthetic_years: tuple[int, ...] = ()
    kept_real: bool = False
    # An exchange was asked and may have nothing: the market was not listed yet.
    may_be_empty: bool = False
    at: datetime = field(default_factory=clock.now)
    seconds: float = 0.0


Bring = Callable[[str, int, Span], Brought]


def bring_stored(store: CandleStore, source: CandleSource, timeframe: Timeframe) -> Bring:
    """Bring what a source has at once."""

    def bring(symbol: str, year: int, span: Span) -> Brought:
        candles = source.fetch(symbol, timeframe, span)
        if candles.empty:
            raise NoCandles(f"source {source.name} has no {timeframe} candles of {symbol} in {year}")
        merged = store.merge(symbol, timeframe, candles, source=source.name)
        write = next((write for write in merged.writes if write.year == year), None)
        return Brought(
            write.added if write else 0,
            write.changed if write else 0,
            merged.replaced_synthetic_years,
            merged.kept_real,
        )

    return bring


def bring_missing(collector: Collector, timeframe: Timeframe, cancelled: Callable[[], bool]) -> Bring:
    """Bring what is missing from an exchange."""

    def bring(symbol: str, year: int, span: Span) -> Brought:  # noqa: ARG001 - the span is the year's
        done = collector.collect(symbol, timeframe, span, cancelled=cancelled)
        return Brought(done.added, done.changed, tuple(sorted(done.replaced_synthetic_years)), may_be_empty=True)

    return bring


def load_year(bring: Bring | None, symbol: str, timeframe: Timeframe, year: int, span: Span) -> Brought:
    """Bring one year of one symbol into the store; `bring` None leaves what lies there already."""
    if bring is None:
        return Brought()
    clipped = _clip(span, year)
    if clipped is None:
        raise NoCandles(f"{symbol} {timeframe}: {year} is outside the span asked for")
    at, started = clock.now(), time.perf_counter()
    return replace(bring(symbol, year, clipped), at=at, seconds=round(time.perf_counter() - started, 4))


def describe_year(
    store: CandleStore,
    symbol: str,
    timeframe: Timeframe,
    year: int,
    brought: Brought,
    covered: Covered | None = None,
) -> Done:
    """Check one stored year: its metadata and problems."""
    if brought.may_be_empty and year not in store.years(symbol, timeframe):
        return Done({"dagster/row_count": 0, "note": "the exchange has no candles in this year"})
    frame = store.read_year(symbol, timeframe, year)
    origin = store.source_of(symbol, timeframe) or "unknown"
    gaps = missing_bars(frame, timeframe, year, (covered or {}).get(timeframe))
    problems = year_problems(store, symbol, timeframe, year, frame, covered, now=brought.at)
    metadata = {
        "dagster/row_count": len(frame),
        "first": dg.MetadataValue.timestamp(frame["timestamp"].iloc[0].to_pydatetime()),
        "last": dg.MetadataValue.timestamp(frame["timestamp"].iloc[-1].to_pydatetime()),
        "missing_bars": gaps.missing,
        **({} if gaps.unfetched is None else {"hole_bars": gaps.holes, "unfetched_bars": gaps.unfetched}),
        "longest_gap_bars": gaps.longest,
        "source": origin,
        "synthetic": is_synthetic(origin),
        "added_rows": brought.added,
        "changed_rows": brought.changed,
        "seconds": brought.seconds,
        "candles_digest": store.digest(symbol, timeframe, year),
        "quality": _quality(problems),
        **({"note": "real candles are kept; synthetic ones are never mixed in"} if brought.kept_real else {}),
    }
    return Done(metadata, problems)


def _quality(problems: Mapping[str, str]) -> dg.TableMetadataValue:
    rows = [(check, "no" if check in problems else "yes", problems.get(check, "")) for check in CHECKS]
    names = [column.name for column in _QUALITY.columns]
    return dg.MetadataValue.table([dg.TableRecord(dict(zip(names, row, strict=True))) for row in rows], _QUALITY)


def candles_asset(timeframe: Timeframe) -> dg.AssetsDefinition:
    """Candle asset of a timeframe."""
    name = f"candles_{timeframe.value.lower()}"

    @dg.multi_asset(
        name=name,
        specs=[
            dg.AssetSpec(
                name,
                partitions_def=symbol_years(),
                group_name=f"timeframe_{timeframe.value.lower()}",
                kinds={"parquet", "pandas"},
                owners=["team:data"],
                description=f"{timeframe} candles of one symbol and UTC year, validated and merged into "
                "`DATA_ROOT/{symbol}/" + timeframe.value + "/{year}.parquet`. Synthetic and real candles never mix.",
            )
        ],
        check_specs=check_specs(name, CHECKS, _CHECK_DOCS),
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=RETRY,
        # No pool: the store locks each series, and a long history must not hold up what is new.
    )
    def candles(
        context: dg.AssetExecutionContext,
        config: CandleConfig,
        lake: LakeResource,
        catalog: CatalogResource,
        progress: dg.ResourceParam[Progress],
    ) -> Iterator[Recorded]:
        store = lake.candles
        with never_retried():
            span, opened = config.span, config.open(lake.root)
        live = opened.name.startswith("exchange:")
        collector = Collector(cast(PagedSource, opened), store, Coverage(catalog.database)) if live else None
        at_once = None if live or isinstance(opened, StoredSource) else bring_stored(store, opened, timeframe)

        def work(symbol: str, keys: tuple[str, ...], cancelled: Callable[[], bool]) -> Mapping[str, Outcome]:
            outcomes: dict[str, Outcome] = {}
            brought: dict[str, Brought] = {}
            years = {key: int(split_key(key)[1]) for key in keys}
            bring = bring_missing(collector, timeframe, cancelled) if collector is not None else at_once
            for key, year in years.items():
                if cancelled():
                    raise Cancelled(f"{symbol} was cancelled")
                try:
                    brought[key] = load_year(bring, symbol, timeframe, year, span)
                except Exception as error:
                    outcomes[key] = error
            # Once for all years, when everything that was brought stands in the ledger.
            compared = [other for other in store.timeframes(symbol) if other.delta <= timeframe.delta]
            covered = covered_spans(store, symbol, compared, lambda: Coverage(catalog.database))
            for key, one in brought.items():
                if cancelled():
                    raise Cancelled(f"{symbol} was cancelled")
                try:
                    outcomes[key] = describe_year(store, symbol, timeframe, years[key], one, covered)
                except Exception as error:
                    outcomes[key] = error
            return outcomes

        groups = group_keys(requested_keys(context), by=0)

        def displaced() -> dict[str, Done]:
            # Asked of the stores, not remembered: a retry or the run after a killed one must still find them.
            note = {"dagster/row_count": 0, "note": "synthetic candles removed: real ones arrived"}
            return {
                join_key(symbol, str(year)): Done(note)
                for symbol, _ in groups
                for year in lake.indicators.years(symbol, timeframe)
                if year not in store.years(symbol, timeframe)
            }

        yield from work_on(context, groups, work, progress=progress, checks=CHECKS, also=displaced)

    return candles
