"""The directory of a task in the hands of one attempt, and what keeps every other attempt's hands off it.

An attempt changes the directory only under its lock and only while the file `.attempt` names it: one that was given
up and lives on can neither publish into the directory of the next one nor bring a removed one back (docs/tasks.md).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coin_hts_pipelines.backtest import BacktestResult
from coin_hts_pipelines.backtest.guards import Guards
from coin_hts_pipelines.backtest.sweep import SweepResult
from coin_hts_pipelines.errors import CoinHtsError, IntegrityError, InvalidRequest, PermanentError
from coin_hts_pipelines.lake.atomic import locked, remove_leftovers, write_atomically, write_error
from coin_hts_pipelines.market import normalize_symbol
from coin_hts_pipelines.results.manifest import MANIFEST, Manifest
from coin_hts_pipelines.results.publish import file_entry, published, remove_unpublished
from coin_hts_pipelines.results.result_store import result_manifest, write_result
from coin_hts_pipelines.results.sweep_store import StoredSweep, SweepManifest, sweep_manifest, write_sweep
from coin_hts_pipelines.results.tables import write_table_atomically
from coin_hts_pipelines.results.task_manifest import (
    TaskManifest,
    symbol_files,
    symbol_manifest,
    task_manifest,
    task_summary,
)

SUMMARY = "summary.parquet"
_ATTEMPT = ".attempt"
_LOCKS = ".locks"
ID_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Superseded(CoinHtsError):
    """The directory of a task belongs to another attempt, or to none any more."""


class TaskDirectory:
    """The directory of a task, taken by an attempt (`begin`) until it is finished or removed.

    Every change raises `Superseded` once another attempt, or nobody, has the directory.
    """

    def __init__(self, root: Path, task_id: str, attempt: int) -> None:
        self.root = root
        self.task_id = task_id
        self.attempt = attempt
        self.folder = task_folder(root, task_id)

    def begin(self) -> None:
        """Take the directory over: symbols finished earlier stay, everything unfinished goes.

        Raises
        ------
        Superseded
            If a later attempt has it.
        PermanentError, TransientError
            If it is a link or a file, or cannot be written.
        """
        with classed(self.folder), directory_lock(self.root, self.task_id) as folder:
            latest = max(_attempt_in(folder), _finished_attempt(folder))
            if latest > self.attempt:
                raise Superseded(f"attempt {self.attempt} of task {self.task_id} comes after attempt {latest}")
            folder.mkdir(exist_ok=True)
            write_atomically(folder / _ATTEMPT, lambda stream: stream.write(f"{self.attempt}\n".encode()))
            (folder / MANIFEST).unlink(missing_ok=True)
            (folder / SUMMARY).unlink(missing_ok=True)
            _clear(folder)

    def kept(self, symbol: str, inputs_digest: Callable[[], str]) -> Manifest | None:
        """Manifest of a symbol that an earlier attempt finished with the same inputs; any other one is removed."""
        place = self._place(symbol)
        if not place.exists() and not place.is_symlink():
            return None
        if place.is_dir() and not place.is_symlink():
            try:
                manifest = symbol_manifest(place)
                if manifest.inputs_digest == inputs_digest():
                    manifest.check_files(place)
                    return manifest
            except IntegrityError:
                pass
        self.discard(symbol)
        return None

    def discard(self, symbol: str) -> None:
        """Remove the directory of a symbol, if there is one."""
        place = self._place(symbol)
        with self._changing(), self._owned():
            remove_path(place)

    def save_backtest(
        self, symbol: str, result: BacktestResult, *, candle_source: str, synthetic: bool, started: datetime
    ) -> Manifest:
        """Write the result of a symbol.

        Raises
        ------
        Superseded
            If the directory is another attempt's.
        TransientError, PermanentError
            If the disk is full or refuses; nothing half-written stays.
        """
        manifest = result_manifest(
            f"{self.task_id}.{symbol}",
            result,
            symbol,
            task=self.task_id,
            candle_source=candle_source,
            synthetic=synthetic,
            started=started,
            finished=datetime.now(UTC),
        )
        with self._published(symbol) as aside:
            return write_result(aside, result, manifest)

    def save_sweep(
        self,
        symbol: str,
        sweep: SweepResult,
        guards: Guards,
        *,
        candle_source: str,
        synthetic: bool,
        started: datetime,
    ) -> SweepManifest:
        """Write the sweep of a symbol; raises as `save_backtest`."""
        manifest = sweep_manifest(
            f"{self.task_id}.{symbol}",
            sweep,
            guards,
            symbol,
            task=self.task_id,
            candle_source=candle_source,
            synthetic=synthetic,
            started=started,
            finished=datetime.now(UTC),
        )
        with self._published(symbol) as aside:
            return write_sweep(aside, StoredSweep(self._place(symbol), manifest, sweep.table, guards.best)).manifest

    def finish(
        self,
        request: Mapping[str, Any],
        symbols: tuple[str, ...],
        *,
        started: datetime,
        failed: Mapping[str, str] | None = None,
        error: str | None = None,
        let_go: bool = True,
    ) -> TaskManifest:
        """Write summary and manifest and let go of the directory.

        Parameters
        ----------
        request
            The task's, in its JSON form with the backtest under `backtest`.
        symbols
            All the task asked for.
        started
            When this attempt began, aware.
        failed
            Symbols without a result, and why.
        error
            Why the task failed; None when it is complete.
        let_go
            False keeps the directory, to be finished again should something still go wrong; then `let_go`.

        Raises
        ------
        Superseded
            If the directory is another attempt's.
        IntegrityError
            If a finished symbol cannot be read.
        TransientError, PermanentError
            If the disk is full or refuses; there is no manifest then.
        """
        failed = failed or {}
        with self._changing(), self._owned() as folder:
            (folder / MANIFEST).unlink(missing_ok=True)
            _clear(folder)
            done = {
                name: symbol_manifest(folder / name)
                for name in symbols
                if name not in failed and (folder / name).is_dir()
            }
            manifest = task_manifest(
                self.task_id, self.attempt, request, symbols, done, failed=failed, error=error, started=started
            )
            files = symbol_files(folder, done)
            if done:
                write_table_atomically(task_summary(folder, done), folder / SUMMARY)
                files.append(file_entry(folder / SUMMARY, SUMMARY))
            manifest = manifest.model_copy(update={"files": tuple(sorted(files, key=lambda entry: entry.name))})
            content = manifest.model_dump_json(indent=2) + "\n"
            write_atomically(folder / MANIFEST, lambda stream: stream.write(content.encode()))
            if let_go:
                (folder / _ATTEMPT).unlink()
            return manifest

    def let_go(self) -> None:
        """Let go of a finished directory; once more changes nothing."""
        with classed(self.folder), directory_lock(self.root, self.task_id) as folder:
            if (_attempt_in(folder) or _finished_attempt(folder)) != self.attempt:
                raise Superseded(f"{folder} does not belong to attempt {self.attempt} any more")
            (folder / _ATTEMPT).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the directory, also a finished one, unless another attempt has it."""
        with classed(self.folder), directory_lock(self.root, self.task_id) as folder:
            owner = _attempt_in(folder) or _finished_attempt(folder)
            if owner not in (0, self.attempt):
                raise Superseded(f"{folder} belongs to attempt {owner}, no longer to attempt {self.attempt}")
            remove_path(folder)

    @contextmanager
    def _owned(self) -> Iterator[Path]:
        with directory_lock(self.root, self.task_id) as folder:
            owner = _attempt_in(folder)
            if owner != self.attempt:
                now = f"attempt {owner}" if owner else "nobody"
                raise Superseded(f"{folder} belongs to {now}, no longer to attempt {self.attempt}")
            yield folder

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Class errors of the disk, and those of a directory that was taken away in the middle as `Superseded`."""
        try:
            with classed(self.folder):
                yield
        except (OSError, CoinHtsError):
            with self._owned():
                raise

    @contextmanager
    def _published(self, symbol: str) -> Iterator[Path]:
        place = self._place(symbol)
        aside = place.with_name(f".{symbol}.{self.attempt}.tmp")
        with self._changing(), published(place, aside=aside, permit=self._owned) as folder:
            yield folder

    def _place(self, symbol: str) -> Path:
        if normalize_symbol(symbol) != symbol:
            raise InvalidRequest(f"symbol {symbol!r} is not in its canonical form {normalize_symbol(symbol)}")
        return self.folder / symbol


def task_folder(root: Path, task_id: str) -> Path:
    """Directory of a task, whether it exists or not; raises InvalidRequest for an id that could name anything else."""
    if not isinstance(task_id, str) or not ID_FORM.fullmatch(task_id):
        raise InvalidRequest(
            f"task id {str(task_id)[:80]!r} is not accepted; expected up to 100 letters, digits, dots, hyphens and "
            "underscores, the first a letter or digit"
        )
    return root / task_id


@contextmanager
def directory_lock(root: Path, task_id: str) -> Iterator[Path]:
    """Exclude everyone else who changes the directory of a task, and give the directory.

    Raises
    ------
    PermanentError
        If it is a symbolic link or a file: nothing behind it is touched.
    """
    folder = task_folder(root, task_id)
    # Lock files stay for ever (`locked`), tasks do not: 256 of them serve all.
    stripe = hashlib.sha256(task_id.encode()).hexdigest()[:2]
    with locked(root / _LOCKS / stripe):
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise PermanentError(f"{folder} is not a directory of a task but a link or a file; move it away")
        yield folder


@contextmanager
def classed(place: Path) -> Iterator[None]:
    """Class errors of the disk as `write_error` does; those it does not know stay what they are."""
    try:
        yield
    except OSError as error:
        known = write_error(place, error)
        if known is None:
            raise
        raise known from error


def remove_path(place: Path) -> int:
    """Remove a directory, its manifest first, or a link to one, and return the bytes; links are never followed."""
    if place.is_symlink() or place.is_file():
        place.unlink()
        return 0
    if not place.exists():
        return 0
    size = _bytes_in(place)
    (place / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(place)
    return size


def _bytes_in(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(
            _bytes_in(Path(entry.path))
            if entry.is_dir(follow_symlinks=False)
            else entry.stat(follow_symlinks=False).st_size
            for entry in entries
        )


def _attempt_in(folder: Path) -> int:
    """Attempt that has a directory, 0 when nobody has."""
    try:
        return int((folder / _ATTEMPT).read_text())
    except (FileNotFoundError, ValueError):
        return 0


def _finished_attempt(folder: Path) -> int:
    try:
        return TaskManifest.load(folder).attempt
    except IntegrityError:
        return 0


def _clear(folder: Path) -> None:
    """Remove what writers left that were killed or given up; the caller holds the lock and has the directory."""
    remove_unpublished(folder)
    for name in (_ATTEMPT, SUMMARY, MANIFEST):
        remove_leftovers(folder / name)
