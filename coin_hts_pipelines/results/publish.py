"""What every result store does alike: a new id, a folder that appears whole, and where it was made."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from coin_hts_pipelines.results.manifest import MANIFEST, FileEntry, Manifest, sha256_of

M = TypeVar("M", bound=Manifest)

_VERSIONED = ("coin_hts_pipelines", "numpy", "pandas", "pyarrow", "numba", "TA-Lib")


def new_id(finished: datetime) -> str:
    """Id of a result: sorts by time, differs within a moment."""
    return f"{finished:%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}"


def provenance(started: datetime, finished: datetime) -> dict[str, Any]:
    """Manifest fields that say when and where: times, duration, host and versions."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in _VERSIONED}}
    return {
        "started": started,
        "finished": finished,
        "duration_seconds": (finished - started).total_seconds(),
        "host": socket.gethostname(),
        "versions": versions,
    }


@contextmanager
def published(
    folder: Path,
    *,
    aside: Path | None = None,
    permit: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[Path]:
    """Give a folder to write in that appears under its name when all of it is on the disk, and otherwise never.

    `aside` is where it is written, `permit` is held while the parent folder changes and may raise to forbid it.
    """
    aside = aside or folder.with_name(f".{folder.name}.tmp")
    try:
        with permit():
            aside.mkdir()
        yield aside
        for path in aside.iterdir():
            _fsync(path)
        _fsync(aside)
        with permit():
            aside.rename(folder)
            _fsync(folder.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def write_manifest(aside: Path, manifest: M) -> M:
    """Write the manifest beside the files of a result and return it with size and SHA-256 of each."""
    files = tuple(file_entry(path, path.name) for path in sorted(aside.iterdir()))
    complete = manifest.model_copy(update={"files": files})
    (aside / MANIFEST).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return complete


def file_entry(path: Path, name: str) -> FileEntry:
    """Size and SHA-256 of a file, under the name a manifest gives it."""
    return FileEntry(name=name, size=path.stat().st_size, sha256=sha256_of(path))


def remove_unpublished(home: Path) -> None:
    """Remove what a dead writer left; the caller holds the lock, so whoever left something is dead."""
    for leftover in home.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
