"""`coin-hts backup`: back up, list, verify, restore, restore for practice, prune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coin_hts_pipelines.cli import LazyGroup
from coin_hts_pipelines.cli.options import json_option
from coin_hts_pipelines.settings import Settings, get_settings

if TYPE_CHECKING:
    from coin_hts_pipelines.operations.backup import Manifest, Target

_MEGABYTE = 1e6


@click.group(
    "backup",
    cls=LazyGroup,
    lazy={
        "create": ("backup:create", "Back up candles, results and the database; unchanged files are not copied again."),
        "list": ("backup:list_", "List backups, newest first."),
        "verify": ("backup:verify", "Read every byte of a backup, or of all."),
        "restore": ("backup:restore", "Bring a backup back."),
        "drill": ("backup:drill", "Restore the newest backup beside everything, and see whether it is all there."),
        "prune": ("backup:prune", "Remove backups that are not to be kept."),
    },
)
def command() -> None:
    """Back up, verify, restore; try a restore for practice."""


@click.command("create")
@json_option
def create(as_json: bool) -> None:
    """Back up candles, indicators, results and the database while runs go on.

    Secrets (.env), exports and logs are not in it. The settings COIN_HTS_BACKUP_STORE and COIN_HTS_BACKUP_DIR say where
    it goes.
    """
    from coin_hts_pipelines.cli.output import print_json, share_bar  # noqa: PLC0415
    from coin_hts_pipelines.control.backup import ALERTS, BACKUP_JOB, alerting  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import open_database  # noqa: PLC0415
    from coin_hts_pipelines.operations.backup import create_backup, open_target  # noqa: PLC0415

    settings = get_settings()
    with alerting(*ALERTS[BACKUP_JOB]), share_bar("backup") as progress:
        target = open_target(settings)
        made = create_backup(settings, open_database(), target, progress=progress)
    if as_json:
        print_json(_row(made))
        return
    seconds = (made.finished - made.created).total_seconds()
    click.echo(
        f"{made.id}: {len(made.files):,} files and the database, {made.size / _MEGABYTE:,.1f} MB, of which "
        f"{made.new_bytes / _MEGABYTE:,.1f} MB are new, in {seconds:,.1f} s, in {target.url}"
    )


@click.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List backups, newest first: an incomplete one did not end, or something it needs is gone."""
    from coin_hts_pipelines.cli.output import console, print_json, table  # noqa: PLC0415
    from coin_hts_pipelines.operations.backup import list_all, open_target  # noqa: PLC0415

    target = open_target(get_settings())
    listed = list_all(target)
    if as_json:
        rows = [
            {
                "id": one.id,
                "created": one.created,
                "state": "incomplete" if one.problem else "ok",
                "problem": one.problem,
                **(_row(one.manifest) if one.manifest else {}),
            }
            for one in listed
        ]
        print_json(rows)
        return
    lines = []
    for one in listed:
        made = one.manifest
        figures = [made.size, len(made.files), made.new_bytes] if made else []
        lines.append(
            [
                one.id,
                f"{one.created:%Y-%m-%d %H:%M}",
                *([f"{count:,}" for count in figures] or ["–", "–", "–"]),
                "incomplete" if one.problem else "ok",
            ]
        )
    out = console()
    columns = ["id", "created (UTC)", "bytes", "files", "new bytes", "state"]
    out.print(table(f"Backups in {target.url}", columns, lines, left=("id", "state")))
    for one in listed:
        if one.problem:
            out.print(f"{one.id}: {one.problem}", markup=False, style="red", soft_wrap=True)


@click.command("verify")
@click.argument("backup_id", metavar="[ID]", required=False)
@json_option
def verify(backup_id: str | None, as_json: bool) -> int:
    """Read every byte of a backup (latest: the newest; none named: all); exit status 1 and each bad object by name."""
    from coin_hts_pipelines.cli.output import print_json, share_bar  # noqa: PLC0415
    from coin_hts_pipelines.control.backup import note_verified  # noqa: PLC0415
    from coin_hts_pipelines.operations.backup import (  # noqa: PLC0415
        find_backup,
        list_all,
        open_target,
        verify_backup,
    )

    settings = get_settings()
    target = open_target(settings)
    problems: dict[str, list[str]] = {}
    chosen: list[Manifest] = []
    if backup_id is None:
        for one in list_all(target):
            if one.manifest is not None:
                chosen.append(one.manifest)
            elif one.problem is not None and not one.unfinished:
                problems[one.id] = [one.problem]
    else:
        chosen = [find_backup(target, backup_id, damaged=True, data_root=settings.root)]
    for manifest in chosen:
        with share_bar("verify") as progress:
            problems[manifest.id] = verify_backup(target, manifest, progress=progress)
    bad = any(problems.values())
    note_verified(problems)
    if as_json:
        print_json([{"id": name, "ok": not found, "problems": found} for name, found in problems.items()])
        return int(bad)
    for name, found in problems.items():
        click.echo(f"{name}: {f'{len(found)} bad' if found else 'ok'}")
        for text in found:
            click.secho(f"  {text}", fg="red", err=True)
    if not problems:
        click.echo(f"there are no backups in {target.url}")
    return int(bad)


@click.command("restore")
@click.argument("backup_id", metavar="ID|latest")
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), help="Another project home, to look at it.")
@click.option("--force", is_flag=True, help="Replace the files and rows that are there.")
def restore(backup_id: str, to: Path | None, force: bool) -> None:
    """Bring candles, results and the database back, into this project or, by --to, into another folder.

    Every byte is verified before anything is replaced. Stop `coin-hts up` first. What was interrupted can be run again.
    """
    from coin_hts_pipelines.cli.output import share_bar  # noqa: PLC0415
    from coin_hts_pipelines.control.backup import RESTORE_ALERT, alerting  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import database_url  # noqa: PLC0415
    from coin_hts_pipelines.operations.backup import (  # noqa: PLC0415
        find_backup,
        left_out,
        open_target,
        restore_backup,
    )

    settings = get_settings()
    with alerting(*RESTORE_ALERT):
        target = open_target(settings)
        manifest = find_backup(target, backup_id, data_root=settings.root)
        if to is not None:
            _restore_elsewhere(target, manifest, to.absolute(), force)
            return
        url, kept = database_url(settings), left_out(settings)
        with share_bar("restore") as progress:
            restore_backup(target, manifest, settings.root, url, force=force, without=kept, progress=progress)
        ended = _end_unfinished_runs()
    note = f"; {ended} runs that were unfinished in it are ended" if ended else ""
    click.echo(f"{manifest.id} of {manifest.created:%Y-%m-%d %H:%M} UTC is back in {settings.root}{note}")


def _restore_elsewhere(target: Target, manifest: Manifest, home: Path, force: bool) -> None:
    """Restore into another project home with an embedded server of its own, which is left stopped if it was."""
    from coin_hts_pipelines.cli.output import share_bar  # noqa: PLC0415
    from coin_hts_pipelines.operations.backup import restore_backup  # noqa: PLC0415
    from coin_hts_pipelines.operations.embedded_postgres import (  # noqa: PLC0415
        find_server,
        start_server,
        stop_server,
    )

    root = home / "data"
    running = find_server(root / "postgres") is not None
    url = start_server(root / "postgres")
    try:
        with share_bar("restore") as progress:
            restore_backup(target, manifest, root, url, force=force, progress=progress)
    finally:
        if not running:
            stop_server(root / "postgres")
    click.echo(f"{manifest.id} of {manifest.created:%Y-%m-%d %H:%M} UTC is in {root}")


def _end_unfinished_runs() -> int:
    """Fail the runs that were at work when the backup was made, and return how many.

    Their processes may be those of a machine that is gone, and whether a process of another host lives nobody knows.
    Dagster tries failed ones again, but no backup or drill: of a day that has come back it would replace today's.
    """
    import dagster as dg  # noqa: PLC0415

    from coin_hts_pipelines.control.backup import BACKUP_JOB, DRILL_JOB  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import open_instance, prepare  # noqa: PLC0415

    states = [
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    ]
    prepare()
    with open_instance() as instance:
        of_backups = [
            run
            for job in (BACKUP_JOB, DRILL_JOB)
            for run in instance.get_runs(dg.RunsFilter(job_name=job, statuses=[*states, dg.DagsterRunStatus.QUEUED]))
        ]
        for run in of_backups:
            instance.report_run_canceled(run, "the run was unfinished in the backup that was restored")
        unfinished = instance.get_runs(dg.RunsFilter(statuses=states))
        for run in unfinished:
            instance.report_run_failed(run, "the run was unfinished in the backup that was restored")
        for run in [*of_backups, *unfinished]:
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return len(of_backups) + len(unfinished)


@click.command("drill")
@json_option
def drill(as_json: bool) -> None:
    """Restore the newest backup into a scratch folder and Postgres, compare rows and digests, compute a result again.

    Nothing of the project is touched; it needs the room of the data once more, in DATA_ROOT/.drill.
    """
    from coin_hts_pipelines.cli.output import print_json, share_bar  # noqa: PLC0415
    from coin_hts_pipelines.control.backup import ALERTS, DRILL_JOB, alerting  # noqa: PLC0415
    from coin_hts_pipelines.operations.backup import drill_backup, open_target  # noqa: PLC0415

    settings = get_settings()
    with alerting(*ALERTS[DRILL_JOB]), share_bar("drill") as progress:
        report = drill_backup(settings, open_target(settings), progress=progress)
    if as_json:
        print_json(report.model_dump(exclude={"problem"}))
        return
    seconds = (report.finished_at - report.started_at).total_seconds()
    again = f"{report.recomputed} computed again is the same" if report.recomputed else "no result to compute again"
    click.echo(
        f"{report.backup}: {report.files:,} files, {report.rows:,} rows of {report.tables} tables and "
        f"{report.results:,} results are as they were; {again}; {seconds:,.1f} s"
    )


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
def prune(dry_run: bool, as_json: bool) -> None:
    """Remove backups that are not to be kept, what interrupted ones left, and the bytes no backup needs.

    The settings COIN_HTS_BACKUP_KEEP_DAILY, _WEEKLY and _MONTHLY say what is kept; the newest always is.
    """
    from coin_hts_pipelines.cli.output import print_json  # noqa: PLC0415
    from coin_hts_pipelines.control.backup import PRUNE_ALERT, alerting  # noqa: PLC0415
    from coin_hts_pipelines.operations.backup import Keep, open_target, prune_backups  # noqa: PLC0415

    settings: Settings = get_settings()
    with alerting(*PRUNE_ALERT):
        done = prune_backups(open_target(settings), Keep.of(settings), dry_run=dry_run)
    if as_json:
        print_json({"backups": done.backups, "objects": done.objects, "bytes": done.bytes, "dry_run": dry_run})
        return
    would = "would be removed" if dry_run else "removed"
    for name in done.backups:
        click.echo(f"{would}: {name}")
    click.echo(f"{would}: {len(done.backups)} backups, {done.objects:,} objects, {done.bytes / _MEGABYTE:,.1f} MB")


def _row(made: Manifest) -> dict[str, object]:
    return {
        "id": made.id,
        "created": made.created,
        "finished": made.finished,
        "size": made.size,
        "files": len(made.files),
        "new_bytes": made.new_bytes,
        "catalog_revision": made.catalog_revision,
        "postgres": made.dump.server,
    }
