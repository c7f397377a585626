"""What of exports, task rows and files goes with age, and what never does."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from coin_hts_pipelines.backtest import run_backtest
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.presets import Preset, PresetCatalog
from coin_hts_pipelines.catalog.result_index import ResultIndex
from coin_hts_pipelines.defs.exports import export_key, export_result
from coin_hts_pipelines.errors import TransientError
from coin_hts_pipelines.operations import retention
from coin_hts_pipelines.operations.alert_delivery import AlertOutbox
from coin_hts_pipelines.operations.alert_outbox import raise_alert, resolve_alert
from coin_hts_pipelines.operations.alerts import Alert
from coin_hts_pipelines.operations.retention import Removed
from coin_hts_pipelines.results import Manifest, ResultStore
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines.storage import DirectoryStore
from coin_hts_pipelines.tasks.cleanup import clean_up
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.catalog import conftest as catalog
from coin_hts_pipelines_tests.tasks.task_maker import request
from coin_hts_pipelines_tests.tasks.test_cleanup import Place, execute, finish

new_database, _migrated, database = catalog.new_database, catalog._migrated, catalog.database

NOW = datetime.now(UTC)
SYMBOL, OLD_DAYS = "KRW-BTC", 100
RUN_IDS = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(6)]


def before(days: float = 90) -> datetime:
    return NOW - timedelta(days=days)


class RecordingStore(DirectoryStore):
    """Notes what is removed, in its order."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.deleted: list[str] = []
        self.refuse = ""

    def delete(self, key: str) -> None:
        if self.refuse and key.endswith(self.refuse):
            raise TransientError(f"{key} is refused")
        super().delete(key)
        self.deleted.append(key)


@dataclass(frozen=True)
class Shop:
    """A catalog, results and a store of exports."""

    database: Database
    root: Path
    store: RecordingStore

    @property
    def results(self) -> ResultStore:
        return ResultStore(self.root)

    def export(self, preset: str, *, known: bool = True, indexed: bool = True, days: float = OLD_DAYS) -> list[str]:
        """A preset with a result and its export, so many days old; the keys."""
        backtest = request().backtest
        if known:
            PresetCatalog(self.database).add([Preset(preset, backtest)], exist_ok=True)
        result = run_backtest(random_walk(120, len(preset)), backtest)
        saved = self.results.save(result, SYMBOL, preset=preset, candle_source="sample", synthetic=True, started=NOW)
        if indexed:
            ResultIndex(self.database).add([(saved.folder, saved.manifest)])
        export_result(self.results, self.store, "1D", preset, SYMBOL, lambda: False)
        keys = [export_key("1D", preset, SYMBOL, entry.name) for entry in saved.manifest.files]
        keys.append(export_key("1D", preset, SYMBOL, "manifest.json"))
        self.age(days, *keys)
        return sorted(keys)

    def put(self, key: str, days: float = OLD_DAYS) -> str:
        source = self.root / "source"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(key)
        self.store.upload(source, key)
        self.age(days, key)
        return key

    def age(self, days: float, *keys: str) -> None:
        for key in keys:
            os.utime(self.store.root / key, (before(days).timestamp(),) * 2)

    def keys(self) -> set[str]:
        return {one.key for one in self.store.list()}

    def prune(self, *, dry_run: bool = False) -> Removed:
        return retention.prune_preset_exports(self.database, self.results, self.store, before(), dry_run=dry_run)


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Shop:
    return Shop(database, tmp_path / "data", RecordingStore(tmp_path / "exports"))


# ---- exports of presets


@pytest.mark.parametrize(
    ("removed", "indexed", "days", "goes"),
    [
        pytest.param(True, True, 100, True, id="a preset that was removed"),
        pytest.param(True, True, 80, False, id="removed, but young"),
        pytest.param(True, False, 100, False, id="never one of this catalog"),
        pytest.param(False, True, 100, False, id="a preset that is there"),
    ],
)
def test_an_export_goes_with_its_preset(shop: Shop, removed: bool, indexed: bool, days: float, goes: bool) -> None:
    other = shop.export("other")
    keys = shop.export("mine", known=not removed, indexed=indexed, days=days)
    dry = shop.prune(dry_run=True)
    assert (shop.keys(), shop.store.deleted) == ({*keys, *other}, [])
    assert shop.prune() == dry
    assert dry.count == (len(keys) if goes else 0)
    assert (dry.bytes > 0) is goes
    assert shop.keys() == ({*other} if goes else {*keys, *other})
    # Whoever reads the export either finds all its manifest names, or no manifest.
    assert shop.store.deleted[:1] == ([export_key("1D", "mine", SYMBOL, "manifest.json")] if goes else [])


def test_one_young_file_keeps_an_export(shop: Shop) -> None:
    keys = shop.export("mine", known=False)
    shop.age(1, keys[0])
    assert shop.prune().count == 0
    assert shop.keys() == {*keys}


def test_of_a_living_preset_goes_what_no_manifest_names(shop: Shop) -> None:
    keys = shop.export("mine")
    odd = shop.put(export_key("1D", "mine", SYMBOL, "older_format.parquet"))
    young = shop.put(export_key("1D", "mine", SYMBOL, "newer_format.parquet"), days=1)
    assert shop.prune().count == 1
    assert shop.keys() == {*keys, young}
    assert shop.store.deleted == [odd]


def test_what_the_exported_manifest_names_stays_whatever_the_result_here_is(shop: Shop) -> None:
    keys = shop.export("mine")
    odd = shop.put(export_key("1D", "mine", SYMBOL, "odd.parquet"))
    manifest = shop.results.current("1D", "mine", SYMBOL)
    assert manifest is not None
    # A result of another form has come, and is not exported yet.
    path = manifest / "manifest.json"
    document = json.loads(path.read_text())
    document["files"] = document["files"][:1]
    path.write_text(json.dumps(document))
    assert len(Manifest.load(manifest).files) == 1
    assert shop.prune().count == 1
    assert shop.store.deleted == [odd]
    (manifest.parent / "CURRENT").unlink()
    assert shop.prune().count == 0
    assert shop.keys() == {*keys}


def test_a_manifest_that_cannot_be_read_keeps_all_of_its_export(shop: Shop) -> None:
    keys, others = shop.export("mine"), shop.export("second")
    odd = [shop.put(export_key("1D", preset, SYMBOL, "odd.parquet")) for preset in ("mine", "second")]
    (shop.store.root / export_key("1D", "mine", SYMBOL, "manifest.json")).write_text("{}")
    done = shop.prune()
    assert (done.count, len(done.problems)) == (1, 1)
    assert shop.keys() == {*keys, *others, odd[0]}


def test_an_export_without_a_manifest_is_left_to_the_next_export(shop: Shop) -> None:
    keys = shop.export("mine")
    shop.store.delete(keys[1])
    shop.store.delete(export_key("1D", "mine", SYMBOL, "manifest.json"))
    shop.put(export_key("1D", "mine", SYMBOL, "odd.parquet"))
    left = shop.keys()
    assert shop.prune() == Removed()
    assert shop.keys() == left


def test_what_we_do_not_write_is_left_alone(shop: Shop) -> None:
    keys = {shop.put(key) for key in ("backtests/readme", "backtests/a/b/c/d/e", "backups/1/x", "other", "tasks")}
    assert shop.prune() == Removed()
    assert retention.prune_task_exports(shop.database, shop.store, before()) == Removed()
    assert shop.keys() == keys


def test_a_store_that_refuses_in_the_middle_is_made_good_the_next_time(shop: Shop) -> None:
    shop.export("mine", known=False)
    shop.store.refuse = "summary.parquet"
    with pytest.raises(TransientError, match="refused"):
        shop.prune()
    assert export_key("1D", "mine", SYMBOL, "manifest.json") in shop.store.deleted
    shop.store.refuse = ""
    assert shop.prune().count > 0
    assert shop.keys() == set()


# ---- tasks


@pytest.fixture
def place(shop: Shop) -> Place:
    return Place(shop.database, shop.root)


def cleaned(place: Place, state: str, days: float, **given: bool) -> str:
    task_id = finish(place, state, days, **given)
    clean_up(place.database, place.store, completed_days=0, failed_days=0, forget_partitions=place.forget)
    return task_id


@pytest.mark.parametrize(("days", "clean", "goes"), [(100, True, True), (80, True, False), (100, False, False)])
def test_an_export_goes_with_the_result_of_its_task(
    shop: Shop, place: Place, days: float, clean: bool, goes: bool
) -> None:
    task_id = (cleaned if clean else finish)(place, "completed", 100)
    keys = [shop.put(f"tasks/{task_id}/{name}", days) for name in ("a.parquet", "manifest.json")]
    stranger = shop.put("tasks/nobody/manifest.json")
    dry = retention.prune_task_exports(shop.database, shop.store, before(), dry_run=True)
    assert shop.keys() == {*keys, stranger}
    assert retention.prune_task_exports(shop.database, shop.store, before()) == dry
    assert dry.count == (2 if goes else 0)
    assert shop.keys() == ({stranger} if goes else {*keys, stranger})
    assert shop.store.deleted[:1] == (keys[1:] if goes else [])


def rows(shop: Shop) -> set[str]:
    return {row["id"] for row in execute(shop.database, "SELECT id FROM catalog.tasks")}


def prune_rows(shop: Shop, *, dry_run: bool = False) -> int:
    return retention.prune_task_rows(shop.database, shop.store, before(), dry_run=dry_run).count


def test_rows_of_tasks_go_when_nothing_else_is_left_of_them(shop: Shop, place: Place) -> None:
    goes = {cleaned(place, "completed", 100), cleaned(place, "cancelled", 100), cleaned(place, "failed", 100)}
    execute(shop.database, "DELETE FROM catalog.dead_letters")
    dead, exported = cleaned(place, "failed", 100), cleaned(place, "completed", 100)
    shop.put(f"tasks/{exported}/manifest.json")
    stays = {dead, exported, cleaned(place, "completed", 80), finish(place, "completed", 100), finish(place, "running")}
    kept = finish(place, "completed", 100, keep=True)
    assert prune_rows(shop, dry_run=True) == 3
    assert rows(shop) == goes | stays | {kept}
    assert prune_rows(shop) == 3
    assert rows(shop) == stays | {kept}
    assert [row["task_id"] for row in execute(shop.database, "SELECT task_id FROM catalog.dead_letters")] == [dead]
    execute(shop.database, "DELETE FROM catalog.dead_letters")
    shop.store.delete(f"tasks/{exported}/manifest.json")
    assert prune_rows(shop) == 2
    assert rows(shop) == (stays | {kept}) - {dead, exported}


# ---- files


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    for name in ("imported/a.csv", "rejected/b.csv", "rejected/b.csv.reason.txt", "waits.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("12345")
        os.utime(folder / name, (0, 0))
    return folder


def test_files_of_the_inbox_go_by_when_they_were_moved(tmp_path: Path, inbox: Path) -> None:
    # Their candles are of 1970, but they were moved just now.
    assert retention.prune_inbox(tmp_path, before(1)) == Removed()
    dry = retention.prune_inbox(tmp_path, NOW + timedelta(days=1), dry_run=True)
    assert dry == Removed(3, 15)
    assert retention.prune_inbox(tmp_path, NOW + timedelta(days=1)) == dry
    assert [path.name for path in inbox.rglob("*") if path.is_file()] == ["waits.csv"]


def test_no_link_is_followed_out_of_the_inbox(tmp_path: Path, inbox: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file.csv").write_text("mine")
    (inbox / "imported" / "link.csv").symlink_to(outside / "file.csv")
    (inbox / "imported" / "folder").symlink_to(outside)
    (inbox / "rejected").rename(inbox / "elsewhere")
    (inbox / "rejected").symlink_to(outside)
    assert retention.prune_inbox(tmp_path, NOW + timedelta(days=1)).count == 1
    assert (outside / "file.csv").read_text() == "mine"
    assert (inbox / "imported" / "link.csv").is_symlink()


def test_there_may_be_no_inbox_and_no_storage(tmp_path: Path) -> None:
    assert retention.prune_inbox(tmp_path, NOW) == Removed()
    assert retention.prune_run_folders(tmp_path / "none", set(), NOW) == Removed()
    assert retention.prune_tick_logs(tmp_path / "none", NOW) == Removed()


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Folders of six runs, one made just now, beside what is none."""
    storage = tmp_path / "dagster"
    for run_id in RUN_IDS:
        (storage / run_id / "compute_logs").mkdir(parents=True)
        (storage / run_id / "compute_logs" / "x.err").write_text("12345")
    (storage / "storage" / RUN_IDS[0] / "op").mkdir(parents=True)
    (storage / "storage" / RUN_IDS[0] / "op" / "result").write_text("1")
    for name in ("storage/asset/key", "here/a_sensor/17.err", "here/a_sensor/note.txt", "history/runs/x.db"):
        (storage / name).parent.mkdir(parents=True, exist_ok=True)
        (storage / name).write_text("123")
    for path in storage.rglob("*"):
        if RUN_IDS[-1] not in path.parts:
            os.utime(path, (0, 0))
    return storage


def test_folders_go_of_runs_that_nobody_needs(storage: Path) -> None:
    (storage / RUN_IDS[4]).rename(storage.parent / "linked")
    (storage / RUN_IDS[4]).symlink_to(storage.parent / "linked")
    needed = {RUN_IDS[1]}
    dry = retention.prune_run_folders(storage, needed, NOW, dry_run=True)
    assert dry == Removed(4, 16)
    assert retention.prune_run_folders(storage, needed, NOW) == dry
    left = {path.name for path in storage.iterdir()}
    # The one that was changed just now may be of a run that has no row yet.
    assert left == {RUN_IDS[1], RUN_IDS[4], RUN_IDS[5], "storage", "here", "history"}
    assert (storage.parent / "linked" / "compute_logs" / "x.err").exists()
    assert (storage / "storage" / "asset" / "key").exists()
    assert not (storage / "storage" / RUN_IDS[0]).exists()
    assert retention.prune_run_folders(storage, set(), NOW + timedelta(days=2)).count == 2


def test_logs_of_ticks_go_and_nothing_else(storage: Path) -> None:
    dry = retention.prune_tick_logs(storage, before(), dry_run=True)
    assert dry == Removed(1, 3)
    assert retention.prune_tick_logs(storage, before()) == dry
    assert sorted(path.name for path in (storage / "here").rglob("*.*")) == ["note.txt"]
    assert (storage / RUN_IDS[0] / "compute_logs" / "x.err").exists()


def test_a_folder_that_cannot_be_removed_does_not_stop_the_others(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = retention.shutil.rmtree

    def refuse(path: Path) -> None:
        if path.name == RUN_IDS[1]:
            raise PermissionError(13, "Permission denied", str(path))
        remove(path)

    monkeypatch.setattr(retention.shutil, "rmtree", refuse)
    done = retention.prune_run_folders(storage, set(), NOW)
    assert done.count == 5
    assert done.problems == (f"{storage / RUN_IDS[1]}: Permission denied",)


def test_what_somebody_else_removes_meanwhile_stops_nothing(
    tmp_path: Path, inbox: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed, and gone when it is looked at."""
    iterdir, glob, found = Path.iterdir, Path.glob, retention.run_folders(storage)
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter([folder / "gone.csv", *iterdir(folder)]))
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [folder / "here" / "x" / "9.err", *glob(folder, pattern)])
    monkeypatch.setattr(retention, "run_folders", lambda _: {"gone": [storage / "gone"], **found})
    assert retention.prune_inbox(tmp_path, NOW + timedelta(days=1)) == Removed(3, 15)
    assert retention.prune_run_folders(storage, set(), NOW).count == 6
    assert retention.prune_tick_logs(storage, before()) == Removed(1, 3)


# ---- sizes


def test_tables_and_folders_are_measured(database: Database, tmp_path: Path) -> None:
    execute(database, "CREATE TABLE catalog.padding AS SELECT repeat('x', 100) AS text FROM generate_series(1, 10000)")
    try:
        sizes = retention.table_sizes(database)
    finally:
        execute(database, "DROP TABLE catalog.padding")
    assert sizes[0].name == "catalog.padding"
    assert sizes[0].bytes > 1_000_000
    assert {"catalog.tasks", "catalog.results"} <= {one.name for one in sizes}
    for name, size in {"data/candles/a/b": 30, "data/candles/c": 20, "data/results/d": 60, "far/exports/e": 7}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "data" / "link").symlink_to(tmp_path / "far")
    settings = Settings(data_root=tmp_path / "data", export_dir=tmp_path / "far" / "exports")
    folders = [(one.path, one.bytes, one.files) for one in retention.folder_sizes(settings)]
    assert folders == [
        (tmp_path / "data" / "results", 60, 1),
        (tmp_path / "data" / "candles", 50, 2),
        (tmp_path / "far" / "exports", 7, 1),
    ]


# ---- alerts


def test_alerts_that_are_over(shop: Shop) -> None:
    class Sink:
        name = "hook"

        def send(self, alert: Alert) -> None:
            assert alert.title

    before, outbox = datetime.now(UTC), AlertOutbox(shop.database, [Sink()])
    for key in ("over", "lasts"):
        raise_alert(shop.database, Alert("disk_full", key, "", None, "error"), key=key)
    outbox.deliver()
    resolve_alert(shop.database, "over")
    outbox.deliver()
    assert retention.prune_alerts(shop.database, before).count == 0, "they are young"
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert retention.prune_alerts(shop.database, later, dry_run=True).count == 2
    assert len(outbox.list()) == 3
    assert retention.prune_alerts(shop.database, later).count == 2, "the alert and the note of its end"
    assert [one.alert.title for one in outbox.list()] == ["lasts"]
