"""What the doctor finds outside of Postgres."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coin_hts_pipelines import clock
from coin_hts_pipelines.errors import PermanentError, TransientError
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.operations import health
from coin_hts_pipelines.operations.backup.manifest import Dump, Manifest
from coin_hts_pipelines.operations.health import (
    CandleFooters,
    Extent,
    Finding,
    age_text,
    answer_of,
    check_backups,
    check_candles,
    check_data_root,
    check_exchange,
    check_export_store,
    check_folder,
    check_settings,
    check_strategies,
    guarded,
    in_background,
    unknown_variables,
)
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.fake_upbit import FakeUpbit, MarketStore, RunningClock
from coin_hts_pipelines_tests.strategies.plugin_maker import WORKING, install, on_path

NOW = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield listener.getsockname()[1]


# ---- what carries the checks


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (PermanentError("the store is full"), "the store is full"),
        (PermissionError(13, "Permission denied"), "[Errno 13] Permission denied"),
        (TimeoutError(), "TimeoutError"),
        (ZeroDivisionError("first\nsecond"), "ZeroDivisionError: first"),
        (KeyError(), "KeyError: "),
    ],
)
def test_a_check_that_raises_has_failed(error: Exception, detail: str) -> None:
    def check() -> Finding:
        raise error

    assert guarded("it", check) == Finding("it", "fail", detail)


def test_who_never_answers_is_not_waited_for(silent_port: int) -> None:
    def ask() -> bytes:
        with socket.create_connection(("127.0.0.1", silent_port)) as connection:
            return connection.recv(1)

    with pytest.raises(TransientError, match="no answer"):
        answer_of(in_background(ask), time.monotonic() + 0.2)


def test_an_answer_and_an_error_come_through() -> None:
    def own_timeout() -> None:
        raise TimeoutError("of the driver")

    assert answer_of(in_background(lambda: 7), time.monotonic() + 60) == 7
    with pytest.raises(TimeoutError, match="of the driver"):
        answer_of(in_background(own_timeout), time.monotonic() + 60)


def test_the_cut_off() -> None:
    now = time.monotonic()
    assert health.cut_off(now) == pytest.approx(now + 2.3, abs=0.1)
    assert health.cut_off(now - 60) == pytest.approx(now + 30, abs=1), "a busy machine gets half as much again"


# ---- settings


def test_default_settings_are_in_order(settings: Settings) -> None:
    assert check_settings(settings) == Finding("settings", "ok", "all at their defaults")
    given = Settings(home=settings.home, source="files", threads=2)
    assert check_settings(given) == Finding("settings", "ok", "set: source, threads")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"export_store": "s3"}, "no bucket is set"),
        ({"backup_store": "s3"}, "no bucket is set"),
        ({"s3_bucket": "b"}, "neither exports nor backups go to S3"),
        ({"s3_access_key_id": "k"}, "only one is set"),
        ({"s3_secret_access_key": "hush"}, "only one is set"),
        ({"export_dir": "x", "export_store": "s3", "s3_bucket": "b"}, "COIN_HTS_EXPORT_DIR is not used"),
        ({"export_dir": "copies"}, "on the same disk as the data"),
        ({"backup_dir": "data/backups"}, "inside DATA_ROOT"),
        ({"source": "upbit"}, "source 'upbit' is unknown"),
        ({"source": "exchange:"}, "source 'exchange:' is unknown"),
        ({"exchange_url": "http://127.0.0.1:1"}, "COIN_HTS_EXCHANGE_URL is not used"),
        ({"source_path": "x"}, "COIN_HTS_SOURCE_PATH is only used"),
        ({"smtp_host": "mail"}, "mail needs"),
        ({"alert_mail_to": "a@b"}, "mail needs"),
        ({"smtp_host": "mail", "alert_mail_to": "a@b"}, "mail needs"),
        ({"smtp_user": "u", "smtp_host": "mail", "alert_mail_to": "a@b"}, "only one is set"),
        (
            {
                "smtp_user": "u",
                "smtp_password": "hush",
                "smtp_host": "m",
                "alert_mail_to": "a@b",
                "smtp_starttls": False,
            },
            "without STARTTLS",
        ),
    ],
)
def test_settings_that_contradict_each_other(tmp_path: Path, given: dict[str, object], told: str) -> None:
    finding = check_settings(Settings(home=tmp_path, **given))
    assert finding.state == "warn"
    assert told in finding.detail
    assert "hush" not in finding.detail


@pytest.mark.parametrize(
    "given",
    [
        {"export_store": "s3", "s3_bucket": "b", "s3_access_key_id": "k", "s3_secret_access_key": "s"},
        {"backup_store": "s3", "s3_bucket": "b"},
        {"source": "exchange:upbit", "exchange_url": "http://127.0.0.1:1"},
        {"source": "files", "source_path": "x"},
        {"smtp_host": "m", "alert_mail_to": "a@b", "alert_mail_from": "c@d"},
        {"smtp_host": "m", "alert_mail_to": "a@b", "smtp_user": "u", "smtp_password": "s"},
    ],
)
def test_settings_that_go_together(tmp_path: Path, given: dict[str, object]) -> None:
    assert check_settings(Settings(home=tmp_path, **given)).state == "ok"


def test_variables_that_are_no_settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unknown_variables(settings) == []
    for name in ("COIN_HTS_THREAD", "COIN_HTS_SOURCE", "COIN_HTS_DAGSTER_STORAGE"):
        monkeypatch.setenv(name, "1")
    (settings.home / ".env").write_text("COIN_HTS_QQQQQQQQQ=2\nOTHER=3\n")
    unknown = unknown_variables(settings)
    assert unknown == ["COIN_HTS_QQQQQQQQQ", "COIN_HTS_THREAD (did you mean COIN_HTS_THREADS?)"]
    finding = check_settings(settings, unknown)
    assert finding.state == "warn"
    assert finding.detail.startswith("COIN_HTS_QQQQQQQQQ is no setting; COIN_HTS_THREAD (did you mean")


# ---- folders


def test_a_fresh_data_root_is_made(settings: Settings) -> None:
    finding = check_data_root(settings)
    assert (finding.name, finding.state) == ("data root", "ok")
    assert re.fullmatch(r".*/data, [\d,.]+ GB free, \d+ % used", finding.detail)
    assert settings.root.is_dir()


def test_a_data_root_whose_restore_was_interrupted(settings: Settings) -> None:
    journal = settings.root / ".restore" / "journal.json"
    journal.parent.mkdir(parents=True)
    journal.write_text(json.dumps({"id": "one"}))
    found = check_data_root(settings)
    assert found.state == "fail"
    assert "run `coin-hts backup restore one --force` again" in found.detail


def test_a_data_root_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert guarded("data root", lambda: check_data_root(Settings(home=tmp_path))).state == "fail"
    assert check_folder("logs folder", tmp_path / "data" / "logs", 80) == Finding(
        "logs folder", "fail", f"{tmp_path / 'data'} is no folder"
    )


def test_a_folder_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    finding = check_folder("backups folder", tmp_path / "a" / "b", 100)
    assert finding.state == "ok"
    assert str(tmp_path / "a" / "b") in finding.detail
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("least", "state"), [(0, "ok"), (1 << 62, "warn")])
def test_a_disk_without_room(settings: Settings, monkeypatch: pytest.MonkeyPatch, least: int, state: str) -> None:
    monkeypatch.setattr(health, "_LEAST_FREE_BYTES", least)
    assert check_folder("it", settings.home, 100).state == state


def test_a_disk_fuller_than_the_setting(settings: Settings) -> None:
    finding = check_folder("it", settings.home, 1e-9)
    assert finding.state == "warn"
    assert "more than COIN_HTS_ALERT_DISK_PERCENT" in finding.detail


def test_a_folder_that_cannot_be_written(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # As root every folder can be written, so the answer of the system is made up.
    monkeypatch.setattr(health.os, "access", lambda *_: False)
    assert check_data_root(settings).state == "fail"


# ---- candles


def put(root: Path, symbol: str, timeframe: str, bars: int = 10) -> CandleStore:
    store = CandleStore(root)
    store.merge(symbol, timeframe, random_walk(bars, 1, timeframe=timeframe), source="sample")
    return store


def test_footers_say_what_the_files_hold(settings: Settings) -> None:
    store = put(settings.root, "KRW-BTC", "1D", 800)
    put(settings.root, "KRW-ETH", "1H", 30)
    for other in ("postgres/base", "KRW-BTC/1X", "results/1D"):
        (settings.root / other).mkdir(parents=True)
        (settings.root / other / "2024.parquet").write_text("no candles")
    frame = store.load("KRW-BTC", "1D")
    footers = CandleFooters(settings.root)
    found = footers.read()
    assert set(found) == {("KRW-BTC", "1D"), ("KRW-ETH", "1H")}
    assert found["KRW-BTC", "1D"] == Extent(800, frame["timestamp"].iloc[-1].to_pydatetime())
    newest = footers.read(newest_only=True)["KRW-BTC", "1D"]
    assert newest.last == found["KRW-BTC", "1D"].last
    assert 0 < newest.rows < 800
    assert footers.problems == []


def test_footers_see_a_file_that_changed(settings: Settings) -> None:
    put(settings.root, "KRW-BTC", "1D", 5)
    footers = CandleFooters(settings.root)
    assert footers.read()["KRW-BTC", "1D"].rows == 5
    put(settings.root, "KRW-BTC", "1D", 9)
    assert footers.read()["KRW-BTC", "1D"].rows == 9


def test_a_foreign_file_without_statistics(settings: Settings) -> None:
    folder = settings.root / "KRW-BTC" / "1D"
    folder.mkdir(parents=True)
    table = pa.table(
        {"timestamp": pa.array([1_704_153_600_000, 1_704_412_800_000], pa.int64()).cast(pa.timestamp("ms"))}
    )
    pq.write_table(table, folder / "2024.parquet", write_statistics=False)
    assert CandleFooters(settings.root).read() == {
        ("KRW-BTC", "1D"): Extent(2, datetime(2024, 1, 5, tzinfo=UTC)),
    }


@pytest.mark.parametrize(
    "times",
    [
        [1_704_153_600, 1_704_412_800],
        [1_704_153_600_000, 1_704_412_800_000],
        ["2024-01-02T00:00:00Z", "2024-01-05T00:00:00Z"],
    ],
)
def test_a_foreign_file_with_other_times(settings: Settings, times: list[int] | list[str]) -> None:
    folder = settings.root / "KRW-BTC" / "1D"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"timestamp": times}), folder / "2024.parquet")
    assert CandleFooters(settings.root).read() == {
        ("KRW-BTC", "1D"): Extent(2, datetime(2024, 1, 5, tzinfo=UTC)),
    }


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (pa.table({"timestamp": [1, 2]}), "are not epoch seconds"),
        (b"PAR1 no more", "cannot be read"),
        (pa.table({"timestamp": pa.array([], pa.timestamp("us", "UTC"))}), "candles are empty"),
        (pa.table({"time": [1]}), "has no column timestamp"),
    ],
)
def test_a_damaged_file_is_found(settings: Settings, content: bytes | pa.Table, told: str) -> None:
    store = put(settings.root, "KRW-BTC", "1D")
    path = Path(store.files.path("KRW-BTC", Timeframe.D1, 2024))
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pq.write_table(content, path)
    footers = CandleFooters(settings.root)
    finding = check_candles(settings, footers.read(newest_only=True), footers.problems)
    assert finding.state == "fail"
    assert finding.detail.startswith("1 files cannot be read, first: ")
    assert "2024.parquet" in finding.detail
    assert told in finding.detail
    footers.read()
    assert len(footers.problems) == 1


def test_no_candles(settings: Settings) -> None:
    finding = check_candles(settings, {}, [])
    assert (finding.state, finding.detail) == ("warn", "none stored yet; `make run` makes synthetic ones")


def test_ages_by_timeframe(settings: Settings) -> None:
    series = {
        ("KRW-BTC", "1D"): Extent(1, NOW - 9 * DAY),
        ("KRW-ETH", "1D"): Extent(1, NOW - 2.5 * DAY),
        ("KRW-ETH", "5M"): Extent(1, NOW - timedelta(minutes=7)),
    }
    with clock.simulated(lambda: NOW):
        finding = check_candles(settings, series, [])
    assert finding.state == "ok", "what is not fetched by the clock is not late"
    assert finding.detail == "2 symbols, newest bar opened ago: 5M 7 min, 1D 2.5 d"


@pytest.mark.parametrize(
    ("timeframe", "opened_ago", "asked_ago", "late"),
    [
        ("1M", timedelta(minutes=17), None, False),
        ("1M", timedelta(minutes=18), None, True),
        ("1M", timedelta(hours=9), timedelta(minutes=2), False),  # asked for, and not traded since
        ("1M", timedelta(hours=9), timedelta(hours=3), True),
        ("1M", None, None, True),  # never fetched
        ("1H", timedelta(hours=2, minutes=10), None, False),
        ("1H", timedelta(hours=2, minutes=20), None, True),
        # Of 12:30: yesterday's bar has come since 00:05.
        ("1D", timedelta(days=1, hours=12, minutes=30), None, False),
        ("1D", timedelta(days=2, hours=12, minutes=30), None, True),
    ],
)
def test_what_is_late(
    tmp_path: Path, timeframe: str, opened_ago: timedelta | None, asked_ago: timedelta | None, late: bool
) -> None:
    settings = Settings(home=tmp_path, source="exchange:upbit")
    key = ("KRW-BTC", timeframe)
    series = {} if opened_ago is None else {key: Extent(1, NOW - opened_ago)}
    with clock.simulated(lambda: NOW):
        finding = check_candles(settings, series, [], {key: None if asked_ago is None else NOW - asked_ago})
    assert finding.state == ("warn" if late else "ok")
    assert (f"stale: KRW-BTC {timeframe}" in finding.detail) is late


def test_daily_candles_may_come_at_their_time(tmp_path: Path) -> None:
    key, series = ("KRW-BTC", "1D"), {("KRW-BTC", "1D"): Extent(1, datetime(2026, 5, 2, tzinfo=UTC))}
    settings = Settings(home=tmp_path, source="exchange:upbit", daily_at="09:00")
    for at, state in (
        (datetime(2026, 5, 4, 9, 59, tzinfo=UTC), "ok"),
        (datetime(2026, 5, 4, 10, 1, tzinfo=UTC), "warn"),
    ):
        with clock.simulated(lambda at=at: at):
            assert check_candles(settings, series, [], {key: None}).state == state


def test_many_late_ones_are_counted(tmp_path: Path) -> None:
    asked = {(f"KRW-A{number}", "1H"): None for number in range(5)}
    finding = check_candles(Settings(home=tmp_path), {}, [], asked)
    assert finding.detail.endswith("stale: KRW-A0 1H, KRW-A1 1H, KRW-A2 1H and 2 more")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2.0 h"), (172_800, "2.0 d")],
)
def test_ages(seconds: float, text: str) -> None:
    assert age_text(timedelta(seconds=seconds)) == text


# ---- what others serve


def test_an_export_store_is_named(settings: Settings) -> None:
    finding = check_export_store(settings)
    assert finding.state == "ok"
    assert str(settings.exports) in finding.detail


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "exports go to S3 but no bucket is set; set COIN_HTS_S3_BUCKET"),
        ({"s3_bucket": "b", "s3_endpoint_url": "http://127.0.0.1:1"}, "http://127.0.0.1:1"),
    ],
)
def test_a_bucket_out_of_reach(tmp_path: Path, given: dict[str, object], reason: str) -> None:
    keys = {"s3_access_key_id": "somebody", "s3_secret_access_key": "hush"}
    settings = Settings(home=tmp_path, export_store="s3", **keys, **given)
    finding = guarded("export store", lambda: check_export_store(settings))
    assert finding.state == "fail"
    assert reason in finding.detail
    assert "hush" not in finding.detail


@pytest.mark.parametrize(
    ("ahead", "state", "told"),
    [
        (timedelta(0), "ok", "clocks agree"),
        (timedelta(seconds=3), "ok", "clocks agree"),
        (timedelta(seconds=60), "warn", "s behind that of upbit; set it by NTP"),
        (timedelta(seconds=-60), "warn", "s ahead of that of upbit; set it by NTP"),
    ],
)
def test_the_clock_of_the_exchange(tmp_path: Path, ahead: timedelta, state: str, told: str) -> None:
    with FakeUpbit(MarketStore(), clock=RunningClock(datetime.now(UTC) + ahead), limit=None) as server:
        finding = check_exchange(Settings(home=tmp_path, source="exchange:upbit", exchange_url=server.base_url))
    assert finding.state == state
    assert told in finding.detail
    if state == "warn":
        off = re.search(r"is (\d+) s", finding.detail)
        assert off is not None
        assert 45 <= int(off[1]) <= 61


def test_an_exchange_out_of_reach(tmp_path: Path, silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_EXCHANGE_SECONDS", 0.2)
    for port in (1, silent_port):
        url = f"http://127.0.0.1:{port}"
        finding = check_exchange(Settings(home=tmp_path, source="exchange:upbit", exchange_url=url))
        assert finding.state == "warn"
        assert f"upbit at {url} cannot be reached" in finding.detail


@pytest.mark.parametrize(
    ("name", "url"), [("upbit", "https://api.upbit.com/"), ("binance", "https://api.binance.com/")]
)
def test_addresses_of_exchanges(name: str, url: str) -> None:
    assert health._address(name) == url


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


# ---- backups


@pytest.fixture
def back_up(settings: Settings) -> Callable[[datetime], None]:
    """Put the files of a backup of nothing where backups lie."""

    def make(at: datetime) -> None:
        dump = Dump(size=3, sha256="ab" * 32, pg_major=18, server="18.4")
        name = f"{at:%Y%m%dT%H%M%S.%fZ}-host"
        manifest = Manifest(
            id=name, created=at, finished=at, host="host", versions={}, catalog_revision=None, data_root="/",
            dump=dump, tables={}, files=(), new_bytes=3,
        )  # fmt: skip
        place = settings.backups / dump.key
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"abc")
        (settings.backups / f"{name}.json").write_bytes(manifest.encode())

    return make


def test_backups_and_their_age(settings: Settings, back_up: Callable[[datetime], None]) -> None:
    now = datetime.now(UTC)
    assert (check_backups(settings).state, check_backups(settings).detail[:14]) == ("warn", "there are none")
    back_up(now - 3 * DAY)
    assert check_backups(settings).state == "warn"
    assert check_backups(settings).detail.startswith("1, the newest 3.0 d old; `coin-hts backup create`")
    back_up(now - DAY)
    assert check_backups(settings) == Finding("backups", "ok", "2, the newest 24.0 h old")
    next(settings.backups.glob("objects/*/*")).unlink()
    assert check_backups(settings).state == "warn", "what is not whole is no backup"


@pytest.mark.parametrize(
    ("passed", "state", "told"), [(True, "ok", "restored for practice"), (False, "fail", "failed")]
)
def test_the_last_drill(
    settings: Settings, back_up: Callable[[datetime], None], passed: bool, state: str, told: str
) -> None:
    back_up(datetime.now(UTC))
    drills = settings.backups / "drills"
    drills.mkdir()
    at = datetime.now(UTC).isoformat()
    for day, ended in (("01", not passed), ("08", passed)):
        report = {"started_at": at, "finished_at": at, "passed": ended}
        (drills / f"202601{day}T000000.000000Z-0.json").write_text(json.dumps(report))
    finding = check_backups(settings)
    assert finding.state == state
    assert told in finding.detail
