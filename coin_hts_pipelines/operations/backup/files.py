"""What of DATA_ROOT goes into a backup, and which files must be read together, under the lock of their writers."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from coin_hts_pipelines.lake.atomic import locked
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.results.task_directory import ID_FORM, directory_lock
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines.storage.object_store import check_key

_LEFT_OUT = ("postgres", "dagster", "exports", "inbox", "logs", "README.md")
_TIMEFRAMES = {timeframe.value for timeframe in Timeframe}


def left_out(settings: Settings) -> frozenset[Path]:
    """Places that are not in a backup, also where a setting puts them elsewhere below DATA_ROOT."""
    return not_kept(settings.root) | {settings.exports, settings.logs, settings.backups}


def not_kept(root: Path) -> frozenset[Path]:
    """Places below a DATA_ROOT that are never in a backup."""
    return frozenset(root / name for name in _LEFT_OUT)


def entries(folder: Path, without: Collection[Path] = ()) -> list[Path]:
    """Files and folders that a backup takes, sorted; none of a folder that is gone."""
    try:
        with os.scandir(folder) as found:
            names = sorted(entry.name for entry in found)
    except FileNotFoundError:
        return []
    return [
        folder / name
        for name in names
        if not name.startswith(".") and not name.endswith(".lock") and folder / name not in without
    ]


def units(root: Path, without: Collection[Path]) -> Iterator[Path]:
    """Folders and single files that are each read at once."""
    return _units(root, root, without)


def _units(root: Path, folder: Path, without: Collection[Path]) -> Iterator[Path]:
    for path in entries(folder, without):
        if not path.is_dir() or _is_whole(path.relative_to(root).parts):
            yield path
        elif not _is_loop(path):
            yield from _units(root, path, without)


def _is_whole(parts: tuple[str, ...]) -> bool:
    """Whether a folder has writers that exclude each other."""
    match parts:
        case ("tasks", name):
            return ID_FORM.fullmatch(name) is not None
        case ("results", "walk_forwards", *home):
            return len(home) == 3
        case ("results", timeframe, _, _):
            return timeframe in _TIMEFRAMES
        case ("indicators", _, timeframe):
            return timeframe in _TIMEFRAMES
        case (symbol, timeframe):
            # Not `results`, whose folder of a timeframe holds homes with locks of their own.
            return "-" in symbol and timeframe in _TIMEFRAMES
    return False


def held(root: Path, unit: Path) -> AbstractContextManager[object]:
    """Lock of the writers of a unit; of a single file there is none, since it is replaced whole."""
    parts = unit.relative_to(root).parts
    if not unit.is_dir() or not _is_whole(parts):
        return nullcontext()
    if parts[0] == "tasks":
        return nullcontext() if unit.is_symlink() else directory_lock(unit.parent, unit.name)
    return locked(unit / "CURRENT" if parts[0] == "results" else unit)


def files_of(root: Path, unit: Path, without: Collection[Path]) -> Iterator[tuple[str, Path]]:
    """Every file of a unit with its path below the root.

    Raises
    ------
    InvalidRequest
        If a name cannot be kept: not printable, or too long.
    """
    if not unit.is_dir():
        if unit.is_file():
            yield check_key(unit.relative_to(root).as_posix()), unit
        return
    for path in entries(unit, without):
        if not path.is_dir() or not _is_loop(path):
            yield from files_of(root, path, without)


def _is_loop(path: Path) -> bool:
    """Whether a link leads to a folder it lies in; all other links are followed, for the data is behind them."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())
