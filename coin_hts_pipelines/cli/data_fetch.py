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
@click.option("--symbols", help="A,B or all it lists in COIN_HTS_QUOTE.  [default: the universe]")
@click.option("--timeframes", default="1D", show_default=True, help="Timeframes, comma-separated.")
@span_options
@json_option
def fetch(
    exchange: str | None, symbols: str | None, timeframes: str, start: str | None, end: str | None, as_json: bool
) -> int:
    """Fetch candles from an exchange, only what was not fetched before; Ctrl-C keeps what is there.

    Without a start it begins with COIN_HTS_FIRST_YEAR. A symbol that is switched off is fetched only when it is named.
    A series that fails does not stop the others (exit status 1).
    """
    from coin_hts_pipelines.market import parse_span  # noqa: PLC0415

    settings = get_settings()
    span = parse_span(start or f"{settings.first_year}-01-01T00:00Z", end)
    everything = symbols is not None and symbols.strip().lower() == "all"
    names, frames = _names(None if everything else symbols), _frames(timeframes)
    source = _open_checked(exchange, frames)
    collector = _collector(source)
    if names is None:
        on, off = _switches(source)
        names = {*settings.universe_symbols, *on}
        if everything:
            names = {market.symbol for market in source.markets(settings.universe_quote) if market.listed}
        if not (names := names - off):
            raise InvalidRequest("every symbol is switched off or not listed; name some by --symbols")
    return _collect(collector, [(symbol, frame, span) for symbol in sorted(names) for frame in frames], as_json)


@click.command("repair")
@click.option("--exchange", help="Exchange by its ccxt name.  [default: that of COIN_HTS_SOURCE, else upbit]")
@click.option("--symbols", help="A,B.  [default: everything that was fetched and is not switched off]")
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
    """Fetch what is missing inside series that were fetched before, and nothing else.

    Without a span that is from the first to the last bar that was asked for; with --again to the present.
    """
    from coin_hts_pipelines import clock  # noqa: PLC0415
    from coin_hts_pipelines.catalog import Coverage  # noqa: PLC0415
    from coin_hts_pipelines.errors import NoCandles  # noqa: PLC0415
    from coin_hts_pipelines.market import Span, parse_span  # noqa: PLC0415

    span = parse_span(start, end)
    if again and span.start is None:
        raise InvalidRequest("--again needs --start: it would fetch everything anew")
    names, frames = _names(symbols), _frames(timeframes) if timeframes is not None else None
    source = _open_checked(exchange, frames or ())
    collector = _collector(source)
    ledger = collector.ledger
    if not isinstance(ledger, Coverage):
        raise TypeError("the ledger of the command line is the catalog's")
    _, off = _switches(source)
    series: list[Series] = []
    for name, symbol, timeframe in ledger.series():
        if (
            name != source.name
            or (symbol in off if names is None else symbol not in names)
            or timeframe not in (frames or {timeframe})
        ):
            continue
        known = ledger.intervals(name, symbol, timeframe)
        asked = Span(span.start or known[0].start, span.end or (clock.now() if again else known[-1].end))
        if again:
            ledger.forget(name, symbol, timeframe, asked)
        series.append((symbol, timeframe, asked))
    if not series and (names or frames):
        wanted = ", ".join([*sorted(names or ()), *(frames or ())])
        raise NoCandles(f"{wanted}: not fetched from {source.name} before; `coin-hts data fetch` does")
    return _collect(collector, series, as_json)


def open_exchange(exchange: str | None) -> ExchangeSource:
    """Live source by the name of its exchange, by default that of the settings."""
    from coin_hts_pipelines import clock  # noqa: PLC0415
    from coin_hts_pipelines.lake.sources.exchange import ExchangeSource  # noqa: PLC0415

    settings = get_settings()
    return ExchangeSource(exchange or settings.exchange or "upbit", settings.exchange_url, clock.now)


def _open_checked(exchange: str | None, timeframes: Sequence[Timeframe]) -> ExchangeSource:
    """Open an exchange; raise InvalidRequest if there is none of this name, or it has not all of these timeframes."""
    from coin_hts_pipelines.errors import NoCandles  # noqa: PLC0415

    source = open_exchange(exchange)
    offered = source.timeframes("KRW-BTC")  # the same for every symbol
    if lacking := [timeframe for timeframe in timeframes if timeframe not in offered]:
        raise NoCandles(f"{source.name} has no {lacking[0]} candles; it has {', '.join(offered) or 'none'}")
    return source


def _names(text: str | None) -> set[str] | None:
    from coin_hts_pipelines.market import normalize_symbol  # noqa: PLC0415

    return None if text is None else {normalize_symbol(name) for name in _listed(text, "--symbols")}


def _frames(text: str) -> list[Timeframe]:
    from coin_hts_pipelines.market import Timeframe  # noqa: PLC0415

    return list(dict.fromkeys(Timeframe.parse(name) for name in _listed(text, "--timeframes")))


def _listed(text: str, option: str) -> tuple[str, ...]:
    if not (names := comma_list(text)):
        raise InvalidRequest(f"{option} {text!r} names nothing; give at least one name")
    return names


def _switches(source: ExchangeSource) -> tuple[set[str], set[str]]:
    """Symbols of an exchange that the catalog keeps up to date, and those it does not (off, or delisted)."""
    from coin_hts_pipelines.catalog import SymbolCatalog  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import open_database  # noqa: PLC0415

    known = SymbolCatalog(open_database()).list(exchange=source.name.partition(":")[2])
    on = {one.symbol for one in known if one.is_fetched}
    return on, {one.symbol for one in known} - on


def _collector(source: ExchangeSource) -> Collector:
    from coin_hts_pipelines.catalog import Coverage  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import prepare  # noqa: PLC0415
    from coin_hts_pipelines.lake import CandleStore  # noqa: PLC0415
    from coin_hts_pipelines.lake.collector import Collector  # noqa: PLC0415

    return Collector(source, CandleStore(get_settings().root), Coverage(prepare()))


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
            note = f", synthetic candles of {', '.join(map(str, gone))} removed" if gone else ""
            out.print(f"{one['symbol']} {one['timeframe']}: {one['added']:,} new, {one['changed']:,} changed{note}")
        if not series:
            out.print("nothing was fetched from this exchange before; `coin-hts data fetch` does")
        for one in failed:
            click.secho(f"failed: {one['symbol']} {one['timeframe']}: {one['error']}", fg="red", err=True)
    return FAILED_WORK if failed else 0


@contextmanager
def _bars() -> Iterator[Callable[[str], Callable[[float], None]]]:
    """A bar for each of the latest series on standard error, on a terminal only."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    out = Console(stderr=True)
    columns = (TextColumn("{task.description:<16}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, disable=not out.is_terminal) as shown:

        def begin(what: str) -> Callable[[float], None]:
            # More lines than the terminal has would hide the one at work.
            for old in shown.task_ids[:-9]:
                shown.remove_task(old)
            task = shown.add_task(what, total=1.0)
            return lambda share: shown.update(task, completed=share)

        yield begin
