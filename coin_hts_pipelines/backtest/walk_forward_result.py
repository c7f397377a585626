"""What a walk-forward yields: its windows, the stitched account's tables and figures, and the digests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from coin_hts_pipelines.backtest.digest import digest_of, inputs_digest
from coin_hts_pipelines.backtest.exits import REASONS
from coin_hts_pipelines.backtest.request import BacktestRequest
from coin_hts_pipelines.backtest.result import BacktestResult
from coin_hts_pipelines.backtest.sweep import Combination
from coin_hts_pipelines.backtest.walk_windows import Window
from coin_hts_pipelines.market.candles import CandleArrays, timestamp_index
from coin_hts_pipelines.strategies.base import ParamValue

Figures = Mapping[str, float]

# Beside the figure that chose; of these the mean over the windows' training is kept too.
COMPARED = ("total_return", "annual_return", "sharpe", "max_drawdown")


@dataclass(frozen=True)
class WalkForwardResult:
    """A walk-forward over k windows; docs/walk_forward.md 4 says what every figure is.

    `options` are train_bars, test_bars, anchored and select; `grid` the values tried, in `combinations` that were
    accepted. `windows` has a row a window; `choices` the combination of each, None without one. `trades`, `equity`,
    `study` and `metrics` are those of the one continuous account over the test bars, whose first is bar 0; `signals`
    is how many BUY signals it saw. `in_sample` holds means over the windows' training. `changes` counts, for every
    name of the grid, how often in `steps` the chosen value changed.
    """

    request: BacktestRequest
    options: dict[str, Any]
    grid: dict[str, list[ParamValue | None]]
    combinations: int
    windows: pd.DataFrame
    choices: tuple[Combination | None, ...]
    trades: pd.DataFrame
    equity: pd.DataFrame
    signals: int
    study: dict[str, float]
    metrics: dict[str, float]
    in_sample: dict[str, float]
    efficiency: float
    sharpe_efficiency: float
    changes: dict[str, int]
    steps: int
    inputs_digest: str
    result_digest: str

    @property
    def verdict(self) -> str:
        """What is left of the training, in a sentence or two for a person."""
        if not any(self.choices):
            return "In no window did a combination close a trade on the train bars: nothing was chosen or traded."
        if self.trades.empty:
            return "The chosen parameters never traded out of sample."
        inside, outside = self.in_sample["annual_return"], self.metrics["annual_return"]
        if np.isnan(inside) or np.isnan(outside):
            return "The annual return is undefined in sample or out of sample: too few bars, or too wild a result."
        gained = int((self.windows["test_total_return"] > 0).sum())
        windows = f"{gained} of {len(self.windows)} windows gained."
        if inside <= 0:
            start = "Even the best combinations gained nothing on their own train bars"
            return f"{start}: {inside:+.1%} a year in sample, {outside:+.1%} out of sample. {windows}"
        if self.efficiency <= 0:
            return f"Nothing of {inside:+.1%} a year in sample was left out of sample: {outside:+.1%}. {windows}"
        left = f"{self.efficiency:.0%} of {inside:+.1%} a year in sample was left out of sample: {outside:+.1%}."
        return f"{left} {windows}"


def walk_forward_digest(
    candles: CandleArrays, request: BacktestRequest, combinations: Sequence[Combination], options: Mapping[str, Any]
) -> str:
    """Identity of everything that decides a walk-forward."""
    tried = [{"params": one.params, "exits": one.exits.identity()} for one in combinations]
    return inputs_digest(candles, {**request.identity(), "walk_forward": {**options, "combinations": tried}})


def walk_forward_result(
    candles: CandleArrays,
    account: BacktestResult,
    options: dict[str, Any],
    windows: Sequence[Window],
    combinations: Sequence[Combination],
    chosen: Sequence[int | None],
    trained: Sequence[Figures | None],
    tested: Sequence[Figures],
) -> WalkForwardResult:
    """Put together the result.

    Parameters
    ----------
    candles
        All bars.
    account
        The stitched account over the test bars; only its tables and figures are used.
    options
        As in the result.
    windows, chosen, trained, tested
        Per window: its bars, the chosen combination, and its figures on the train and on the test bars.
    combinations
        What was tried, in grid order.
    """
    names = list(combinations[0].named)
    choices = tuple(None if best is None else combinations[best] for best in chosen)
    made = [choice.named for choice in choices if choice is not None]
    in_sample = {name: _mean([row[name] for row in trained if row is not None]) for name in COMPARED}
    return WalkForwardResult(
        request=account.request,
        options=options,
        grid={name: list(dict.fromkeys(one.named[name] for one in combinations)) for name in names},
        combinations=len(combinations),
        windows=_table(candles, windows, combinations, chosen, trained, tested, options["select"]),
        choices=choices,
        trades=account.trades,
        equity=account.equity,
        signals=len(account.signal_study.bar),
        study=account.study,
        metrics=account.metrics,
        in_sample=in_sample,
        efficiency=_efficiency(account.metrics["annual_return"], in_sample["annual_return"]),
        sharpe_efficiency=_efficiency(account.metrics["sharpe"], in_sample["sharpe"]),
        changes={name: sum(a[name] != b[name] for a, b in pairwise(made)) for name in names},
        steps=max(len(made) - 1, 0),
        inputs_digest=account.inputs_digest,
        result_digest=_result_digest(account, _bounds(candles, windows), names, chosen),
    )


def _bounds(candles: CandleArrays, windows: Sequence[Window]) -> dict[str, Any]:
    stamps = candles.timestamp
    return {
        "train_start": stamps[[window.train_start for window in windows]],
        "train_end": stamps[[window.test_start - 1 for window in windows]],
        "test_start": stamps[[window.test_start for window in windows]],
        "test_end": stamps[[window.test_stop - 1 for window in windows]],
    }


def _table(
    candles: CandleArrays,
    windows: Sequence[Window],
    combinations: Sequence[Combination],
    chosen: Sequence[int | None],
    trained: Sequence[Figures | None],
    tested: Sequence[Figures],
    select: str,
) -> pd.DataFrame:
    columns: dict[str, Any] = {"window": np.arange(len(windows))}
    columns.update({name: timestamp_index(stamps) for name, stamps in _bounds(candles, windows).items()})
    columns["train_bars"] = np.array([window.test_start - window.train_start for window in windows], dtype=np.int64)
    columns["test_bars"] = np.array([window.test_stop - window.test_start for window in windows], dtype=np.int64)
    columns["chosen"] = pd.array(list(chosen), dtype="Int64")
    for name in combinations[0].named:
        values = [None if best is None else combinations[best].named[name] for best in chosen]
        columns[name] = pd.array(values, dtype=column_type([one.named[name] for one in combinations]))
    for name in dict.fromkeys((select, *COMPARED)):
        columns[f"train_{name}"] = np.array([np.nan if row is None else row[name] for row in trained])
        columns[f"test_{name}"] = np.array([row[name] for row in tested], dtype=np.float64)
    return pd.DataFrame(columns)


def column_type(values: Sequence[object]) -> Any:
    """Type of a column of chosen values, which may be missing."""
    if all(isinstance(value, bool) for value in values):
        return "boolean"
    return "Int64" if all(isinstance(value, int) for value in values) else "float64"


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else np.nan


def _efficiency(outside: float, inside: float) -> float:
    return outside / inside if inside > 0 else np.nan


def _result_digest(
    account: BacktestResult, bounds: Mapping[str, Any], names: Sequence[str], chosen: Sequence[int | None]
) -> str:
    portfolio = account.portfolio
    trades = ("entry_bar", "exit_bar", "entry_price", "exit_price", "quantity", "fees", "pnl", "reason")
    return digest_of(
        {"kind": "walk_forward", "layout": 1, "names": list(names), "reasons": list(REASONS)},
        {
            "windows.chosen": np.array([-1 if best is None else best for best in chosen], dtype=np.int64),
            **{f"windows.{name}": stamps for name, stamps in bounds.items()},
            **{f"trades.{name}": getattr(portfolio, name) for name in trades},
            "equity.timestamp": account.candles.timestamp,
            "equity.equity": portfolio.equity,
            "equity.drawdown": portfolio.drawdown,
        },
    )
