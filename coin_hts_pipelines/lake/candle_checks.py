"""What is wrong with stored candles, in words, a text a check; nothing is mended here."""

from __future__ import annotations

import pandas as pd

from coin_hts_pipelines import clock
from coin_hts_pipelines.lake.candle_store import CandleStore
from coin_hts_pipelines.market import Timeframe, count_gaps
from coin_hts_pipelines.market.candles import candle_arrays, find_violations
from coin_hts_pipelines.market.quality import compare_timeframes, find_outliers

CHECKS = ("schema", "grid", "gaps", "freshness", "outliers", "agreement")


def year_problems(
    store: CandleStore, symbol: str, timeframe: Timeframe, year: int, frame: pd.DataFrame
) -> dict[str, str]:
    """Problems of one year by check; `frame` is what `store.read_year` gives."""
    found = {
        **frame_problems(frame, timeframe, year),
        "outliers": _outlier_problem(frame),
        "agreement": _agreement_problem(store, symbol, timeframe, year),
    }
    return {check: text for check, text in found.items() if text}


def frame_problems(frame: pd.DataFrame, timeframe: Timeframe, year: int) -> dict[str, str]:
    """Problems of a year that its own bars show, and the present."""
    problems: dict[str, str] = {}
    for violation in find_violations(candle_arrays(frame), timeframe, year=year):
        check = "grid" if violation.rule.startswith("timestamp") else "schema"
        problems[check] = f"{problems[check]}; {violation}" if check in problems else str(violation)
    gaps = count_gaps(frame, timeframe)
    if gaps.missing:
        problems["gaps"] = f"{gaps.missing} bars missing in {gaps.gaps} gaps, first {', '.join(gaps.first)}"
    now = clock.now()
    latest_closed = timeframe.floor(now) - timeframe.delta
    if year == now.year and latest_closed.year == year and frame["timestamp"].iloc[-1] < latest_closed:
        problems["freshness"] = (
            f"last bar {frame['timestamp'].iloc[-1]:%Y-%m-%d %H:%M}, expected {latest_closed:%Y-%m-%d %H:%M} UTC"
        )
    return problems


def _outlier_problem(frame: pd.DataFrame) -> str | None:
    found = find_outliers(frame)
    if not found:
        return None
    worst = max(found, key=lambda one: one.times)
    return f"{len(found)} bars, the worst {worst.opened:%Y-%m-%d %H:%M} with {worst.times:,.0f} times the median range"


def _agreement_problem(store: CandleStore, symbol: str, timeframe: Timeframe, year: int) -> str | None:
    """Compare a year with the coarsest of the finer timeframes that is stored and was not made of others itself."""
    finer = [
        one for one in store.timeframes(symbol) if one.delta < timeframe.delta and year in store.years(symbol, one)
    ]
    if not finer or "resampled:" in (store.source_of(symbol, timeframe) or ""):
        return None
    below, span = finer[-1], (f"{year}-01-01T00:00:00+00:00", f"{year + 1}-01-01T00:00:00+00:00")
    if timeframe.microseconds % below.microseconds:
        return None
    parts = [store.load(symbol, one, *span) for one in (below, timeframe)]
    agreement = compare_timeframes(parts[0], below, parts[1], timeframe, now=clock.now())
    if not agreement.differences:
        return None
    text = "; ".join(f"{one.field} in {one.bars:,} bars, at most {one.largest:.2%}" for one in agreement.differences)
    return f"of {agreement.compared:,} bars made of {below}: {text}"
