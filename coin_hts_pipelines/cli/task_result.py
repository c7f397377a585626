"""`coin-hts task result`: what a task has found, for people, programs and files."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coin_hts_pipelines.cli.options import json_option
from coin_hts_pipelines.cli.task import open_tasks
from coin_hts_pipelines.errors import InvalidRequest, PermanentError, TransientError
from coin_hts_pipelines.settings import get_settings

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from coin_hts_pipelines.results.task_store import StoredTask
    from coin_hts_pipelines.tasks import Task

_FORMATS = ("json", "csv", "parquet")
_SUMMARY = "summary"
_SHOWN_ROWS = 20
# Name of a column, its heading and form.
_FIGURES = (
    ("bars", "bars", "{:,}"),
    ("study_samples", "study\nsamples", "{:,.0f}"),
    ("study_avg_return", "study avg\nreturn, %", "{:+.3f}"),
    ("trades", "portfolio\ntrades", "{:,.0f}"),
    ("win_rate", "portfolio\nwin rate", "{:.1%}"),
    ("total_return", "portfolio\ntotal return", "{:+.2%}"),
    ("max_drawdown", "portfolio\nmax drawdown", "{:.2%}"),
    ("sharpe", "portfolio\nSharpe", "{:.3f}"),
    ("final_equity", "portfolio\nfinal equity", "{:,.0f}"),
    ("buy_and_hold_return", "buy & hold\nreturn", "{:+.2%}"),
)


@click.command("result")
@click.argument("task_id", metavar="ID")
@click.option("--symbol", help="Only this symbol; its metrics or guards unless --table says more.")
@click.option(
    "--table",
    "table_name",
    metavar="NAME",
    help="summary, or of a symbol metrics, trades, signals, equity; of a sweep guards, table.",
)
@click.option("--format", "form", type=click.Choice(_FORMATS), help="Print a table so, or write it so to --output.")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="File for the table; its ending is the format."
)
@json_option
def result(
    task_id: str, symbol: str | None, table_name: str | None, form: str | None, output: Path | None, as_json: bool
) -> None:
    """Print the result of a task that has ended, all its files checked, or one of its tables.

    Example: coin-hts task result 0123abcd --symbol KRW-BTC --table trades --output trades.csv
    """
    from coin_hts_pipelines.cli.output import print_json, records  # noqa: PLC0415

    form = _format(form, output, as_json)
    task = open_tasks().get(task_id)
    stored = _load(task)
    if form is None and not as_json and symbol is None and table_name in (None, _SUMMARY):
        _print(task, stored)
        return
    symbol, name, frame = _table(stored, symbol, table_name)
    if as_json:
        place = {"path": stored.folder, "symbol": symbol, "table": name}
        manifest = stored.manifest.model_dump(mode="json")
        print_json({**place, "rows": [] if frame is None else records(frame), "manifest": manifest})
    elif frame is None:
        raise PermanentError(f"task {task.id} has no {name}: no symbol was finished ({stored.manifest.error})")
    elif form is None:
        _print_table(f"{symbol} {name}" if symbol else name, frame)
    else:
        _export(frame, form, output)


def _format(form: str | None, output: Path | None, as_json: bool) -> str | None:
    if as_json and (form or output):
        raise InvalidRequest("--json prints manifest and rows together; leave out --format and --output, or --json")
    if output is not None and form is None:
        form = output.suffix.removeprefix(".").lower()
        if form not in _FORMATS:
            raise InvalidRequest(f"format of {output} is unknown; give --format {', '.join(_FORMATS)}")
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise InvalidRequest("Parquet is not for a terminal; give --output FILE or a pipe")
    return form


def _load(task: Task) -> StoredTask:
    from coin_hts_pipelines.results.task_store import TaskStore  # noqa: PLC0415

    store = TaskStore(get_settings().root)
    if task.finished_at is None:
        raise TransientError(f"task {task.id} is {task.state}, it has no result yet; see `coin-hts task watch`")
    if task.cleaned_at is not None:
        raise PermanentError(f"the result of task {task.id} was removed by the clean-up; `coin-hts task list` has it")
    if task.state == "cancelled":
        raise PermanentError(f"task {task.id} was cancelled ({task.cancel_reason}); it has no result")
    if task.state == "failed" and not store.folder(task.id).exists():
        raise PermanentError(f"task {task.id} failed before it had a result: {task.error}")
    return store.load(task.id)


def _table(stored: StoredTask, symbol: str | None, name: str | None) -> tuple[str | None, str, pd.DataFrame | None]:
    """Symbol, name and rows of the table asked for; None for the summary of a task without finished symbols."""
    from coin_hts_pipelines.results.tables import read_table  # noqa: PLC0415

    if name == _SUMMARY or (name is None and symbol is None):
        if symbol is not None:
            raise InvalidRequest("--table summary is of the whole task; leave out --symbol")
        return None, _SUMMARY, stored.summary
    symbol = _finished(stored, symbol)
    name = name or ("guards" if stored.manifest.request["grid"] else "metrics")
    # `summary.parquet` of a symbol has one row of metrics.
    own = {Path(entry.name) for entry in stored.manifest.files if entry.name.endswith(".parquet")}
    tables = {"metrics" if path.stem == _SUMMARY else path.stem: path for path in own if path.parent == Path(symbol)}
    if name not in tables:
        raise InvalidRequest(f"table {name!r} is unknown; {symbol} of this task has {', '.join(sorted(tables))}")
    return symbol, name, read_table(stored.folder / tables[name])


def _finished(stored: StoredTask, symbol: str | None) -> str:
    from coin_hts_pipelines.market import normalize_symbol  # noqa: PLC0415

    manifest = stored.manifest
    if symbol is None:
        if len(manifest.symbols) > 1:
            raise InvalidRequest(f"--symbol is missing; the task has {', '.join(manifest.symbols)}")
        (symbol,) = manifest.symbols
    symbol = normalize_symbol(symbol)
    if symbol not in manifest.symbols:
        raise InvalidRequest(f"{symbol} is not of this task; it has {', '.join(manifest.symbols)}")
    if symbol not in manifest.finished_symbols:
        why = manifest.failed_symbols.get(symbol, manifest.error)
        raise PermanentError(f"{symbol} of task {manifest.id} was not finished: {why}")
    return symbol


def _export(frame: pd.DataFrame, form: str, output: Path | None) -> None:
    from coin_hts_pipelines.lake import write_atomically  # noqa: PLC0415

    content = _content(frame, form)
    if output is None:
        click.echo(content, nl=False)
        return
    write_atomically(output, lambda stream: stream.write(content))
    click.echo(f"{len(frame):,} rows: {output}")


def _content(frame: pd.DataFrame, form: str) -> bytes:
    from coin_hts_pipelines.cli.output import records  # noqa: PLC0415

    if form == "parquet":
        stream = io.BytesIO()
        frame.to_parquet(stream, index=False, compression="zstd")
        return stream.getvalue()
    if form == "csv":
        return frame.to_csv(index=False).encode()
    rows = records(frame.replace([float("inf"), float("-inf")], float("nan")))
    return (json.dumps(rows, indent=2, ensure_ascii=False, default=lambda value: value.isoformat()) + "\n").encode()


def _print(task: Task, stored: StoredTask) -> None:
    from coin_hts_pipelines.cli.output import SYNTHETIC_NOTE, console  # noqa: PLC0415
    from coin_hts_pipelines.cli.task_show import grid_text, parameters_text  # noqa: PLC0415

    out, manifest = console(), stored.manifest
    out.print(f"{task.id}  {task.state}{f'  {task.name}' if task.name else ''}", markup=False, style="bold")
    counts = f"{manifest.totals['finished']} of {manifest.totals['symbols']} symbols"
    span = f"{manifest.span_start:%Y-%m-%d} to {manifest.span_end:%Y-%m-%d}, " if manifest.span_start else ""
    out.print(f"{manifest.strategy} {manifest.timeframe}, {span}{manifest.bars:,} bars, {counts}")
    out.print(parameters_text(manifest.request), markup=False)
    if grid := grid_text(manifest.request):
        out.print(f"searched: {grid}", markup=False)
    if stored.summary is not None:
        if grid:
            _print_sweeps(out, stored, stored.summary)
        else:
            _print_backtests(out, stored.summary)
    for symbol, why in manifest.failed_symbols.items():
        out.print(f"{symbol} failed: {why}", markup=False, style="red", soft_wrap=True)
    if manifest.error:
        out.print(f"error  {manifest.error}", markup=False, style="red", soft_wrap=True)
    if manifest.synthetic:
        out.print(SYNTHETIC_NOTE, style="yellow")
    out.print(f"Files  {stored.folder}", markup=False, soft_wrap=True)


def _print_backtests(out: Console, summary: pd.DataFrame) -> None:
    from coin_hts_pipelines.cli.output import number, source_label, table  # noqa: PLC0415

    rows = [
        [row["symbol"], source_label(row["candle_source"]), *(number(row[key], form) for key, _, form in _FIGURES)]
        for row in summary.to_dict(orient="records")
    ]
    columns = ["symbol", "candles", *(heading for _, heading, _ in _FIGURES)]
    out.print(table("", columns, rows, left=("symbol", "candles")))


def _print_sweeps(out: Console, stored: StoredTask, summary: pd.DataFrame) -> None:
    from coin_hts_pipelines.backtest.guards import probability_text  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import number, table  # noqa: PLC0415
    from coin_hts_pipelines.reports.sweep_charts import value_text  # noqa: PLC0415
    from coin_hts_pipelines.results.sweep_store import SweepManifest  # noqa: PLC0415

    sweeps = {name: SweepManifest.load(stored.folder / name) for name in stored.manifest.finished_symbols}
    names = next(iter(sweeps.values())).names
    # The best row of each symbol; the table `summary` has the others too.
    best = summary if len(sweeps) == 1 else summary.groupby("symbol", sort=False).head(1)
    rows = [
        [
            row["symbol"],
            *(value_text(row[name]) for name in names),
            number(row["sharpe"], "{:.3f}"),
            number(row["total_return"], "{:+.2%}"),
            number(row["max_drawdown"], "{:.2%}"),
            number(row["trades"], "{:,}"),
            number(row["trials"], "{:,}"),
            probability_text(row["deflated_sharpe"]),
            probability_text(_undefined(sweeps[row["symbol"]].figures["pbo"])),
        ]
        for row in best.to_dict(orient="records")
    ]
    columns = [
        "symbol", *names, "Sharpe", "total\nreturn", "max\ndrawdown", "trades", "trials", "deflated\nSharpe",
        "prob. of\noverfitting",
    ]  # fmt: skip
    title = "Best combinations" if len(sweeps) == 1 else "Best combination of each symbol"
    out.print(table(title, columns, rows, left=("symbol",)))


def _undefined(value: float | None) -> float:
    return float("nan") if value is None else value


def _print_table(title: str, frame: pd.DataFrame) -> None:
    from coin_hts_pipelines.cli.output import console, records, table  # noqa: PLC0415

    out = console()
    rows = records(frame.head(_SHOWN_ROWS))
    if len(rows) == 1:
        lines = [[name, _cell(value)] for name, value in rows[0].items()]
        out.print(table(title, ["", "value"], lines, left=("",)))
    else:
        out.print(table(title, list(map(str, frame.columns)), [[_cell(v) for v in row.values()] for row in rows]))
    if len(frame) > len(rows):
        out.print(f"{len(rows)} of {len(frame):,} rows; --format csv prints all, --output FILE writes them")


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.6g}"
    return f"{value:%Y-%m-%d %H:%M}" if hasattr(value, "strftime") else str(value)
