"""What works and what does not: one check a line, none of which raises."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.database import HEAD_REVISION
from coin_hts_pipelines.errors import CoinHtsError
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines.storage import ObjectStore
from coin_hts_pipelines.strategies import broken_plugins, list_strategies

_LEAST_FREE_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Finding:
    """One check: `ok`, `warn` or `fail`, and what was found."""

    name: str
    state: str
    detail: str


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except (CoinHtsError, OSError) as error:
        return Finding(name, "fail", str(error))


def check_data_root(settings: Settings) -> Finding:
    """DATA_ROOT can be written and has room."""
    root = settings.root
    root.mkdir(parents=True, exist_ok=True)
    if not os.access(root, os.W_OK):
        return Finding("data root", "fail", f"{root} cannot be written")
    free = shutil.disk_usage(root).free
    state = "ok" if free > _LEAST_FREE_BYTES else "warn"
    return Finding("data root", state, f"{root}, {free / 1e9:,.1f} GB free")


def check_postgres(connect: Callable[[], Database]) -> Finding:
    """Postgres answers and the catalog is at the newest migration."""
    database = connect()
    revision = database.revision()
    text = f"{database.version()} at {database.label}, catalog revision {revision or 'none'}"
    if revision != HEAD_REVISION:
        return Finding("postgres", "warn", f"{text}; `coin-hts setup` migrates to {HEAD_REVISION}")
    return Finding("postgres", "ok", text)


def check_export_store(open_store: Callable[[], ObjectStore]) -> Finding:
    """The export store answers and may be used."""
    store = open_store()
    store.check()
    return Finding("export store", "ok", store.url)


def check_candles(settings: Settings) -> Finding:
    """There are candles, every file can be read, and their age."""
    rows = CandleStore(settings.root).inventory()
    if not rows:
        return Finding("candles", "warn", "none stored yet; `make run` makes synthetic ones")
    problems = [problem for row in rows for problem in row.problems]
    if problems:
        return Finding("candles", "fail", f"{len(problems)} files cannot be read, first: {problems[0]}")
    newest = max(row.last for row in rows if row.last)
    hours = (datetime.now(UTC) - newest).total_seconds() / 3600
    symbols = len({row.symbol for row in rows})
    return Finding("candles", "ok", f"{symbols} symbols, {sum(r.rows for r in rows):,} bars, newest {hours:,.1f} h old")


def check_strategies() -> Finding:
    """Every plug-in that is installed can be used."""
    broken = broken_plugins()
    if broken:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in broken.items())
        return Finding("strategies", "fail", f"{len(broken)} plug-ins cannot be used: {reasons}")
    return Finding("strategies", "ok", ", ".join(list_strategies()))


def examine(
    settings: Settings, connect: Callable[[], Database], open_store: Callable[[], ObjectStore]
) -> list[Finding]:
    """All checks of rings 1 and 2."""
    return [
        _guarded("data root", lambda: check_data_root(settings)),
        _guarded("postgres", lambda: check_postgres(connect)),
        _guarded("candles", lambda: check_candles(settings)),
        _guarded("strategies", check_strategies),
        _guarded("export store", lambda: check_export_store(open_store)),
    ]
