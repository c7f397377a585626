"""docs/strategies.md: the table is what the code says, and its example is installed by pip and run by `coin-hts`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.market import candle_arrays
from coin_hts_pipelines.strategies import get_strategy, list_strategies
from coin_hts_pipelines_tests.candle_maker import candle_frame, random_walk
from coin_hts_pipelines_tests.conftest import CHECKOUT, Project
from coin_hts_pipelines_tests.strategies.plugin_maker import install

DOCUMENT = (CHECKOUT / "docs" / "strategies.md").read_text()
EXAMPLE = CHECKOUT / "docs" / "examples" / "my_strategies"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip put the example."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, folder / "source")  # pip builds where the source is
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps"),
            *("--no-index", "--no-build-isolation", "--target", str(folder / "packages"), str(folder / "source")),
        ],
        check=True,
        timeout=240,
    )
    return folder / "packages"


@pytest.mark.parametrize("path", sorted(EXAMPLE.glob("*.*")), ids=lambda path: path.name)
def test_the_document_shows_the_files(path: Path) -> None:
    kind = {".toml": "toml", ".py": "python"}[path.suffix]
    assert f"```{kind}\n{path.read_text()}```\n" in DOCUMENT


def test_the_table_is_what_the_code_says() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (`.*?) \|", DOCUMENT, re.MULTILINE))
    assert sorted(rows) == list_strategies()
    for name, told in rows.items():
        for param in get_strategy(name).all_params():
            if isinstance(param.default, bool):
                text = f"`{param.name}` {str(param.default).lower()}"
            else:
                label = "hold" if param.name == "hold_period_bars" else f"`{param.name}`"
                text = f"{label} {param.default:g} ({param.low:g}..{param.high:g})"
            assert text in told, f"{name}: {text}"


def test_a_fresh_process_lists_and_runs_it(project: Project, packages: Path) -> None:
    # Up for 60 bars, down for 60: with the defaults one position in each wave, which a SELL signal ends.
    wave = np.tile(np.concatenate([np.linspace(100, 200, 60), np.linspace(200, 100, 60)]), 3)
    rows = [(close, close, close, close, 1.0) for close in wave]
    CandleStore(project.data).merge("KRW-BTC", "1D", candle_frame(rows), source="test")

    unknown = project.coin_hts("backtest", "run", "--strategy", "moon", "--symbol", "KRW-BTC", PYTHONPATH=str(packages))
    assert unknown.returncode == 2
    names = [*list_strategies(), "my_momentum"]
    assert unknown.stderr == f"error: strategy 'moon' is unknown; available: {', '.join(sorted(names))}\n"

    argv = ("backtest", "run", "--strategy", "my_momentum", "--symbol", "KRW-BTC", "--param", "hold_period_bars=100000")
    done = project.coin_hts(*argv, "--json", PYTHONPATH=str(packages))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["request"]["params"] == {"window": 20, "rise": 0.05, "hold_period_bars": 100_000}
    trades = pq.read_table(Path(answer["results"][0]["path"]) / "trades.parquet").to_pandas()
    assert trades["reason"].tolist() == ["signal"] * 3
    change = np.append(np.full(20, np.nan), wave[20:] / wave[:-20] - 1)
    entered = [20, *(int(np.flatnonzero(change[start:] > 0.05)[0]) + start for start in (120, 240))]
    assert trades["entry_bar"].tolist() == entered
    left = [int(np.flatnonzero(change[bar:] < 0)[0]) + bar for bar in entered]
    assert trades["exit_bar"].tolist() == left

    gone = project.coin_hts(*argv)
    assert gone.returncode == 2
    assert "strategy 'my_momentum' is unknown" in gone.stderr


def test_the_doctor_says_what_is_broken(project: Project, packages: Path, tmp_path: Path) -> None:
    # Square brackets of a message are not markup.
    install(tmp_path, "bad-package", {"bad": "bad_package:Bad"}, "raise ValueError('no [/red] [n]')")
    folders = f"{packages}:{tmp_path}"
    found = {one["name"]: one for one in json.loads(project.coin_hts("doctor", "--json", PYTHONPATH=folders).stdout)}
    assert found["strategies"]["state"] == "fail"
    detail = "1 plug-ins cannot be used: bad: bad-package (bad_package:Bad) cannot be loaded: ValueError: no [/red] [n]"
    assert found["strategies"]["detail"] == detail
    told = project.coin_hts("doctor", PYTHONPATH=folders)
    assert told.returncode == 1
    assert "Traceback" not in told.stderr
    assert "ValueError: no [/red] [n]" in " ".join(told.stdout.split())


def test_its_lookback_is_true(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(packages)
    import my_strategies

    strategy = my_strategies.Momentum()
    full = strategy.full_params({"window": 7})
    frame = random_walk(200, 1)
    whole = strategy.compute(candle_arrays(frame), full, 0, 200)
    for start in range(8, 200):
        part = strategy.compute(candle_arrays(frame.iloc[start - 7 : start + 1]), full, 7, 8)
        assert [array[0] for array in part] == [array[start] for array in whole]
