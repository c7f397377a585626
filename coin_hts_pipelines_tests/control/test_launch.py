"""Runs launched in this process, and what a dead process left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy.exc import OperationalError

from coin_hts_pipelines import NoCandles
from coin_hts_pipelines.control.launch import (
    InterruptWitness,
    Launcher,
    _chain,
    _reason,
)
from coin_hts_pipelines.control.run_owners import owner_tags
from coin_hts_pipelines.defs.partitions import SYMBOLS
from coin_hts_pipelines.lake import CandleStore

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    # Dagster still asks pydantic for fields by the old name.
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]


class Watcher:
    """Counts what is done."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}

    def advance(self, asset: str, keys: int) -> None:
        self.done[asset] = self.done.get(asset, 0) + keys


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


# ---- interrupts and reasons


def test_the_witness_sees_an_interrupt_whatever_the_handler_does() -> None:
    before = signal.signal(signal.SIGINT, lambda *_: None)
    witness = InterruptWitness()
    try:
        assert not witness()
        os.kill(os.getpid(), signal.SIGINT)
        assert witness()
        assert witness(), "it does not forget"
    finally:
        witness.close()
        signal.signal(signal.SIGINT, before)
    assert signal.set_wakeup_fd(-1) == -1, "nothing is left behind"


def test_the_reason_of_a_failed_run_is_our_own_sentence() -> None:
    outer = RuntimeError("dagster says a lot")
    outer.__cause__ = NoCandles("there are none\nand more")
    assert _reason(_chain(outer)) == "there are none"
    assert _reason(_chain(ValueError())) == "ValueError"


def test_a_lost_postgres_is_no_reason_but_the_end() -> None:
    lost = OperationalError("SELECT 1", {}, Exception("server closed the connection"))
    with pytest.raises(OperationalError):
        _reason([RuntimeError("dagster says a lot"), lost])


# ---- layers


def test_keys_are_registered_once_in_sorted_order(instance: dg.DagsterInstance) -> None:
    with Launcher(instance, Watcher()) as launcher:
        assert launcher.register(SYMBOLS, ["KRW-XRP", "KRW-BTC"]) == ["KRW-BTC", "KRW-XRP"]
        assert launcher.register(SYMBOLS, ["KRW-ADA", "KRW-BTC"]) == ["KRW-BTC", "KRW-XRP", "KRW-ADA"]


def test_a_layer_runs_exactly_the_keys_asked_for(instance: dg.DagsterInstance, home: Path) -> None:
    watcher = Watcher()
    keys = [("KRW-BTC", 2023), ("KRW-BTC", 2024), ("KRW-ETH", 2024), ("KRW-ETH", 2016)]
    with Launcher(instance, watcher) as launcher:
        launcher.register(SYMBOLS, ["KRW-BTC", "KRW-ETH"])
        with pytest.raises(KeyError):
            launcher.run_symbol_years("candles_1d", keys, {"source": "sample"})
        # 2019 is a partition, but lies before the sample's first candle.
        keys[-1] = ("KRW-ETH", 2019)
        outcome = launcher.run_symbol_years("candles_1d", keys, {"source": "sample"})
    assert sorted(outcome.good) == ["KRW-BTC|2023", "KRW-BTC|2024", "KRW-ETH|2024"]
    assert list(outcome.bad) == ["KRW-ETH|2019"]
    assert "has no 1D candles of KRW-ETH in 2019" in outcome.bad["KRW-ETH|2019"]
    assert watcher.done == {"candles_1d": 4}
    store = CandleStore(home / "data")
    assert (store.years("KRW-BTC", "1D"), store.years("KRW-ETH", "1D")) == ([2023, 2024], [2024])
    runs = [instance.get_run_by_id(run_id) for run_id in outcome.run_ids]
    assert sorted(run.status.value for run in runs if run) == ["FAILURE", "SUCCESS", "SUCCESS"]
    assert all(run and run.tags.items() >= owner_tags(run.run_id).items() for run in runs)
    assert instance.get_materialized_partitions(dg.AssetKey("candles_1d")) == set(outcome.good)


def test_a_run_that_cannot_begin_fails_its_keys(instance: dg.DagsterInstance) -> None:
    with Launcher(instance, Watcher()) as launcher:
        launcher.register(SYMBOLS, ["KRW-BTC"])
        outcome = launcher.run_symbol_years("candles_1d", [("KRW-BTC", 2024)], {"source": "moon"})
    assert outcome.good == []
    assert outcome.bad == {
        "KRW-BTC|2024": "source 'moon' is unknown; accepted: sample, files, exchange:NAME such as exchange:upbit"
    }
