"""Files dropped into the inbox: imported by a run, recorded for exactly the years they changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from coin_hts_pipelines.catalog import Database, SymbolCatalog
from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.changed_candles import changed_candles_sensor
from coin_hts_pipelines.defs.inbox import inbox_sensor
from coin_hts_pipelines.defs.partitions import SYMBOLS
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.defs.helpers import forget_settings, home, recorded

__all__ = ["_migrated", "database", "home", "new_database"]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


@pytest.fixture
def inbox(home: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", database.url.render_as_string(hide_password=False))
    forget_settings()
    folder = get_settings().root / "inbox"
    folder.mkdir(parents=True)
    return folder


class Ticks:
    """Ticks of the sensor, and the runs it asks for."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None

    def tick(self) -> dg.SensorResult:
        answer: Any = inbox_sensor()(dg.build_sensor_context(instance=self.instance, cursor=self.cursor))
        self.cursor = answer.cursor
        return answer  # type: ignore[no-any-return]

    def run(self) -> dg.ExecuteInProcessResult:
        """Tick until the files count as whole, and run what is asked for."""
        self.tick()
        (request,) = self.tick().run_requests or ()
        job = build_defs().resolve_job_def("import_inbox")
        return job.execute_in_process(instance=self.instance, run_config=request.run_config, raise_on_error=False)


def test_a_file_is_imported_once_it_is_whole(inbox: Path, instance: dg.DagsterInstance) -> None:
    ticks = Ticks(instance)
    assert "the inbox is empty" in str(ticks.tick().skip_reason)
    random_walk(500, 1).to_csv(inbox / "KRW-BTC_1D.csv", index=False)
    assert "still being copied" in str(ticks.tick().skip_reason)
    done = ticks.run()
    assert done.success
    assert set(recorded(instance, done.run_id)) == {"KRW-BTC|2024", "KRW-BTC|2025"}
    assert list(instance.get_dynamic_partitions(SYMBOLS)) == ["KRW-BTC"]
    assert len(CandleStore(get_settings().root).load("KRW-BTC", "1D")) == 500
    assert [path.name for path in inbox.iterdir()] == ["imported"]


def test_only_the_year_that_changed_is_recorded(inbox: Path, instance: dg.DagsterInstance) -> None:
    frame = random_walk(500, 1)
    frame.to_csv(inbox / "KRW-BTC_1D.csv", index=False)
    assert Ticks(instance).run().success
    last = frame["timestamp"] == frame["timestamp"].max()
    frame.assign(close=frame["close"].where(~last, frame["high"])).to_csv(inbox / "KRW-BTC_1D.csv", index=False)
    done = Ticks(instance).run()
    assert set(recorded(instance, done.run_id)) == {"KRW-BTC|2025"}
    frame.assign(close=frame["close"].where(~last, frame["high"])).to_csv(inbox / "KRW-BTC_1D.csv", index=False)
    assert recorded(instance, Ticks(instance).run().run_id) == {}


def test_what_was_merged_and_not_recorded_is_recorded_the_next_time(inbox: Path, instance: dg.DagsterInstance) -> None:
    frame = random_walk(100, 1)
    CandleStore(get_settings().root).merge("KRW-BTC", "1D", frame, source="files")  # a run that was killed after this
    frame.to_csv(inbox / "KRW-BTC_1D.csv", index=False)
    assert set(recorded(instance, Ticks(instance).run().run_id)) == {"KRW-BTC|2024"}


def test_what_an_import_recorded_is_no_change_for_the_sensor(inbox: Path, instance: dg.DagsterInstance) -> None:
    random_walk(100, 1).to_csv(inbox / "KRW-BTC_1D.csv", index=False)
    done = Ticks(instance).run()
    (event,) = recorded(instance, done.run_id).values()
    assert event.metadata["changed_by"].value == "a file of the inbox"
    look = changed_candles_sensor(now=lambda: time.time_ns() + 60 * 10**9)
    answer: Any = look(dg.build_sensor_context(instance=instance))
    assert answer.asset_events == []
    assert "KRW-BTC" in answer.cursor, "it has been looked at"


def test_a_bad_file_fails_the_run_and_not_the_others(inbox: Path, instance: dg.DagsterInstance) -> None:
    random_walk(100, 1).to_csv(inbox / "KRW-BTC_1D.csv", index=False)
    random_walk(100, 2).assign(high=0.0).to_csv(inbox / "KRW-ETH_1D.csv", index=False)
    done = Ticks(instance).run()
    assert not done.success
    assert set(recorded(instance, done.run_id)) == {"KRW-BTC|2024"}
    (failure,) = [event.step_failure_data for event in done.all_events if event.is_step_failure]
    assert failure.user_failure_data is not None
    assert "1 of 2 files were refused: KRW-ETH_1D.csv" in str(failure.user_failure_data.description)
    names = sorted(path.name for path in (inbox / "rejected").iterdir())
    assert names == ["KRW-ETH_1D.csv", "KRW-ETH_1D.csv.reason.txt"]
    assert pd.DataFrame(CandleStore(get_settings().root).load("KRW-BTC", "1D")).shape[0] == 100


def test_nothing_follows_the_candles_of_a_symbol_that_is_off(
    inbox: Path, instance: dg.DagsterInstance, database: Database
) -> None:
    catalog = SymbolCatalog(database)
    catalog.add("upbit", ["KRW-BTC", "KRW-ETH"])
    catalog.switch(["KRW-BTC"], on=False)
    for symbol in ("KRW-BTC", "KRW-ETH"):
        random_walk(30, 1).to_csv(inbox / f"{symbol}_1D.csv", index=False)
    done = Ticks(instance).run()
    assert done.success
    assert list(instance.get_dynamic_partitions(SYMBOLS)) == ["KRW-ETH"]
    assert {key.split("|")[0] for key in recorded(instance, done.run_id)} == {"KRW-ETH"}
    assert CandleStore(get_settings().root).symbols() == ["KRW-BTC", "KRW-ETH"], "they are stored"
