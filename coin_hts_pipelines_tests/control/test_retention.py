"""Old runs go, and nothing that looks at partitions sees a difference."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluation,
    AssetCheckEvaluationPlanned,
)
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget

from coin_hts_pipelines.control import retention
from coin_hts_pipelines.control.instance import open_database, open_instance, prepare
from coin_hts_pipelines.control.retention import prune, prune_runs
from coin_hts_pipelines.control.tasks import TASKS_PARTITIONS
from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.partitions import SYMBOLS
from coin_hts_pipelines.errors import TransientError
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines.storage import DirectoryStore, ObjectStore
from coin_hts_pipelines_tests.catalog import conftest as catalog
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.control.run_maker import JOB, Kind, RunMaker, pairs_of
from coin_hts_pipelines_tests.defs.helpers import forget_settings

new_database = catalog.new_database
SYMBOL_LIST, PRESETS, YEARS = ["KRW-BTC", "KRW-ETH"], ["long_1d", "zone_1d"], range(2022, 2026)
BY_YEAR = [f"{symbol}|{year}" for symbol in SYMBOL_LIST for year in YEARS]
BY_PRESET = [f"{preset}|{symbol}" for preset in PRESETS for symbol in SYMBOL_LIST]
PARTITIONS = {
    "candles_1d": BY_YEAR,
    "indicators_1d": BY_YEAR,
    "backtests_1d": BY_PRESET,
    "exports_1d": BY_PRESET,
    "rankings_1d": PRESETS,
}
# What says that Dagster's tables are there and migrated.
_NOT_OURS = {"alembic_version", "secondary_indexes", "instance_info"}
LATEST_KINDS = (Kind.ASSET_MATERIALIZATION, Kind.ASSET_OBSERVATION, Kind.ASSET_MATERIALIZATION_PLANNED)
EVENT_KINDS = {"PIPELINE_START", "STEP_START", "STEP_SUCCESS", "PIPELINE_SUCCESS"}

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
    # Dagster still asks pydantic for fields by the old name.
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def url(new_database: Callable[[], str]) -> str:
    """A Postgres database for all tests of this module: to make Dagster's tables takes seconds."""
    return new_database()


@pytest.fixture
def maker(home: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunMaker]:
    """An instance without rows."""
    shutil.copy(CHECKOUT / "dagster.yaml", home)
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", url)
    monkeypatch.setenv("COIN_HTS_TIMEFRAMES", "1D")
    forget_settings()
    prepare()
    with open_instance() as instance:
        made = RunMaker(instance, open_database())
        yield made
        made.execute(f"TRUNCATE {', '.join(f'dagster.{name}' for name in tables(made) - _NOT_OURS)}")
    open_database().dispose()


def tables(maker: RunMaker) -> set[str]:
    """Dagster's."""
    kind = "relnamespace = 'dagster'::regnamespace AND relkind = 'r'"
    return {str(row[0]) for row in maker.execute(f"SELECT relname FROM pg_class WHERE {kind}")}


def cut(days: float = 30) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def pruned(maker: RunMaker, **given: Any) -> dict[str, int]:
    return dict(prune_runs(maker.instance, maker.database, given.pop("before", cut()), **given).rows)


def everything(maker: RunMaker) -> dict[str, list[Any]]:
    """Every row of Dagster's tables."""
    return {name: sorted(map(str, maker.execute(f"SELECT * FROM dagster.{name}"))) for name in tables(maker)}


def fill(maker: RunMaker) -> dict[str, str]:
    """Every partition made twice, long ago and again; one made by hand; one whose second attempt failed."""
    instance = maker.instance
    instance.add_dynamic_partitions(SYMBOLS, SYMBOL_LIST)
    instance.add_dynamic_partitions("presets_1d", PRESETS)
    ids = {}
    for days in (60, 40):
        for asset, keys in PARTITIONS.items():
            ids[f"{asset} {days}"] = maker.made(*pairs_of(asset, keys), days=days)
            maker.noise(ids[f"{asset} {days}"], 3)
    ids["failed"] = maker.failed(("backtests_1d", BY_PRESET[0]), days=39)
    ids["young"] = maker.made(("candles_1d", BY_YEAR[0]), days=1)
    ids["downstream"] = maker.made(("indicators_1d", BY_YEAR[0]), *pairs_of("backtests_1d", BY_PRESET[1:]), days=1)
    ids["rest"] = maker.made(*pairs_of("exports_1d", BY_PRESET), *pairs_of("rankings_1d", PRESETS), days=1)
    return ids


def view(maker: RunMaker) -> dict[str, Any]:
    """What a partition's page, sensors and automation ask of the instance."""
    instance, graph = maker.instance, build_defs().resolve_asset_graph()
    seen: dict[str, Any] = {}
    keys = [dg.AssetKey(name) for name in PARTITIONS]
    seen["events"] = instance.get_latest_materialization_events(keys)
    for key in keys:
        name = key.to_user_string()
        instance.event_log_storage.wipe_asset_cached_status(key)  # so that it is worked out from the events again
        definition = graph.get(key).partitions_def
        assert definition is not None
        with dg.partition_loading_context(dynamic_partitions_store=instance):
            seen[f"{name} status"] = instance.get_status_by_partition(key, PARTITIONS[name], definition)
        seen[f"{name} materialized"] = instance.get_materialized_partitions(key)
        for kind in LATEST_KINDS:
            seen[f"{name} {kind}"] = instance.get_latest_storage_id_by_partition(key, kind)
        for partition in PARTITIONS[name]:
            asked = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
            records = instance.fetch_materializations(asked, limit=1).records
            seen[f"{name} {partition}"] = [(one.storage_id, one.event_log_entry) for one in records]
            seen[f"{name} {partition} tags"] = instance.get_event_tags_for_asset(
                key, filter_event_id=records[0].storage_id
            )
            planned = instance.event_log_storage.get_latest_planned_materialization_info(key, partition)
            seen[f"{name} {partition} run"] = planned and instance.get_run_by_id(planned.run_id)
    return seen


_PAGE = """
query($key: AssetKeyInput!, $partitions: [String!]!) {
  assetNodeOrError(assetKey: $key) { __typename ... on AssetNode {
    partitionStats { numMaterialized numFailed numMaterializing }
    latestMaterializationByPartition(partitions: $partitions) {
      partition runId timestamp metadataEntries { label } tags { key value }
      stepStats { stepKey status startTime endTime }
      runOrError { __typename ... on Run { id status } }
    }
  } }
}
"""


def page(maker: RunMaker) -> list[Any]:
    """The partition pages of the UI, as its server answers."""
    from dagster_graphql.test.utils import execute_dagster_graphql

    target = LoadableTargetOrigin(module_name="coin_hts_pipelines.definitions")
    load = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(target, location_name="here"))
    found = []
    with WorkspaceProcessContext(maker.instance, load, version="") as process:
        for name, partitions in PARTITIONS.items():
            asked = {"key": {"path": [name]}, "partitions": partitions}
            answer = execute_dagster_graphql(process.create_request_context(), _PAGE, asked)
            assert not answer.errors
            found.append(answer.data["assetNodeOrError"])
    return found


def tick(maker: RunMaker, cursor: object = None) -> tuple[dict[str, set[str]], object]:
    """What automation asks for, and its cursor."""
    result = dg.evaluate_automation_conditions(defs=build_defs(), instance=maker.instance, cursor=cursor)  # type: ignore[arg-type]
    wanted = {name: {str(key) for key in result.get_requested_partitions(dg.AssetKey(name))} for name in PARTITIONS}
    return {name: keys for name, keys in wanted.items() if keys}, result.cursor


# ---- what goes and what stays


def test_no_partition_looks_any_different_afterwards(maker: RunMaker) -> None:
    ids = fill(maker)
    asked, cursor = tick(maker)
    assert asked == {}
    before, pages = view(maker), page(maker)
    rows = pruned(maker)
    # All that was made 60 days ago was made again; backtests and the rest 40 days ago too, but for the first.
    gone = {ids[f"{asset} 60"] for asset in PARTITIONS} | {ids["exports_1d 40"], ids["rankings_1d 40"]}
    assert set(ids.values()) - maker.runs() == gone
    assert rows["runs"] == len(gone)
    assert view(maker) == before
    assert page(maker) == pages
    assert tick(maker, cursor)[0] == {}
    assert tick(maker)[0] == {}
    assert pruned(maker) == dict.fromkeys(rows, 0)
    # And it goes on from there as ever.
    maker.made(("candles_1d", BY_YEAR[3]), days=0)
    assert set(tick(maker, cursor)[0]) == {"indicators_1d"}


def test_what_stays_of_a_run_is_its_frame_and_its_latest_events(maker: RunMaker) -> None:
    stays = maker.made(("candles_1d", "a|2024"), ("candles_1d", "b|2024"))
    maker.noise(stays, 5)
    maker.made(("candles_1d", "b|2024"), days=1)
    assert pruned(maker)["runs"] == 0
    left = maker.execute("SELECT dagster_event_type, partition FROM dagster.event_logs WHERE run_id = :run", run=stays)
    assert sorted((kind, key) for kind, key in left if key) == [
        ("ASSET_MATERIALIZATION", "a|2024"),
        ("ASSET_MATERIALIZATION_PLANNED", "a|2024"),
    ]
    assert {kind for kind, key in left if not key} == EVENT_KINDS
    (stats,) = maker.instance.get_run_step_stats(stays)
    assert stats.status is not None
    assert stats.end_time is not None


def test_a_run_that_goes_leaves_nothing(maker: RunMaker) -> None:
    gone = maker.made(("candles_1d", "a|2024"), tags={"mine": "1"})
    maker.noise(gone, 5)
    maker.made(("candles_1d", "a|2024"), days=1)
    tagged = maker.count("asset_event_tags")
    rows = pruned(maker)
    assert rows == {"runs": 1, "events": 11, "event tags": 2, "check evaluations": 0, "backfills": 0}
    for table in ("runs", "run_tags", "event_logs"):
        assert maker.count(table, f"run_id = '{gone}'") == 0
    assert maker.count("asset_event_tags") == tagged - 2
    assert maker.count("asset_event_tags", "event_id NOT IN (SELECT id FROM dagster.event_logs)") == 0


@pytest.mark.parametrize("end", [Kind.PIPELINE_SUCCESS, Kind.PIPELINE_FAILURE, Kind.PIPELINE_CANCELED])
@pytest.mark.parametrize(("days", "goes"), [(31, True), (29, False)])
def test_a_run_goes_by_the_days_since_its_end(maker: RunMaker, end: Kind, days: float, goes: bool) -> None:
    run_id = maker.end(maker.begin(), end, days)
    assert pruned(maker)["runs"] == goes
    assert (run_id not in maker.runs()) is goes


def test_a_run_that_is_not_finished_is_never_touched(maker: RunMaker) -> None:
    at_work = maker.begin()
    maker.noise(at_work, 3)
    waiting = dg.DagsterRun(JOB)
    maker.instance.add_run(waiting)
    maker.execute(
        "UPDATE dagster.runs SET create_timestamp = '2020-01-01', update_timestamp = '2020-01-01', end_time = 1"
    )
    before = everything(maker)
    assert sum(pruned(maker, before=cut(0)).values()) == 0
    assert everything(maker) == before
    assert maker.runs() == {at_work, waiting.run_id}


def test_of_a_task_without_its_partition_nothing_is_kept(maker: RunMaker) -> None:
    maker.instance.add_dynamic_partitions(TASKS_PARTITIONS, ["there"])
    gone, stays = maker.made(("backtest_task", "gone")), maker.made(("backtest_task", "there"))
    assert pruned(maker)["runs"] == 1
    assert maker.runs() == {stays}
    assert maker.count("event_logs", f"run_id = '{gone}'") == 0


def test_an_asset_without_partitions_keeps_its_latest(maker: RunMaker) -> None:
    runs = []
    for days in (50, 40):
        runs.append(maker.begin())
        maker.record(runs[-1], "plain", None)
        maker.end(runs[-1], days=days)
    assert pruned(maker)["runs"] == 1
    assert maker.runs() == {runs[1]}
    assert maker.instance.get_latest_materialization_event(dg.AssetKey("plain")) is not None


def test_events_without_a_run_go_but_for_the_latest(maker: RunMaker) -> None:
    for key in ("a", "b", "a"):
        maker.instance.report_runless_asset_event(dg.AssetMaterialization("hand", partition=key))
    maker.execute("UPDATE dagster.event_logs SET timestamp = timestamp - interval '40 days'")
    maker.instance.report_runless_asset_event(dg.AssetMaterialization("hand", partition="b"))
    before = maker.instance.get_latest_storage_id_by_partition(dg.AssetKey("hand"), Kind.ASSET_MATERIALIZATION)
    assert pruned(maker)["events"] == 2
    assert maker.instance.get_latest_storage_id_by_partition(dg.AssetKey("hand"), Kind.ASSET_MATERIALIZATION) == before
    assert maker.count("event_logs") == 2


def test_the_latest_evaluation_of_a_check_stays(maker: RunMaker) -> None:
    key, runs = dg.AssetKey("candles_1d"), []
    for number, partition in enumerate((None, "a|2024", None)):
        run_id = maker.begin()
        maker.report(
            run_id, Kind.ASSET_CHECK_EVALUATION_PLANNED, AssetCheckEvaluationPlanned(asset_key=key, check_name="grid")
        )
        if partition is None:
            evaluation = AssetCheckEvaluation(asset_key=key, check_name="grid", passed=number == 0)
        else:
            evaluation = AssetCheckEvaluation(asset_key=key, check_name="grid", passed=True, partition=partition)
        maker.report(run_id, Kind.ASSET_CHECK_EVALUATION, evaluation)
        runs.append(maker.end(run_id))
    check = dg.AssetCheckKey(key, "grid")
    storage = maker.instance.event_log_storage
    before = storage.get_latest_asset_check_execution_by_key([check])
    infos = storage.get_asset_check_partition_info([check])
    assert pruned(maker)["check evaluations"] >= 1
    assert storage.get_latest_asset_check_execution_by_key([check]) == before
    assert storage.get_asset_check_partition_info([check]) == infos
    assert runs[0] not in maker.runs()
    assert set(runs[1:]) <= maker.runs()
    latest = before[check].event
    assert latest is not None
    assert maker.count("event_logs", f"run_id = '{runs[2]}' AND dagster_event_type = 'ASSET_CHECK_EVALUATION'") == 1


@pytest.mark.parametrize("status", list(BulkActionStatus))
def test_runs_of_a_backfill_that_goes_on_stay(maker: RunMaker, status: BulkActionStatus) -> None:
    made = PartitionBackfill(
        "abc",
        status,
        from_failure=False,
        tags={"a": "b"},
        backfill_timestamp=cut(50).timestamp(),
        partition_names=["x"],
    )
    maker.instance.add_backfill(made)
    run_id = maker.end(maker.begin({"dagster/backfill": "abc"}))
    over = status not in (BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING)
    rows = pruned(maker)
    assert (rows["runs"], rows["backfills"]) == (over, over)
    assert (run_id in maker.runs()) is not over
    assert (maker.instance.get_backfill("abc") is None) is over
    assert maker.count("backfill_tags") == (0 if over else maker.count("backfill_tags"))


def test_a_backfill_stays_as_long_as_a_run_of_it(maker: RunMaker) -> None:
    old = cut(50).timestamp()
    done = BulkActionStatus.COMPLETED_SUCCESS
    maker.instance.add_backfill(
        PartitionBackfill("abc", done, from_failure=False, tags={}, backfill_timestamp=old, partition_names=["x"])
    )
    maker.made(("candles_1d", "a|2024"), tags={"dagster/backfill": "abc"})
    assert pruned(maker)["backfills"] == 0
    maker.made(("candles_1d", "a|2024"), days=1)
    assert pruned(maker)["backfills"] == 1


def test_slots_of_a_removed_run_are_free_again(maker: RunMaker) -> None:
    storage = maker.instance.event_log_storage
    run_id = maker.end(maker.begin())
    storage.set_concurrency_slots("pool", 1)
    assert storage.claim_concurrency_slot("pool", run_id, "step").is_claimed
    pruned(maker, dry_run=True)
    assert storage.get_concurrency_run_ids() == {run_id}
    pruned(maker)
    assert storage.get_concurrency_run_ids() == set()


# ---- dry runs, interruptions, company


def test_a_dry_run_counts_what_the_real_one_removes(maker: RunMaker) -> None:
    fill(maker)
    before = everything(maker)
    dry = prune_runs(maker.instance, maker.database, cut(), dry_run=True, batch=3)
    assert everything(maker) == before
    real = prune_runs(maker.instance, maker.database, cut(), batch=3)
    assert real == dry
    assert real.rows["events"] > 0
    assert real.kept == 4


_KILLED = """
import os, signal, sys
from datetime import datetime
import sqlalchemy as sa
from coin_hts_pipelines.control.instance import open_database, open_instance, prepare
from coin_hts_pipelines.control.retention import prune_runs

prepare()
left = int(sys.argv[1])


def count(connection, cursor, statement, *_):
    global left
    if "DELETE FROM dagster" in statement:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


database = open_database()
sa.event.listen(database.engine, "after_cursor_execute", count)
with open_instance() as instance:
    prune_runs(instance, database, datetime.fromisoformat(sys.argv[2]), batch=2)
"""


@pytest.mark.parametrize("deletion", [1, 4, 5, 8])
def test_killed_between_any_two_deletions_it_leaves_whole_runs(maker: RunMaker, home: Path, deletion: int) -> None:
    for number in range(10):
        maker.noise(maker.made(("candles_1d", f"a|{number % 4}"), days=60 - number), 2)
    seen = view_of(maker)
    argv = [sys.executable, "-c", _KILLED, str(deletion), cut().isoformat()]
    done = subprocess.run(argv, cwd=home, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    # Postgres takes back what the dead process had not committed once it sees the connection gone.
    first = maker.count("runs")
    assert first % 2 == 0
    assert maker.count("runs r", "(SELECT count(*) FROM dagster.event_logs e WHERE e.run_id = r.run_id) < 6") == 0
    orphans = "run_id NOT IN (SELECT run_id FROM dagster.runs)"
    assert maker.count("event_logs", orphans) == maker.count("run_tags", orphans) == 0
    pruned(maker)
    assert maker.count("runs") == 4
    assert maker.count("asset_event_tags", "event_id NOT IN (SELECT id FROM dagster.event_logs)") == 0
    assert view_of(maker) == seen


def view_of(maker: RunMaker) -> Any:
    return maker.instance.get_latest_storage_id_by_partition(dg.AssetKey("candles_1d"), Kind.ASSET_MATERIALIZATION)


def test_runs_at_work_lose_nothing_and_two_prunes_share_the_work(maker: RunMaker) -> None:
    for number in range(40):
        maker.made(("candles_1d", f"a|{number % 4}"), days=60)
    writers, messages = [maker.begin() for _ in range(2)], 40
    removed: list[dict[str, int]] = []

    def write(run_id: str) -> None:
        for number in range(messages):
            maker.noise(run_id, 1)
            maker.record(run_id, "candles_1d", f"{run_id}|{number}")

    threads = [threading.Thread(target=write, args=(run_id,)) for run_id in writers]
    threads += [threading.Thread(target=lambda: removed.append(pruned(maker, batch=2))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one["runs"] for one in removed) == 36
    for run_id in writers:
        assert maker.count("event_logs", f"run_id = '{run_id}'") == 2 + 2 * messages
        assert maker.count("asset_event_tags", f"value = '{run_id}'") == messages
        maker.end(run_id, days=0)
    assert len(maker.runs()) == 4 + len(writers)


# ---- all of it, by the settings


def store_of(root: Path) -> ObjectStore:
    return DirectoryStore(root)


@pytest.fixture
def folders(maker: RunMaker) -> Path:
    """Storage with a folder of an old run, one of a run at work, one of a run that is gone, and others."""
    storage = get_settings().root / "dagster"
    for run_id in (maker.made(("candles_1d", "a|2024")), maker.begin(), "0" * 8 + "-0000" * 3 + "-" + "0" * 12):
        (storage / run_id / "compute_logs").mkdir(parents=True)
        (storage / run_id / "compute_logs" / "x.out").write_text("12345")
    (storage / "schedules").mkdir()
    for path in [storage, *storage.rglob("*")]:
        os.utime(path, (0, 0))
    return storage


def run_of_prune(maker: RunMaker, **given: Any) -> Any:
    return prune(maker.instance, lambda: store_of(get_settings().exports), **given)


def test_prune_says_what_it_removed_and_how_large_the_tables_are(maker: RunMaker, folders: Path) -> None:
    at_work = next(one for one in maker.instance.get_runs() if not one.is_finished).run_id
    dry = run_of_prune(maker, dry_run=True)
    assert {path.name for path in folders.iterdir()} > {at_work}
    report = run_of_prune(maker)
    assert (report.removed, report.kept_runs) == (dry.removed, dry.kept_runs)
    assert report.removed["run folders"].count == 2
    assert report.removed["run folders"].bytes == 10
    assert {path.name for path in folders.iterdir()} == {at_work, "schedules"}
    assert report.problems == {}
    document = report.to_dict()
    (events,) = [one for one in document["tables"] if one["name"] == "dagster.event_logs"]
    assert events["rows_before"] >= events["rows_after"] > 0
    assert min(events["bytes_before"], events["bytes_after"]) > 0
    assert set(document["removed"]) >= {"runs", "events", "task rows", "preset exports", "inbox files", "tick logs"}


def test_what_fails_does_not_stop_the_rest(maker: RunMaker, folders: Path) -> None:
    def away() -> ObjectStore:
        raise TransientError("the store is away")

    report = prune(maker.instance, away)
    assert report.problems == dict.fromkeys(("preset exports", "task exports", "task rows"), "the store is away")
    assert report.removed["run folders"].count == 2
    (get_settings().root / "inbox").write_text("a file")
    assert set(run_of_prune(maker).problems) <= {"inbox files"}


def test_rows_that_cannot_be_removed_keep_the_others_going(
    maker: RunMaker, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(retention, "prune_runs", broken)
    report = run_of_prune(maker)
    assert report.problems == {"runs": "ZeroDivisionError: no"}
    assert report.removed["run folders"].count == 2


def test_without_a_vacuum_there_is_a_report(maker: RunMaker, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise TransientError("Postgres is busy")

    maker.made(("candles_1d", "a|2024"), days=1)
    monkeypatch.setattr(retention, "_vacuum", broken)
    report = run_of_prune(maker)
    assert report.removed["runs"].count == 1
    assert report.problems == {"vacuum": "Postgres is busy"}


def test_days_beyond_the_calendar_are_a_century() -> None:
    moment = datetime(2025, 1, 1, tzinfo=UTC)
    assert retention.days_before(moment, 10**12) == retention.days_before(moment, 36_500)
    assert retention.days_before(moment, 1) == datetime(2024, 12, 31, tzinfo=UTC)


def test_ticks_are_dagsters_own_business() -> None:
    """The schedule does not prune them: dagster.yaml has Dagster do so, every kind of tick that grows."""
    import yaml

    kept = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())["retention"]
    assert kept["schedule"]["purge_after_days"] > 0
    assert set(kept["sensor"]["purge_after_days"]) == {"skipped", "failure", "success"}
