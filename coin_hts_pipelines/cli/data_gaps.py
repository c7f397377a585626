"""`coin-hts data gaps`: missing bars, told apart by the coverage ledger."""

from __future__ import annotations

from typing import Any

import click

from coin_hts_pipelines.cli.options import json_option, span_options
from coin_hts_pipelines.settings import get_settings


@click.command("gaps")
@click.option("--symbol", "symbols", multiple=True, help="Symbol; repeat for more.  [default: all]")
@click.option("--timeframe", "timeframes", multiple=True, help="Timeframe; repeat for more.  [default: all]")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Rows of the table at most.")
@span_options
@json_option
def gaps(
    symbols: tuple[str, ...],
    timeframes: tuple[str, ...],
    limit: int,
    start: str | None,
    end: str | None,
    as_json: bool,
) -> None:
    """List missing bars, the longest gap first: holes of the exchange, and what was never fetched.

    A hole was asked for and the exchange has no candles there. Without a span each series is looked at from the first
    to the last bar that is stored or was asked for.
    """
    from dataclasses import asdict, replace  # noqa: PLC0415

    from coin_hts_pipelines import clock  # noqa: PLC0415
    from coin_hts_pipelines.catalog.coverage import Coverage  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import console, print_json, table  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import prepare  # noqa: PLC0415
    from coin_hts_pipelines.errors import NoCandles  # noqa: PLC0415
    from coin_hts_pipelines.lake import CandleStore  # noqa: PLC0415
    from coin_hts_pipelines.market import Timeframe, empty_candles, normalize_symbol, parse_span  # noqa: PLC0415
    from coin_hts_pipelines.market.gaps import gaps as find_gaps  # noqa: PLC0415
    from coin_hts_pipelines.market.gaps import open_times  # noqa: PLC0415

    span, now = parse_span(start, end), clock.now()
    names, wanted = {normalize_symbol(text) for text in symbols}, {Timeframe.parse(text) for text in timeframes}
    store, coverage = CandleStore(get_settings().root), Coverage(prepare())
    stored = {(symbol, timeframe) for symbol in store.symbols() for timeframe in store.timeframes(symbol)}
    asked = coverage.series()
    series = sorted(
        (
            (symbol, timeframe)
            for symbol, timeframe in stored | {(symbol, timeframe) for _, symbol, timeframe in asked}
            if symbol in (names or {symbol}) and timeframe in (wanted or {timeframe})
        ),
        key=lambda one: (one[0], one[1].delta),
    )
    if not series and (names or wanted):
        there = ", ".join(sorted({symbol for symbol, _ in stored})) or "none"
        raise NoCandles(f"there are no candles of {', '.join([*symbols, *timeframes])}; the store has: {there}")
    found: list[dict[str, Any]] = []
    for symbol, timeframe in series:
        covered = [part for one in asked if one[1:] == (symbol, timeframe) for part in coverage.intervals(*one)]
        candles = store.load(symbol, timeframe, start, end) if (symbol, timeframe) in stored else empty_candles()
        # A bar that is not closed yet is not missing.
        closed = timeframe.floor(now)
        until = replace(span, end=min(span.end, closed)) if span.end else span
        found += [
            {"symbol": symbol, "timeframe": timeframe.value, **asdict(gap)}
            for gap in find_gaps(open_times(candles), timeframe, covered, until)
        ]
    found.sort(key=lambda gap: gap["start"] - gap["end"])
    bars = {kind: sum(gap["bars"] for gap in found if gap["kind"] == kind) for kind in ("hole", "unfetched")}
    if as_json:
        print_json({"gaps": found, "bars": bars})
        return
    rows = [
        [
            gap["symbol"],
            gap["timeframe"],
            gap["kind"],
            f"{gap['bars']:,}",
            f"{gap['start']:%Y-%m-%d %H:%M}",
            f"{gap['end']:%Y-%m-%d %H:%M}",
        ]
        for gap in found[:limit]
    ]
    out = console()
    if rows:
        columns = ["symbol", "timeframe", "kind", "bars", "from (UTC)", "to, excluded"]
        out.print(table("Missing bars", columns, rows, left=("symbol", "timeframe", "kind")))
    more = f", of which {limit:,} are shown" if len(found) > limit else ""
    out.print(
        f"{len(series)} series, {len(found):,} gaps{more}: "
        f"{bars['hole']:,} bars in holes of the exchange, {bars['unfetched']:,} never fetched"
    )
