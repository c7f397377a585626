"""Indicator assets, one per timeframe: the frame of a symbol's year, computed with look-back into earlier years."""

import time
from collections.abc import Callable, Iterator, Mapping

import dagster as dg
import numpy as np
import pandas as pd

from coin_hts_pipelines.defs.automation import follow_upstream
from coin_hts_pipelines.defs.partitioned_work import (
    RETRY,
    Done,
    Outcome,
    Progress,
    Recorded,
    check_specs,
    requested_keys,
    work_on,
)
from coin_hts_pipelines.defs.partitions import group_keys, split_key, symbol_years
from coin_hts_pipelines.defs.resources import LakeResource
from coin_hts_pipelines.errors import Cancelled, NoCandles
from coin_hts_pipelines.indicators import LOOKBACK_BARS, LOOKBACK_TIME, indicator_frame
from coin_hts_pipelines.lake import CandleStore, IndicatorStore
from coin_hts_pipelines.market import Timeframe

CHECKS = {"warm_up": dg.AssetCheckSeverity.ERROR, "year_seam": dg.AssetCheckSeverity.WARN}
_CHECK_DOCS = {
    "warm_up": "Values are missing exactly while a window is not full, and nowhere behind that.",
    "year_seam": "The last row of the year before, computed from this year's look-back, is the stored one.",
}
# First bar of the whole history at which the column has a value.
_FIRST_VALUE = {"sma_5": 4, "sma_20": 19, "sma_60": 59, "ema_26": 25, "macd_signal": 33, "rsi_14": 14, "bb_upper": 19}
_SEAM_COLUMNS = ("sma_60", "ema_26", "macd", "rsi_14", "atr_14", "volume_sma_20")
_SEAM_TOLERANCE = 1e-6


def _warm_up(frame: pd.DataFrame, bars_before: int) -> str | None:
    for column, first in _FIRST_VALUE.items():
        expected = np.arange(len(frame)) + bars_before < first
        wrong = frame[column].isna().to_numpy() != expected
        if wrong.any():
            count, where = int(wrong.sum()), int(wrong.argmax())
            return f"{column}: {count} rows are missing or filled against the rule, first row {where}"
    return None


def _seam(store: IndicatorStore, symbol: str, timeframe: Timeframe, before: pd.DataFrame) -> str | None:
    if len(before) < LOOKBACK_BARS:
        return None
    here = before.iloc[-1]
    try:
        stored = store.read(symbol, timeframe, here["timestamp"].year)
    except NoCandles:
        return None
    there = stored[stored["timestamp"] == here["timestamp"]]
    if there.empty:
        return f"the year before has no row {here['timestamp']}"
    close = here["close"]
    for column in _SEAM_COLUMNS:
        scale = {"rsi_14": 1.0, "volume_sma_20": here["volume_sma_20"]}.get(column, close)
        # Asked this way round, a missing value is a difference too.
        if not abs(there.iloc[0][column] - here[column]) <= _SEAM_TOLERANCE * scale:
            return f"{column} at {here['timestamp']}: stored {there.iloc[0][column]!r}, from look-back {here[column]!r}"
    return None


def compute_year(
    candles: CandleStore, indicators: IndicatorStore, symbol: str, timeframe: Timeframe, year: int
) -> Done:
    """Compute and store one year of one symbol; where the candles were removed the indicators are removed too."""
    started = time.perf_counter()
    if year not in candles.years(symbol, timeframe):
        removed = indicators.remove(symbol, timeframe, year)
        return Done({"dagster/row_count": 0, "note": "no candles" + ("; stale indicators removed" if removed else "")})
    loaded, first = candles.load_with_lookback(symbol, timeframe, year, LOOKBACK_BARS, LOOKBACK_TIME)
    full = indicator_frame(loaded, timeframe)
    frame = full.iloc[first:].reset_index(drop=True)
    digest = candles.digest(symbol, timeframe, year)
    problems = {
        "warm_up": _warm_up(frame, first),
        "year_seam": _seam(indicators, symbol, timeframe, full.iloc[:first]),
    }
    path = indicators.write(symbol, timeframe, year, frame, metadata={"candles_digest": digest})
    metadata = {
        "dagster/row_count": len(frame),
        "first": dg.MetadataValue.timestamp(frame["timestamp"].iloc[0].to_pydatetime()),
        "last": dg.MetadataValue.timestamp(frame["timestamp"].iloc[-1].to_pydatetime()),
        "look_back_bars": first,
        "columns": len(frame.columns),
        "candles_digest": digest,
        "path": dg.MetadataValue.path(path),
        "seconds": round(time.perf_counter() - started, 4),
    }
    return Done(metadata, {name: text for name, text in problems.items() if text})


def indicators_asset(timeframe: Timeframe) -> dg.AssetsDefinition:
    """Indicator asset of a timeframe."""
    name, upstream = f"indicators_{timeframe.value.lower()}", f"candles_{timeframe.value.lower()}"
    same_and_previous_year = dg.MultiPartitionMapping(
        {
            "symbol": dg.DimensionPartitionMapping("symbol", dg.IdentityPartitionMapping()),
            "year": dg.DimensionPartitionMapping(
                "year", dg.TimeWindowPartitionMapping(start_offset=-1, allow_nonexistent_upstream_partitions=True)
            ),
        }
    )

    @dg.multi_asset(
        name=name,
        specs=[
            dg.AssetSpec(
                name,
                deps=[dg.AssetDep(upstream, partition_mapping=same_and_previous_year)],
                partitions_def=symbol_years(),
                group_name=f"timeframe_{timeframe.value.lower()}",
                kinds={"parquet", "numba"},
                owners=["team:research"],
                automation_condition=follow_upstream(),
                description=f"{timeframe} candles with 24 indicator columns, equal to those over the whole history: "
                f"at least {LOOKBACK_BARS} bars and {LOOKBACK_TIME.days} days of look-back.",
            )
        ],
        check_specs=check_specs(name, CHECKS, _CHECK_DOCS),
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=RETRY,
        pool="indicator_store",
    )
    def indicators(
        context: dg.AssetExecutionContext, lake: LakeResource, progress: dg.ResourceParam[Progress]
    ) -> Iterator[Recorded]:
        candles, store = lake.candles, lake.indicators

        def work(symbol: str, keys: tuple[str, ...], cancelled: Callable[[], bool]) -> Mapping[str, Outcome]:
            outcomes: dict[str, Outcome] = {}
            for key in sorted(keys):
                if cancelled():
                    raise Cancelled(f"{symbol} was cancelled")
                try:
                    outcomes[key] = compute_year(candles, store, symbol, timeframe, int(split_key(key)[1]))
                except Exception as error:
                    outcomes[key] = error
            return outcomes

        yield from work_on(context, group_keys(requested_keys(context), by=0), work, progress=progress, checks=CHECKS)

    return indicators
