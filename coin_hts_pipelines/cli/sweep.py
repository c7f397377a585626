"""`coin-hts sweep`: many parameters over the same candles, and how much of the best of them is luck."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from coin_hts_pipelines.cli.options import (
    build_request,
    exit_options,
    grid_options,
    json_option,
    parse_params,
    span_options,
)
from coin_hts_pipelines.settings import get_settings

if TYPE_CHECKING:
    from coin_hts_pipelines.results.sweep_store import StoredSweep, SweepManifest


@click.group("sweep")
def command() -> None:
    """Try many parameters; list and show what came out."""


@command.command("run")
@click.option("--strategy", required=True, help="Name of a strategy; an unknown one lists them.")
@click.option("--symbol", required=True, help="Symbol.")
@click.option("--timeframe", default="1D", show_default=True, help="Timeframe of the candles.")
@grid_options
@click.option("--rank-by", default="sharpe", show_default=True, help="Figure by which rows are best.")
@click.option("--top", type=int, default=10, show_default=True, help="So many best rows.")
@span_options
@exit_options
@json_option
def run(
    strategy: str,
    symbol: str,
    timeframe: str,
    fixed: tuple[str, ...],
    sampling: str,
    trials: int | None,
    seed: int,
    rank_by: str,
    top: int,
    start: str | None,
    end: str | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Backtest every combination of the --param values, judge the best rows, and keep it all with a report.

    A --param (or stop_loss, take_profit, trailing_stop) is a list A,B,none or a range LOW:HIGH[:STEP].

    Example: coin-hts sweep run --strategy volume_long_candle --symbol KRW-BTC --param vol_multiplier=1.0:3.0:0.25
    --param body_pct=0.01,0.02,0.03 --param stop_loss=none,0.02
    """
    from coin_hts_pipelines.backtest import run_sweep  # noqa: PLC0415
    from coin_hts_pipelines.backtest.guards import check_ranking, overfitting_guards  # noqa: PLC0415
    from coin_hts_pipelines.backtest.sampling import Sampling  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import share_bar  # noqa: PLC0415
    from coin_hts_pipelines.cli.stored import stored_candles  # noqa: PLC0415
    from coin_hts_pipelines.errors import InvalidRequest  # noqa: PLC0415
    from coin_hts_pipelines.lake import is_synthetic  # noqa: PLC0415
    from coin_hts_pipelines.reports.sweep_report import render_sweep_report  # noqa: PLC0415
    from coin_hts_pipelines.results.sweep_store import SweepStore  # noqa: PLC0415

    started = datetime.now(UTC)
    check_ranking(top, rank_by)
    space = parse_space(values["params"])
    if not space:
        raise InvalidRequest("a sweep needs at least one --param NAME=VALUES")
    request = build_request(strategy, timeframe, {**values, "params": fixed})
    taken = Sampling(sampling, trials, seed)
    name, candles, source = stored_candles(symbol, request.timeframe, start, end)
    with share_bar("sweep") as progress:
        sweep = run_sweep(candles, request, space, sampling=taken, progress=progress)
    with share_bar("guards") as progress:
        guards = overfitting_guards(candles, sweep, top=top, rank_by=rank_by, progress=progress)
    stored = SweepStore(get_settings().root).save(
        sweep,
        guards,
        name,
        candle_source=source,
        synthetic=is_synthetic(source),
        started=started,
        render=render_sweep_report,
    )
    _show(stored, as_json)


# `exit_options` names the option for a backtest, where a parameter has one value.
_VALUES = "Values of a parameter: A,B,none or LOW:HIGH[:STEP]; repeat for more."
next(option for option in run.params if option.name == "params").help = _VALUES


def parse_space(pairs: Sequence[str]) -> dict[str, Any]:
    """Read `k=A,B,none` and `k=LOW:HIGH[:STEP]` pairs.

    Raises
    ------
    InvalidRequest
        If a pair cannot be read or a name is given twice.
    """
    from coin_hts_pipelines.backtest.sampling import Between  # noqa: PLC0415
    from coin_hts_pipelines.errors import InvalidRequest  # noqa: PLC0415

    space: dict[str, Any] = {}
    for name, value in parse_params(pairs).items():
        text = str(value)
        if ":" in text:
            try:
                space[name] = Between(*map(float, text.split(":")))
            except (TypeError, ValueError) as error:
                known = str(error) if isinstance(error, InvalidRequest) else "expected LOW:HIGH or LOW:HIGH:STEP"
                raise InvalidRequest(f"--param {name}={text} cannot be read: {known}") from None
        elif isinstance(value, str):
            parts = [part.strip() for part in text.split(",")]
            space[name] = [
                None if part.lower() == "none" else parse_params((f"{name}={part}",))[name] for part in parts
            ]
        else:
            space[name] = [value]
    return space


def _show(stored: StoredSweep, as_json: bool) -> None:
    from coin_hts_pipelines.cli.output import print_json, records  # noqa: PLC0415

    if not as_json:
        _print(stored)
        return
    guards = stored.guards
    print_json(
        {
            **stored.manifest.model_dump(exclude={"files", "versions", "host", "best"}),
            "verdict": guards.verdict,
            "warnings": guards.warnings,
            "best": records(stored.best),
            "path": stored.folder,
        }
    )


def _print(stored: StoredSweep) -> None:
    from rich.markup import escape  # noqa: PLC0415

    from coin_hts_pipelines.backtest.guards import RANKABLE, probability_text  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import SYNTHETIC_NOTE, console, number, table  # noqa: PLC0415
    from coin_hts_pipelines.reports.sweep_charts import value_text  # noqa: PLC0415
    from coin_hts_pipelines.results.sweep_store import REPORT  # noqa: PLC0415

    out, manifest, guards = console(), stored.manifest, stored.guards
    sampling = manifest.sampling or {"method": "given one by one", "seed": None}
    how = sampling["method"] if sampling["method"] == "grid" else f"{sampling['method']}, seed {sampling['seed']}"
    out.print(f"[bold]{manifest.id}[/bold]  {manifest.strategy} on {' '.join(manifest.symbols)} {manifest.timeframe}")
    out.print(f"{manifest.span_start:%Y-%m-%d} to {manifest.span_end:%Y-%m-%d}, {manifest.bars:,} bars; {how}")
    if manifest.duplicates or manifest.refused:
        out.print(
            f"{manifest.drawn:,} drawn, {manifest.duplicates:,} twice, {manifest.refused:,} refused by the strategy"
        )
    own = [] if manifest.rank_by in ("sharpe", "total_return", "max_drawdown") else [manifest.rank_by]
    rows = [
        [
            str(rank),
            *(value_text(row[name]) for name in manifest.names),
            *(number(row[name], "{:,.3f}") for name in own),
            number(row["sharpe"], "{:.3f}"),
            number(row["total_return"], "{:+.2%}"),
            number(row["max_drawdown"], "{:.2%}"),
            number(row["trades"], "{:,}"),
            number(row["trials"], "{:,}"),
            probability_text(row["probabilistic_sharpe"]),
            probability_text(row["deflated_sharpe"]),
            number(row["minimum_track_record"], "{:,.0f}"),
        ]
        for rank, row in enumerate(stored.best.to_dict(orient="records"), 1)
    ]
    columns = [
        "#", *manifest.names, *own, "Sharpe", "total\nreturn", "max\ndrawdown", "trades", "trials",
        "probabilistic\nSharpe", "deflated\nSharpe", "min. track\nrecord, bars",
    ]  # fmt: skip
    out.print(table(f"\nBest of {manifest.trials:,} by {RANKABLE[manifest.rank_by]}", columns, rows))
    held = number(float(stored.table["buy_and_hold_return"].iloc[0]), "{:+.2%}")
    out.print(f"Probability of overfitting (PBO): {probability_text(guards.pbo)}; buy & hold: {held}\n")
    out.print(escape(guards.verdict))
    for warning in guards.warnings:
        out.print(f"[red]{escape(warning)}[/red]")
    for note in guards.notes:
        out.print(escape(note))
    if manifest.synthetic:
        out.print(f"[yellow]{SYNTHETIC_NOTE}[/yellow]")
    out.print(f"\nFiles   {stored.folder}", soft_wrap=True, markup=False)
    if (stored.folder / REPORT).is_file():
        out.print(f"Report  {stored.folder / REPORT}", soft_wrap=True, markup=False)


@command.command("show")
@click.argument("sweep_id")
@json_option
def show(sweep_id: str, as_json: bool) -> None:
    """Show a sweep as it was printed when it ran, its files checked."""
    from coin_hts_pipelines.results.sweep_store import SweepStore  # noqa: PLC0415

    _show(SweepStore(get_settings().root).load(sweep_id), as_json)


@command.command("list")
@click.option("--symbol", help="Only sweeps on this symbol.")
@click.option("--strategy", help="Only sweeps of this strategy.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many.")
@json_option
def list_(symbol: str | None, strategy: str | None, limit: int, as_json: bool) -> None:
    """List sweeps, newest first."""
    from coin_hts_pipelines.backtest.guards import probability_text  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import console, number, print_json, source_label, table  # noqa: PLC0415
    from coin_hts_pipelines.errors import IntegrityError  # noqa: PLC0415
    from coin_hts_pipelines.market import normalize_symbol  # noqa: PLC0415
    from coin_hts_pipelines.results.sweep_store import SweepStore  # noqa: PLC0415

    wanted = normalize_symbol(symbol) if symbol else None
    found: list[SweepManifest] = []
    damaged: list[str] = []
    for one in SweepStore(get_settings().root).manifests():
        if len(found) == limit:
            break
        if isinstance(one, IntegrityError):
            damaged.append(str(one))
        elif wanted in (None, *one.symbols) and strategy in (None, one.strategy):
            found.append(one)
    if as_json:
        print_json([one.model_dump(exclude={"files", "versions", "host"}) for one in found])
    else:
        nan = float("nan")
        lines = [
            [
                one.id,
                one.strategy,
                " ".join(one.symbols),
                one.timeframe,
                source_label(one.candle_source),
                ", ".join(one.names),
                f"{one.trials:,}",
                number((one.best or {}).get("sharpe"), "{:.3f}"),
                *(
                    probability_text(nan if value is None else float(value))
                    for value in ((one.best or {}).get("deflated_sharpe"), one.figures["pbo"])
                ),
            ]
            for one in found
        ]
        columns = [
            "id", "strategy", "symbol", "timeframe", "candles", "searched", "trials", "best\nSharpe",
            "deflated\nSharpe", "prob. of\noverfitting",
        ]  # fmt: skip
        left = ("id", "strategy", "symbol", "candles", "searched")
        console().print(table("Sweeps, newest first", columns, lines, left=left))
    for reason in damaged:
        click.echo(f"unreadable: {reason}", err=True)
