"""What the doctor finds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.database import HEAD_REVISION
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.operations import health
from coin_hts_pipelines.operations.health import (
    check_candles,
    check_data_root,
    check_export_store,
    check_strategies,
    examine,
)
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines.storage import DirectoryStore
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.strategies.plugin_maker import WORKING, install, on_path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    made = Database(postgres_url, pool_size=1)
    yield made
    made.downgrade("base")
    made.dispose()


def unreachable() -> Database:
    return Database("postgresql://u:hush@127.0.0.1:1/none")


def states(settings: Settings, connect: Callable[[], Database]) -> dict[str, str]:
    findings = examine(settings, connect, lambda: DirectoryStore(settings.exports))
    return {finding.name: finding.state for finding in findings}


def test_a_fresh_project(settings: Settings, database: Database) -> None:
    assert states(settings, lambda: database) == {
        "data root": "ok",
        "postgres": "warn",
        "candles": "warn",
        "strategies": "ok",
        "export store": "ok",
    }
    assert settings.root.is_dir()


def test_a_project_in_order(settings: Settings, database: Database) -> None:
    database.upgrade()
    CandleStore(settings.root).merge("KRW-BTC", "1D", random_walk(10, 1), source="sample")
    findings = examine(settings, lambda: database, lambda: DirectoryStore(settings.exports))
    assert {finding.state for finding in findings} == {"ok"}
    text = {finding.name: finding.detail for finding in findings}
    assert f"catalog revision {HEAD_REVISION}" in text["postgres"]
    counted = re.fullmatch(r"1 symbols, 10 bars, newest ([\d,.]+) h old", text["candles"])
    assert counted is not None
    age = datetime.now(UTC) - datetime(2024, 1, 10, tzinfo=UTC)
    assert float(counted[1].replace(",", "")) == pytest.approx(age.total_seconds() / 3600, abs=0.2)


def test_an_old_catalog_says_what_to_do(settings: Settings, database: Database) -> None:
    finding = health.check_postgres(lambda: database)
    assert finding.state == "warn"
    assert "catalog revision none; `coin-hts setup` migrates to" in finding.detail


def test_nothing_that_fails_stops_the_others(settings: Settings) -> None:
    def no_store() -> DirectoryStore:
        raise PermissionError(13, "Permission denied")

    findings = {f.name: f for f in examine(settings, unreachable, no_store)}
    assert {name: finding.state for name, finding in findings.items()} == {
        "data root": "ok",
        "postgres": "fail",
        "candles": "warn",
        "strategies": "ok",
        "export store": "fail",
    }
    assert "cannot be reached" in findings["postgres"].detail
    assert "hush" not in findings["postgres"].detail


def test_a_data_root_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert states(Settings(home=tmp_path), unreachable)["data root"] == "fail"


@pytest.mark.parametrize(("least", "state"), [(0, "ok"), (1 << 62, "warn")])
def test_a_disk_without_room(settings: Settings, monkeypatch: pytest.MonkeyPatch, least: int, state: str) -> None:
    monkeypatch.setattr(health, "_LEAST_FREE_BYTES", least)
    finding = check_data_root(settings)
    assert finding.state == state
    assert "GB free" in finding.detail


def test_a_data_root_that_cannot_be_written(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # As root every folder can be written, so the answer of the system is made up.
    monkeypatch.setattr(health.os, "access", lambda *_: False)
    assert check_data_root(settings).state == "fail"


def test_a_damaged_file_is_found(settings: Settings) -> None:
    store = CandleStore(settings.root)
    store.merge("KRW-BTC", "1D", random_walk(10, 1), source="sample")
    Path(store.files.path("KRW-BTC", Timeframe.D1, 2024)).write_bytes(b"PAR1 no more")
    finding = check_candles(settings)
    assert finding.state == "fail"
    assert finding.detail.startswith("1 files cannot be read, first: ")
    assert "2024.parquet" in finding.detail


def test_an_export_store_is_named(settings: Settings) -> None:
    finding = check_export_store(lambda: DirectoryStore(settings.exports))
    assert finding.state == "ok"
    assert str(settings.exports) in finding.detail


def test_plugins_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    install(tmp_path, "good-package", {"working": "good_package:Working"}, WORKING)
    with on_path(tmp_path):
        finding = check_strategies()
        assert finding.state == "ok"
        assert "sma_cross, " in finding.detail
        assert finding.detail.endswith(", working")
    install(tmp_path, "bad-package", {"one": "bad_package:One", "two": "bad_package:Two"}, "One = 1")
    with on_path(tmp_path):
        finding = check_strategies()
        assert finding.state == "fail"
        assert finding.detail == (
            "2 plug-ins cannot be used: one: bad-package (bad_package:One) is no subclass of Strategy; "
            "two: bad-package (bad_package:Two) cannot be loaded: "
            "AttributeError: module 'bad_package' has no attribute 'Two'"
        )
