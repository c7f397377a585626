"""How the command prints: tables for people, JSON for programs, a bar for work in progress."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd


SYNTHETIC_NOTE = "Synthetic candles: these figures say nothing about a market."


def console() -> Console:
    """Console on standard output; wide enough for the tables when nobody looks at a terminal."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat()
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        return _plain(value.item())
    return str(value) if isinstance(value, Path) else value


def print_json(document: Any) -> None:
    """Print JSON: undefined numbers are null, times ISO 8601 in UTC."""
    click.echo(json.dumps(_plain(document), indent=2, ensure_ascii=False))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a frame for JSON."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    return [{str(key): value for key, value in row.items()} for row in rows]


def number(value: Any, pattern: str = "{:,.2f}") -> str:
    """Format a number; an undefined one is a dash."""
    return "–" if value is None or math.isnan(value) else pattern.format(value)


def request_line(request: Mapping[str, Any]) -> str:
    """Parameters of a request as its JSON form has them, and of exits, sizing and regime what is set."""
    given = {**request["params"], **request["exits"], **request.get("sizing", {})}
    parts = [f"{name}={value}" for name, value in given.items() if value is not None]
    parts += [f"{rule['column']} {rule['op']} {rule['value']}" for rule in request.get("regime", ())]
    return ", ".join([*parts, f"fill={request['fill']}"])


def source_label(source: str | None) -> str:
    """Name of a candle source for a person: what is made up is called so."""
    if source is None:
        return "–"
    from coin_hts_pipelines.lake import is_synthetic  # noqa: PLC0415

    return "synthetic" if is_synthetic(source) else source


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str] = ()) -> Table:
    """Build a table; columns named in `left` are aligned left, all others right."""
    built = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        # An id that is cut in two cannot be copied.
        whole = column == "id"
        built.add_column(column, justify="left" if column in left else "right", overflow="fold", no_wrap=whole)
    for row in rows:
        built.add_row(*row)
    return built


@contextmanager
def share_bar(what: str) -> Iterator[Callable[[float], None]]:
    """Progress of one piece of work, 0..1, on standard error, on a terminal only."""
    out = Console(stderr=True)
    columns = (TextColumn("{task.description:<8}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, disable=not out.is_terminal, transient=True) as shown:
        task = shown.add_task(what, total=1.0)
        yield lambda share: shown.update(task, completed=share)


class Bar:
    """Progress of the pipeline on standard error: a bar on a terminal, a line a layer elsewhere."""

    def __init__(self) -> None:
        # A run captures this process's standard streams; the bar keeps one of its own.
        self._stream = os.fdopen(os.dup(2), "w", encoding="utf-8")
        self._console = Console(file=self._stream, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._counts: dict[str, list[int]] = {}

    def begin(self, timeframe: str, asset: str, keys: int) -> None:  # noqa: ARG002 - the asset's name says it
        """Start the bar of a layer."""
        self._finish_lines()
        self._tasks[asset] = self._progress.add_task(asset, total=keys)
        self._counts[asset] = [0, keys]

    def advance(self, asset: str, keys: int) -> None:
        """Move the bar of a layer."""
        if asset in self._tasks:
            self._progress.advance(self._tasks[asset], keys)
            # A retry works on its partitions again.
            done, total = self._counts[asset]
            self._counts[asset][0] = min(done + keys, total)

    def _finish_lines(self) -> None:
        if not self._console.is_terminal and self._counts:
            asset, (done, total) = next(reversed(self._counts.items()))
            self._console.print(f"{asset:<18} {done}/{total} partitions")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish_lines()
        self._progress.stop()
        self._stream.close()
