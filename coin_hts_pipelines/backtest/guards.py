"""How much of a sweep's best rows is luck: the guards of `overfitting` over all of its trials (docs/sweeps.md)."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

import numpy as np
import pandas as pd

from coin_hts_pipelines.backtest.overfitting import (
    BLOCKS,
    BacktestOverfitting,
    deflated_sharpe,
    expected_max_sharpe,
    minimum_track_record_length,
    probabilistic_sharpe,
    probability_of_backtest_overfitting,
    return_moments,
)
from coin_hts_pipelines.backtest.sweep import SweepResult
from coin_hts_pipelines.backtest.trial_returns import trial_moments, trial_returns
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.market.candles import validated_arrays
from coin_hts_pipelines.market.timeframe import Timeframe
from coin_hts_pipelines.strategies.base import IsCancelled, Progress

# Figures of which more is better, and how a person calls them.
RANKABLE = {
    "sharpe": "Sharpe ratio", "sortino": "Sortino ratio", "calmar": "Calmar ratio", "total_return": "total return",
    "annual_return": "annual return", "max_drawdown": "max drawdown", "win_rate": "win rate",
    "profit_factor": "profit factor", "expectancy": "expectancy", "sqn": "SQN", "study_win_rate": "study win rate",
    "study_avg_return": "study average return",
}  # fmt: skip
GUARDS = ("probabilistic_sharpe", "deflated_sharpe", "minimum_track_record", "skew", "kurtosis")
MOST_ROWS = 1000

# What the sources ask for: a deflated Sharpe ratio of at least 0.95, a probability of overfitting of at most 0.05.
CONFIDENCE = 0.95
MOST_PBO = 0.05
# Fewer trades than this say nothing, whatever the ratio over them is.
FEW_TRADES = 30


@dataclass(frozen=True)
class Guards:
    """The best rows of a sweep and what they are worth after so many trials.

    Attributes
    ----------
    best
        The best rows, best first: `row` of the sweep's table, its columns, `trials`, then `GUARDS` (NaN where
        undefined); `minimum_track_record` is in bars. Rows whose `rank_by` is undefined are not among them.
    trials, bars
        Combinations tried, all of them counted, and bars of each account.
    expected_max_sharpe
        Sharpe ratio, annualised, that the best of so many trials without skill is expected to show.
    sharpe_deviation
        Standard deviation of the trials' Sharpe ratios, annualised.
    pbo, probability_of_loss, splits
        Share of `splits` in which the trial chosen by Sharpe ratio on one half of the `blocks` is at or below the
        median on the other, and in which it loses there.
    notes
        Why a figure is undefined, one sentence each.
    """

    rank_by: str
    best: pd.DataFrame
    trials: int
    bars: int
    blocks: int
    expected_max_sharpe: float
    sharpe_deviation: float
    pbo: float
    probability_of_loss: float
    splits: int
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What the best row is worth, in plain words."""
        many = self.trials > 1
        if self.best.empty:
            none = f"None of {_count(self.trials)} has a" if many else "The one trial has no"
            return f"{none} defined {RANKABLE[self.rank_by]}: there is nothing to choose from."
        sharpe, deflated = (float(self.best[name].iloc[0]) for name in ("sharpe", "deflated_sharpe"))
        says = f"The best of {_count(self.trials)}, by {RANKABLE[self.rank_by]}," if many else "The one trial"
        says += f" has a Sharpe ratio of {sharpe:.2f}." if math.isfinite(sharpe) else " has no defined Sharpe ratio."
        if many and math.isfinite(deflated):
            says += (
                f" The best of as many trials without any skill is expected to show {self.expected_max_sharpe:.2f}: "
                f"luck alone reaches what the best one shows with a probability of {percent_text(1 - deflated)}."
            )
        elif math.isfinite(deflated):
            says += f" A strategy without any skill shows as much with a probability of {percent_text(1 - deflated)}."
        if math.isfinite(self.pbo):
            loss = percent_text(self.probability_of_loss)
            says += (
                " Chosen on one half of the bars, the winner is no better than the median trial on the other half in "
                f"{percent_text(self.pbo)} of {self.splits:,} splits, and loses there in {loss}."
            )
        return says

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against trusting the best row; empty when nothing does."""
        if self.best.empty:
            return (self.verdict,)
        sharpe, deflated = (float(self.best[name].iloc[0]) for name in ("sharpe", "deflated_sharpe"))
        trades = int(self.best["trades"].iloc[0])
        found = []
        if trades < FEW_TRADES:
            found.append(f"The best row closed {trades} trade{'' if trades == 1 else 's'}: too few to say anything.")
        if sharpe <= 0:
            found.append(f"Even the best trial earns nothing for its risk: its Sharpe ratio is {sharpe:.2f}.")
        if math.isnan(deflated):
            found.append("The deflated Sharpe ratio is undefined, so nothing says that the best row is not luck.")
        elif deflated < CONFIDENCE:
            found.append(
                f"The deflated Sharpe ratio is {probability_text(deflated)}, {CONFIDENCE} is asked for: "
                f"the luck of {_count(self.trials)} may explain the best row."
            )
        if math.isnan(self.pbo):
            found.append(
                "The probability of overfitting is undefined, so nothing says that the choice holds elsewhere."
            )
        elif self.pbo > MOST_PBO:
            coin = ": a coin chooses as well" if self.pbo >= 0.5 else ""
            found.append(
                f"The probability of overfitting is {probability_text(self.pbo)}, "
                f"at most {MOST_PBO} is asked for{coin}."
            )
        return tuple(found)

    def figures(self) -> dict[str, float | int]:
        """Figures of the whole sweep."""
        return {
            "trials": self.trials,
            "expected_max_sharpe": self.expected_max_sharpe,
            "sharpe_deviation": self.sharpe_deviation,
            "pbo": self.pbo,
            "probability_of_loss": self.probability_of_loss,
            "splits": self.splits,
        }


def _count(trials: int) -> str:
    return f"{trials:,} trial{'' if trials == 1 else 's'}"


def percent_text(share: float) -> str:
    """Whole percent, but never a certainty that rounding made."""
    if 0.005 <= share < 0.995:
        return f"{share:.0%}"
    return "more than 99%" if share > 0.5 else "less than 1%"


def probability_text(value: float) -> str:
    """Two decimals, but never a certainty that rounding made; a dash for NaN."""
    if math.isnan(value):
        return "\u2013"
    return ">0.99" if value >= 0.995 else "<0.01" if value < 0.005 else f"{value:.2f}"


def overfitting_guards(
    candles: pd.DataFrame,
    sweep: SweepResult,
    *,
    top: int = 10,
    rank_by: str = "sharpe",
    blocks: int = BLOCKS,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> Guards:
    """Judge the best rows of a sweep by all of its trials.

    The bar returns of every combination are computed again and reduced to block moments at once, so the memory is
    that of trials x blocks. Every combination counts as a trial: many of them are alike, so that fewer were tried
    in truth, which makes the deflated ratio the cautious one.

    Parameters
    ----------
    candles
        Those of the sweep.
    sweep
        What `run_sweep` returned.
    top
        So many rows, 1 to 1,000.
    rank_by
        Figure by which rows are best, one of `RANKABLE`; equals stay in order, undefined ones are left out.
    blocks
        Blocks of the cross-validation, even, 2 to 20.
    threads
        As for `run_sweep`.
    progress, cancelled
        As for `run_backtest`.

    Raises
    ------
    InvalidRequest
        For other candles than the sweep's, or `top`, `rank_by` or `blocks` out of range.
    Cancelled
        If `cancelled()` became true.
    """
    check_ranking(top, rank_by, blocks)
    arrays = validated_arrays(candles, Timeframe(sweep.request.timeframe))
    if not np.array_equal(arrays.timestamp, sweep.candles.timestamp) or not np.array_equal(
        arrays.close, sweep.candles.close
    ):
        raise InvalidRequest(f"these {len(arrays):,} candles are not the {len(sweep.candles):,} of the sweep")
    notes: list[str] = []
    scale = math.sqrt(Timeframe(sweep.request.timeframe).periods_per_year)
    sharpes = sweep.table["sharpe"].to_numpy(dtype=np.float64) / scale
    defined = sharpes[np.isfinite(sharpes)]
    variance = float(np.var(defined, ddof=1)) if len(defined) > 1 else math.nan
    trials = len(sharpes)
    if trials > 1 and len(defined) < 2:
        notes.append(
            f"Deflated Sharpe is undefined: {len(defined)} of {trials:,} trials has a Sharpe ratio at all, "
            "so nothing is known of how far apart they lie."
        )
    validation = _cross_validated(sweep, blocks, notes, threads, progress, cancelled)
    expected = expected_max_sharpe(trials, variance)
    return Guards(
        rank_by=rank_by,
        best=_best(sweep, top, rank_by, variance, scale, cancelled),
        trials=trials,
        bars=len(arrays),
        blocks=blocks,
        expected_max_sharpe=expected * scale,
        sharpe_deviation=math.sqrt(variance) * scale if variance >= 0 else math.nan,
        pbo=validation.pbo,
        probability_of_loss=validation.probability_of_loss,
        splits=len(validation.logits),
        notes=tuple(notes),
    )


def check_ranking(top: int, rank_by: str, blocks: int = BLOCKS) -> None:
    """Raise InvalidRequest as `overfitting_guards` would, before a sweep is run for it."""
    if rank_by not in RANKABLE:
        raise InvalidRequest(f"rank_by {rank_by!r} is not accepted; expected one of {', '.join(RANKABLE)}")
    _check_whole("top", top, 1, MOST_ROWS, 1)
    _check_whole("blocks", blocks, 2, 20, 2)


def _check_whole(name: str, value: object, least: int, most: int, step: int) -> None:
    good = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not good or not least <= int(value) <= most or int(value) % step:  # type: ignore[call-overload]
        kind = "an even" if step == 2 else "a whole"
        raise InvalidRequest(f"{name} = {value!r} is not accepted; expected {kind} number from {least} to {most:,}")


def _cross_validated(
    sweep: SweepResult,
    blocks: int,
    notes: list[str],
    threads: int | None,
    progress: Progress | None,
    cancelled: IsCancelled | None,
) -> BacktestOverfitting:
    bars, trials = len(sweep.candles), len(sweep.combinations)
    nothing = np.empty(0)
    undefined = BacktestOverfitting(math.nan, nothing, nothing, nothing)
    if trials < 2:
        notes.append("The probability of overfitting is undefined: with one trial nothing was chosen.")
        return undefined
    if bars < 2 * blocks:
        notes.append(
            f"The probability of overfitting is undefined: {bars:,} bars do not make {blocks} blocks of 2 bars each."
        )
        return undefined
    moments = trial_moments(sweep, blocks, threads=threads, progress=progress, cancelled=cancelled)
    return probability_of_backtest_overfitting(*moments, cancelled=cancelled)


def _best(
    sweep: SweepResult, top: int, rank_by: str, variance: float, scale: float, cancelled: IsCancelled | None
) -> pd.DataFrame:
    table, bars = sweep.table, len(sweep.candles)
    ranked = table[rank_by].sort_values(ascending=False, kind="stable").dropna().index[:top]
    rows = []
    for row in ranked:
        returns = trial_returns(sweep, row, cancelled=cancelled)
        moments = return_moments(returns)
        sharpe = float(table["sharpe"].loc[row]) / scale
        rows.append(
            (
                probabilistic_sharpe(sharpe, 0.0, bars, moments.skew, moments.kurtosis),
                deflated_sharpe(sharpe, len(table), variance, bars, moments.skew, moments.kurtosis),
                minimum_track_record_length(sharpe, 0.0, moments.skew, moments.kurtosis, CONFIDENCE),
                moments.skew,
                moments.kurtosis,
            )
        )
    best = table.loc[ranked].reset_index(drop=True)
    best.insert(0, "row", np.array(ranked, dtype=np.int64))
    best["trials"] = len(table)
    guards = np.array(rows, dtype=np.float64).reshape(len(rows), len(GUARDS))
    return best.assign(**{name: guards[:, k] for k, name in enumerate(GUARDS)})
