"""`coin-hts backtest`: one strategy by hand, and the history of results."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from coin_hts_pipelines.cli.backtest_check import check
from coin_hts_pipelines.cli.backtest_monte_carlo import monte_carlo
from coin_hts_pipelines.cli.backtest_portfolio import portfolio
from coin_hts_pipelines.cli.backtest_walk_forward import walk_forward
from coin_hts_pipelines.cli.options import build_request, exit_options, json_option, span_options
from coin_hts_pipelines.settings import get_settings


@click.group("backtest")
def command() -> None:
    """Run one strategy on stored candles; list and show results."""


command.add_command(check)
command.add_command(monte_carlo)
command.add_command(portfolio)
command.add_command(walk_forward)


@command.command("run")
@click.option("--strategy", required=True, help="Name of a strategy; an unknown one lists them.")
@click.option("--symbol", "symbols", required=True, multiple=True, help="Symbol; repeat for more.")
@click.option("--timeframe", default="1D", show_default=True, help="Timeframe of the candles.")
@span_options
@exit_options
@json_option
def run(
    strategy: str, symbols: tuple[str, ...], timeframe: str, start: str, end: str, as_json: bool, **values: Any
) -> None:
    """Backtest stored candles now, print the figures and keep the result in the history.

    Example: coin-hts backtest run --strategy volume_zone_breakout --symbol KRW-BTC --param breakout_buffer=0
    """
    from coin_hts_pipelines.backtest import run_backtest  # noqa: PLC0415
    from coin_hts_pipelines.catalog import ResultIndex  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import print_json  # noqa: PLC0415
    from coin_hts_pipelines.cli.stored import stored_candles  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import prepare  # noqa: PLC0415
    from coin_hts_pipelines.lake import is_synthetic  # noqa: PLC0415
    from coin_hts_pipelines.market import normalize_symbol  # noqa: PLC0415
    from coin_hts_pipelines.results import ResultStore  # noqa: PLC0415

    settings = get_settings()
    request = build_request(strategy, timeframe, values)
    loaded = [
        stored_candles(name, request.timeframe, start, end) for name in dict.fromkeys(map(normalize_symbol, symbols))
    ]
    database = prepare()
    saved = []
    for name, candles, source in loaded:
        started = datetime.now(UTC)
        result = run_backtest(candles, request)
        saved.append(
            ResultStore(settings.root, keep=settings.keep_results).save(
                result, name, preset=None, candle_source=source, synthetic=is_synthetic(source), started=started
            )
        )
    ResultIndex(database).add([(one.folder, one.manifest) for one in saved])
    if as_json:
        print_json({"request": request.to_dict(), "results": [_document(one.folder, one.manifest) for one in saved]})
    else:
        _print(request.to_dict(), [one.manifest for one in saved])
        for one in saved:
            click.echo(f"{one.manifest.symbols[0]}: {one.folder}")


def _document(folder: Any, manifest: Any) -> dict[str, Any]:
    keep = (
        "id", "preset", "strategy", "timeframe", "symbols", "candle_source", "synthetic", "bars", "span_start",
        "span_end", "figures", "inputs_digest", "result_digest", "finished",
    )  # fmt: skip
    return {**{name: getattr(manifest, name) for name in keep}, "path": folder}


_FIGURES = (
    ("study samples", "study_samples", "{:,.0f}"),
    ("study win rate", "study_win_rate", "{:.1%}"),
    ("study avg return", "study_avg_return", "{:+.3f} %"),
    ("portfolio trades", "trades", "{:,.0f}"),
    ("portfolio win rate", "win_rate", "{:.1%}"),
    ("portfolio total return", "total_return", "{:+.2%}"),
    ("portfolio max drawdown", "max_drawdown", "{:.2%}"),
    ("portfolio Sharpe", "sharpe", "{:.3f}"),
    ("portfolio Sortino", "sortino", "{:.3f}"),
    ("portfolio profit factor", "profit_factor", "{:.3f}"),
    ("portfolio expected shortfall, 5 %", "expected_shortfall", "{:.2%}"),
    ("portfolio ulcer index", "ulcer_index", "{:.2%}"),
    ("portfolio alpha a year", "alpha", "{:+.2%}"),
    ("portfolio beta", "beta", "{:.2f}"),
    ("portfolio exposure", "exposure", "{:.1%}"),
    ("portfolio fees", "fees_paid", "{:,.0f}"),
    ("portfolio final equity", "final_equity", "{:,.0f}"),
    ("buy & hold return", "buy_and_hold_return", "{:+.2%}"),
)


def _print(request: dict[str, Any], manifests: list[Any]) -> None:
    from coin_hts_pipelines.cli.output import SYNTHETIC_NOTE, console, number, request_line, table  # noqa: PLC0415

    out = console()
    out.print(f"[bold]{request['strategy']}[/bold] {request['timeframe']}")
    out.print(request_line(request), markup=False)
    spans = {f"{m.span_start:%Y-%m-%d} to {m.span_end:%Y-%m-%d}, {m.bars:,} bars" for m in manifests}
    out.print("; ".join(sorted(spans)))
    rows = [[label, *(number(m.figures.get(key), form) for m in manifests)] for label, key, form in _FIGURES]
    out.print(table("", ["", *(m.symbols[0] for m in manifests)], rows, left=("",)))
    if any(m.synthetic for m in manifests):
        out.print(f"[yellow]{SYNTHETIC_NOTE}[/yellow]")


@command.command("list")
@click.option("--preset", help="Only results of this preset.")
@click.option("--symbol", help="Only results on this symbol.")
@click.option("--timeframe", help="Only results of this timeframe.")
@click.option("--strategy", help="Only results of this strategy.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many.")
@json_option
def list_(preset: str, symbol: str, timeframe: str, strategy: str, limit: int, as_json: bool) -> None:
    """List results, newest first, also those whose files were pruned."""
    from rich.markup import escape  # noqa: PLC0415

    from coin_hts_pipelines.catalog import ResultIndex  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import console, number, print_json, source_label, table  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import prepare  # noqa: PLC0415
    from coin_hts_pipelines.market import Timeframe, normalize_symbol  # noqa: PLC0415
    from coin_hts_pipelines.results.legacy_store import LEGACY  # noqa: PLC0415

    rows = ResultIndex(prepare()).list(
        preset=preset,
        symbol=normalize_symbol(symbol) if symbol else None,
        timeframe=Timeframe.parse(timeframe).value if timeframe else None,
        strategy=strategy,
        limit=limit,
    )
    if as_json:
        print_json([_row_document(row) for row in rows])
        return
    lines = [
        [
            row.id,
            row.preset or ("older system" if row.candle_source == LEGACY else "by hand"),
            escape(row.strategy),
            " ".join(row.symbols),
            row.timeframe,
            source_label(row.candle_source),
            number(row.figures.get("study_samples"), "{:,.0f}"),
            number(row.figures.get("trades"), "{:,.0f}"),
            number(row.figures.get("total_return"), "{:+.2%}"),
            number(row.figures.get("sharpe"), "{:.3f}"),
        ]
        for row in rows
    ]
    columns = [
        "id", "preset", "strategy", "symbol", "timeframe", "candles", "study\nsamples", "portfolio\ntrades",
        "portfolio\ntotal return", "portfolio\nSharpe",
    ]  # fmt: skip
    console().print(
        table("Results, newest first", columns, lines, left=("id", "preset", "strategy", "symbol", "candles"))
    )


def _row_document(row: Any) -> dict[str, Any]:
    keep = (
        "id", "preset", "strategy", "timeframe", "symbols", "status", "start_date", "end_date", "candle_source",
        "request", "figures", "inputs_digest", "result_digest", "path", "finished_at", "duration_seconds", "error",
    )  # fmt: skip
    return {name: getattr(row, name) for name in keep}


@command.command("show")
@click.argument("result_id")
@json_option
def show(result_id: str, as_json: bool) -> None:
    """Show one result: its figures and where its files lie."""
    from pathlib import Path  # noqa: PLC0415

    from coin_hts_pipelines.catalog import ResultIndex  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import console, number, print_json, request_line, source_label, table  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import prepare  # noqa: PLC0415
    from coin_hts_pipelines.results.legacy_store import LEGACY  # noqa: PLC0415

    row = ResultIndex(prepare()).get(result_id)
    files = sorted(Path(row.path).iterdir()) if Path(row.path).is_dir() else []
    if as_json:
        print_json({**_row_document(row), "files": files})
        return
    out = console()
    if row.candle_source == LEGACY:
        _print_legacy(row, files)
        return
    out.print(f"[bold]{row.id}[/bold]  {row.preset or 'by hand'}  {' '.join(row.symbols)} {row.timeframe}")
    out.print(f"{row.start_date:%Y-%m-%d} to {row.end_date:%Y-%m-%d}, candles: {source_label(row.candle_source)}")
    out.print(request_line(row.request), markup=False)
    lines = [[label, number(row.figures.get(key), form)] for label, key, form in _FIGURES]
    out.print(table("", ["", " ".join(row.symbols)], lines, left=("",)))
    out.print(f"inputs  {row.inputs_digest}\nresult  {row.result_digest}")
    if files:
        for path in files:
            out.print(str(path), soft_wrap=True)
    else:
        out.print("Its files were pruned; the figures stay.")


_LEGACY_FIGURES = (
    ("signals", "study_samples", "{:,.0f}"),
    ("win rate", "study_win_rate", "{:,.6g}"),
    ("avg return", "study_avg_return", "{:,.6g}"),
    ("max drawdown", "study_max_drawdown", "{:,.6g}"),
    ("avg hold bars", "study_avg_hold_bars", "{:,.6g}"),
)


def _print_legacy(row: Any, files: list[Any]) -> None:
    """Print a result of an older system: what its file said, under the names the file had."""
    from coin_hts_pipelines.cli.output import console, number, table  # noqa: PLC0415

    out, origin = console(), row.request["legacy"]
    lines = [
        f"{row.id}  older system's run {origin['run_id']}  {' '.join(row.symbols)} {row.timeframe}",
        f"{row.strategy}, asked for {row.request['start_date']} to {row.request['end_date']}, from {origin['file']}",
        ", ".join(f"{name}={value}" for name, value in row.request["params"].items()),
    ]
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)
    figures = [[label, number(row.figures.get(key), form)] for label, key, form in _LEGACY_FIGURES]
    out.print(table("", ["", " ".join(row.symbols)], figures, left=("",)))
    unit = {"fraction": "fractions", "percent": "percent"}.get(origin["return_unit"], "of an unknown unit")
    out.print(f"Figures as the older system computed them, without an account; returns of its signals are {unit}.")
    out.print("Not comparable with results of this system: run the backtest again for that.")
    for path in files:
        out.print(str(path), markup=False, soft_wrap=True)
