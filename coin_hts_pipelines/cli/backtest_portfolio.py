"""`coin-hts backtest portfolio`: one account over many symbols, printed and not kept."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from coin_hts_pipelines.cli.options import (
    build_request,
    comma_list,
    exit_options,
    json_option,
    override_option,
    parse_overrides,
    span_options,
)
from coin_hts_pipelines.errors import InvalidRequest, NoCandles
from coin_hts_pipelines.settings import get_settings

if TYPE_CHECKING:
    import pandas as pd

    from coin_hts_pipelines.backtest import PortfolioResult
    from coin_hts_pipelines.lake import CandleStore

_FIGURES = (
    ("trades", "trades", "{:,.0f}"),
    ("win rate", "win_rate", "{:.1%}"),
    ("total return", "total_return", "{:+.2%}"),
    ("annual return", "annual_return", "{:+.2%}"),
    ("max drawdown", "max_drawdown", "{:.2%}"),
    ("Sharpe", "sharpe", "{:.3f}"),
    ("Sortino", "sortino", "{:.3f}"),
    ("profit factor", "profit_factor", "{:.3f}"),
    ("exposure", "exposure", "{:.1%}"),
    ("fees", "fees_paid", "{:,.0f}"),
    ("buy & hold return, mean", "buy_and_hold_return", "{:+.2%}"),
)


@click.command("portfolio")
@click.option("--strategy", required=True, help="Name of a strategy; an unknown one lists them.")
@click.option("--symbol", "single", multiple=True, help="Symbol; repeat for more.")
@click.option("--symbols", help="A,B or patterns such as 'KRW-*' or all that have candles of the span.")
@click.option("--timeframe", default="1D", show_default=True, help="Timeframe of the candles.")
@click.option("--max-positions", type=int, required=True, help="Positions held at the same time, 1 to 1000.")
@click.option(
    "--daily-loss-limit", type=float, help="Buy nothing more on a UTC day that lost this fraction, 0.05 = 5 %."
)
@override_option
@span_options
@exit_options
@json_option
def portfolio(
    strategy: str,
    single: tuple[str, ...],
    symbols: str | None,
    timeframe: str,
    max_positions: int,
    daily_loss_limit: float | None,
    overrides: tuple[str, ...],
    start: str | None,
    end: str | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Backtest one account over many symbols on stored candles and print the figures.

    Example: coin-hts backtest portfolio --strategy volume_zone_breakout --symbols all --max-positions 5
    """
    root = get_settings().root
    from coin_hts_pipelines.backtest import PortfolioRequest, run_portfolio  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import print_json, records  # noqa: PLC0415
    from coin_hts_pipelines.lake import CandleStore, is_synthetic  # noqa: PLC0415

    request = PortfolioRequest(
        build_request(strategy, timeframe, values), max_positions, daily_loss_limit, parse_overrides(overrides)
    )
    store = CandleStore(root)
    names = [*single, *comma_list(symbols or "")]
    if not names:
        raise InvalidRequest("no symbol is given; expected --symbol A, --symbols A,B or --symbols all")
    loaded = _load(store, names, request.backtest.timeframe, start, end)
    result = run_portfolio(loaded, request)
    sources = {name: store.source_of(name, request.backtest.timeframe) or "unknown" for name in loaded}
    synthetic = any(map(is_synthetic, sources.values()))
    if not as_json:
        _print(result, synthetic)
        return
    stamps = result.equity["timestamp"]
    print_json(
        {
            "request": request.to_dict(),
            "candle_sources": sources,
            "synthetic": synthetic,
            "span_start": stamps.iloc[0],
            "span_end": stamps.iloc[-1],
            "times": len(stamps),
            "final_equity": result.equity["equity"].iloc[-1],
            "metrics": result.metrics,
            "skipped": result.skipped,
            "by_symbol": records(result.by_symbol),
            "inputs_digest": result.inputs_digest,
            "result_digest": result.result_digest,
        }
    )


def _load(
    store: CandleStore, names: list[str], timeframe: str, start: str | None, end: str | None
) -> dict[str, pd.DataFrame]:
    """Candles by symbol; a named symbol must have some, of `all` and patterns those that have none are left out."""
    from coin_hts_pipelines.market import Timeframe, normalize_symbol  # noqa: PLC0415

    span = f"{timeframe} candles from {start or 'the beginning'} to {end or 'now'}"
    patterns = ["*" if name == "all" else name.upper() for name in names if name == "all" or "*" in name]
    exact = [normalize_symbol(name) for name in names if name != "all" and "*" not in name]
    frames = {name: store.load(name, timeframe, start, end) for name in exact}
    if absent := [name for name, frame in frames.items() if frame.empty]:
        raise NoCandles(f"{absent[0]} has no {span}")
    for name in store.symbols() if patterns else ():
        fits = any(fnmatchcase(name, pattern) for pattern in patterns)
        if fits and name not in frames and Timeframe(timeframe) in store.timeframes(name):
            frame = store.load(name, timeframe, start, end)
            if not frame.empty:
                frames[name] = frame
    if not frames:
        raise NoCandles(f"no symbol of {', '.join(names)} has {span}; `coin-hts data list` shows what there is")
    return frames


def _print(result: PortfolioResult, synthetic: bool) -> None:
    from coin_hts_pipelines.cli.output import SYNTHETIC_NOTE, console, number, request_line, table  # noqa: PLC0415

    request, equity, out = result.request, result.equity, console()
    backtest = request.backtest
    out.print(f"[bold]{backtest.strategy}[/bold] {backtest.timeframe}, at most {request.max_positions} positions")
    out.print(request_line(backtest.to_dict()), markup=False)
    if request.daily_loss_limit is not None:
        out.print(f"buys nothing more on a day that lost {request.daily_loss_limit:.1%}")
    first, last = equity["timestamp"].iloc[0], equity["timestamp"].iloc[-1]
    out.print(f"{first:%Y-%m-%d} to {last:%Y-%m-%d}, {len(equity):,} times, {len(result.symbols)} symbols")
    lines = [[label, number(result.metrics[key], form)] for label, key, form in _FIGURES]
    lines.append(["final equity", number(equity["equity"].iloc[-1], "{:,.0f}")])
    out.print(table("Account", ["", "portfolio"], lines, left=("",)))
    rows = [
        [str(row.symbol), f"{row.signals:,}", f"{row.trades:,}", number(row.pnl, "{:+,.0f}"),
         number(row.win_rate, "{:.1%}"), number(row.fees, "{:,.0f}")]
        for row in result.by_symbol.itertuples()
    ]  # fmt: skip
    columns = ["symbol", "signals", "trades", "pnl", "win rate", "fees"]
    out.print(table("By symbol", columns, rows, left=("symbol",)))
    causes = ", ".join(f"{count:,} {cause.replace('_', ' ')}" for cause, count in result.skipped.items())
    out.print(f"Dropped signals: {causes}")
    if synthetic:
        out.print(f"[yellow]{SYNTHETIC_NOTE}[/yellow]")
