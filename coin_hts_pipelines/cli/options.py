"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from coin_hts_pipelines.errors import InvalidRequest

F = Callable[..., Any]


def json_option(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for a program.")(function)


def span_options(function: F) -> F:
    """`--start` and `--end`."""
    end = click.option("--end", help="Last day, included (or a moment, excluded).")
    start = click.option("--start", help="First day or moment; without a zone it is Asia/Seoul.")
    return start(end(function))


def exit_options(function: F) -> F:
    """Exits, costs, cash and fill of a backtest request."""
    for option in (
        click.option("--cash", type=float, help="Starting cash in the quote currency.  [default: 10,000,000]"),
        click.option("--slippage-rate", type=float, help="Slippage of every fill.  [default: 0.0002]"),
        click.option("--fee-rate", type=float, help="Fee of every fill.  [default: 0.001]"),
        click.option("--fill", help="close or next_open.  [default: close]"),
        click.option("--take-profit", type=float, help="Sell this fraction above the entry, 0.05 = 5 %."),
        click.option("--stop-loss", type=float, help="Sell this fraction below the entry, 0.03 = 3 %."),
        click.option("--param", "params", multiple=True, metavar="K=V", help="Strategy parameter; repeat for more."),
    ):
        function = option(function)
    return function


def comma_list(text: str) -> tuple[str, ...]:
    """Split `A,B`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_params(pairs: Sequence[str]) -> dict[str, Any]:
    """Read `k=v` pairs: true and false, whole numbers, numbers; anything else stays text for the strategy to refuse.

    Raises
    ------
    InvalidRequest
        If a pair has no `=` or a name is given twice.
    """
    params: dict[str, Any] = {}
    for pair in pairs:
        name, found, text = pair.partition("=")
        if not found or not name:
            raise InvalidRequest(f"--param {pair!r} cannot be read; expected NAME=VALUE")
        if name in params:
            raise InvalidRequest(f"--param {name} is given twice")
        params[name] = _value(text)
    return params


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def build_request(strategy: str, timeframe: str, values: dict[str, Any]) -> Any:
    """Make a `BacktestRequest` of the options of `exit_options`; what was not given keeps its default."""
    from coin_hts_pipelines.backtest import BacktestRequest, Costs, Exits  # noqa: PLC0415 - half a second

    rates = {name: values[name] for name in ("fee_rate", "slippage_rate") if values[name] is not None}
    more = {"initial_cash": values["cash"], "fill": values["fill"]}
    return BacktestRequest(
        strategy=strategy,
        params=parse_params(values["params"]),
        timeframe=timeframe,
        exits=Exits(values["stop_loss"], values["take_profit"]),
        costs=Costs(**rates),
        **{name: value for name, value in more.items() if value is not None},
    )
