"""The environment checklist and the report on data and infrastructure: what this instance runs on and holds."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from pydantic import SecretStr

from coin_hts_pipelines.operations.health import DiskUsage, age_text
from coin_hts_pipelines.operations.readiness_gates import Facts, Unknown
from coin_hts_pipelines.operations.readiness_report import moment, page, table
from coin_hts_pipelines.operations.retention import FolderSize, TableSize
from coin_hts_pipelines.settings import Settings

_PACKAGE = "coin_hts_pipelines"


@dataclass(frozen=True)
class Infrastructure:
    """What the data lies on: disks by what is on them, and what Postgres says of its tables and of the work."""

    disks: Mapping[str, tuple[Path, DiskUsage]] | Unknown
    folders: tuple[FolderSize, ...] | Unknown
    tables: tuple[TableSize, ...] | Unknown
    tasks: Mapping[str, int] | Unknown
    open_runs: Mapping[str, int] | Unknown
    runs_of_a_day: Mapping[str, int] | Unknown


def environment_page(facts: Facts, settings: Settings) -> str:
    """Markdown: machine, versions, settings by name without secrets, and whatever `coin-hts doctor` found."""
    if isinstance(facts.findings, Unknown):
        found = facts.findings.reason
    else:
        found = table(("check", "state", "found"), [(one.name, one.state, one.detail) for one in facts.findings])
    return page(
        "Environment checklist",
        facts.at,
        [
            ("Doctor", found),
            ("Machine", table(("what", "found"), list(_machine()))),
            ("Versions", table(("package", "version"), list(_versions()))),
            ("Settings", table(("setting", "", "value"), list(_settings(settings)))),
        ],
    )


def _machine() -> Iterator[tuple[str, object]]:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    yield "system", platform.platform()
    yield "processor", f"{os.cpu_count()} x {models[0] if models else platform.machine()}"
    yield "memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:,.1f} GiB"
    yield "Python", platform.python_version()


def _versions() -> Iterator[tuple[str, object]]:
    """Return the package, and what it needs, as installed."""
    yield _PACKAGE, version(_PACKAGE)
    for requirement in sorted(requires(_PACKAGE) or [], key=str.lower):
        name = re.match(r"[\w.-]+", requirement)
        if name is None or "extra ==" in requirement:
            continue
        try:
            yield name[0], version(name[0])
        except PackageNotFoundError:
            yield name[0], "not installed"


def _settings(settings: Settings) -> Iterator[tuple[str, str, object]]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            shown: object = "(secret)"
        elif isinstance(value, tuple):
            shown = ", ".join(value) or None
        else:
            shown = value
        yield f"COIN_HTS_{name.upper()}", "set" if name in settings.model_fields_set else "default", shown


def infrastructure_page(facts: Facts, found: Infrastructure) -> str:
    """Markdown: candles by timeframe, their quality, tables and sizes, disks, backups, queue."""
    return page(
        "Data and infrastructure",
        facts.at,
        [
            ("Candles", _candles(facts)),
            ("Quality of the candles", _quality(facts)),
            ("Tables", _sizes(found.tables, "table", "rows, estimated")),
            ("Folders", _sizes(found.folders, "folder", "files")),
            ("Disks", _disks(found)),
            ("Backups", _backups(facts)),
            ("Queue", _queue(facts, found)),
        ],
    )


def _candles(facts: Facts) -> str:
    if isinstance(facts.candles, Unknown):
        return facts.candles.reason
    rows = []
    for timeframe in sorted({one.timeframe for one in facts.candles}, key=_length):
        series = [one for one in facts.candles if one.timeframe == timeframe]
        rows.append(
            (
                timeframe,
                len(series),
                f"{sum(one.rows for one in series):,}",
                moment(min((one.first for one in series if one.first), default=None)),
                moment(max((one.last for one in series if one.last), default=None)),
                f"{sum(one.missing for one in series):,}",
                f"{sum(one.bytes for one in series):,}",
                ", ".join(sorted({one.source or "unknown" for one in series})),
            )
        )
    columns = ("timeframe", "symbols", "candles", "first", "last", "missing bars", "bytes", "source")
    return table(columns, rows, "There are none.")


def _length(timeframe: str) -> timedelta:
    from coin_hts_pipelines.market import Timeframe  # noqa: PLC0415 - pandas is for whoever looks at candles

    return Timeframe(timeframe).delta


def _quality(facts: Facts) -> str:
    if isinstance(facts.candles, Unknown):
        return facts.candles.reason
    rows = [
        (check, one.symbol, one.timeframe, text)
        for one in facts.candles
        for check, texts in one.problems.items()
        for text in texts
    ]
    return table(("check", "symbol", "timeframe", "found"), sorted(rows), "Nothing was found.")


def _sizes(found: Sequence[TableSize] | Sequence[FolderSize] | Unknown, what: str, counted: str) -> str:
    if isinstance(found, Unknown):
        return found.reason
    rows = [
        (one.name, f"{one.bytes:,}", f"{one.rows:,}")
        if isinstance(one, TableSize)
        else (one.path, f"{one.bytes:,}", f"{one.files:,}")
        for one in found
    ]
    return table((what, "bytes", counted), rows)


def _disks(found: Infrastructure) -> str:
    if isinstance(found.disks, Unknown):
        return found.disks.reason
    rows = [
        (what, path, f"{usage.used_percent:.0f} %", f"{usage.free / 1e9:,.1f} GB")
        for what, (path, usage) in found.disks.items()
    ]
    return table(("of", "at", "in use", "free"), rows)


def _backups(facts: Facts) -> str:
    backups = facts.backups
    if isinstance(backups, Unknown):
        return backups.reason
    newest = (
        "none" if backups.newest is None else f"{moment(backups.newest)}, {age_text(facts.at - backups.newest)} old"
    )
    drill = "never" if backups.drill_at is None else f"{moment(backups.drill_at)}, "
    if backups.drill_at is not None:
        drill += "passed" if backups.drill_passed else "failed"
    return table(("what", "found"), [("whole backups", backups.count), ("newest", newest), ("restore drill", drill)])


def _queue(facts: Facts, found: Infrastructure) -> str:
    rows = [
        ("tasks", _numbers(found.tasks)),
        ("dead letters", facts.dead_letters.reason if isinstance(facts.dead_letters, Unknown) else facts.dead_letters),
        ("runs now", _numbers(found.open_runs)),
        ("runs that ended in the last 24 hours", _numbers(found.runs_of_a_day)),
    ]
    return table(("what", "found"), rows)


def _numbers(found: Mapping[str, int] | Unknown) -> str:
    return (
        found.reason if isinstance(found, Unknown) else ", ".join(f"{count:,} {name}" for name, count in found.items())
    )
