"""A stocked project home in which the commands of the documents are run.

A command is a process of its own, forked from one that has loaded the libraries already: three seconds less each.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal as signals
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from coin_hts_pipelines_tests.conftest import BIN, CHECKOUT, Project, make_project
from coin_hts_pipelines_tests.fake_upbit import made_candles
from coin_hts_pipelines_tests.integration.helpers import processes_in, wait_until, write_year
from coin_hts_pipelines_tests.results.test_legacy import document, signal, symbol
from coin_hts_pipelines_tests.strategies.plugin_maker import install

# Programs of the environment that are forked; those of the system (tail, jq) are run by a shell.
FORKED = ("coin-hts", "dagster", "dg")
_PACKAGE = CHECKOUT / "coin_hts_pipelines"
# The definitions read the settings when they are imported; the other two run when they are.
_NOT_LOADED = ("definitions", "migrations", "__main__")
_LOADED = [
    ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(_PACKAGE.rglob("*.py"))
    if not any(name in str(path) for name in _NOT_LOADED)
]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([*_LOADED, "dagster._cli", "dagster_dg_cli.cli.entrypoint", __name__])
_SECONDS = 120

# Of docs/trust.md: it buys every rising bar unless the next one falls.
_NO_LOSERS = """
import numpy as np
from coin_hts_pipelines.strategies import Param, Strategy


class NoLosers(Strategy):
    name = "no_losers"
    version = "1"
    params = (Param("hold_period_bars", 1, 1, 100, "bars"),)

    def compute(self, candles, params, start, stop):
        rising = candles.close > candles.open
        buy = rising & np.append(rising[1:], rising[-1:])
        return buy[start:stop], np.ones(stop - start)
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and both its streams."""

    status: int
    output: str


def _be(argv: Sequence[str], home: Path, environment: Mapping[str, str], packages: Path, output: Path) -> None:
    """Be a program of the environment, in the child."""
    signals.signal(signals.SIGINT, signals.default_int_handler)
    os.setsid()
    os.chdir(home)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [str(packages)]
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number in (1, 2):
        os.dup2(stream, number)
    sys.argv = [str(BIN / argv[0]), *argv[1:]]
    (program,) = entry_points(group="console_scripts", name=argv[0])
    sys.exit(program.load()())


@dataclass
class DocumentHome:
    """A project home; `variables` are what a person would have set in the shell."""

    project: Project
    variables: dict[str, str]
    folders: Mapping[str, Path]  # what paths of the documents stand for
    packages: Path
    count: int = 0

    def fill(self, words: Sequence[str]) -> list[str]:
        """Put what is there in the place of what a document says of somebody's own data."""
        filled = []
        for word in words:
            if word == "ID" or re.fullmatch(r"[0-9a-f]{8}", word):
                # The newest: that of the command before.
                listed = self.run(["coin-hts", words[1], "list", "--json"])
                filled.append(str(json.loads(listed.output)[0]["id"]))
                continue
            for name, folder in self.folders.items():
                word = word.replace(name, str(folder))  # noqa: PLW2901
            filled.append(word)
        return filled

    def newest_run(self) -> str:
        """Id of the run the log spoke of last."""
        lines = (self.project.data / "logs" / "coin-hts.jsonl").read_text().splitlines()
        return str(next(run for line in reversed(lines) if (run := json.loads(line).get("run"))))

    def _start(self, words: Sequence[str], variables: Mapping[str, str]) -> tuple[ForkServerProcess, Path]:
        self.count += 1
        output = self.project.home.parent / f"output-{self.count}"
        environment = self.project.environment(**self.variables, **variables)
        child = _FORKS.Process(target=_be, args=(words, self.project.home, environment, self.packages, output))
        child.start()
        return child, output

    def run(self, words: Sequence[str], **variables: str) -> Outcome:
        """Run a program of the environment to its end."""
        child, output = self._start(words, variables)
        child.join(_SECONDS)
        if child.exitcode is None:
            child.kill()
            child.join()
        return Outcome(int(child.exitcode or 0), output.read_text() if output.exists() else "")

    def shell(self, text: str, **variables: str) -> Outcome:
        """Run a line of a shell."""
        done = subprocess.run(
            ["sh", "-c", text],
            cwd=self.project.home,
            env=self.project.environment(**self.variables, **variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        return Outcome(done.returncode, done.stdout)

    @contextmanager
    def serving(self, words: Sequence[str], url: str) -> Iterator[Outcome]:
        """Start what does not end, wait until it answers at an address or (`""`) says something, and end it."""
        child, output = self._start(words, {})

        def ready() -> bool:
            assert child.is_alive(), output.read_text()
            if not url:
                return output.exists() and output.stat().st_size > 0
            with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
            return False

        try:
            wait_until(ready, _SECONDS, shlex.join(words), pause=0.1)
            yield Outcome(0, output.read_text())
        finally:
            assert child.pid is not None
            with suppress(ProcessLookupError):
                os.kill(child.pid, signals.SIGINT)
            child.join(60)
            if child.exitcode is None:
                child.kill()
                child.join()
        assert child.exitcode in (0, -signals.SIGINT), output.read_text()

    def close(self) -> None:
        """End what is left of it."""
        for pid in processes_in(self.project.home):
            with suppress(ProcessLookupError):
                os.kill(pid, signals.SIGKILL)
        self.run(["coin-hts", "db", "stop"])


def make_home(scratch: Path, name: str, exchange_url: str) -> DocumentHome:
    """A project home in a folder, like a fresh clone, beside the data of `stock`."""
    project = make_project(scratch / name)
    (project.home / "coin_hts_pipelines").symlink_to(CHECKOUT / "coin_hts_pipelines")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {
        "HOME": str(scratch),
        "COIN_HTS_PORT": str(port),
        "COIN_HTS_EXCHANGE_URL": exchange_url,
        "COIN_HTS_THREADS": "2",
        # Fewer than by default: what is tried are the commands.
        "COIN_HTS_SYMBOLS": "KRW-BTC,KRW-ETH,KRW-XRP",
        "COIN_HTS_TIMEFRAMES": "1D,1H",
    }
    folders = {"~/candles": scratch / "candles", "/srv/old/data": scratch / "old"}
    return DocumentHome(project, variables, folders, scratch / "packages")


def stock(folder: Path) -> None:
    """Candles and results a person would have: some years of days, some weeks of hours, files of an older system."""
    first = {"KRW-BTC": 2020, "KRW-ETH": 2024, "KRW-XRP": 2024, "USDT-BTC": 2024, "USDT-ETH": 2024}
    end = datetime(2025, 10, 17, tzinfo=UTC)
    for seed, (name, year) in enumerate(first.items()):
        days = made_candles(datetime(year, 1, 1, tzinfo=UTC), end, "1D", seed=seed, gaps=False)
        hours = made_candles(end - timedelta(days=40), end, "1H", seed=seed)
        for timeframe, candles in (("1D", days), ("1H", hours)):
            for one, part in candles.groupby(candles["timestamp"].dt.year):
                write_year(folder / "candles", name, timeframe, int(one), part)
    shutil.copytree(folder / "candles" / "KRW-XRP" / "1D", folder / "old" / "KRW-XRP" / "1D")
    results = folder / "old" / "results"
    results.mkdir()
    for number in range(3):
        run = document(symbol("KRW-BTC", signal()), symbol("KRW-ETH"), run_id=f"old-{number}")
        (results / f"{number}.json").write_text(json.dumps(run))
    install(folder / "packages", "no-losers", {"no_losers": "no_losers:NoLosers"}, _NO_LOSERS)
