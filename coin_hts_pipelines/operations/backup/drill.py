"""The restore drill: the newest backup is restored beside everything, looked through, and one result computed again.

It happens in `DATA_ROOT/.drill`, with a Postgres of its own, so it needs the room of the data once more; nothing of the
instance is touched. What came of it is kept in the target under `drills/`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

from coin_hts_pipelines import clock
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.models import SCHEMA, ResultRow
from coin_hts_pipelines.errors import Cancelled, CoinHtsError, IntegrityError, InvalidRequest, PermanentError
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.atomic import locked
from coin_hts_pipelines.operations.backup.drill_report import RECORDS, DrillReport
from coin_hts_pipelines.operations.backup.dump import count_rows
from coin_hts_pipelines.operations.backup.inspect import newest_backup
from coin_hts_pipelines.operations.backup.manifest import SUFFIX
from coin_hts_pipelines.operations.backup.manifest import Manifest as Backup
from coin_hts_pipelines.operations.backup.parallel import Asked, Progress, never, unheard
from coin_hts_pipelines.operations.backup.restore import restore_backup
from coin_hts_pipelines.operations.backup.scratch import SCRATCH, remove_scratch
from coin_hts_pipelines.operations.backup.targets import Target
from coin_hts_pipelines.operations.embedded_postgres import start_server
from coin_hts_pipelines.results.manifest import MANIFEST, Manifest
from coin_hts_pipelines.results.publish import new_id
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines.storage.object_store import os_errors

# Candles may be newer than the result of a symbol when a backup is made; not of so many.
_TRIED = 50
_SHARE_RESTORED, _SHARE_LOOKED = 0.8, 0.9


def drill_backup(
    settings: Settings, target: Target, *, progress: Progress | None = None, cancelled: Asked = never
) -> DrillReport:
    """Restore the newest backup for practice; a report of a drill that failed is kept too, then its error is raised.

    Parameters
    ----------
    settings
        Say where DATA_ROOT is; the drill happens inside it.
    target
        Where the backups are.
    progress, cancelled
        As in `create_backup`.

    Raises
    ------
    IntegrityError
        If a byte, a row or a result is not what it was; the message names the first.
    InvalidRequest
        If there is no backup.
    TransientError, PermanentError
        If it could not be restored: a disk, the target or Postgres failed.
    Cancelled
        If `cancelled` said so; no report is kept.
    """
    started = clock.now()
    scratch = settings.root / SCRATCH
    with os_errors(f"write to {settings.root}"):
        settings.root.mkdir(parents=True, exist_ok=True)
    with locked(scratch):
        remove_scratch(scratch)  # of one that was killed
        about: dict[str, object] = {}
        try:
            # A new place each time: the library of the server remembers those it has seen, not that they went.
            _drill(settings.root, target, scratch / secrets.token_hex(4), about, progress or unheard, cancelled)
        except Cancelled:
            raise
        except Exception as error:
            problem = str(error) if isinstance(error, CoinHtsError) else f"{type(error).__name__}: {error}"
            failed = DrillReport(started_at=started, finished_at=clock.now(), passed=False, problem=problem, **about)
            # The error is worth more than its record, which the same full disk or lost store may refuse.
            with suppress(CoinHtsError):
                _keep(target, failed)
            raise
        finally:
            remove_scratch(scratch)
        report = DrillReport(started_at=started, finished_at=clock.now(), passed=True, **about)
        _keep(target, report)
        return report


def _keep(target: Target, report: DrillReport) -> None:
    with target.exclusive():
        path = target.scratch / secrets.token_hex(8)
        with os_errors(f"write {path}"):
            path.write_bytes(report.model_dump_json(indent=2).encode())
        target.store(path, f"{RECORDS}{new_id(report.started_at)}{SUFFIX}")


def _drill(
    data_root: Path, target: Target, root: Path, about: dict[str, object], told: Progress, cancelled: Asked
) -> None:
    backup = newest_backup(target, data_root)
    about |= {"backup": backup.id, "files": len(backup.files), "bytes": backup.size}
    try:
        _practise(target, backup, root, about, told, cancelled)
    except InvalidRequest as error:
        # Nobody asked for anything that could be wrong: what a good backup lets nobody do (no candles for a result,
        # say) makes it a bad one.
        raise PermanentError(str(error)) from error


def _practise(
    target: Target, backup: Backup, root: Path, about: dict[str, object], told: Progress, cancelled: Asked
) -> None:
    url = start_server(root / "postgres")
    restore_backup(target, backup, root, url, progress=lambda share: told(_SHARE_RESTORED * share), cancelled=cancelled)
    database = Database(url, pool_size=1)
    try:
        about |= _compare_rows(database, backup)
        rows = _present(_results(database))
        about["results"] = _compare_results(rows)
    finally:
        database.dispose()
    told(_SHARE_LOOKED)
    about["recomputed"] = _compute_again(CandleStore(root), rows, cancelled)
    told(1.0)


def _compare_rows(database: Database, backup: Backup) -> dict[str, int]:
    with database.session() as session:
        counts = count_rows(lambda query: session.execute(sa.text(query)).all())
    for name in sorted(counts.keys() | backup.tables.keys()):
        there, wanted = counts.get(name), backup.tables.get(name)
        if there != wanted:
            raise IntegrityError(f"table {name} has {there} rows after the restore, the backup says {wanted}")
    return {"tables": len(counts), "rows": sum(counts.values())}


def _results(database: Database) -> list[ResultRow]:
    """Rows of results, newest first."""
    with database.session() as session:
        if not sa.inspect(session.connection()).has_table(ResultRow.__tablename__, schema=SCHEMA):
            return []
        return list(session.scalars(sa.select(ResultRow).order_by(ResultRow.finished_at.desc(), ResultRow.id.desc())))


def _present(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Those whose directory is there; of each preset and symbol only older ones may have been pruned before the backup.

    Raises
    ------
    IntegrityError
        If the current one of a preset and symbol is not there, or none is.
    """
    there = [row for row in rows if (Path(row.path) / MANIFEST).is_file()]
    newest: dict[tuple[object, ...], ResultRow] = {}
    for row in rows:
        if row.preset is not None:
            newest.setdefault((row.timeframe, row.preset, *row.symbols), row)
    for row in newest.values():
        place = Path(row.path)
        # A newer one that has no row yet may have made this one go while the backup was made.
        beside = place.parent.iterdir() if place.parent.is_dir() else ()
        if not any(folder.is_dir() and folder.name >= place.name for folder in beside):
            raise IntegrityError(
                f"result {row.id}, the newest of {row.preset} on {row.symbols[0]}, is not there after the restore"
            )
    return there


def _compare_results(rows: Sequence[ResultRow]) -> int:
    for row in rows:
        path = Path(row.path) / MANIFEST
        try:
            digest = json.loads(path.read_bytes())["result_digest"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"manifest of result {row.id} cannot be read after the restore: {error}") from error
        if digest != row.result_digest:
            raise IntegrityError(f"result {row.id} has the digest {digest} after the restore, its row says another")
    return len(rows)


def _compute_again(candles: CandleStore, rows: Sequence[ResultRow], cancelled: Asked) -> str | None:
    """Run the newest backtest again whose candles are as they were, and return its id; None if nothing can be run.

    Results of a task or a sweep, of an older system, of a strategy of another version or one that is not installed are
    left out.
    """
    # The engine takes long to import, and who only reads reports needs none.
    from coin_hts_pipelines.backtest import BacktestRequest, run_backtest  # noqa: PLC0415
    from coin_hts_pipelines.strategies import get_strategy  # noqa: PLC0415

    tried = 0
    for row in rows:
        if row.preset is None:
            continue
        manifest = Manifest.load(Path(row.path))
        try:
            same_version = get_strategy(manifest.strategy).version == manifest.strategy_version
        except CoinHtsError:
            continue
        if not same_version:
            continue
        if tried == _TRIED:
            break
        tried += 1
        (symbol,) = manifest.symbols
        frame = candles.load(symbol, manifest.timeframe, manifest.span_start)
        frame = frame[frame["timestamp"] <= manifest.span_end]
        if frame.empty:
            continue
        result = run_backtest(frame, BacktestRequest.from_dict(manifest.request), cancelled=cancelled)
        if result.inputs_digest != manifest.inputs_digest:
            continue
        if result.result_digest != manifest.result_digest:
            raise IntegrityError(
                f"result {row.id} computed again has the digest {result.result_digest}, stored is another"
            )
        return row.id
    if tried:
        raise IntegrityError(f"none of the newest {tried} results can be computed again: their candles are others")
    return None
