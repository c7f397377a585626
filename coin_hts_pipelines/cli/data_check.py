"""`coin-hts data check`: what is wrong with the candles of the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from coin_hts_pipelines.cli.options import comma_list, json_option
from coin_hts_pipelines.settings import get_settings

if TYPE_CHECKING:
    from coin_hts_pipelines.catalog import Database
    from coin_hts_pipelines.lake import CandleStore


@click.command("check")
@click.option("--symbols", help="A,B; default all.")
@json_option
def check(symbols: str | None, as_json: bool) -> int:
    """Read every stored candle and name each broken rule, gap and doubtful bar; exit status 1 if a rule is broken.

    Missing bars of an exchange's candles are holes, which the exchange does not have, or were never fetched. Doubtful
    are outliers, timeframes that disagree, and series of an exchange that lack the newest closed bar.
    """
    from functools import cache  # noqa: PLC0415

    from coin_hts_pipelines.cli.output import print_json  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import prepare  # noqa: PLC0415
    from coin_hts_pipelines.errors import NoCandles  # noqa: PLC0415
    from coin_hts_pipelines.lake import CandleStore  # noqa: PLC0415
    from coin_hts_pipelines.market import normalize_symbol  # noqa: PLC0415

    store = CandleStore(get_settings().root)
    known = store.symbols()
    wanted = [normalize_symbol(text) for text in comma_list(symbols)] if symbols else known
    if absent := [symbol for symbol in wanted if symbol not in known]:
        raise NoCandles(f"there are no candles of {absent[0]}; the store has: {', '.join(known) or 'none'}")
    # Files and samples are checked without a database.
    database = cache(prepare)
    found = [entry for symbol in wanted for entry in _files(store, symbol, database)]
    broken = sum(bool(entry["error"]) for entry in found)
    if as_json:
        print_json({"files": found, "broken": broken})
    else:
        _print(found, broken)
    return 1 if broken else 0


def _files(store: CandleStore, symbol: str, database: Callable[[], Database]) -> Iterator[dict[str, Any]]:
    """What is found in each file of a symbol."""
    from dataclasses import asdict  # noqa: PLC0415

    from coin_hts_pipelines import clock  # noqa: PLC0415
    from coin_hts_pipelines.catalog import Coverage, SymbolCatalog  # noqa: PLC0415
    from coin_hts_pipelines.errors import InvalidCandles  # noqa: PLC0415
    from coin_hts_pipelines.lake.candle_checks import (  # noqa: PLC0415
        MissingBars,
        covered_spans,
        freshness_problem,
        missing_bars,
        year_problems,
    )

    timeframes = store.timeframes(symbol)
    covered = covered_spans(store, symbol, timeframes, lambda: Coverage(database()))
    # A series that nobody keeps up to date is not stale: files, and symbols that are switched off or delisted.
    off = {one.symbol for one in SymbolCatalog(database()).list() if not one.is_fetched} if covered else set()
    for timeframe in timeframes:
        asked, years = covered.get(timeframe), store.years(symbol, timeframe)
        for year in years:
            entry: dict[str, Any] = {"symbol": symbol, "timeframe": timeframe.value, "year": year}
            now = clock.now()
            try:
                frame = store.read_year(symbol, timeframe, year)
            except InvalidCandles as error:
                nothing = dict.fromkeys(asdict(MissingBars(0, 0, 0)))
                yield {**entry, "rows": None, "error": str(error), **nothing, "warnings": {}}
                continue
            problems = year_problems(store, symbol, timeframe, year, frame, covered, now=now)
            # Gaps have columns of their own.
            warnings = {name: text for name, text in problems.items() if name in ("outliers", "agreement")}
            if asked is not None and symbol not in off and year == years[-1]:
                last = frame["timestamp"].iloc[-1].to_pydatetime()
                stale = freshness_problem(last, timeframe, asked, now=now)
                warnings |= {"freshness": stale} if stale else {}
            missing = asdict(missing_bars(frame, timeframe, year, asked))
            yield {**entry, "rows": len(frame), "error": None, **missing, "warnings": warnings}


def _print(found: list[dict[str, Any]], broken: int) -> None:
    from coin_hts_pipelines.cli.output import console, table  # noqa: PLC0415

    gappy = [entry for entry in found if entry["missing"]]
    columns = {
        "symbol": "symbol",
        "timeframe": "timeframe",
        "year": "year",
        "rows": "rows",
        "missing bars": "missing",
        "holes": "holes",
        "never fetched": "unfetched",
        "gaps": "gaps",
        "longest": "longest",
    }
    rows = [[_cell(entry[name], plain=name == "year") for name in columns.values()] for entry in gappy]
    out = console()
    if rows:
        out.print(table("Gaps (reported, never filled)", [*columns], rows, left=("symbol", "timeframe")))
    for entry in found:
        if entry["error"]:
            text = f"{entry['symbol']} {entry['timeframe']}: {entry['error']}"
            out.print(text, style="red", markup=False, soft_wrap=True)
    for entry in found:
        for name, finding in entry["warnings"].items():
            text = f"{entry['symbol']} {entry['timeframe']} {entry['year']}: {name}: {finding}"
            out.print(text, style="yellow", markup=False, soft_wrap=True)
    warned = sum(bool(entry["warnings"]) for entry in found)
    out.print(f"{len(found)} files, {broken} broken, {len(gappy)} with gaps, {warned} with warnings")


def _cell(value: Any, *, plain: bool) -> str:
    if value is None:
        return "–"
    return str(value) if plain or isinstance(value, str) else f"{value:,}"
