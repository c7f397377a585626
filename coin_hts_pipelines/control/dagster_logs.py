"""Dagster's own processes (web server, daemon, code server, run workers) write our log.

None of them asks us when it starts, and two of them never load our definitions; but all of them make the instance from
`dagster.yaml`, and the class named there for local artifacts is ours.
"""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dagster._core.storage.root import LocalArtifactStorage
from dagster._serdes import ConfigurableClassData

from coin_hts_pipelines.errors import CoinHtsError
from coin_hts_pipelines.operations.logs import configure_logs
from coin_hts_pipelines.settings import get_settings

_SERVERS = {
    "dagster-webserver": "webserver",
    "dagster_webserver": "webserver",
    "dagster-daemon": "daemon",
    "_daemon": "daemon",
}
_done = False


class LoggingArtifactStorage(LocalArtifactStorage):
    """Dagster's folder of artifacts, which configures the log of the process that opens it."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> LoggingArtifactStorage:
        """Configure, then make what Dagster makes."""
        configure_dagster_logs()
        return cls(inst_data=inst_data, **config_value)


class _AtRoot(logging.Logger):
    """A logger made by its class and not by name, as Dagster makes those of sensors: it would reach no root."""

    def __init__(self, name: str, level: int = logging.NOTSET) -> None:
        super().__init__(name, level)
        # `getLogger` gives those made by name their own parent afterwards.
        self.parent = logging.root


def process_kind(argv: Sequence[str], *, child: bool) -> str | None:
    """Which of Dagster's processes this is, None for anything else (`coin-hts`, a test, a notebook).

    Parameters
    ----------
    argv
        `sys.argv`; a run worker is started with that of its code server.
    child
        Whether another process of Python's `multiprocessing` started this one.
    """
    path = Path(argv[0]) if argv else Path()
    name = path.parent.name if path.name == "__main__.py" else path.name
    if name != "dagster":
        return _SERVERS.get(name)
    if child:
        return "run"
    return "code-server" if argv[1:3] == ["api", "grpc"] or "code-server" in argv[1:2] else "dagster"


def configure_dagster_logs() -> None:
    """Write the log if this is one of Dagster's processes; does nothing the second time."""
    global _done  # noqa: PLW0603
    process = process_kind(sys.argv, child=multiprocessing.parent_process() is not None)
    if process is None or _done:
        return
    _done = True
    # Settings that are wrong are said by the definitions, where Dagster shows it.
    with suppress(CoinHtsError):
        configure_logs(get_settings(), process=process, console=True)
    logging.setLoggerClass(_AtRoot)
    if process == "webserver":
        from uvicorn.config import LOGGING_CONFIG  # noqa: PLC0415 - in the web server it is loaded anyway

        # It keeps what it says to itself; an error behind a page belongs into the log.
        LOGGING_CONFIG["loggers"]["uvicorn"]["propagate"] = True
