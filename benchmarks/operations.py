"""What an operator waits for: `doctor`, `status`, the UI after `coin-hts up`, a line of the log."""

from __future__ import annotations

import logging
import os
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

from benchmarks.measure import BIN, Row, run_process, scratch_project, seconds_of
from coin_hts_pipelines.operations.logs import configure_logs
from coin_hts_pipelines.settings import Settings

_TIMES, _LINES = 5, 10_000
_PATIENCE_SECONDS = 120


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _served(port: int) -> bool:
    try:
        with closing(urlopen(f"http://127.0.0.1:{port}/server_info", timeout=1)) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _until_ui(home: Path) -> float:
    port = _free_port()
    begun = time.perf_counter()
    up = subprocess.Popen(
        [BIN / "coin-hts", "up", "--port", str(port)],
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not _served(port):
            if time.perf_counter() - begun > _PATIENCE_SECONDS or up.poll() is not None:
                raise RuntimeError("the UI did not come")
            time.sleep(0.05)
        return time.perf_counter() - begun
    finally:
        os.killpg(up.pid, signal.SIGTERM)
        up.wait()


def _log_lines(folder: Path) -> float:
    configure_logs(Settings(home=folder, data_root=Path("data")), process="bench", console=False)
    log = logging.getLogger("coin_hts_pipelines.benchmark")

    def write() -> None:
        for number in range(_LINES):
            log.info("bar %d", number, extra={"symbol": "KRW-BTC"})

    return seconds_of(write)


def rows() -> Iterator[Row]:
    """Each as a whole process on a project that has run once; the median of five."""
    with scratch_project() as home:
        run_process([BIN / "coin-hts", "run"], home)
        for name in ("doctor", "status"):
            seconds = [run_process([BIN / "coin-hts", name], home).seconds for _ in range(_TIMES)]
            note = f"worst {max(seconds):.2f} s"
            yield Row(f"coin-hts {name}", statistics.median(seconds), "s", 3, note=note)
        _until_ui(home)
        yield Row("coin-hts up until the UI answers", _until_ui(home), "s", 15)
        yield Row("a line of the log", _log_lines(home) / _LINES * 1e6, "µs")
