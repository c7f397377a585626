"""The clean-up on an instance: days from the settings, partitions from Dagster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.control.task_cleanup import clean_up_tasks
from coin_hts_pipelines.control.tasks import TASKS_PARTITIONS
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines_tests.catalog import conftest as catalog
from coin_hts_pipelines_tests.defs.helpers import forget_settings
from coin_hts_pipelines_tests.tasks.test_cleanup import Place, finish

new_database, _migrated, database = catalog.new_database, catalog._migrated, catalog.database


@pytest.fixture
def place(database: catalog.Database, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The catalog and DATA_ROOT of the settings."""
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", database.url.render_as_string(hide_password=False))
    monkeypatch.setenv("COIN_HTS_DATA_ROOT", "here/data")
    monkeypatch.setenv("COIN_HTS_TASK_RESULT_TTL_DAYS", "30")
    monkeypatch.setenv("COIN_HTS_TASK_FAILED_TTL_DAYS", "20")
    forget_settings()
    yield Place(database, get_settings().root)
    open_database().dispose()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def test_files_and_partitions_go_by_the_days_of_the_settings(place: Place, instance: dg.DagsterInstance) -> None:
    goes = [finish(place, "completed", 31), finish(place, "failed", 21), finish(place, "cancelled")]
    stays = [finish(place, "completed", 29), finish(place, "failed", 19), finish(place, "running")]
    instance.add_dynamic_partitions(TASKS_PARTITIONS, [*goes, *stays])
    instance.add_dynamic_partitions("others", goes)
    dry = clean_up_tasks(instance, True)
    assert [task.id for task in dry.removed] == goes
    assert set(instance.get_dynamic_partitions(TASKS_PARTITIONS)) == {*goes, *stays}
    assert set(place.store.ids()) == {*goes, *stays}
    real = clean_up_tasks(instance, False)
    assert (real.removed, real.kept, real.problems) == (dry.removed, 2, {})
    assert set(instance.get_dynamic_partitions(TASKS_PARTITIONS)) == set(stays)
    assert set(instance.get_dynamic_partitions("others")) == set(goes)
    assert set(place.store.ids()) == set(stays)


def test_a_task_without_a_partition_is_cleaned_up_too(place: Place, instance: dg.DagsterInstance) -> None:
    task_id = finish(place, "completed", 31)
    assert [task.id for task in clean_up_tasks(instance).removed] == [task_id]
    assert clean_up_tasks(instance).removed == ()


def test_storage_that_fails_is_made_good_by_the_next_clean_up(
    place: Place, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = finish(place, "completed", 31)
    instance.add_dynamic_partitions(TASKS_PARTITIONS, [task_id])

    def away(*_: str) -> None:
        raise OSError("the storage is away")

    with monkeypatch.context() as patch:
        patch.setattr(instance, "delete_dynamic_partition", away)
        assert clean_up_tasks(instance).problems == {task_id: "OSError: the storage is away"}
    assert instance.get_dynamic_partitions(TASKS_PARTITIONS) == [task_id]
    assert [task.id for task in clean_up_tasks(instance).removed] == [task_id]
    assert instance.get_dynamic_partitions(TASKS_PARTITIONS) == []
