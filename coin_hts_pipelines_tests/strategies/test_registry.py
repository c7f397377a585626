"""A strategy is one file: adding one touches nothing else."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coin_hts_pipelines import InvalidRequest, strategies
from coin_hts_pipelines.backtest import BacktestRequest, run_backtest, run_sweep
from coin_hts_pipelines.cli.options import parse_params
from coin_hts_pipelines.strategies import get_strategy, list_strategies
from coin_hts_pipelines.strategies.registry import _found
from coin_hts_pipelines_tests.candle_maker import random_walk

BUILTIN = [
    "bollinger_breakout",
    "donchian_breakout",
    "rsi_reversal",
    "sma_cross",
    "volume_long_candle",
    "volume_zone_breakout",
]
THIRD = '''
"""Buys every n-th bar."""

import numpy as np

from coin_hts_pipelines.strategies.base import Param, Strategy


class EveryNth(Strategy):
    """Buys every n-th bar."""

    name = "every_nth"
    version = "7"
    params = (Param("every", 10, 2, 100, "bars between two signals"),)

    def compute(self, candles, params, start, stop):
        """See `Strategy.compute`."""
        buy = np.arange(start, stop) % params["every"] == 0
        return buy, np.where(buy, 1.0, 0.0)
'''


@pytest.fixture
def third_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "every_nth.py").write_text(THIRD)
    monkeypatch.setattr(strategies, "__path__", [*strategies.__path__, str(tmp_path)])
    _found.cache_clear()
    yield
    _found.cache_clear()
    sys.modules.pop("coin_hts_pipelines.strategies.every_nth", None)
    if hasattr(strategies, "every_nth"):
        del strategies.every_nth


def test_the_strategies_of_the_package() -> None:
    assert list_strategies() == BUILTIN
    assert [get_strategy(name).name for name in BUILTIN] == BUILTIN


@pytest.mark.parametrize("name", ["moon", "", None, 3, ["volume_long_candle"]])
def test_an_unknown_strategy_is_refused_with_the_names_there_are(name: object) -> None:
    with pytest.raises(InvalidRequest, match="is unknown; available: bollinger_breakout, donchian_breakout, "):
        get_strategy(name)  # type: ignore[arg-type]


@pytest.mark.usefixtures("third_strategy")
def test_one_file_is_a_strategy() -> None:
    assert list_strategies() == sorted(["every_nth", *BUILTIN])
    candles = random_walk(101, 1)
    assert get_strategy("every_nth").signals(candles, {"every": 50}).nonzero()[0].tolist() == [0, 50, 100]

    request = BacktestRequest("every_nth", parse_params(["every=20"]), timeframe="1D")
    assert request.full_params == {"every": 20, "hold_period_bars": 1}
    assert BacktestRequest.from_dict(request.to_dict()).full_params == request.full_params
    result = run_backtest(candles, request)
    assert result.signals["bar"].tolist() == [0, 20, 40, 60, 80, 100]
    assert result.trades["entry_bar"].tolist() == [0, 20, 40, 60, 80, 100]
    assert (result.study["samples"], result.metrics["trades"]) == (6, 5)
    assert request.identity()["strategy_version"] == "7"

    sweep = run_sweep(candles, request, {"every": [10, 25], "hold_period_bars": [1, 2]})
    assert sweep.table[["every", "hold_period_bars"]].values.tolist() == [[10, 1], [10, 2], [25, 1], [25, 2]]
    assert sweep.table["study_samples"].tolist() == [11, 11, 5, 5]
    assert np.isfinite(sweep.table["total_return"]).all()


@pytest.mark.usefixtures("third_strategy")
def test_its_parameters_are_checked_like_all_others() -> None:
    with pytest.raises(InvalidRequest, match=r"every_nth: parameter every = 1 .* a whole number from 2 to 100"):
        BacktestRequest("every_nth", {"every": 1})
    with pytest.raises(InvalidRequest, match="parameter 'num_bins' is unknown; accepted: every, hold_period_bars"):
        BacktestRequest("every_nth", {"num_bins": 20})


def test_the_file_is_gone_with_the_test() -> None:
    assert list_strategies() == BUILTIN
