"""The import of a folder with results of an older system: each file once, and a word on each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coin_hts_pipelines import clock
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.results.legacy import parse_run
from coin_hts_pipelines.results.legacy_json import load_document
from coin_hts_pipelines.results.legacy_store import LegacyStore
from coin_hts_pipelines.results.manifest import Manifest
from coin_hts_pipelines.results.publish import remove_unpublished

# The older system's list of results, and what stands beside the result of a task (its own, and every one of ours).
_NO_RESULTS = ("index.json", "manifest.json")

Add = Callable[[Sequence[tuple[Path, Manifest]]], object]
Outcome = Literal["imported", "skipped", "refused", "ignored"]


@dataclass(frozen=True)
class FileReport:
    """What became of one file, or in a dry run would; `bytes` of it, `stored_bytes` of what was made of it.

    `not_finite` counts its figures that were NaN or Infinity and are missing in what was made of it.
    """

    file: str
    outcome: Outcome
    reason: str | None = None
    run_id: str | None = None
    symbols: int = 0
    signals: int = 0
    bytes: int = 0
    stored_bytes: int = 0
    not_finite: int = 0


def result_files(source: Path) -> list[Path]:
    """JSON files under a folder, sorted; links to folders are not followed.

    Raises
    ------
    InvalidRequest
        If it is no folder, cannot be read, or holds none.
    """
    if not source.is_dir():
        raise InvalidRequest(f"{source} is not a folder; give the one with the older system's JSON results")

    def refuse(error: OSError) -> None:
        raise InvalidRequest(f"{error.filename} cannot be read: {error.strerror}; nothing was imported") from error

    found = [
        Path(folder, name)
        for folder, _, names in os.walk(source, onerror=refuse)
        for name in names
        if name.lower().endswith(".json")
    ]
    files = sorted(path for path in found if path.is_file())
    if not files:
        raise InvalidRequest(f"{source} holds no JSON file; give the folder with the older system's results")
    return files


def import_files(
    store: LegacyStore, source: Path, files: Sequence[Path], *, add: Add, dry_run: bool = False
) -> Iterator[FileReport]:
    """Import files one by one, each once, and say of each what became of it.

    One that was imported is known again by its bytes, so that an import can be stopped anywhere and started again.

    Parameters
    ----------
    source
        The folder they are reported and remembered relative to.
    add
        Puts results into the catalog's index, known ones left alone; not called in a dry run.

    Raises
    ------
    IntegrityError
        If a run that was imported cannot be read.
    TransientError, PermanentError
        If the disk or the database refuses: every further file would meet the same.
    """
    with nullcontext() if dry_run else store.lock():
        if not dry_run:
            remove_unpublished(store.root)
        known = {folder.name: store.origin(folder) for folder in store.folders()}
        folders = {origin["sha256"]: name for name, origin in known.items()}
        for path in files:
            # A name that is not UTF-8 could be written into no manifest.
            started, file = clock.now(), os.fsencode(path.relative_to(source)).decode(errors="replace")
            try:
                raw = path.read_bytes()
                origin = {"file": file, "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
                if origin["sha256"] in folders:
                    name = folders[origin["sha256"]]
                    if not dry_run:
                        # Stopped between the folder and the index?
                        add(store.manifests(store.root / name))
                    reason = f"imported already, from {known[name]['file']}"
                    yield FileReport(file, "skipped", reason, known[name]["run_id"], bytes=len(raw))
                    continue
                document = load_document(raw)
                del raw
                if path.name in _NO_RESULTS and not (isinstance(document, dict) and "run_id" in document):
                    yield FileReport(file, "ignored", "no result, but a list or description of results")
                    continue
                run = parse_run(document)
                del document
                name = store.folder(run.run_id).name
                if name in known:
                    raise InvalidRequest(
                        f"run_id {run.run_id} was imported already, from {known[name]['file']}, which is not the same"
                    )
            except OSError as error:
                yield FileReport(file, "refused", f"it cannot be read: {error.strerror or error}")
                continue
            except InvalidRequest as error:
                yield FileReport(file, "refused", str(error))
                continue
            known[name] = {"run_id": run.run_id, **origin}
            folders[origin["sha256"]] = name
            size = 0
            if not dry_run:
                folder = store.save(run, known[name], started)
                add(store.manifests(folder))
                size = sum(part.stat().st_size for part in folder.rglob("*") if part.is_file())
            counts = (len(run.symbols), run.signals, known[name]["bytes"], size, run.not_finite)
            yield FileReport(file, "imported", None, run.run_id, *counts)
