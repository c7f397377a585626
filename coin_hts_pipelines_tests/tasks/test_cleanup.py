"""The clean-up: who goes and who stays, crashes and errors at every step, and nothing outside is ever touched."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from coin_hts_pipelines.backtest import BacktestResult, run_backtest
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.errors import InvalidRequest, PermanentError, TransientError
from coin_hts_pipelines.results import task_directory, task_store
from coin_hts_pipelines.results.task_store import TaskStore
from coin_hts_pipelines.tasks import cleanup
from coin_hts_pipelines.tasks.cleanup import CleanupReport, clean_up
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.tasks.task_maker import request, row_of

STARTED = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Place:
    """A queue, its results, and partitions that are empty files."""

    database: Database
    root: Path

    @property
    def store(self) -> TaskStore:
        return TaskStore(self.root)

    @property
    def partitions(self) -> Path:
        return self.root.parent / "partitions"

    def forget(self, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            (self.partitions / task_id).unlink(missing_ok=True)

    def clean(self, **changes: Any) -> CleanupReport:
        given: dict[str, Any] = {"completed_days": 7, "failed_days": 1, "forget_partitions": self.forget}
        return clean_up(self.database, self.store, **{**given, **changes})

    def both(self) -> CleanupReport:
        """A dry run that changes nothing, and a clean-up that does what it said."""
        before = everything(self)
        dry = self.clean(dry_run=True)
        assert everything(self) == before
        real = self.clean()
        assert (dry.dry_run, real) == (True, replace(dry, dry_run=False))
        return real


@pytest.fixture
def place(database: Database, tmp_path: Path) -> Place:
    return Place(database, tmp_path / "data")


@cache
def small_result() -> BacktestResult:
    return run_backtest(random_walk(120, 1), request().backtest)


def execute(database: Database, statement: str, **values: Any) -> list[Any]:
    with database.session() as session:
        found = session.execute(sa.text(statement), values)
        return [*found.mappings()] if found.returns_rows else []


def finish(place: Place, state: str, days: float = 0, *, keep: bool = False, run_key: str | None = None) -> str:
    """A task that ended some days ago, with directory, partition and, but for a cancelled one, index row."""
    queue = TaskQueue(place.database)
    task = queue.submit(request(keep=keep))
    (claim,) = queue.claim(run_key=run_key or f"key-{task.id}")
    assert queue.start(claim, "run", "host")
    place.partitions.mkdir(parents=True, exist_ok=True)
    (place.partitions / task.id).touch()
    directory = place.store.begin(task.id, claim.attempt)
    saved = {"candle_source": "sample", "synthetic": True, "started": STARTED}
    directory.save_backtest("KRW-BTC", small_result(), **saved)
    if state == "cancelled":  # and the worker was killed before it removed the directory
        queue.cancel(task.id, "no longer wanted")
        assert queue.cancelled(claim)
    elif state in ("completed", "failed"):
        error = "poison" if state == "failed" else None
        manifest = directory.finish(task.document, ("KRW-BTC",), started=STARTED, error=error)
        path = str(place.store.folder(task.id))
        if error is None:
            assert queue.complete(claim, path, manifest)
        else:
            assert queue.fail(claim, PermanentError(error), "permanent", result=(path, manifest)) == "failed"
    if state != "running":
        set_back(place, task.id, days)
    return task.id


def set_back(place: Place, task_id: str, days: float) -> None:
    change = "UPDATE catalog.tasks SET finished_at = clock_timestamp() - make_interval(secs => :seconds) WHERE id = :id"
    execute(place.database, change, seconds=days * 86400, id=task_id)


GOES = ("completed 8", "completed 9", "failed 2", "cancelled 0")
STAYS = ("completed 6", "failed 0.5", "completed 99 keep", "failed 99 keep", "cancelled 99 keep", "running 0")


def fill(place: Place) -> dict[str, str]:
    """Tasks of all kinds, by state and age in days; the oldest is the second."""
    ids = {}
    for label in (*GOES, *STAYS):
        state, days, *flags = label.split()
        ids[label] = finish(place, state, float(days), keep=bool(flags))
    ids["queued"] = TaskQueue(place.database).submit(request()).id
    return ids


def everything(place: Place) -> dict[str, Any]:
    """Files with their times, partitions and rows: all a clean-up may change, and what it may not."""
    files = {
        str(path.relative_to(place.root.parent)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in place.root.parent.rglob("*")
    }
    tables = ("tasks", "results", "dead_letters")
    return {"files": files, **{t: execute(place.database, f"SELECT * FROM catalog.{t} ORDER BY 1") for t in tables}}


def remains(place: Place, ids: dict[str, str]) -> dict[str, tuple[bool, bool, bool, bool]]:
    """Of each task whether it has a directory, a partition, an index row, and the mark."""
    indexed = {row["id"] for row in execute(place.database, "SELECT id FROM catalog.results")}
    return {
        label: (
            place.store.folder(task_id).exists(),
            (place.partitions / task_id).exists(),
            task_id in indexed,
            row_of(place.database, task_id)["cleaned_at"] is not None,
        )
        for label, task_id in ids.items()
    }


AFTER = {
    **dict.fromkeys(GOES, (False, False, False, True)),
    **{label: (True, True, label.startswith(("completed", "failed")), False) for label in STAYS},
    "queued": (False, False, False, False),
}


def check_after(place: Place, ids: dict[str, str]) -> None:
    assert remains(place, ids) == AFTER
    assert set(place.store.ids()) == {ids[label] for label in STAYS}
    for label in STAYS:
        if label.startswith(("completed", "failed")):
            assert place.store.load(ids[label]).manifest.id == ids[label]


def size_of(place: Place, task_id: str) -> int:
    return sum(path.stat().st_size for path in place.store.folder(task_id).rglob("*") if path.is_file())


# ---- who goes


def test_what_is_old_goes_and_everything_else_stays(place: Place) -> None:
    ids = fill(place)
    rows = {task_id: row_of(place.database, task_id) for task_id in ids.values()}
    sizes = {label: size_of(place, ids[label]) for label in GOES}
    letters = execute(place.database, "SELECT * FROM catalog.dead_letters ORDER BY 1")
    report = place.both()
    oldest_first = ("completed 9", "completed 8", "failed 2", "cancelled 0")
    assert [(task.id, task.state, task.bytes) for task in report.removed] == [
        (ids[label], label.split()[0], sizes[label]) for label in oldest_first
    ]
    assert min(sizes.values()) > 0
    assert report.total_bytes == sum(sizes.values())
    assert (report.kept, report.problems, report.unknown) == (5, {}, ())
    check_after(place, ids)
    assert execute(place.database, "SELECT * FROM catalog.dead_letters ORDER BY 1") == letters
    for task_id, row in rows.items():
        now = row_of(place.database, task_id)
        assert {**now, "cleaned_at": None} == row, "the history stays"
    document = report.to_dict()
    assert document["total_bytes"] == report.total_bytes
    assert document["removed"][0] == {"id": ids["completed 9"], "state": "completed", "bytes": sizes["completed 9"]}
    before = everything(place)
    assert place.both() == CleanupReport(False, (), 5, {}, ())
    assert everything(place) == before


@pytest.mark.parametrize(
    ("state", "days", "goes"),
    [
        ("completed", 6.99, False),
        ("completed", 7.01, True),
        ("failed", 0.99, False),
        ("failed", 1.01, True),
        ("cancelled", 0, True),
        # The clock was set back since.
        ("completed", -30, False),
        ("failed", -30, False),
        ("cancelled", -30, True),
    ],
)
def test_the_age_is_that_since_its_end(place: Place, state: str, days: float, goes: bool) -> None:
    task_id = finish(place, state, days)
    report = place.both()
    assert ([task.id for task in report.removed], report.kept) == (([task_id], 0) if goes else ([], 1))


@pytest.mark.parametrize(("days", "goes"), [(0, True), (1e9, False), (float("inf"), False)])
def test_any_number_of_days_is_fine(place: Place, days: float, goes: bool) -> None:
    finish(place, "completed", 1)
    finish(place, "failed", 1)
    assert len(place.clean(completed_days=days, failed_days=days).removed) == (2 if goes else 0)


@pytest.mark.parametrize("name", ["completed_days", "failed_days"])
@pytest.mark.parametrize("days", [-1, float("nan"), float("-inf")])
def test_days_that_are_none_are_refused(place: Place, name: str, days: float) -> None:
    finish(place, "cancelled")
    before = everything(place)
    with pytest.raises(InvalidRequest, match=f"{name} = .* is not accepted"):
        place.clean(**{name: days})
    assert everything(place) == before


@pytest.mark.parametrize(
    ("flag", "goes"),
    [("false", True), ("null", True), (None, True), ("true", False), ('"true"', False), ('"maybe"', False)],
)
@pytest.mark.parametrize("state", ["completed", "cancelled"])
def test_the_flag_keeps(place: Place, state: str, flag: str | None, goes: bool) -> None:
    task_id = finish(place, state, 99)
    change = "request - 'keep'" if flag is None else f"request || '{{\"keep\": {flag}}}'"
    with place.database.session() as session:
        session.connection().exec_driver_sql(f"UPDATE catalog.tasks SET request = {change}")
    assert [task.id for task in place.both().removed] == ([task_id] if goes else [])


def test_tasks_of_a_run_go_when_the_last_of_them_has_ended(place: Place) -> None:
    """The run looks its tasks up as a range of partitions."""
    ended = [finish(place, state, 99, run_key="shared") for state in ("completed", "failed", "cancelled")]
    running = finish(place, "running", run_key="shared")
    assert place.both() == CleanupReport(False, (), 3, {}, ())
    execute(
        place.database,
        "UPDATE catalog.tasks SET state = 'cancelled', cancel_requested_at = now(), finished_at = now() WHERE id = :id",
        id=running,
    )
    assert {task.id for task in place.both().removed} == {*ended, running}


# ---- crashes and errors

STEPS = (
    "before the directory",
    "manifest gone",
    "half of the directory gone",
    "directory gone",
    "partition gone",
    "index row gone",
    "before the commit",
    "after the commit",
)
_CHILD = """
import os, signal, sys
from pathlib import Path
import pytest
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines_tests.tasks.test_cleanup import Place, stopped_clean_up

url, root, step = sys.argv[1:]
stopped_clean_up(Place(Database(url, pool_size=1), Path(root)), step, lambda: os.kill(os.getpid(), signal.SIGKILL))
"""


def stopped_clean_up(place: Place, step: str, stop: Callable[[], object]) -> None:
    """A clean-up that is stopped at a step of its first task."""

    def stopped(*_: Any) -> Any:
        stop()

    def half(folder: Path) -> None:
        next(path for path in folder.rglob("*") if path.is_file()).unlink()
        stop()

    def forget(task_ids: Sequence[str]) -> None:
        if step == "partition gone":
            place.forget(task_ids)
        stop()

    updated = []

    def before_execute(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE catalog.tasks"):
            updated.append(statement)
            if step == "index row gone":
                stop()

    def before_commit(_: Any) -> None:
        if updated and step == "before the commit":
            stop()

    patches: dict[str, tuple[Any, str, Any]] = {
        "before the directory": (task_store, "remove_path", stopped),
        "manifest gone": (task_directory.shutil, "rmtree", stopped),
        "half of the directory gone": (task_directory.shutil, "rmtree", half),
        "after the commit": (cleanup, "CleanedTask", stopped),
    }
    events = {"before_cursor_execute": before_execute, "commit": before_commit}
    given = {"forget_partitions": forget} if step in ("directory gone", "partition gone") else {}
    with pytest.MonkeyPatch.context() as patch:
        if step in patches:
            patch.setattr(*patches[step])
        for event in events.items():
            sa.event.listen(place.database.engine, *event)
        try:
            place.clean(**given)
        finally:
            for event in events.items():
                sa.event.remove(place.database.engine, *event)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_what_a_crash_leaves_the_next_one_removes(place: Place, step: str, how: str) -> None:
    ids = fill(place)
    first = ids["completed 9"]
    if how == "killed":
        url = place.database.url.render_as_string(hide_password=False)
        argv = [sys.executable, "-c", _CHILD, url, str(place.root), step]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    else:

        def interrupt() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stopped_clean_up(place, step, interrupt)
    left = remains(place, {"first": first})["first"]
    number = STEPS.index(step)
    assert left == (number < 3, number < 4, number < 7, number == 7)
    if number > 0:
        assert not (place.store.folder(first) / "manifest.json").exists(), "half a result must not be read"
    assert place.both().problems == {}
    check_after(place, ids)


@pytest.mark.parametrize(
    ("step", "error", "told"),
    [
        ("remove", OSError(errno.EACCES, os.strerror(errno.EACCES)), "cannot write .*: Permission denied"),
        ("remove", OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY)), "OSError: .*not empty"),
        ("forget", RuntimeError("Dagster's storage is away"), "RuntimeError: Dagster's storage is away"),
        ("mark", TransientError("Postgres dropped the connection"), "Postgres dropped the connection"),
    ],
)
def test_one_that_cannot_be_removed_stops_no_other(
    place: Place, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception, told: str
) -> None:
    ids = fill(place)
    bad = ids["completed 8"]
    rmtree, mark = task_directory.shutil.rmtree, cleanup._mark

    def refuse(task_id: str) -> None:
        if task_id == bad:
            raise error

    def forget(task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            refuse(task_id)
        place.forget(task_ids)

    with monkeypatch.context() as patch:
        if step == "remove":
            patch.setattr(task_directory.shutil, "rmtree", lambda folder: (refuse(folder.name), rmtree(folder)))
        elif step == "mark":
            patch.setattr(cleanup, "_mark", lambda database, name: (refuse(name), mark(database, name))[1])
        report = place.clean(forget_partitions=forget if step == "forget" else place.forget)
    assert {task.id for task in report.removed} == {ids[label] for label in GOES} - {bad}
    assert set(report.problems) == {bad}
    assert re.match(told, report.problems[bad])
    assert remains(place, ids) == {**AFTER, "completed 8": (step == "remove", step != "mark", True, False)}
    assert [task.id for task in place.both().removed] == [bad]
    check_after(place, ids)


@pytest.mark.parametrize("again", ["directory", "index row"])
def test_what_somebody_wrote_too_late_is_removed_too(place: Place, again: str) -> None:
    """A worker or reconciler that slept through the clean-up."""
    task_id = finish(place, "failed", 2)
    row = execute(place.database, "SELECT * FROM catalog.results")
    place.clean()
    cleaned = row_of(place.database, task_id)
    if again == "directory":
        place.store.begin(task_id, 1)
    else:
        execute(
            place.database,
            "INSERT INTO catalog.results SELECT * FROM json_populate_record(NULL::catalog.results, CAST(:row AS json))",
            row=json.dumps(dict(row[0]), default=str),
        )
    assert [task.id for task in place.both().removed] == [task_id]
    assert remains(place, {"it": task_id})["it"] == (False, False, False, True)
    assert row_of(place.database, task_id) == cleaned
    assert place.both().removed == ()


def test_two_at_once_share_the_work(place: Place) -> None:
    more = [finish(place, "completed", 9) for _ in range(10)]
    ids = fill(place)
    total = sum(size_of(place, task_id) for task_id in [*more, *(ids[label] for label in GOES)])
    together, reports, errors = threading.Barrier(3), [], []

    def work() -> None:
        try:
            together.wait(30)
            reports.append(place.clean())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (errors, len(reports), [report.problems for report in reports]) == ([], 3, [{}] * 3)
    assert {task.id for report in reports for task in report.removed} == {*more, *(ids[label] for label in GOES)}
    assert sum(report.total_bytes for report in reports) == total
    check_after(place, ids)


def test_one_that_was_overtaken_tells_only_what_it_did(place: Place) -> None:
    first, second = finish(place, "completed", 9), finish(place, "completed", 8)
    sizes, inner = [size_of(place, task_id) for task_id in (first, second)], []

    def overtaken(task_ids: Sequence[str]) -> None:
        if not inner:
            inner.append(place.clean())

    outer = place.clean(forget_partitions=overtaken)
    assert [(task.id, task.bytes) for task in outer.removed] == [(first, sizes[0])]
    assert [(task.id, task.bytes) for task in inner[0].removed] == [(first, 0), (second, sizes[1])]
    assert (outer.problems, inner[0].problems, place.clean().removed) == ({}, {}, ())


# ---- names and links


def outside_of(place: Place) -> Path:
    """A folder beside that of the tasks; nothing in it may change."""
    outside = place.root / "outside"
    (outside / "folder").mkdir(parents=True)
    for path in (outside / "manifest.json", outside / "folder" / "file"):
        path.write_text("kept")
    return outside


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


KINDS = ("link to a folder", "link to nothing", "link to a task", "link to the folder of tasks", "file", "pipe")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_directory_is_left_alone(place: Place, kind: str) -> None:
    outside = outside_of(place)
    bad, kept, other = finish(place, "completed", 9), finish(place, "completed", 1), finish(place, "failed", 9)
    folder = place.store.folder(bad)
    folder.rename(outside / "moved")
    inside = contents(outside)
    if kind == "file":
        folder.write_text("kept")
    elif kind == "pipe":
        os.mkfifo(folder)
    else:
        places = (outside, outside / "nothing", place.store.folder(kept), place.store.root)
        folder.symlink_to(dict(zip(KINDS, places, strict=False))[kind])
    report = place.both()
    assert [task.id for task in report.removed] == [other]
    assert report.problems == {bad: f"{folder} is not a directory of a task but a link or a file; move it away"}
    assert report.unknown == ()
    assert contents(outside) == inside
    assert os.path.lexists(folder)
    assert remains(place, {"bad": bad, "kept": kept}) == {
        "bad": (kind != "link to nothing", True, True, False),
        "kept": (True, True, True, False),
    }
    assert place.store.load(kept).manifest.error is None


def test_links_inside_a_directory_are_removed_and_not_followed(place: Place) -> None:
    outside = outside_of(place)
    task_id, kept = finish(place, "completed", 9), finish(place, "completed", 1)
    folder, inside = place.store.folder(task_id), contents(outside)
    (folder / "to_folder").symlink_to(outside)
    (folder / "to_file").symlink_to(outside / "manifest.json")
    (folder / "to_task").symlink_to(place.store.folder(kept))
    (folder / "KRW-BTC" / "deep").symlink_to(outside / "folder")
    (folder / "KRW-BTC" / "up").symlink_to("../..")
    (folder / "odd \n name").mkdir()
    (folder / "odd \n name" / "\udcff").touch()
    assert [task.id for task in place.both().removed] == [task_id]
    assert contents(outside) == inside
    assert not os.path.lexists(folder)
    assert place.store.load(kept).manifest.error is None


def test_a_manifest_that_is_a_link_takes_nothing_with_it(place: Place) -> None:
    outside, task_id = outside_of(place), finish(place, "completed", 9)
    inside, manifest = contents(outside), place.store.folder(task_id) / "manifest.json"
    manifest.unlink()
    manifest.symlink_to(outside / "manifest.json")
    assert [task.id for task in place.both().removed] == [task_id]
    assert contents(outside) == inside


BAD_IDS = (
    "", " ", ".", "..", "../outside", "../../outside", "../outside/folder", "./x", "a/b", "a/../../outside", "a//b",
    "/OUTSIDE", ".locks", ".locks/00.lock", ".hidden", "-x", "a b", "a\n", "ä", "~", "*", "a\\b", "x" * 101,
)  # fmt: skip


@pytest.mark.parametrize("bad", BAD_IDS)
def test_ids_that_are_none_name_nothing(place: Place, bad: str) -> None:
    outside, planted, other = outside_of(place), finish(place, "completed", 9), finish(place, "completed", 9)
    bad = bad.replace("/OUTSIDE", str(outside))
    inside = contents(outside)
    execute(place.database, "UPDATE catalog.tasks SET id = :bad WHERE id = :id", bad=bad, id=planted)
    execute(place.database, "UPDATE catalog.results SET id = :bad WHERE id = :id", bad=bad, id=planted)
    with suppress(OSError):
        (place.store.root / bad).mkdir(parents=True)
    report = place.both()
    assert [task.id for task in report.removed] == [other]
    assert list(report.problems) == [bad]
    assert "is not accepted" in report.problems[bad]
    assert contents(outside) == inside
    assert row_of(place.database, bad)["cleaned_at"] is None
    assert execute(place.database, "SELECT id FROM catalog.results") == [{"id": bad}]
    assert planted in place.store.ids(), "the directory it had is no business of it any more"


@pytest.mark.parametrize("what", ["the folder", "the locks"])
@pytest.mark.parametrize("kind", ["link", "broken link", "file"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_folder_of_tasks_that_is_none_is_not_entered(place: Place, what: str, kind: str, dry_run: bool) -> None:
    finish(place, "completed", 9)
    finish(place, "cancelled")
    folder = place.store.root if what == "the folder" else place.store.root / ".locks"
    moved = place.root / "elsewhere"
    folder.rename(moved)
    if kind == "file":
        folder.touch()
    else:
        folder.symlink_to(moved if kind == "link" else place.root / "nothing")
    before = everything(place)
    with pytest.raises(PermanentError, match="is a link or a file"):
        place.clean(dry_run=dry_run)
    assert everything(place) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove everything")
def test_a_directory_without_permission_is_named(place: Place) -> None:
    bad, other = finish(place, "completed", 9), finish(place, "completed", 9)
    folder = place.store.folder(bad) / "KRW-BTC"
    folder.chmod(0o500)
    try:
        report = place.clean()
    finally:
        folder.chmod(0o700)
    assert [task.id for task in report.removed] == [other]
    assert "Permission denied" in report.problems[bad]
    assert [task.id for task in place.clean().removed] == [bad]


def test_what_belongs_to_no_task_is_told_and_left(place: Place) -> None:
    ids = fill(place)
    root = place.store.root
    for name in ("stray", "a b", ".hidden", "line\nbreak", "\udcff", "ä"):
        (root / name).mkdir()
        (root / name / "manifest.json").touch()
    (root / "file").touch()
    (root / "link").symlink_to(root / "stray")
    report = place.both()
    shown = {"stray", "a b", ".hidden", r"'line\nbreak'", r"'\udcff'", "ä", "file", "link"}
    assert (set(report.unknown), len(report.unknown)) == (shown, len(shown))
    for name in ("stray", "a b", ".hidden", "line\nbreak", "\udcff", "ä"):
        assert (root / name / "manifest.json").exists()
    assert (root / "link").is_symlink()
    assert remains(place, ids) == AFTER


def test_where_nothing_was_ever_stored_nothing_is_made(place: Place) -> None:
    assert place.both() == CleanupReport(False, (), 0, {}, ())
    task = TaskQueue(place.database).submit(request())
    TaskQueue(place.database).cancel(task.id, "no longer wanted")
    (gone,) = place.both().removed
    assert (gone.id, gone.state, gone.bytes) == (task.id, "cancelled", 0)
    assert place.store.ids() == []
