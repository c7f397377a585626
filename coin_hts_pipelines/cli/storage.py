"""`coin-hts storage`: remove what is old, see what takes room, set up the bucket of the exports."""

from __future__ import annotations

import json
from typing import Any

import click

from coin_hts_pipelines.cli.options import json_option
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.settings import Settings, get_settings


@click.group("storage")
def command() -> None:
    """Remove what is old, see what takes room, set up the bucket of the exports."""


@command.command("prune")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
def prune(dry_run: bool, as_json: bool) -> int:
    """Do what the nightly schedule does; exit status 1 if something cannot be removed.

    Finished runs and their events (COIN_HTS_RETENTION_RUN_DAYS; the latest of each partition stay), exports that are
    no longer current (COIN_HTS_RETENTION_EXPORT_DAYS), rows of cleaned-up tasks (COIN_HTS_RETENTION_TASK_DAYS), and
    files of the inbox that were imported or rejected 90 days ago.
    """
    from coin_hts_pipelines.cli.output import console, print_json, table  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import open_instance, prepare  # noqa: PLC0415
    from coin_hts_pipelines.control.retention import prune as prune_all  # noqa: PLC0415
    from coin_hts_pipelines.defs.resources import export_store_resource  # noqa: PLC0415

    prepare()
    with open_instance() as instance:
        report = prune_all(instance, export_store_resource(get_settings()).open, dry_run=dry_run)
    if as_json:
        print_json(report.to_dict())
        return 1 if report.problems else 0
    out = console()
    done = "would be removed" if dry_run else "removed"
    rows = [[kind, f"{one.count:,}", f"{one.bytes:,}" if one.bytes else ""] for kind, one in report.removed.items()]
    out.print(
        table(f"What {done}" if dry_run else "What was removed", ["kind", "count", "bytes"], rows, left=("kind",))
    )
    sizes = [sum(one.bytes for one in tables) for tables in (report.before, report.after)]
    out.print(f"old runs kept for the latest events of a partition: {report.kept_runs:,}")
    out.print(f"tables: {sizes[0]:,} bytes before, {sizes[1]:,} after; {report.seconds:.1f} s")
    for kind, why in report.problems.items():
        out.print(f"cannot be removed: {kind}: {why}", markup=False, style="red", soft_wrap=True)
    return 1 if report.problems else 0


@command.command("usage")
@json_option
def usage(as_json: bool) -> None:
    """Print the sizes of the tables of Dagster and the catalog, and of the folders."""
    from rich.markup import escape  # noqa: PLC0415

    from coin_hts_pipelines.cli.output import console, print_json, table  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import prepare  # noqa: PLC0415
    from coin_hts_pipelines.operations.retention import folder_sizes, table_sizes  # noqa: PLC0415

    tables, folders = table_sizes(prepare()), folder_sizes(get_settings())
    if as_json:
        print_json({"tables": [vars(one) for one in tables], "folders": [vars(one) for one in folders]})
        return
    rows = [[one.name, f"{one.bytes:,}", f"{one.rows:,}"] for one in tables]
    console().print(table("Tables", ["table", "bytes", "rows, estimated"], rows, left=("table",)))
    rows = [[escape(str(one.path)), f"{one.bytes:,}", f"{one.files:,}"] for one in folders]
    console().print(table("Folders", ["folder", "bytes", "files"], rows, left=("folder",)))


@command.command("bootstrap")
@click.option("--dry-run", is_flag=True, help="Only say what would be changed.")
def bootstrap(dry_run: bool) -> int:
    """Turn on versions of the bucket, set its lifecycle, print the IAM policy; exit status 1 if the store refuses.

    Exports of tasks expire after 30 days, versions no longer current after 30, broken uploads after 1; exports of
    presets and backups never. The policy is what exports and backups need; this command needs the right to change the
    bucket. Rules of others stay, also those of a project with another COIN_HTS_S3_PREFIX; without one our rules are for
    the whole bucket.
    """
    from coin_hts_pipelines.operations.bucket import bootstrap as set_up  # noqa: PLC0415
    from coin_hts_pipelines.operations.bucket import least_policy  # noqa: PLC0415

    settings = get_settings()
    bucket, prefix = settings.s3_bucket, f"{settings.s3_prefix.strip('/')}/".lstrip("/")
    if "s3" not in (settings.export_store, settings.backup_store) or not bucket:
        raise InvalidRequest(
            "nothing goes to a bucket; set COIN_HTS_EXPORT_STORE=s3 (or COIN_HTS_BACKUP_STORE) and COIN_HTS_S3_BUCKET"
        )
    steps = set_up(_client(settings), bucket, prefix, dry_run=dry_run)
    for step in steps:
        click.echo(f"{step.name}: {step.detail or step.state}", err=True)
    click.echo(json.dumps(least_policy(bucket, prefix), indent=2))
    return 1 if any(step.state == "failed" for step in steps) else 0


def _client(settings: Settings) -> Any:
    from coin_hts_pipelines.storage import s3_client  # noqa: PLC0415

    key, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    bundle = str(settings.path(settings.s3_ca_bundle)) if settings.s3_ca_bundle else None
    return s3_client(
        settings.s3_endpoint_url,
        settings.s3_region,
        key.get_secret_value() if key else None,
        secret.get_secret_value() if secret else None,
        verify=bundle if settings.s3_verify else False,
    )
