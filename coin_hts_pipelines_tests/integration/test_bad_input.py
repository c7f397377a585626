"""What cannot be carried out: one clear sentence, the right exit status, no traceback, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pandas as pd
import pytest

from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.conftest import Project
from coin_hts_pipelines_tests.integration.helpers import (
    FileState,
    current_ids,
    document,
    files_under,
    query,
    run_statuses,
    write_year,
)

Done = CompletedProcess[str]
BACKTEST = ("backtest", "run", "--symbol", "KRW-BTC", "--strategy")
LONG = (*BACKTEST, "volume_long_candle")
PRESET = ("--strategy", "volume_long_candle", "--timeframe", "1D")
NO_SUCH_SYMBOL = "is not valid; accepted forms: KRW-BTC"


@dataclass(frozen=True)
class Refused:
    """A command line nobody can carry out and what its sentence says."""

    argv: tuple[str, ...]
    says: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)
    status: int = 2


CASES = {
    "path in a symbol": Refused(("run", "--symbols", "../../etc"), ("'../../etc'", NO_SUCH_SYMBOL)),
    "path in a backtest's symbol": Refused(
        ("backtest", "run", "--symbol", "..", "--strategy", "volume_long_candle"), ("'..'", NO_SUCH_SYMBOL)
    ),
    "no symbol of the files": Refused(
        ("run", "--path", "{bad}", "--symbols", "KRW-SEA"), ("'KRW-SEA'", "it has: KRW-", "files")
    ),
    "no such folder": Refused(("run", "--path", "/no/such/folder"), ("/no/such/folder does not exist",)),
    "timeframe": Refused(("run", "--timeframes", "1D,2D"), ("'2D' is unknown", "1M 3M 5M")),
    "timeframe without assets": Refused(("run", "--timeframes", "4H"), ("4H has no assets",)),
    "dates reversed": Refused(
        ("run", "--start", "2026-02-02", "--end", "2026-02-01"), ("start 2026-02-02 is after end 2026-02-01",)
    ),
    "date": Refused(("run", "--start", "yesterdayish"), ("'yesterdayish' cannot be read", "Asia/Seoul")),
    "unknown option": Refused(("run", "--colour"), ("No such option", "--colour")),
    "unknown source": Refused(("run", "--source", "coinbase"), ("'coinbase'", "sample, files, exchange:NAME")),
    "unknown strategy": Refused((*BACKTEST, "moon"), ("'moon' is unknown", "volume_long_candle")),
    "unknown parameter": Refused((*LONG, "--param", "luck=7"), ("'luck' is unknown", "vol_ma_window")),
    "parameter below its range": Refused((*LONG, "--param", "vol_ma_window=0"), ("vol_ma_window = 0", "from 1 to 500")),
    "stop within the slippage": Refused((*LONG, "--stop-loss", "0.0001"), ("stop_loss = 0.0001",)),
    "no candles of that symbol": Refused(
        ("backtest", "run", "--symbol", "KRW-SEA", "--strategy", "volume_long_candle"), ("no candles of KRW-SEA",)
    ),
    "unknown result": Refused(("backtest", "show", "nonsense"), ("'nonsense' is unknown",)),
    "Monte Carlo of an unknown result": Refused(
        ("backtest", "monte-carlo", "nonsense"), ("'nonsense' is unknown",)
    ),
    "trailing stop": Refused((*LONG, "--trailing-stop", "1"), ("trailing_stop = 1.0", "0 < trailing_stop < 1")),
    "two sizings": Refused((*LONG, "--size-risk", "0.1", "--size-amount", "5"), ("one of fraction, amount and risk",)),
    "regime": Refused((*LONG, "--regime", "rsi<70"), ("'rsi' is unknown", "rsi_14")),
    "override of an unknown parameter": Refused(
        ("preset", "add", "mine", *PRESET, "--override", "KRW-BTC:luck=7"), ("'luck' is unknown",)
    ),
    "unknown preset": Refused(("preset", "show", "nonsense"), ("'nonsense' is unknown", "volume_long_candle_1d")),
    "preset named like a path": Refused(("preset", "add", "../x", *PRESET), ("'../x' is not accepted",)),
    "preset named in capitals": Refused(("preset", "add", "Mine", *PRESET), ("'Mine' is not accepted", "a-z")),
    "preset of a taken name": Refused(
        ("preset", "add", "volume_long_candle_1d", *PRESET), ("'volume_long_candle_1d' exists already",)
    ),
    "import of nothing": Refused(("data", "import", "/no/such.parquet"), ("/no/such.parquet does not exist",)),
    "import of many bad files": Refused(("data", "import", "{bad}"), ("KRW-NAN 1D", "KRW-ZERO 1D")),
    "setting": Refused(("data", "list"), ("COIN_HTS_FIRST_YEAR",), {"COIN_HTS_FIRST_YEAR": "1066"}),
    "Postgres not running": Refused(
        ("run", "--timeframes", "1D"),
        ("Postgres at postgresql+psycopg2://u:***@127.0.0.1:1/x cannot be reached", "Connection refused"),
        {"COIN_HTS_DATABASE_URL": "postgresql://u:secretpw@127.0.0.1:1/x"},
        1,
    ),
    "Postgres of a nonsensical port": Refused(
        ("preset", "list"),
        ("COIN_HTS_DATABASE_URL cannot be read",),
        {"COIN_HTS_DATABASE_URL": "postgresql://u:secretpw@127.0.0.1:port/x"},
    ),
    "a file where the data should be": Refused(
        ("run", "--timeframes", "1D"), ("{file}/postgres", "does not start"), {"COIN_HTS_DATA_ROOT": "{file}"}, 1
    ),
    "data nobody can write": Refused(
        ("data", "generate", "--symbols", "KRW-BTC", "--timeframes", "1D", "--start", "2024-06-01"),
        ("/proc/nowhere",),
        {"COIN_HTS_DATA_ROOT": "/proc/nowhere"},
        1,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `{...}` stands for in the cases."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "file").touch()
    for name, (path, _) in BAD_FILES.items():
        path_of = write_year(folder / "bad", f"KRW-{name.upper()}", "1D", 2024, random_walk(60, 1))
        path(path_of)
    return {name: str(folder / name) for name in ("bad", "file")}


def changed(change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        frame = pd.read_parquet(path)
        other = change(frame)
        (frame if other is None else other).to_parquet(path)

    return rewrite


def priced(value: float) -> Callable[[Path], None]:
    return changed(lambda frame: frame.__setitem__("low", frame["low"].where(frame.index != 5, value)))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def make_huge(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(201 * 2**20)


BAD_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (truncate, "cannot be read"),
    "huge": (make_huge, "201 MiB is more than the 200 MiB a file may have"),
    "text": (changed(lambda frame: frame.assign(close="a lot")), "column 'close' has type"),
    "lacking": (changed(lambda frame: frame.drop(columns="volume")), "missing columns: volume"),
    "nan": (priced(np.nan), "low is not a finite number: 1 row (2024-01-06T00:00:00Z)"),
    "inf": (priced(np.inf), "low is not a finite number: 1 row (2024-01-06T00:00:00Z)"),
    "below": (priced(-1.0), "low is not above 0: 1 row (2024-01-06T00:00:00Z)"),
    "zero": (priced(0.0), "low is not above 0: 1 row (2024-01-06T00:00:00Z)"),
    "twice": (
        changed(lambda frame: frame.iloc[[*range(10), 9, *range(10, 60)]]),
        "timestamp is not later than the one before (duplicated or unsorted): 1 row (2024-01-10T00:00:00Z)",
    ),
    "mixed": (changed(lambda frame: frame.iloc[::-1]), "(duplicated or unsorted): 59 rows"),
    "year": (
        changed(lambda frame: frame.assign(timestamp=frame["timestamp"] + pd.Timedelta(days=366))),
        "timestamp is not in the year 2024: 60 rows",
    ),
    "empty": (changed(lambda frame: frame.iloc[:0]), "candles are empty"),
}


@dataclass(frozen=True)
class Outcome:
    """All cases, carried out."""

    done: dict[str, Done]
    before: dict[str, FileState]
    after: dict[str, FileState]
    env_file_kept: bool
    runs: int
    presets: int


@pytest.fixture(scope="module")
def outcome(project: Project, places: dict[str, str]) -> Outcome:
    """The cases, three at a time, on a project that holds candles of one symbol and the built-in presets."""
    argv = ("data", "generate", "--symbols", "KRW-BTC", "--timeframes", "1D", "--start", "2024-06-01")
    assert project.coin_hts(*argv).returncode == 0
    assert project.coin_hts("preset", "list").returncode == 0
    before, env_file = files_under(project.data), (project.home / ".env").read_bytes()

    def carry_out(case: Refused) -> Done:
        variables = {name: value.format(**places) for name, value in case.variables.items()}
        return project.coin_hts(*(part.format(**places) for part in case.argv), **variables)

    # Three at a time: each is a second of imports.
    with ThreadPoolExecutor(3) as pool:
        done = dict(zip(CASES, pool.map(carry_out, CASES.values()), strict=True))
    # Dagster makes its tables when somebody first opens the instance.
    has_runs = query(project, "SELECT to_regclass('dagster.runs') IS NOT NULL")[0][0]
    return Outcome(
        done,
        before,
        files_under(project.data),
        (project.home / ".env").read_bytes() == env_file,
        len(run_statuses(project)) if has_runs else 0,
        int(query(project, "SELECT count(*) FROM catalog.presets WHERE NOT builtin")[0][0]),
    )


@pytest.mark.parametrize("name", CASES)
def test_refused_in_one_sentence(name: str, outcome: Outcome, places: dict[str, str]) -> None:
    case, done = CASES[name], outcome.done[name]
    assert done.returncode == case.status, done.stderr
    for text in case.says:
        assert text.format(**places) in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "secretpw" not in done.stdout + done.stderr
    if "Usage:" not in done.stderr and name != "import of many bad files":
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1, "more than a sentence"
        assert done.stdout == ""


@pytest.mark.parametrize("name", BAD_FILES)
def test_each_bad_file_is_named_with_its_rule(name: str, outcome: Outcome, places: dict[str, str]) -> None:
    done = outcome.done["import of many bad files"]
    (line,) = [line for line in done.stderr.splitlines() if f"KRW-{name.upper()} 1D" in line]
    assert BAD_FILES[name][1] in line
    assert f"{places['bad']}/KRW-{name.upper()}/1D/2024.parquet" in line
    assert done.stdout == ""


def test_nothing_was_written(outcome: Outcome) -> None:
    assert outcome.after == outcome.before
    assert outcome.env_file_kept
    assert outcome.runs == 0
    assert outcome.presets == 0


S3 = {"COIN_HTS_EXPORT_STORE": "s3"}
NO_SERVER = {
    **S3,
    "COIN_HTS_S3_BUCKET": "exports",
    "COIN_HTS_S3_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "secretpw",
}


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        (S3, "exports go to S3 but no bucket is set; set COIN_HTS_S3_BUCKET"),
        (NO_SERVER, "broken connection to http://127.0.0.1:1"),
    ],
    ids=["no bucket", "no server"],
)
def test_without_its_bucket(project: Project, outcome: Outcome, variables: dict[str, str], reason: str) -> None:
    doctor = project.coin_hts("doctor", "--json", **variables)
    assert doctor.returncode == 1
    found = {finding["name"]: finding for finding in document(doctor.stdout)}
    assert found["export store"]["state"] == "fail"
    assert reason in found["export store"]["detail"]
    assert found["postgres"]["state"] == "ok"

    old = set(run_statuses(project))
    argv = ("run", "--symbols", "KRW-BTC", "--timeframes", "1D", "--start", "2025-01-01", "--end", "2025-03-01")
    run = project.coin_hts(*argv, "--json", **variables)
    assert run.returncode == 1
    (part,) = document(run.stdout)["timeframes"]
    assert part["failures"].keys() == {"exports_1d"}
    assert len(part["failures"]["exports_1d"]) == 2
    for text in part["failures"]["exports_1d"].values():
        assert reason in text
        assert "\n" not in text
    assert part["rankings"].keys() == {"volume_long_candle_1d", "volume_zone_breakout_1d"}
    assert len(current_ids(project)) == 2, "the layers above do not stand"
    new = [status for run_id, status in run_statuses(project).items() if run_id not in old]
    assert new == ["SUCCESS"] * 4 + ["FAILURE"]
    for done in (doctor, run):
        assert "Traceback" not in done.stdout + done.stderr
        assert "secretpw" not in done.stdout + done.stderr


def test_doctor_names_what_cannot_be_written_or_reached(project: Project, outcome: Outcome) -> None:
    done = project.coin_hts(
        "doctor",
        "--json",
        COIN_HTS_DATA_ROOT="/proc/nowhere",
        COIN_HTS_DATABASE_URL="postgresql://u:secretpw@127.0.0.1:1/x",
    )
    assert done.returncode == 1
    found = {finding["name"]: finding for finding in document(done.stdout)}
    for name, text in (("data root", "/proc/nowhere"), ("postgres", "u:***@127.0.0.1:1"), ("export store", "/proc")):
        assert found[name]["state"] == "fail"
        assert text in found[name]["detail"]
    assert "secretpw" not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
