"""`coin-hts backtest walk-forward`: what of a strategy is left on bars its parameters were not chosen on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from coin_hts_pipelines.cli.options import build_request, exit_options, json_option, span_options
from coin_hts_pipelines.errors import InvalidRequest


@click.command("walk-forward")
@click.option("--strategy", required=True, help="Name of a strategy; an unknown one lists them.")
@click.option("--symbol", required=True, help="Symbol.")
@click.option("--timeframe", default="1D", show_default=True, help="Timeframe of the candles.")
@click.option(
    "--grid",
    "grids",
    multiple=True,
    metavar="K=VALUES",
    help="Values to choose from: A,B,none or LOW:HIGH:STEP; repeat for more.  [default: around the parameters]",
)
@click.option("--train-bars", type=int, help="Bars to choose on.  [default: with --test-bars, for eight windows]")
@click.option("--test-bars", type=int, help="Bars to trade with the choice.")
@click.option("--anchored", is_flag=True, help="Choose on all earlier bars, not only the last --train-bars.")
@click.option("--select", default="sharpe", show_default=True, help="Figure to choose by, the greatest wins.")
@span_options
@exit_options
@json_option
def walk_forward(
    strategy: str,
    symbol: str,
    timeframe: str,
    grids: tuple[str, ...],
    train_bars: int | None,
    test_bars: int | None,
    anchored: bool,
    select: str,
    start: str | None,
    end: str | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Choose parameters on past bars, trade the bars that follow, and say what was left of the result.

    Example: coin-hts backtest walk-forward --strategy volume_zone_breakout --symbol KRW-BTC
    --grid volume_window=20,60,120 --grid hold_period_bars=1,5,10 --train-bars 365 --test-bars 90
    """
    from coin_hts_pipelines.backtest import run_walk_forward  # noqa: PLC0415
    from coin_hts_pipelines.backtest.search_space import search_space  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import print_json, records, share_bar  # noqa: PLC0415
    from coin_hts_pipelines.cli.stored import stored_candles  # noqa: PLC0415
    from coin_hts_pipelines.lake import is_synthetic  # noqa: PLC0415
    from coin_hts_pipelines.strategies import get_strategy  # noqa: PLC0415

    request = build_request(strategy, timeframe, values)
    grid = _grid(grids) or search_space(get_strategy(strategy), request.params)
    name, candles, source = stored_candles(symbol, request.timeframe, start, end)
    train, test = _lengths(len(candles), train_bars, test_bars)
    with share_bar("windows") as progress:
        result = run_walk_forward(
            candles,
            request,
            grid,
            train_bars=train,
            test_bars=test,
            anchored=anchored,
            select=select,
            progress=progress,
        )
    synthetic = is_synthetic(source)
    if not as_json:
        _print(name, result, synthetic=synthetic)
        return
    keep = ("options", "grid", "combinations", "metrics", "study", "in_sample", "efficiency", "sharpe_efficiency",
            "changes", "steps", "signals", "verdict", "inputs_digest", "result_digest")  # fmt: skip
    document = {"symbol": name, "candle_source": source, "synthetic": synthetic, "bars": len(candles)}
    document |= {"request": request.to_dict(), **{field: getattr(result, field) for field in keep}}
    print_json({**document, "windows": records(result.windows), "trades": records(result.trades)})


def _grid(pairs: Sequence[str]) -> dict[str, Any]:
    from coin_hts_pipelines.cli.sweep import parse_space  # noqa: PLC0415

    try:
        return parse_space(pairs)
    except InvalidRequest as error:
        raise InvalidRequest(str(error).replace("--param", "--grid")) from None


def _lengths(bars: int, train_bars: int | None, test_bars: int | None) -> tuple[int, int]:
    from coin_hts_pipelines.backtest.walk_windows import LEAST_BARS, default_windows  # noqa: PLC0415

    if train_bars is not None and test_bars is not None:
        return train_bars, test_bars
    if train_bars is not None or test_bars is not None:
        raise InvalidRequest("--train-bars and --test-bars belong together; give both or neither")
    lengths = default_windows(bars)
    if lengths is None:
        raise InvalidRequest(
            f"{bars} bars are too few for eight windows; expected at least {LEAST_BARS}, "
            "or give --train-bars and --test-bars"
        )
    return lengths


def _print(symbol: str, result: Any, *, synthetic: bool) -> None:
    from coin_hts_pipelines.backtest.walk_forward_result import COMPARED  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import SYNTHETIC_NOTE, console, number, table  # noqa: PLC0415

    out, options, windows = console(), result.options, result.windows
    kind = "anchored" if options["anchored"] else "rolling"
    out.print(f"[bold]{result.request.strategy}[/bold] on {symbol} {result.request.timeframe}, {kind}: "
              f"{options['train_bars']:,} bars train, {options['test_bars']:,} test")  # fmt: skip
    grid = ", ".join(f"{name} {_values(values)}" for name, values in result.grid.items())
    out.print(f"{result.combinations} combinations by {options['select']}: {grid}", markup=False)
    shown = list(dict.fromkeys((options["select"], "annual_return", "sharpe")))
    rows = [
        [
            str(row["window"]),
            f"{row['test_start']:%Y-%m-%d}",
            f"{row['test_end']:%Y-%m-%d}",
            *(_value(row[name]) if choice is not None else "–" for name in result.grid),
            *(number(row[f"{side}_{name}"], _FORMS.get(name, "{:,.3f}")) for name in shown for side in _SIDES),
        ]
        for row, choice in zip(windows.to_dict(orient="records"), result.choices, strict=True)
    ]
    heads = [f"{_LABELS.get(name, name)}\n{side}" for name in shown for side in _SIDES.values()]
    out.print(table("\nWindows", ["#", "test from", "to", *result.grid, *heads], rows))
    rows = [
        [_LABELS[name], *(number(figures[name], _FORMS[name]) for figures in (result.in_sample, result.metrics))]
        for name in COMPARED
    ]
    rows += [[label, "", number(result.metrics[name], _FORMS.get(name, "{:,.3f}"))] for name, label in _MORE.items()]
    out.print(
        table("The account over all test bars", ["", "in sample,\nmean of windows", "out of sample"], rows, left=("",))
    )
    changes = ", ".join(f"{name} {count} of {result.steps}" for name, count in result.changes.items())
    out.print(f"Efficiency: {number(result.efficiency, '{:.0%}')} of the annual return, "
              f"{number(result.sharpe_efficiency, '{:.0%}')} of the Sharpe ratio")  # fmt: skip
    out.print(f"The choice changed: {changes}", markup=False)
    out.print(f"\n{result.verdict}", markup=False, soft_wrap=True)
    if synthetic:
        out.print(f"[yellow]{SYNTHETIC_NOTE}[/yellow]")


_MANY = 10
_SIDES = {"train": "in sample", "test": "out"}
_LABELS = {
    "total_return": "total return",
    "annual_return": "annual return",
    "sharpe": "Sharpe",
    "max_drawdown": "max drawdown",
}
_MORE = {
    "trades": "trades",
    "win_rate": "win rate",
    "profit_factor": "profit factor",
    "exposure": "exposure",
    "fees_paid": "fees",
    "buy_and_hold_return": "buy & hold return",
}
_FORMS = {
    "sharpe": "{:,.3f}",
    "total_return": "{:+.2%}",
    "annual_return": "{:+.1%}",
    "max_drawdown": "{:.2%}",
    "buy_and_hold_return": "{:+.2%}",
    "win_rate": "{:.1%}",
    "exposure": "{:.1%}",
    "trades": "{:,.0f}",
    "fees_paid": "{:,.0f}",
}


def _value(value: Any) -> str:
    """Write a parameter; an exit that is off is `none`."""
    return "none" if value is None or value != value else f"{value:g}" if isinstance(value, float) else str(value)  # noqa: PLR0124 - NaN


def _values(values: Sequence[Any]) -> str:
    many = len(values) > _MANY
    shown = [*map(_value, values[:3]), "...", _value(values[-1])] if many else list(map(_value, values))
    return "/".join(shown) + (f" ({len(values)})" if many else "")
