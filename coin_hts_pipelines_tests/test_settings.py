"""Settings: where they come from, which name wins, and what a wrong one is answered."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.settings import _CHECKOUT, DEFAULT_SYMBOLS, Settings, find_home, get_settings, publish


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project home with an empty `.env`; the settings are read anew in every test."""
    (tmp_path / ".env").write_text("")
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


@pytest.mark.parametrize(
    ("older", "field", "value"),
    [
        ("DATA_ROOT", "data_root", "/candles"),
        ("DAGSTER_HOME", "dagster_home", "/dagster"),
        ("DATABASE_URL", "database_url", "postgresql://u@h/d"),
        ("AWS_BUCKET_NAME", "s3_bucket", "bucket"),
        ("AWS_REGION", "s3_region", "ap-northeast-2"),
        ("AWS_ENDPOINT_URL_S3", "s3_endpoint_url", "http://127.0.0.1:9"),
        ("AWS_ACCESS_KEY_ID", "s3_access_key_id", "key"),
        ("AWS_SECRET_ACCESS_KEY", "s3_secret_access_key", "hush"),
    ],
)
def test_an_older_name_is_accepted_and_the_own_name_goes_before_it(
    older: str, field: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> str:
        answer = getattr(Settings(), field)
        return str(answer.get_secret_value() if hasattr(answer, "get_secret_value") else answer)

    monkeypatch.setenv(older, value)
    assert found() == value
    monkeypatch.setenv(f"COIN_HTS_{field.upper()}", "own")
    assert found() == "own"
    monkeypatch.setenv(f"COIN_HTS_{field.upper()}", "")
    assert found() == value


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("KRW-BTC", ("KRW-BTC",)),
        ("KRW-BTC,KRW-ETH", ("KRW-BTC", "KRW-ETH")),
        (" KRW-BTC , KRW-ETH ,", ("KRW-BTC", "KRW-ETH")),
        ("", DEFAULT_SYMBOLS),
    ],
)
def test_a_list_is_written_with_commas(text: str, symbols: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_HTS_SYMBOLS", text)
    assert get_settings().symbols == symbols


def test_an_empty_value_is_unset_for_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Settings()
    for field in Settings.model_fields:
        monkeypatch.setenv(f"COIN_HTS_{field.upper()}", "")
    for older in ("DATA_ROOT", "DATABASE_URL", "AWS_BUCKET_NAME", "AWS_REGION", "AWS_ACCESS_KEY_ID"):
        monkeypatch.setenv(older, "")
    assert Settings() == expected
    assert expected.embedded
    assert not expected.live_source


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COIN_HTS_PORT", "0"),
        ("COIN_HTS_PORT", "many"),
        ("COIN_HTS_EXPORT_STORE", "ftp"),
        ("COIN_HTS_KEEP_RESULTS", "0"),
        ("COIN_HTS_S3_VERIFY", "perhaps"),
        ("COIN_HTS_FIRST_YEAR", "1066"),
        ("COIN_HTS_THREADS", "-1"),
        ("COIN_HTS_DATABASE_POOL_SIZE", "2.5"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_variable(
    name: str, value: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidRequest, match=f"setting {name} is not accepted"):
        get_settings()
    monkeypatch.delenv(name)
    (home / ".env").write_text(f"{name}={value}\n")
    with pytest.raises(InvalidRequest, match=f"setting {name} is not accepted"):
        get_settings()


def test_the_dotenv_of_the_home_is_read_and_the_environment_wins(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".env").write_text("COIN_HTS_PORT=4000\nDATA_ROOT='from file'\nSOMETHING_ELSE=1\n")
    assert (get_settings().port, get_settings().data_root) == (4000, Path("from file"))
    monkeypatch.setenv("COIN_HTS_PORT", "5000")
    monkeypatch.setenv("DATA_ROOT", "from environment")
    assert get_settings().port == 4000, "settings are read once per process"
    get_settings.cache_clear()
    assert (get_settings().port, get_settings().data_root) == (5000, Path("from environment"))


def test_the_home_is_the_folder_that_is_marked_or_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, marked = tmp_path / "plain", tmp_path / "marked"
    plain.mkdir()
    marked.mkdir()
    (marked / "dagster.yaml").write_text("")
    monkeypatch.chdir(marked)
    assert find_home() == marked
    monkeypatch.chdir(plain)
    assert find_home() == _CHECKOUT


def test_relative_paths_start_at_the_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = Settings()
    assert settings.root == home / "data"
    assert settings.exports == home / "data" / "exports"
    assert settings.reports == home / "data" / "reports"
    assert settings.path(settings.dagster_home) == home
    assert settings.path(Path("/absolute")) == Path("/absolute")
    assert settings.path(Path("~/candles")) == Path("/home/somebody/candles")
    assert Settings(data_root=Path("../beside")).root == home.parent / "beside"
    assert Settings(export_dir=Path("out")).exports == home / "out"


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", "postgresql://u:hush@h/d")
    monkeypatch.setenv("COIN_HTS_S3_ACCESS_KEY_ID", "hush-key")
    monkeypatch.setenv("COIN_HTS_S3_SECRET_ACCESS_KEY", "hush-secret")
    assert "hush" not in f"{get_settings()!r} {get_settings()} {get_settings().model_dump_json()}"
    monkeypatch.setenv("COIN_HTS_PORT", "0")
    get_settings.cache_clear()
    with pytest.raises(InvalidRequest) as raised:
        get_settings()
    assert "hush" not in str(raised.value)


def test_the_cache_of_kernels_is_handed_to_numba(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_HTS_NUMBA_CACHE_DIR", "kernels")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "to be put back afterwards")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    get_settings()
    assert os.environ["NUMBA_CACHE_DIR"] == str(home / "kernels")


def test_publish_sets_variables_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_HTS_TEST_ONLY", "old")
    publish(COIN_HTS_TEST_ONLY="new")
    assert os.environ["COIN_HTS_TEST_ONLY"] == "new"


@pytest.mark.parametrize(("source", "live"), [("sample", False), ("files", False), ("exchange:upbit", True)])
def test_only_an_exchange_is_live(source: str, live: bool) -> None:
    assert Settings(source=source).live_source is live


@pytest.mark.parametrize(("threads", "expected"), [(3, 3), (0, os.cpu_count())])
def test_threads(threads: int, expected: int) -> None:
    assert Settings(threads=threads).worker_threads == expected


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, "http://127.0.0.1:3000"),
        ({"port": 3001}, "http://127.0.0.1:3001"),
        ({"host": "0.0.0.0"}, f"http://{socket.gethostname()}:3000"),
        ({"host": "0.0.0.0", "ui_url": "https://hts.example/"}, "https://hts.example"),
    ],
)
def test_links_go_where_the_pages_are(tmp_path: Path, given: dict[str, Any], address: str) -> None:
    assert Settings(home=tmp_path, **given).ui == address
