"""`coin-hts task cleanup`: remove what finished tasks left."""

from __future__ import annotations

import click

from coin_hts_pipelines.cli.options import json_option


@click.command("cleanup")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
def command(dry_run: bool, as_json: bool) -> int:
    """Remove what old finished tasks left; exit status 1 if something cannot be removed.

    The settings COIN_HTS_TASK_RESULT_TTL_DAYS and COIN_HTS_TASK_FAILED_TTL_DAYS say what is old; tasks with the keep
    flag stay.
    """
    from rich.markup import escape  # noqa: PLC0415

    from coin_hts_pipelines.cli.output import console, print_json, table  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import open_instance, prepare  # noqa: PLC0415
    from coin_hts_pipelines.control.task_cleanup import clean_up_tasks  # noqa: PLC0415

    prepare()
    with open_instance() as instance:
        report = clean_up_tasks(instance, dry_run)
    if as_json:
        print_json(report.to_dict())
        return 1 if report.problems else 0
    out = console()
    done = "would be removed" if dry_run else "removed"
    if report.removed:
        rows = [[escape(task.id), task.state, f"{task.bytes:,}"] for task in report.removed]
        out.print(table(f"Tasks {done}", ["id", "state", "bytes"], rows, left=("id", "state")))
    out.print(f"tasks {done}: {len(report.removed)}, {report.total_bytes:,} bytes; finished tasks kept: {report.kept}")
    for task_id, why in report.problems.items():
        out.print(f"cannot be removed: {task_id}: {why}", markup=False, style="red", soft_wrap=True)
    for name in report.unknown:
        out.print(f"belongs to no task, left alone: {name}", markup=False, soft_wrap=True)
    return 1 if report.problems else 0
