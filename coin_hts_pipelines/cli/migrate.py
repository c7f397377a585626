"""`coin-hts migrate`: what an older system left (docs/migration_checklist.md)."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from coin_hts_pipelines.cli.options import json_option


@click.group("migrate")
def command() -> None:
    """Import what an older system left."""


@command.command("results")
@click.option("--from", "source", type=click.Path(path_type=Path), required=True, help="Folder with its JSON results.")
@click.option("--dry-run", is_flag=True, help="Only say what would become of each file.")
@click.option("--report", type=click.Path(path_type=Path), help="Also write the report to this file, as JSON.")
@json_option
def results(source: Path, dry_run: bool, report: Path | None, as_json: bool) -> int:
    """Import JSON results of an older system, marked as legacy; the files are only read.

    Each file is imported once: after an interruption run it again. Exit status 1 if a file is refused.

    Example: coin-hts migrate results --from /srv/old/data/results --dry-run
    """
    from coin_hts_pipelines.catalog import ResultIndex  # noqa: PLC0415
    from coin_hts_pipelines.cli.output import print_json, share_bar  # noqa: PLC0415
    from coin_hts_pipelines.control.instance import prepare  # noqa: PLC0415
    from coin_hts_pipelines.lake import write_atomically  # noqa: PLC0415
    from coin_hts_pipelines.results.legacy_import import FileReport, import_files, result_files  # noqa: PLC0415
    from coin_hts_pipelines.results.legacy_store import LegacyStore  # noqa: PLC0415
    from coin_hts_pipelines.settings import get_settings  # noqa: PLC0415

    if report is not None:
        _check_report(report, source)
    files = result_files(source)
    # A dry run writes nothing: it needs no Postgres, and starts none.
    add = ResultIndex(prepare()).add if not dry_run else len
    done: list[FileReport] = []
    try:
        with share_bar("files") as show:
            for one in import_files(LegacyStore(get_settings().root), source, files, add=add, dry_run=dry_run):
                done.append(one)
                show(len(done) / len(files))
    finally:
        # Also of an import that was stopped: what is in the store is in the report.
        document = _document(source, dry_run, len(files), done)
        if report is not None:
            content = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
            write_atomically(report, lambda stream: stream.write(content.encode()))
        if not as_json:
            _print(document)
    if as_json:
        print_json(document)
    return 1 if document["counts"]["refused"] else 0


def _check_report(report: Path, source: Path) -> None:
    from coin_hts_pipelines.errors import InvalidRequest  # noqa: PLC0415

    if report.is_dir() or not report.parent.is_dir():
        raise InvalidRequest(f"--report {report} is not a file in an existing folder")
    if report.resolve().is_relative_to(source.resolve()):
        raise InvalidRequest(f"--report {report} lies in {source}, where nothing is written; choose another folder")


def _document(source: Path, dry_run: bool, found: int, done: list[Any]) -> dict[str, Any]:
    counts = Counter(one.outcome for one in done)
    imported = [one for one in done if one.outcome == "imported"]
    before, after = (sum(getattr(one, name) for one in imported) for name in ("bytes", "stored_bytes"))
    return {
        "from": str(source),
        "dry_run": dry_run,
        "found": found,
        "counts": {name: counts[name] for name in ("imported", "skipped", "refused", "ignored")},
        "signals": sum(one.signals for one in imported),
        "not_finite": sum(one.not_finite for one in imported),
        "json_bytes": before,
        "stored_bytes": None if dry_run else after,
        "saved": None if dry_run or not before else 1 - after / before,
        "files": [asdict(one) for one in done],
    }


def _print(document: dict[str, Any]) -> None:
    from coin_hts_pipelines.cli.output import console  # noqa: PLC0415

    out, would = console(), "would be " if document["dry_run"] else ""
    for one in document["files"]:
        if one["outcome"] == "imported":
            text = f"run {one['run_id']}, {one['symbols']:,} symbols, {one['signals']:,} signals"
            if one["not_finite"]:
                text += f"; {one['not_finite']:,} figures were NaN or Infinity and are missing"
        else:
            text = one["reason"]
        style = "red" if one["outcome"] == "refused" else None
        out.print(f"{would}{one['outcome']}: {one['file']}: {text}", markup=False, style=style, soft_wrap=True)
    counts = ", ".join(f"{count:,} {would}{name}" for name, count in document["counts"].items())
    out.print(f"{document['found']:,} files: {counts}")
    if document["saved"] is not None:
        out.print(
            f"{document['signals']:,} signals: {document['json_bytes']:,} bytes of JSON became "
            f"{document['stored_bytes']:,} bytes, {document['saved']:.1%} saved"
        )
    missing = document["found"] - len(document["files"])
    if missing:
        out.print(f"stopped with {missing:,} files to go; run it again to go on")
