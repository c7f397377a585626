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


def override_option(function: F) -> F:
    """`--override`, read by `parse_overrides`."""
    text = "Other parameter for a symbol; repeat for more."
    return click.option("--override", "overrides", multiple=True, metavar="SYMBOL:K=V", help=text)(function)


def span_options(function: F) -> F:
    """`--start` and `--end`."""
    end = click.option("--end", help="Last day, included (or a moment, excluded).")
    start = click.option("--start", help="First day or moment; without a zone it is Asia/Seoul.")
    return start(end(function))


def exit_options(function: F) -> F:
    """Parameters, regime, exits, sizing, costs, cash and fill of a backtest request."""
    for option in (
        click.option("--atr-multiple", type=float, help="Ranges a position must bear, with --size-risk.  [default: 2]"),
        click.option("--atr-window", type=float, help="Bars of the average true range.  [default: 14]"),
        click.option("--size-risk", type=float, help="Fraction of the account those ranges may cost (ATR sizing)."),
        click.option("--size-amount", type=float, help="Amount of every position in the quote, costs included."),
        click.option("--size-fraction", type=float, help="Fraction of the account of every position, 0.5 = half."),
        click.option("--cash", type=float, help="Starting cash in the quote currency.  [default: 10,000,000]"),
        click.option("--slippage-rate", type=float, help="Slippage of every fill.  [default: 0.0002]"),
        click.option("--fee-rate", type=float, help="Fee of every fill.  [default: 0.001]"),
        click.option("--fill", help="close or next_open.  [default: close]"),
        click.option("--take-profit", type=float, help="Sell this fraction above the entry, 0.05 = 5 %."),
        click.option("--no-signal-exit", is_flag=True, help="Ignore the strategy's SELL signals."),
        click.option("--trailing-stop", type=float, help="Sell this fraction below the highest price since the entry."),
        click.option("--stop-loss", type=float, help="Sell this fraction below the entry, 0.03 = 3 %."),
        click.option(
            "--regime",
            multiple=True,
            metavar="COND",
            help="Buy only while, such as 'ma_divergence_60>0'; repeat for more.",
        ),
        click.option("--param", "params", multiple=True, metavar="K=V", help="Strategy parameter; repeat for more."),
    ):
        function = option(function)
    return function


def grid_options(function: F) -> F:
    """`--set`, and how combinations are taken from the values of the parameters."""
    for option in (
        click.option("--seed", type=int, default=0, show_default=True, help="The same seed draws the same."),
        click.option("--trials", type=int, help="How many to draw, with random and lhs."),
        click.option("--sampling", default="grid", show_default=True, help="grid, random or lhs (Latin hypercube)."),
        click.option(
            "--set", "fixed", multiple=True, metavar="K=V", help="Parameter that stays as it is; repeat for more."
        ),
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


def parse_overrides(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read `SYMBOL:k=v` texts into parameters by symbol.

    Raises
    ------
    InvalidRequest
        If one has no colon or is given twice.
    """
    pairs: dict[str, list[str]] = {}
    for text in texts:
        symbol, found, pair = text.partition(":")
        if not found:
            raise InvalidRequest(f"--override {text!r} cannot be read; expected SYMBOL:NAME=VALUE")
        pairs.setdefault(symbol, []).append(pair)
    return {symbol: parse_params(given) for symbol, given in pairs.items()}


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
    from coin_hts_pipelines.backtest import BacktestRequest, Costs, Exits, Regime  # noqa: PLC0415 - half a second

    rates = {name: values[name] for name in ("fee_rate", "slippage_rate") if values[name] is not None}
    more = {"initial_cash": values["cash"], "fill": values["fill"]}
    return BacktestRequest(
        strategy=strategy,
        params=parse_params(values["params"]),
        timeframe=timeframe,
        exits=Exits(
            stop_loss=values["stop_loss"],
            take_profit=values["take_profit"],
            trailing_stop=values["trailing_stop"],
            signal_exit=not values["no_signal_exit"],
        ),
        costs=Costs(**rates),
        sizing=_sizing(values),
        regime=tuple(map(Regime.parse, values["regime"])),
        **{name: value for name, value in more.items() if value is not None},
    )


def _sizing(values: dict[str, Any]) -> Any:
    from coin_hts_pipelines.backtest import Sizing  # noqa: PLC0415

    names = {"fraction": "size_fraction", "amount": "size_amount", "risk": "size_risk"}
    kinds = {name: values[option] for name, option in names.items() if values[option] is not None}
    ranges = {name: values[name] for name in ("atr_window", "atr_multiple") if values[name] is not None}
    if ranges and "risk" not in kinds:
        raise InvalidRequest("--atr-window and --atr-multiple belong to --size-risk; give it too")
    return Sizing(**kinds, **ranges) if kinds else None
