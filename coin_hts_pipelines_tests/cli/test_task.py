"""`coin-hts task submit`, `cancel` and `retry`: what is stored, what is refused, how fast it is loaded."""

from __future__ import annotations

import gc
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from coin_hts_pipelines import cli
from coin_hts_pipelines.backtest import BacktestRequest, Between, Costs, Exits, Regime, Sizing
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.control.tasks import open_queue
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines.tasks import Task, TaskQueue, TaskRequest, TaskWorker
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.conftest import CHECKOUT, clean_environment
from coin_hts_pipelines_tests.tasks.test_schemas import validator

__all__ = ["_migrated", "database", "new_database"]

SYMBOLS = ("KRW-BTC", "KRW-ETH", "KRW-XRP")
LINE = "submit --strategy volume_long_candle --symbols KRW-BTC"

# No daemon runs in these tests.
NO_DAEMON = "no daemon is at work: queued tasks wait until `make up` (coin-hts up) starts one\n"


class Said:
    """What `coin-hts task` printed and its exit status."""

    def __init__(self, argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(sys, "argv", ["coin-hts", "task", *argv])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        self.status = ended.value.code or 0
        self.out, self.err = capsys.readouterr()
        assert "Traceback" not in self.err

    @property
    def json(self) -> Any:
        def refuse(name: str) -> None:
            raise AssertionError(f"{name} is not JSON")

        return json.loads(self.out, parse_constant=refuse)

    def conforming(self, schema: str) -> Any:
        """The JSON document, or each of a list of them, as its published schema wants it."""
        document = self.json
        for one in document if isinstance(document, list) else [document]:
            validator(schema).validate(one)
        return document


Say = Callable[..., Said]


def forget() -> None:
    for function in (get_settings, open_database, open_queue):
        function.cache_clear()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[Path]:
    """A project home with three symbols of 1D candles, and one more in 1H and later than they."""
    shutil.copy(CHECKOUT / "dagster.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", database.url.render_as_string(hide_password=False))
    forget()
    before = dict(os.environ)  # `prepare` sets variables of the process for Dagster
    store = CandleStore(tmp_path / "data")
    for seed, symbol in enumerate(SYMBOLS):
        store.merge(symbol, "1D", random_walk(250, seed), source="files")
    store.merge("KRW-HOUR", "1H", random_walk(50, 1, timeframe="1H"), source="files")
    yield tmp_path
    open_database().dispose()
    os.environ.clear()
    os.environ.update(before)
    forget()


@pytest.fixture
def queue(database: Database) -> TaskQueue:
    return TaskQueue(database)


@pytest.fixture
def say(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command; words that hold a space come as arguments of their own."""
    return lambda line, *more: Said([*line.split(), *more], monkeypatch, capsys)


def work(queue: TaskQueue, home: Path) -> None:
    """Work off what is due, as a run does."""
    claims = queue.claim(run_key="key")
    TaskWorker(queue, home / "data", threads=2).run(claims, "run-1")


def stored(queue: TaskQueue) -> Task:
    (task,) = queue.list()
    return task


def test_the_id_the_state_and_the_next_step(say: Say, queue: TaskQueue) -> None:
    said = say(LINE)
    task = stored(queue)
    assert (said.status, said.err) == (0, NO_DAEMON)
    assert said.out.splitlines() == [f"{task.id}  queued", f"next: coin-hts task watch {task.id}"]
    assert task.document == TaskRequest(BacktestRequest("volume_long_candle"), ("KRW-BTC",)).to_dict()
    assert gc.isenabled()


def test_every_option_of_a_backtest_reaches_the_request(say: Say, queue: TaskQueue) -> None:
    line = (
        "submit --strategy volume_long_candle --symbols all --param body_pct=0.02 --set vol_ma_window=10 "
        "--stop-loss 0.05 --take-profit 0.1 --trailing-stop 0.06 --no-signal-exit --size-risk 0.05 --atr-window 10 "
        "--fill next_open --cash 5000 --fee-rate 0 --slippage-rate 0 --regime rsi_14<70 "
        "--start 2024-02-01 --end 2024-06-30 --keep --idempotency-key k1 --json --name"
    )
    document = say(line, "two words").conforming("task_status")
    expected = TaskRequest(
        BacktestRequest(
            "volume_long_candle",
            {"body_pct": 0.02, "vol_ma_window": 10},
            exits=Exits(0.05, 0.1, 0.06, signal_exit=False),
            sizing=Sizing(risk=0.05, atr_window=10),
            costs=Costs(0.0, 0.0),
            fill="next_open",
            initial_cash=5000,
            regime=(Regime("rsi_14", "<", 70),),
        ),
        SYMBOLS,
        "2024-02-01",
        "2024-06-30",
        name="two words",
        keep=True,
    )
    assert document["request"] == expected.to_dict()
    assert (document["state"], document["queue_position"], document["idempotency_key"]) == ("queued", 1, "k1")
    assert (document["run_url"], document["task_url"].endswith(f"partition={document['id']}")) == (None, True)
    assert stored(queue).document == expected.to_dict()


def test_several_values_make_a_sweep(say: Say, queue: TaskQueue) -> None:
    line = (
        f"{LINE},btc_krw,KRW-ETH --param body_pct=0.005,0.01 --param vol_multiplier=1:3 --param stop_loss=none,0.1 "
        "--param hold_period_bars=5 --set vol_ma_window=10 --sampling lhs --trials 7 --seed 3"
    )
    assert say(line).status == 0
    grid = {
        "body_pct": [0.005, 0.01],
        "vol_multiplier": Between(1.0, 3.0),
        "stop_loss": [None, 0.1],
        "hold_period_bars": [5],
    }
    fixed = BacktestRequest("volume_long_candle", {"vol_ma_window": 10})
    sampling = {"method": "lhs", "trials": 7, "seed": 3}
    assert stored(queue).document == TaskRequest(fixed, SYMBOLS[:2], grid=grid, sampling=sampling).to_dict()


def test_of_all_only_those_with_candles_of_the_span(say: Say, queue: TaskQueue, home: Path) -> None:
    early = random_walk(20, 5)
    early = early.assign(timestamp=early["timestamp"] - pd.Timedelta(days=3650))
    CandleStore(home / "data").merge("KRW-OLD", "1D", early, source="files")
    for line, symbols in (
        ("--symbols all", ["KRW-BTC", "KRW-ETH", "KRW-OLD", "KRW-XRP"]),
        ("--symbols all --end 2019-12-31", ["KRW-OLD"]),
        ("--symbols all --timeframe 1h", ["KRW-HOUR"]),
    ):
        document = say(f"submit --strategy volume_long_candle {line} --json").conforming("task_status")
        assert document["request"]["symbols"] == symbols


@pytest.mark.parametrize("symbols", ["all", ["btc_krw", "KRW-XRP"]])
@pytest.mark.parametrize("place", ["file", "-"])
def test_a_request_as_json(
    say: Say, queue: TaskQueue, home: Path, monkeypatch: pytest.MonkeyPatch, place: str, symbols: Any
) -> None:
    asked = TaskRequest(
        BacktestRequest("volume_long_candle", {"body_pct": 0.02}), SYMBOLS, "2024-02-01", grid={"stop_loss": [0.1, 0.2]}
    )
    text = json.dumps({**asked.to_dict(), "symbols": symbols})
    (home / "request.json").write_text(text)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    name = "request.json" if place == "file" else "-"
    document = say(f"submit --request {name} --idempotency-key k --json").conforming("task_status")
    wanted = SYMBOLS if symbols == "all" else ("KRW-BTC", "KRW-XRP")
    assert document["request"] == {**asked.to_dict(), "symbols": list(wanted)}
    assert document["idempotency_key"] == "k"


def test_the_same_key_is_the_same_task(say: Say, queue: TaskQueue) -> None:
    first = say(f"{LINE} --idempotency-key k --json").json
    queue.cancel(first["id"], "no")
    said = say(f"{LINE} --idempotency-key k")
    assert said.out.startswith(f"{first['id']}  cancelled\n")
    assert stored(queue).id == first["id"]


GOOD: dict[str, Any] = TaskRequest(BacktestRequest("volume_long_candle"), ("KRW-BTC",)).to_dict()
REFUSED_LINES = [
    ("submit", "--strategy is missing; give --strategy and --symbols, or --request FILE"),
    ("submit --strategy volume_long_candle", "--symbols is missing"),
    (f"{LINE} --strategy moon", "strategy 'moon' is unknown; available: bollinger_breakout"),
    (f"{LINE} --param luck=7", "'luck' is unknown"),
    (f"{LINE} --param body_pct", "--param 'body_pct' cannot be read; expected NAME=VALUE"),
    (f"{LINE} --param body_pct=7", "body_pct = 7"),
    (f"{LINE} --param body_pct=0.01 --set body_pct=0.02", "body_pct is given twice"),
    (f"{LINE} --param body_pct=0.01,7", "body_pct = 7"),
    (f"{LINE} --param body_pct=0.01:0.02", "a grid needs a step for the range of body_pct"),
    (f"{LINE} --param body_pct=0.02:0.01", "is empty"),
    (f"{LINE} --param stop_loss=0.02", "'stop_loss' is unknown"),
    (f"{LINE} --seed 5", "sampling belongs to a sweep"),
    (f"{LINE} --trials 5", "trials = 5 belongs to random and lhs"),
    (f"{LINE} --param body_pct=0.01,0.02 --sampling random", "trials = None is not accepted"),
    (f"{LINE} --param body_pct=0.01,0.02 --sampling moon", "sampling 'moon' is unknown"),
    (f"{LINE} --stop-loss 7", "stop_loss = 7.0 is not accepted"),
    (f"{LINE} --stop-loss x", "'x' is not a valid float"),
    (f"{LINE} --cash -1", "initial_cash = -1.0 is not accepted"),
    (f"{LINE} --fee-rate 0.5", "fee_rate = 0.5 is not accepted"),
    (f"{LINE} --fill never", "fill 'never'"),
    (f"{LINE} --atr-window 5", "--atr-window and --atr-multiple belong to --size-risk"),
    (f"{LINE} --regime moon>1", "moon"),
    (f"{LINE} --timeframe 1Y", "timeframe '1Y' is unknown"),
    (f"{LINE} --timeframe 1H", "no 1H candles of KRW-BTC from the beginning to the end"),
    (f"{LINE} --start yesterday", "'yesterday'"),
    (f"{LINE} --start 2024-06-01 --end 2024-05-01", "2024-05-01"),
    (f"{LINE} --start 2030-01-01", "no 1D candles of KRW-BTC from 2030-01-01 to the end; see `coin-hts data list`"),
    (f"{LINE} --end 2001-01-01", "no 1D candles of KRW-BTC from the beginning to 2001-01-01"),
    (f"{LINE},KRW-SEA,KRW-LUNA", "no 1D candles of KRW-LUNA, KRW-SEA from"),
    (f"{LINE} --symbols ../x", "'../x' is not valid"),
    (f"{LINE} --symbols ,", "a task needs at least one symbol"),
    (f"{LINE} --symbols all --timeframe 1W", "no 1W candles of any symbol"),
    (
        f"{LINE},KRW-ETH --param body_pct=0.001:0.1:0.001 --param vol_multiplier=1:9:0.005",
        "160,100 combinations x 2 symbols = 320,200 backtests are not accepted; expected at most 200,000",
    ),
    (f"{LINE} --name {'n' * 201}", "task name"),
    (f"{LINE} --idempotency-key {'n' * 201}", "idempotency key"),
    ("submit --request nowhere.json", "nowhere.json"),
    (
        f"{LINE} --request good.json --keep",
        "--request holds the whole request; leave out --strategy, --symbols, --keep",
    ),
    ("submit --request .", "directory"),
    ("submit --luck 7", "No such option"),
    ("moon", "No such command 'moon'"),
]
REFUSED_DOCUMENTS: list[tuple[Any, str]] = [
    (b"{", "request file.json cannot be read: Expecting property name"),
    (b"", "request file.json cannot be read"),
    (b"\xff{}", "request file.json cannot be read: 'utf-8' codec can't decode"),
    (b"[" * 100_000, "request file.json cannot be read"),
    ([GOOD], "request file.json cannot be read: expected a JSON object"),
    ({}, "'backtest' is missing"),
    ({**GOOD, "odd": 1}, "unexpected keyword argument 'odd'"),
    ({**GOOD, "symbols": None}, "symbols None are not accepted"),
    ({**GOOD, "symbols": "KRW-BTC"}, "symbols 'KRW-BTC' are not accepted; expected a list"),
    ({**GOOD, "symbols": ["KRW-SEA"]}, "no 1D candles of KRW-SEA"),
    ({**GOOD, "symbols": "all", "start": "2030-01-01"}, "no 1D candles of any symbol"),
    ({**GOOD, "backtest": {**GOOD["backtest"], "strategy": "moon"}}, "strategy 'moon' is unknown"),
    ({**GOOD, "backtest": []}, "cannot be read"),
    ({**GOOD, "keep": "yes"}, "keep = 'yes' is not accepted"),
    ({**GOOD, "grid": {"luck": [1, 2]}}, "luck"),
    ({**GOOD, "symbols": "all", "grid": {"body_pct": {"low": 0.01, "high": 0.1, "step": 1e-7}}}, "expected at most"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), REFUSED_LINES)
def test_what_cannot_be_carried_out(say: Say, queue: TaskQueue, home: Path, line: str, message: str) -> None:
    (home / "good.json").write_text(json.dumps(GOOD))
    said = say(line)
    assert (said.status, said.out) == (2, "")
    assert message in said.err
    assert queue.list() == []


@pytest.mark.parametrize(("document", "message"), REFUSED_DOCUMENTS)
def test_a_request_as_json_that_cannot_be_carried_out(
    say: Say, queue: TaskQueue, home: Path, document: Any, message: str
) -> None:
    (home / "file.json").write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    said = say("submit --request file.json")
    assert (said.status, said.out) == (2, "")
    assert message in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert queue.list() == []


def test_a_task_that_waits_is_cancelled_at_once(say: Say, queue: TaskQueue) -> None:
    task_id = say(f"{LINE} --json").json["id"]
    said = say(f"cancel {task_id[-8:]} --reason", "wrong dates")
    assert (said.status, said.out) == (0, f"{task_id}  cancelled: wrong dates\n")
    document = say(f"cancel {task_id} --json").conforming("task_status")
    assert (document["state"], document["cancel_reason"]) == ("cancelled", "wrong dates")


def test_a_task_that_runs_is_asked_to_end(say: Say, queue: TaskQueue) -> None:
    task_id = say(f"{LINE} --json").json["id"]
    (claim,) = queue.claim(run_key="key")
    assert queue.start(claim, "run-1", "host-1")
    assert say(f"cancel {task_id}").out == f"{task_id}  running, asked to end: asked for on the command line\n"
    document = say(f"cancel {task_id} --json").conforming("task_status")
    assert (document["state"], document["cancel_requested"]) == ("running", True)
    assert document["run_url"] == "http://127.0.0.1:3000/runs/run-1"


def test_a_retry_is_a_new_task(say: Say, queue: TaskQueue) -> None:
    old = say(f"{LINE} --param body_pct=0.02 --name again --json").json
    queue.cancel(old["id"], "no")
    lines = say(f"retry {old['id'][-8:]}").out.splitlines()
    new = queue.list()[0]
    assert lines == [
        f"{new.id}  queued",
        f"a new task with the request of {old['id']}",
        f"next: coin-hts task watch {new.id}",
    ]
    document = say(f"retry {old['id']} --json").conforming("task_status")
    assert document["request"] == old["request"] == new.to_dict()["request"]
    assert len({document["id"], new.id, old["id"]}) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cancel nope", "task 'nope' is unknown; see `coin-hts task list`"),
        ("cancel 20", "task '20' matches several tasks"),
        ("cancel {done}", "is completed already; only queued and running tasks can be cancelled"),
        ("cancel", "Missing argument 'ID'"),
        ("retry nope", "task 'nope' is unknown"),
        ("retry {done}", "is completed; only failed and cancelled tasks can be tried again"),
        ("retry {waiting}", "is queued; only failed and cancelled tasks"),
    ],
)
def test_what_cannot_be_cancelled_or_retried(say: Say, queue: TaskQueue, home: Path, line: str, message: str) -> None:
    done = say(f"{LINE} --json").json["id"]
    work(queue, home)
    waiting = say(f"{LINE} --json").json["id"]
    before = [task.to_dict() for task in queue.list()]
    said = say(line.format(done=done, waiting=waiting))
    assert (said.status, said.out) == (2, "")
    assert message in said.err
    assert [task.to_dict() for task in queue.list()] == before


def test_a_catalog_that_is_away_is_failed_work(say: Say, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    open_database().dispose()
    forget()
    for line in (LINE, "list", "show x", "watch", "watch x", "result x", "cancel x", "retry x", "dead list"):
        said = say(line)
        assert (said.status, said.out) == (1, "")
        assert said.err.startswith("error: Postgres at postgresql")
        assert len(said.err.splitlines()) == 1


_LOADED = """
import sys
from coin_hts_pipelines.cli import main
sys.argv = ["coin-hts", "task", *sys.argv[1:]]
try:
    main()
finally:
    print("loaded:", sorted(set(HEAVY) & set(sys.modules)))
"""
_OFF_THE_PATH = ("dagster", "dagster_postgres", "alembic", "boto3", "plotly", "rich", "numba")


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_submit_loads_only_what_it_needs(home: Path, database: Database, json_too: list[str]) -> None:
    url = database.url.render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {_OFF_THE_PATH}{_LOADED}", *LINE.split(), *json_too],
        cwd=home,
        env={**clean_environment(), "COIN_HTS_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "queued" in done.stdout, done.stderr
    assert done.stdout.endswith("loaded: []\n")


@pytest.mark.parametrize("argv", [["--help"], ["submit", "--help"], ["watch", "--help"], ["result", "--help"]])
def test_help_loads_nothing_heavy(home: Path, argv: list[str]) -> None:
    heavy = ("dagster", "pandas", "numpy", "numba", "pyarrow", "sqlalchemy", "rich")
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {heavy}{_LOADED}", *argv],
        cwd=home,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Usage: coin-hts task" in done.stdout, done.stderr
    assert done.stdout.endswith("loaded: []\n")


def test_the_group_names_every_command(say: Say) -> None:
    out = say("--help").out
    for name, (_, text) in cli.cli.get_command(None, "task").lazy.items():  # type: ignore[arg-type, union-attr]
        assert f"  {name} " in out
        assert text in out
        assert say(f"{name} --help").status == 0
