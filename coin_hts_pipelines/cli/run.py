"""`coin-hts run`: the main job."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coin_hts_pipelines.cli.options import comma_list, json_option, span_options
from coin_hts_pipelines.settings import get_settings

if TYPE_CHECKING:
    import pandas as pd

    from coin_hts_pipelines.control.pipeline import TimeframeReport


@click.command("run")
@click.option("--source", help="Where candles come from: sample, files, exchange:upbit.  [default: setting]")
@click.option("--path", type=click.Path(path_type=Path), help="Folder or file of the files source.")
@click.option("--symbols", help="A,B or patterns such as 'USDT-*' or all.  [default: settings; files: all]")
@click.option("--timeframes", default="1D,1H", show_default=True, help="Timeframes, comma-separated.")
@span_options
@json_option
def command(
    source: str | None,
    path: Path | None,
    symbols: str | None,
    timeframes: str,
    start: str | None,
    end: str | None,
    as_json: bool,
) -> int:
    """Materialize candles, indicators, backtests, rankings and exports, and print the rankings.

    Example: coin-hts run --source files --path DIR --symbols KRW-BTC,KRW-ETH --timeframes 1D,1H
    """
    began = time.perf_counter()
    from coin_hts_pipelines.control.instance import open_instance, prepare  # noqa: PLC0415
    from coin_hts_pipelines.errors import InvalidRequest  # noqa: PLC0415

    settings = get_settings()
    name = source or ("files" if path else settings.source)
    if path is not None and not path.exists():
        raise InvalidRequest(f"--path {path} does not exist")
    if path is not None and name != "files":
        raise InvalidRequest(f"--path belongs to the source files, not to {name}")
    folder = path.resolve() if path else (settings.path(settings.source_path) if settings.source_path else None)
    default = {"sample": settings.symbols, "files": ("all",)}.get(name, settings.universe_symbols)
    wanted = comma_list(symbols) if symbols is not None else default
    if not wanted or not comma_list(timeframes):
        raise InvalidRequest("--symbols and --timeframes need at least one name each")
    database = prepare()

    from coin_hts_pipelines.cli.output import Bar  # noqa: PLC0415
    from coin_hts_pipelines.control.launch import Launcher  # noqa: PLC0415
    from coin_hts_pipelines.control.pipeline import Pipeline, PipelineRequest, make_plans  # noqa: PLC0415
    from coin_hts_pipelines.control.run_owners import end_dead_runs  # noqa: PLC0415

    request = PipelineRequest(name, folder if name == "files" else None, wanted, comma_list(timeframes), start, end)
    plans = make_plans(request, settings)
    with open_instance() as instance, Bar() as bar, Launcher(instance, bar) as launcher:
        end_dead_runs(instance)
        pipeline = Pipeline(launcher, database, settings, bar)
        pipeline.register(plans)
        reports = [pipeline.run(plan, request) for plan in plans]
    failed = any(report.failures for report in reports)
    seconds = time.perf_counter() - began
    (_print_json if as_json else _print)(reports, seconds)
    return 1 if failed else 0


def _rankings(report: TimeframeReport) -> dict[str, pd.DataFrame]:
    from coin_hts_pipelines.defs.rankings import ranking_path  # noqa: PLC0415
    from coin_hts_pipelines.results.tables import read_table  # noqa: PLC0415

    done = report.layers.get(f"rankings_{report.timeframe.value.lower()}")
    tables = {}
    for preset in report.presets:
        if done is not None and preset.name in done.good:
            ranking = read_table(ranking_path(get_settings().root, preset))
            mine = ranking[ranking["symbol"].isin(report.symbols)].reset_index(drop=True)
            tables[preset.name] = mine.assign(rank=range(1, len(mine) + 1))
    return tables


def _print(reports: list[TimeframeReport], seconds: float) -> None:
    from coin_hts_pipelines.cli.output import SYNTHETIC_NOTE, console, number, source_label, table  # noqa: PLC0415
    from coin_hts_pipelines.defs.rankings import report_path  # noqa: PLC0415

    out, settings = console(), get_settings()
    html, synthetic = [], False
    for report in reports:
        rankings = _rankings(report)
        for preset in report.presets:
            if preset.name not in rankings:
                continue
            ranking = rankings[preset.name]
            html.append(report_path(settings.root, preset))
            synthetic |= bool(ranking["synthetic"].any())
            rows = [
                [
                    str(row.rank),
                    str(row.symbol),
                    source_label(str(row.candle_source)),
                    number(row.bars, "{:,}"),
                    number(row.study_samples, "{:,.0f}"),
                    number(row.study_win_rate, "{:.1%}"),
                    number(row.study_avg_return, "{:+.3f} %"),
                    number(row.trades, "{:,.0f}"),
                    number(row.total_return, "{:+.2%}"),
                    number(row.max_drawdown, "{:.2%}"),
                    number(row.sharpe, "{:.3f}"),
                ]
                for row in ranking.itertuples()
            ]
            columns = [
                "#", "symbol", "candles", "bars", "study\nsamples", "study\nwin rate", "study\navg return",
                "portfolio\ntrades", "portfolio\ntotal return", "portfolio\nmax drawdown", "portfolio\nSharpe",
            ]  # fmt: skip
            out.print(table(f"\n{preset.name}", columns, rows, left=("symbol", "candles")))
        for symbol in report.kept_real:
            out.print(f"{symbol} {report.timeframe}: its real candles were kept; synthetic ones are never mixed in")
        for asset, bad in report.failures.items():
            out.print(f"[red]{asset}: {len(bad)} partitions failed[/red]")
            for key, reason in list(bad.items())[:20]:
                out.print(f"  {key}: {reason}", markup=False, soft_wrap=True)
    out.print("\nThe study counts every signal without costs; the portfolio pays fees and slippage. Ranked by Sharpe.")
    if synthetic:
        out.print(f"[yellow]{SYNTHETIC_NOTE}[/yellow]")
    out.print(f"\nCandles, indicators, results  {settings.root}", soft_wrap=True)
    bucket = f"s3://{settings.s3_bucket or '(no bucket set)'}/{settings.s3_prefix}"
    store = settings.exports if settings.export_store == "directory" else bucket
    out.print(f"Exports                       {store}", soft_wrap=True)
    for path in html:
        out.print(f"Report                        {path}", soft_wrap=True)
    out.print(
        f"Done in {seconds:.1f} s. Next: `make up`, then open http://{settings.host}:{settings.port}", soft_wrap=True
    )
    sys.stdout.flush()


def _print_json(reports: list[TimeframeReport], seconds: float) -> None:
    from coin_hts_pipelines.cli.output import print_json, records  # noqa: PLC0415
    from coin_hts_pipelines.defs.rankings import report_path  # noqa: PLC0415

    documents: list[dict[str, Any]] = []
    for report in reports:
        rankings = _rankings(report)
        presets = [preset for preset in report.presets if preset.name in rankings]
        documents.append(
            {
                "timeframe": report.timeframe.value,
                "symbols": report.symbols,
                "kept_real": report.kept_real,
                "rankings": {name: records(ranking) for name, ranking in rankings.items()},
                "reports": {preset.name: report_path(get_settings().root, preset) for preset in presets},
                "failures": report.failures,
                "runs": {asset: layer.run_ids for asset, layer in report.layers.items()},
            }
        )
    print_json({"seconds": round(seconds, 2), "timeframes": documents})
