"""Brings DATA_ROOT and the database back, both or neither.

Everything is fetched and verified beside the target first (`DATA_ROOT/.restore`, on the same disk) and the dump is
executed in one transaction, into which the old schemas' removal belongs. Then the folders are exchanged by renaming,
then the transaction is committed. Killed before the exchange, nothing has changed. Killed within it, the next restore
reads in the journal what was renamed and in the database whether the transaction was committed (its schema carries the
journal's mark), and first takes the exchange back, or finishes it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.database import HEAD_REVISION
from coin_hts_pipelines.errors import CoinHtsError, IntegrityError, InvalidRequest, PermanentError, TransientError
from coin_hts_pipelines.operations.backup import files
from coin_hts_pipelines.operations.backup.exchange import Exchange
from coin_hts_pipelines.operations.backup.inspect import set_aside
from coin_hts_pipelines.operations.backup.load import Load, committed_mark, count_others, load_database, look_at
from coin_hts_pipelines.operations.backup.manifest import Manifest
from coin_hts_pipelines.operations.backup.parallel import Asked, Progress, each, never, stop_if, unheard
from coin_hts_pipelines.operations.backup.targets import Target
from coin_hts_pipelines.storage.object_store import check_key, os_errors

_ALONE_SECONDS = 5
_SHARE_FILES, _SHARE_LOADED = 0.8, 0.95
# Of the bytes of a backup, and beside them: folders, and blocks that are not full. A database takes several times the
# room of its compressed dump, on this disk too unless it is a server of somebody's own.
_MORE, _MORE_BYTES, _DATABASE = 1.05, 16_000_000, 5


def restore_backup(
    target: Target,
    manifest: Manifest,
    data_root: Path,
    database_url: str,
    *,
    force: bool = False,
    without: Collection[Path] = (),
    progress: Progress | None = None,
    cancelled: Asked = never,
) -> None:
    """Restore a backup; nothing may be running on that DATA_ROOT and database. It can be interrupted and run again.

    Parameters
    ----------
    target, manifest
        What to restore.
    data_root
        Where the files go; index rows that name directories below the old DATA_ROOT will name them here.
    database_url
        The server; the schemas `catalog` and `dagster` of its database are replaced.
    force
        Replace what is there. What a backup does not hold (`postgres`, `exports`, ...) stays in any case.
    without
        More places that stay, if they lie below `data_root`.
    progress, cancelled
        As in `create_backup`; the exchange at the end is not cancelled any more.

    Raises
    ------
    InvalidRequest
        If there are files or rows already, and not `force`; or a program is connected to the database.
    IntegrityError
        If a byte of the backup is damaged; nothing has been changed then.
    TransientError, PermanentError
        If a disk, the target or Postgres fails; nothing has been changed then.
    """
    told = progress or unheard
    if (manifest.catalog_revision or "") > HEAD_REVISION:
        raise PermanentError(
            f"backup {manifest.id} is of catalog revision {manifest.catalog_revision}, this version knows "
            f"{HEAD_REVISION}; update coin_hts_pipelines, then restore"
        )
    data_root = data_root.absolute()
    kept = files.not_kept(data_root) | {place.absolute() for place in without}
    exchange = Exchange(data_root)
    database = Database(database_url, pool_size=1)
    try:
        with target.exclusive(reading=True), os_errors(f"restore into {data_root}"):
            try:
                # Without force, the end of the interrupted restore of this backup is all that is asked for: nobody can
                # have worked since. With it everything is brought back anew.
                if _settled(exchange, database) != manifest.id or force:
                    _restore(target, manifest, exchange, database, force, kept, told, cancelled)
            except BaseException:
                # Whether the transaction was committed only the database knows; if it is gone, the next restore asks.
                with suppress(TransientError, InvalidRequest):
                    _settled(exchange, database)
                raise
            told(1.0)
    finally:
        database.dispose()


def _settled(exchange: Exchange, database: Database) -> str | None:
    """Bring an interrupted exchange to an end, once nobody else can still commit, and return the backup it brought."""
    if not exchange.journal.exists():
        exchange.finish()
        return None
    _wait_alone(database)
    return exchange.settle(committed_mark(database))


def _wait_alone(database: Database) -> None:
    """Wait for the connections of a restore that was killed; raises InvalidRequest if others stay."""
    deadline = time.monotonic() + _ALONE_SECONDS
    while others := count_others(database):
        if time.monotonic() > deadline:
            raise InvalidRequest(
                f"{others} connections of other programs to {database.label}; stop `coin-hts up`, runs and whatever "
                "else uses it, then restore"
            )
        time.sleep(0.1)


def _restore(
    target: Target,
    manifest: Manifest,
    exchange: Exchange,
    database: Database,
    force: bool,
    kept: Collection[Path],
    told: Progress,
    cancelled: Asked,
) -> None:
    root = exchange.root
    there, found = _replaced(root, kept), look_at(database)
    if not force and (there or found.rows):
        what = f"{root} holds {there[0].name}" if there else f"{database.label} holds {found.rows}"
        raise InvalidRequest(f"{what}; restore into an empty place, or give --force to replace what is there")
    _check_places(manifest, root, there)
    _wait_alone(database)
    exchange.begin()
    _check_room(manifest, root)
    dump = _fetch(target, manifest, exchange.new, cancelled, lambda share: told(_SHARE_FILES * share))
    load = Load(manifest, found.major, f"restored {manifest.id} {secrets.token_hex(8)}", root)
    with load_database(database, dump, load, cancelled):
        told(_SHARE_LOADED)
        stop_if(cancelled)
        exchange.make(load.mark, manifest.id, there)
    exchange.finish()


def _replaced(data_root: Path, kept: Collection[Path]) -> list[Path]:
    """What a restore would replace; never a folder in which something lies that stays."""
    return [path for path in files.entries(data_root, kept) if not any(place.is_relative_to(path) for place in kept)]


def _check_places(manifest: Manifest, root: Path, replaced: Collection[Path]) -> None:
    """Refuse now what the exchange could not do at the end: replace a folder in which something lies that stays."""
    for name in sorted({_checked(entry.path).split("/")[0] for entry in manifest.files}):
        if (root / name).exists() and root / name not in replaced:
            raise InvalidRequest(
                f"{root / name} is in backup {manifest.id} but cannot be replaced, for something that stays (logs, "
                "exports, backups) lies there; name another folder for it in the settings, move it, then restore"
            )


def _check_room(manifest: Manifest, root: Path) -> None:
    needed = int(manifest.size * _MORE) + _MORE_BYTES + _DATABASE * manifest.dump.size
    free = shutil.disk_usage(root).free
    if needed > free:
        raise TransientError(
            f"backup {manifest.id} needs {needed / 1e6:,.0f} MB on the disk of {root}, of which {free / 1e6:,.0f} MB "
            f"are free; free {(needed - free) / 1e6:,.0f} MB more, then try again"
        )


def _fetch(target: Target, manifest: Manifest, folder: Path, cancelled: Asked, progress: Progress) -> Path:
    """Fetch files into an empty folder and the dump beside it, every byte verified and on the disk."""
    wanted = [(entry.key, entry.sha256, folder / _checked(entry.path)) for entry in manifest.files]
    wanted.append((manifest.dump.key, manifest.dump.sha256, folder.parent / "dump"))

    def fetch(one: tuple[str, str, Path], stop: Asked) -> None:  # noqa: ARG001 - seconds at most
        key, sha256, path = one
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.fetch(key, sha256, path)
        except IntegrityError:
            with suppress(CoinHtsError):  # the damage itself is what is to be said
                set_aside(target, key, sha256)
            raise

    each(wanted, fetch, cancelled=cancelled, progress=progress)
    os.sync()
    return folder.parent / "dump"


def _checked(path: str) -> str:
    """Path of a manifest, if it is one that a backup takes: nothing leads out of DATA_ROOT or is hidden."""
    if any(part.startswith(".") for part in check_key(path).split("/")):
        raise InvalidRequest(f"path {path!r} of the manifest is not one of a backup; nothing is restored")
    return path
