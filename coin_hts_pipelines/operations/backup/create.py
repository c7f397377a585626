"""Makes a backup: files, dump, what has changed of the files since, manifest. Why in this order: see the package."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Collection, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from coin_hts_pipelines import clock
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.errors import Cancelled, InvalidRequest, PermanentError
from coin_hts_pipelines.operations.backup import files
from coin_hts_pipelines.operations.backup.dump import dump_database
from coin_hts_pipelines.operations.backup.exchange import interrupted_restore
from coin_hts_pipelines.operations.backup.inspect import list_backups
from coin_hts_pipelines.operations.backup.manifest import BEGUN, SUFFIX, Dump, FileEntry, Manifest, object_key
from coin_hts_pipelines.operations.backup.parallel import Asked, Progress, each, never, stop_if, unheard
from coin_hts_pipelines.operations.backup.scratch import remove_stale_scratch
from coin_hts_pipelines.operations.backup.targets import Target
from coin_hts_pipelines.results.publish import new_id
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines.storage.object_store import copy_hashed, os_errors

# A file changed within a tick of the clock after it was read has the same times: such young ones are not known again.
_YOUNG_NS = 2_000_000_000
_SHARE_FIRST, _SHARE_DUMP = 0.9, 0.95


def create_backup(
    settings: Settings,
    database: Database,
    target: Target,
    *,
    progress: Progress | None = None,
    cancelled: Asked = never,
) -> Manifest:
    """Make a backup of DATA_ROOT and the database; whatever ends it early, it is not listed and others stay whole.

    Parameters
    ----------
    settings
        Says what lies where.
    database
        The catalog's; Dagster's storage is in it.
    target
        Where to.
    progress
        Is told the share done, 0..1.
    cancelled
        Is asked several times a second.

    Raises
    ------
    TransientError
        Another one is at work, Postgres or the store is not there, or a disk is full.
    PermanentError
        A place cannot be read or written, no `pg_dump` fits the server, or a restore was interrupted.
    Cancelled
        If `cancelled` said so.
    """
    told = progress or unheard
    root = settings.root
    if not root.is_dir():
        raise InvalidRequest(f"there is no DATA_ROOT {root} to back up; set DATA_ROOT or run `coin-hts setup`")
    remove_stale_scratch(root)
    with target.exclusive():
        # Under the lock, which a restore holds too: one at its end is none that was interrupted.
        if problem := interrupted_restore(root):
            raise PermanentError(f"no backup is made: {problem}")
        created = clock.now()
        backup_id = new_id(created)
        target.store(_written(target.scratch, b""), backup_id + BEGUN)
        previous = next((one for one in list_backups(target) if one.data_root == str(root)), None)
        reader = _Reader(root, files.left_out(settings), target, previous.files if previous else ())
        first = reader.read(cancelled, lambda share: told(_SHARE_FIRST * share))
        dumped = target.scratch / "dump"
        snapshot = dump_database(database, dumped, cancelled)
        dump = reader.add(dumped)
        told(_SHARE_DUMP)
        second = reader.read(cancelled, lambda share: told(_SHARE_DUMP + (0.99 - _SHARE_DUMP) * share))
        kept = sorted([*second, *_only_first(root, first, second, snapshot.named)], key=lambda entry: entry.path)
        needed = {object_key(dump.sha256): dump.size, **{entry.key: entry.size for entry in kept}}
        manifest = Manifest(
            id=backup_id,
            created=created,
            finished=clock.now(),
            host=socket.gethostname(),
            versions={"coin_hts_pipelines": version("coin_hts_pipelines"), "dagster": version("dagster")},
            catalog_revision=snapshot.revision,
            data_root=str(root),
            dump=Dump(size=dump.size, sha256=dump.sha256, pg_major=snapshot.pg_major, server=snapshot.server),
            tables=snapshot.tables,
            files=tuple(kept),
            new_bytes=sum(size for key, size in needed.items() if reader.before.get(key) != size),
        )
        stop_if(cancelled)
        target.store(_written(target.scratch, manifest.encode()), backup_id + SUFFIX)
        target.delete(backup_id + BEGUN)
        told(1.0)
        return manifest


def _only_first(
    root: Path, first: Iterable[FileEntry], second: Iterable[FileEntry], named: Collection[Path]
) -> list[FileEntry]:
    """Files of directories that a row names and that were removed before the second reading came to them."""
    directories = {place.relative_to(root).as_posix() for place in named if place.is_relative_to(root)}

    def directory(entry: FileEntry) -> str | None:
        parents = (parent.as_posix() for parent in Path(entry.path).parents)
        return next((parent for parent in parents if parent in directories), None)

    present = {directory(entry) for entry in second} | {None}
    return [entry for entry in first if directory(entry) not in present]


def _written(scratch: Path, content: bytes) -> Path:
    path = scratch / secrets.token_hex(8)
    with os_errors(f"write {path}"):
        path.write_bytes(content)
    return path


class _Copied(NamedTuple):
    size: int
    sha256: str


class _Reader:
    """Reads DATA_ROOT into the target; what a file's size, times and inode say is known is not read again."""

    def __init__(self, root: Path, without: Collection[Path], target: Target, known: Iterable[FileEntry]) -> None:
        self.root = root
        self.without = without
        self.target = target
        self.known = {entry.path: entry for entry in known}
        self.stored = target.keys()
        self.before = dict(self.stored)

    def read(self, cancelled: Asked, progress: Progress) -> list[FileEntry]:
        """Read every unit once; a file that is removed meanwhile is left out."""
        with os_errors(f"list {self.root}"):
            units = list(files.units(self.root, self.without))
        found = [
            entry for part in each(units, self._read_unit, cancelled=cancelled, progress=progress) for entry in part
        ]
        self.known = {entry.path: entry for entry in found}
        return found

    def add(self, path: Path) -> _Copied:
        """Store a file of the scratch folder."""
        with os_errors(f"read {path}"), path.open("rb") as stream:
            copied = _Copied(*copy_hashed(stream))
        self._store(path, copied)
        return copied

    def _read_unit(self, unit: Path, stop: Asked) -> list[FileEntry]:
        found: list[FileEntry] = []
        copies: list[tuple[Path, _Copied]] = []
        with os_errors(f"read {unit}"), files.held(self.root, unit):
            for name, path in files.files_of(self.root, unit, self.without):
                if stop():
                    raise Cancelled("stopped")
                entry, copy = self._read_file(name, path)
                found += [entry] if entry else []
                copies += [(copy, _Copied(entry.size, entry.sha256))] if entry and copy else []
        for copy, copied in copies:
            if stop():
                raise Cancelled("stopped")
            self._store(copy, copied)
        return found

    def _read_file(self, name: str, path: Path) -> tuple[FileEntry | None, Path | None]:
        """Entry of a file, and its copy in the scratch folder unless the target has the bytes."""
        now = time.time_ns()
        try:
            stream = path.open("rb")
        except FileNotFoundError:
            return None, None
        with stream:
            stat = os.fstat(stream.fileno())
            about = {"mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns, "inode": stat.st_ino}
            known = self.known.get(name)
            if (
                known is not None
                and (known.size, known.mtime_ns, known.ctime_ns, known.inode) == (stat.st_size, *about.values())
                and self.stored.get(known.key) == known.size
            ):
                return known, None
            copy = self.target.scratch / secrets.token_hex(8)
            with copy.open("xb") as sink:
                copied = _Copied(*copy_hashed(stream, sink))
        if stat.st_ctime_ns > now - _YOUNG_NS:
            about["ctime_ns"] = 0
        return FileEntry(path=name, size=copied.size, sha256=copied.sha256, **about), copy

    def _store(self, copy: Path, copied: _Copied) -> None:
        key = object_key(copied.sha256)
        if self.stored.get(key) == copied.size:
            copy.unlink()
            return
        self.target.store(copy, key)
        self.stored[key] = copied.size
