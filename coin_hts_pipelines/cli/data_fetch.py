"""`coin-hts data fetch` and `repair`: candles of a live exchange, what is missing of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from coin_hts_pipelines.cli import FAILED_WORK
from coin_hts_pipelines.cli.options import comma_list, json_option, span_options
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.settings import get_settings

if TYPE_CHECKING:
    from coin_hts_pipelines.lake.collector import Collector
    from coin_hts_pipelines.lake.sources.exchange import ExchangeSource
    from coin_hts_pipelines.market import Span, Timeframe

Series = tuple[str, "Timeframe", "Span"]


@click.command("fetch")
@click.option("--exchange", help="Exchange by its ccxt name.  [default: that of COIN_HTS_SOURCE, else upbit]")
@click.option("--symbols", help="A,B or all the exchange lists.  [default: the universe of the settings]")
@click.option("--timeframes", default="1D", show_default=True, help="Timeframes, comma-separated.")
@span_options
@json_option
def fetch(
    exchange: str | None, symbols: str | None, timeframes: str, start: str | None, end: str | None, as_json: bool
) -> int:
    """Fetch candles from an exchange, only what was not fetched before; Ctrl-C keeps what is there.

    Without a start it begins with COIN_HTS_FIRST_YEAR. A series that fails does not stop the others (exit status 1).
    """
    from datetime import UTC, datetime  # noqa: PLC0415

    from coin_hts_pipelines.market import Span, Timeframe, normalize_symbol, parse_span  # noqa: PLC0415

    collector = _collector(exchange)
    settings = get_settings()
    span = parse_span(start, end)
    span = Span(span.start or datetime(settings.first_year, 1, 1, tzinfo=UTC), span.end)
    wanted: Sequence[str]
    if symbols is None:
        wanted = settings.universe_symbols
    elif symbols.lower() == "all":
        wanted = open_exchange(exchange).symbols()
    else:
        wanted = sorted({normalize_symbol(text) for text in comma_list(symbols)})
    frames = [Timeframe.parse(text) for text in comma_list(timeframes)]
    return _collect(collector, [(symbol, frame, span) for symbol in wanted for frame in frames], as_json)


@click.command("repair")
@click.option("--exchange", help="Exchange by its ccxt name.  [default: that of COIN_HTS_SOURCE, else upbit]")
@click.option("--symbols", help="A,B.  [default: everything that was fetched]")
@click.option("--timeframes", help="Timeframes, comma-separated.  [default: all]")
@click.option("--again", is_flag=True, help="Fetch the span even where it is complete: the exchange has changed it.")
@span_options
@json_option
def repair(
    exchange: str | None,
    symbols: str | None,
    timeframes: str | None,
    again: bool,
    start: str | None,
    end: str | None,
    as_json: bool,
) -> int:
    """Fetch what is missing inside series that were fetched before, and nothing else."""
    from coin_hts_pipelines import clock  # noqa: PLC0415
    from coin_hts_pipelines.catalog import Coverage  # noqa: PLC0415
    from coin_hts_pipelines.market import Span, Timeframe, normalize_symbol, parse_span  # noqa: PLC0415

    collector = _collector(exchange)
    ledger = collector.ledger
    if not isinstance(ledger, Coverage):
        raise TypeError("the ledger of the command line is the catalog's")
    span = parse_span(start, end)
    if again and span.start is None:
        raise InvalidRequest("--again needs --start: it would fetch everything anew")
    names = {normalize_symbol(text) for text in comma_list(symbols)} if symbols else None
    frames = {Timeframe.parse(text) for text in comma_list(timeframes)} if timeframes else None
    series: list[Series] = []
    for source, symbol, timeframe in ledger.series():
        if (
            source != collector.source.name
            or symbol not in (names or {symbol})
            or timeframe not in (frames or {timeframe})
        ):
            continue
        known = ledger.intervals(source, symbol, timeframe)
        asked = Span(span.start or known[0].start, span.end or clock.now())
        if again:
            ledger.forget(source, symbol, timeframe, asked)
        series.append((symbol, timeframe, asked))
    return _collect(collector, series, as_json)


def open_exchange(exchange: str | None) -> ExchangeSource:
    """Live source by the name of its exchange, by default that of the settings."""
    from coin_hts_pipelines import clock  # noqa: PLC0415
    from coin_hts_pipelines.lake.sources.exchange import ExchangeSource  # noqa: PLC0415

    settings = get_settings()
    return ExchangeSource(exchange or settings.exchange or "upbit", settings.exchange_url, clock.now)


def _collector(exchange: str | None) -> Collector:
    from coin_hts_pipelines.catalog import Coverage  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import prepare  # noqa: PLC0415
    from coin_hts_pipelines.lake import CandleStore  # noqa: PLC0415
    from coin_hts_pipelines.lake.collector import Collector  # noqa: PLC0415

    return Collector(open_exchange(exchange), CandleStore(get_settings().root), Coverage(prepare()))


def _collect(collector: Collector, series: Sequence[Series], as_json: bool) -> int:
    """Collect series one after the other, with a bar each, and say what came of them."""
    from coin_hts_pipelines.cli.output import console, print_json  # noqa: PLC0415
    from coin_hts_pipelines.errors import CoinHtsError  # noqa: PLC0415

    done: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    with _bars() as begin:
        for symbol, timeframe, span in series:
            about = {"symbol": symbol, "timeframe": timeframe.value}
            try:
                got = collector.collect(symbol, timeframe, span, progress=begin(f"{symbol} {timeframe}"))
            except CoinHtsError as error:
                failed.append({**about, "error": str(error)})
                continue
            done.append(
                {
                    **about,
                    "fetched": got.fetched,
                    "added": got.added,
                    "changed": got.changed,
                    "replaced_synthetic_years": sorted(got.replaced_synthetic_years),
                }
            )
    if as_json:
        print_json({"source": collector.source.name, "fetched": done, "failed": failed})
    else:
        out = console()
        for one in done:
            gone = one["replaced_synthetic_years"]
            note = f", synthetic years {gone[0]}-{gone[-1]} removed" if gone else ""
            out.print(f"{one['symbol']} {one['timeframe']}: {one['added']:,} new, {one['changed']:,} changed{note}")
        if not series:
            out.print("nothing was fetched from this exchange before; `coin-hts data fetch` does")
        for one in failed:
            click.secho(f"failed: {one['symbol']} {one['timeframe']}: {one['error']}", fg="red", err=True)
    return FAILED_WORK if failed else 0


@contextmanager
def _bars() -> Iterator[Callable[[str], Callable[[float], None]]]:
    """A bar a series on standard error, on a terminal only."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    out = Console(stderr=True)
    columns = (TextColumn("{task.description:<16}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, disable=not out.is_terminal) as shown:

        def begin(what: str) -> Callable[[float], None]:
            task = shown.add_task(what, total=1.0)
            return lambda share: shown.update(task, completed=share)

        yield begin
