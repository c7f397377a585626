"""`coin-hts task cleanup`, on an instance in Postgres."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from coin_hts_pipelines.cli.task_cleanup import command
from coin_hts_pipelines.control.instance import open_instance, prepare
from coin_hts_pipelines.control.tasks import TASKS_PARTITIONS
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.control import test_task_cleanup as control
from coin_hts_pipelines_tests.defs.helpers import home
from coin_hts_pipelines_tests.tasks.test_cleanup import Place, finish, size_of

new_database, _migrated, database = control.new_database, control._migrated, control.database
settings_place = control.place
__all__ = ["home"]


@pytest.fixture
def place(settings_place: Place, home: Path) -> Iterator[Place]:
    """A home with an instance; variables it sets in this process are taken back."""
    shutil.copy(CHECKOUT / "dagster.yaml", home)
    kept = dict(os.environ)
    yield settings_place
    os.environ.clear()
    os.environ.update(kept)


def run(*argv: str) -> Result:
    return CliRunner().invoke(command, argv, standalone_mode=False, catch_exceptions=False)


def partitions(*add: str) -> set[str]:
    """Those of tasks, after adding some."""
    prepare()
    with open_instance() as instance:
        if add:
            instance.add_dynamic_partitions(TASKS_PARTITIONS, [*add])
        return set(instance.get_dynamic_partitions(TASKS_PARTITIONS))


def test_a_dry_run_says_what_the_real_one_does(place: Place) -> None:
    goes, stays = finish(place, "completed", 31), finish(place, "completed", 1)
    partitions(goes, stays)
    size = f"{size_of(place, goes):,}"
    dry = run("--dry-run")
    assert dry.return_value == 0
    assert f"tasks would be removed: 1, {size} bytes; finished tasks kept: 1\n" in dry.output
    assert [goes, "completed", size] in [line.split() for line in dry.output.splitlines()]
    assert (partitions(), set(place.store.ids())) == ({goes, stays}, {goes, stays})
    real = run()
    assert real.return_value == 0
    assert real.output.split() == dry.output.replace("would be removed", "removed").split()
    assert (partitions(), place.store.ids()) == ({stays}, [stays])
    again = run()
    assert again.return_value == 0
    assert again.output == "tasks removed: 0, 0 bytes; finished tasks kept: 1\n"


@pytest.mark.parametrize("dry", [True, False])
def test_what_cannot_be_removed_is_named(place: Place, dry: bool) -> None:
    bad, good = finish(place, "completed", 31), finish(place, "failed", 31)
    folder = place.store.folder(bad)
    folder.rename(place.root / "elsewhere")
    folder.touch()
    (place.store.root / "[red]stray").mkdir()
    options = ["--dry-run"] if dry else []
    why = f"{folder} is not a directory of a task but a link or a file; move it away"
    size = size_of(place, good)
    told = run("--json", *options)
    assert told.return_value == 1
    assert json.loads(told.output) == {
        "dry_run": dry,
        "removed": [{"id": good, "state": "failed", "bytes": size}],
        "kept": 0,
        "problems": {bad: why},
        "unknown": ["[red]stray"],
        "total_bytes": size,
    }
    shown = run(*options)
    assert shown.return_value == 1
    assert f"cannot be removed: {bad}: {why}\n" in shown.output
    assert "belongs to no task, left alone: [red]stray\n" in shown.output
