"""Backups: candles, indicators, results and the database, whole or not listed; verified, restored, and pruned.

    {target}/{id}.json              manifest of a backup, written last
    {target}/{id}.partial           a backup that has begun; it stays behind one that did not end
    {target}/objects/ab/ab12...     dumps and files under their SHA-256: what did not change is there already
    {target}/damaged/ab12...        what was found not to be what was written, until the next prune
    {target}/drills/{id}.json       what came of restoring one for practice

In: everything under DATA_ROOT but what is named here. Out: `postgres` (the dump has it), `exports` (copies of results),
`inbox` (imported files are in the candles, those that wait are somebody else's), `logs` and `dagster` (output of
runs), README.md, and names that begin with a dot or end in `.lock`. `.env` lies outside and stays outside: no secret is
in a backup. Indicators are in although they can be computed: the event log says that they exist, so after a restore
without them nobody would compute them, and backtests would fail. Past years cost their space once.

One point in time while runs go on
----------------------------------
Writers publish files first and name them in the database afterwards. So the files are read, then the database is
dumped, then the files are read again, which is quick, since only what has changed is read:

- The second reading comes after the dump's snapshot, so it has whatever a row of the dump names, or newer.
- A directory that a row names, and that was there before the dump but is gone after it (only the newest results are
  kept), is taken from the first reading. What no reading saw came and went between the two, by the store's own rule.
- Each series of candles and each home of results is read under the lock of its writers: `CURRENT` never names a
  directory that is not there, and real candles never stand beside synthetic ones. The lock is held while changed files
  are copied to the local disk, not while they travel.
- Files are replaced by renaming, never changed in place, so an open one stays what it is.

Row counts are taken in the dump's own snapshot and compared when it is restored. One backup, restore or prune works on
a target at a time; a bucket must belong to one machine, because the lock is the machine's.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coin_hts_pipelines.operations.backup.create import create_backup
    from coin_hts_pipelines.operations.backup.drill import drill_backup
    from coin_hts_pipelines.operations.backup.drill_report import DrillReport, last_drill
    from coin_hts_pipelines.operations.backup.exchange import interrupted_restore
    from coin_hts_pipelines.operations.backup.files import left_out
    from coin_hts_pipelines.operations.backup.inspect import (
        Listed,
        find_backup,
        list_all,
        list_backups,
        verify_backup,
    )
    from coin_hts_pipelines.operations.backup.manifest import FileEntry, Manifest
    from coin_hts_pipelines.operations.backup.prune import Keep, Pruned, prune_backups, to_keep
    from coin_hts_pipelines.operations.backup.restore import restore_backup
    from coin_hts_pipelines.operations.backup.targets import Busy, DirectoryTarget, S3Target, Target, open_target

__all__ = [
    "Busy",
    "DirectoryTarget",
    "DrillReport",
    "FileEntry",
    "Keep",
    "Listed",
    "Manifest",
    "Pruned",
    "S3Target",
    "Target",
    "create_backup",
    "drill_backup",
    "find_backup",
    "interrupted_restore",
    "last_drill",
    "left_out",
    "list_all",
    "list_backups",
    "open_target",
    "prune_backups",
    "restore_backup",
    "to_keep",
    "verify_backup",
]

# Imported when they are asked for: who only lists backups (`doctor`, `status`) waits for no pandas and no numba.
_MODULES = {
    "Busy": "targets",
    "DirectoryTarget": "targets",
    "DrillReport": "drill_report",
    "FileEntry": "manifest",
    "Keep": "prune",
    "Listed": "inspect",
    "Manifest": "manifest",
    "Pruned": "prune",
    "S3Target": "targets",
    "Target": "targets",
    "create_backup": "create",
    "drill_backup": "drill",
    "find_backup": "inspect",
    "interrupted_restore": "exchange",
    "last_drill": "drill_report",
    "left_out": "files",
    "list_all": "inspect",
    "list_backups": "inspect",
    "open_target": "targets",
    "prune_backups": "prune",
    "restore_backup": "restore",
    "to_keep": "prune",
    "verify_backup": "inspect",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
