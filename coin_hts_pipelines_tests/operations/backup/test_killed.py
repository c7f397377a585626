"""Real processes that are killed in the middle: what was good stays good, and the next call ends what was begun."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from coin_hts_pipelines import clock
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.operations.backup import (
    Keep,
    list_all,
    list_backups,
    prune_backups,
    restore_backup,
    verify_backup,
)
from coin_hts_pipelines_tests.operations.backup.helpers import SYMBOLS, House, holds
from coin_hts_pipelines_tests.operations.backup.killed import run_and_die


def all_listed_are_good(house: House) -> None:
    for one in list_backups(house.target):
        assert verify_backup(house.target, one) == []


@pytest.mark.parametrize(
    ("step", "call", "after"),
    [
        ("targets:DirectoryTarget.store", 1, True),
        ("targets:DirectoryTarget.store", 2, False),
        ("targets:DirectoryTarget.store", 4, True),
        ("targets:commit", 3, False),
        ("pathlib:Path.replace", 3, False),
        ("create:dump_database", 1, False),
        ("subprocess:Popen.wait", 1, False),  # pg_dump lives on
        ("create:dump_database", 1, True),
        ("create:_written", 2, True),
        ("targets:DirectoryTarget.delete", 1, False),
    ],
)
def test_a_backup(house: House, step: str, call: int, after: bool) -> None:
    good = house.back_up()
    house.merge(SYMBOLS[0], seed=3)
    for seed in (50, 51):
        house.publish(SYMBOLS[1], seed)
    run_and_die(house, "backup", step, call, after=after)
    finished = "delete" in step
    assert len(list_backups(house.target)) == 1 + finished
    assert good in list_backups(house.target)
    assert [one.unfinished for one in list_all(house.target)] == [not finished, False]
    all_listed_are_good(house)
    newest = house.back_up()
    assert holds(newest) == house.files()
    prune_backups(house.target, Keep(1, 0, 0))
    left = house.target.keys()
    assert set(left) == {f"{newest.id}.json", *newest.objects}
    assert sorted(path.name for path in house.target.root.iterdir()) == sorted(
        [f"{newest.id}.json", "objects", ".backup.lock"]
    )
    all_listed_are_good(house)


@pytest.mark.parametrize("call", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("after", [False, True])
def test_a_prune(house: House, call: int, after: bool) -> None:
    for number in range(3):
        house.merge(SYMBOLS[0], seed=60 + number)
        with clock.simulated(lambda number=number: datetime(2025, 1, 1 + number, tzinfo=UTC) + timedelta(hours=17)):
            newest = house.back_up()
    run_and_die(house, "prune", "targets:DirectoryTarget.delete", call, after=after)
    assert list_all(house.target)[0].id == newest.id
    assert all(one.problem is None for one in list_all(house.target))
    all_listed_are_good(house)
    prune_backups(house.target, Keep(1, 0, 0))
    assert set(house.target.keys()) == {f"{newest.id}.json", *newest.objects}
    all_listed_are_good(house)


BEFORE = [
    ("targets:DirectoryTarget.fetch", 1, False),
    ("targets:DirectoryTarget.fetch", 5, True),
    ("restore:load_database", 1, False),
    ("load:_pump", 1, False),
    ("load:_pump", 1, True),
    ("load:_say", 1, True),
]
WITHIN = [
    ("exchange:Exchange.make", 1, False),
    ("pathlib:Path.rename", 1, False),
    *[("pathlib:Path.rename", call, True) for call in range(1, 7)],
    ("load:_say", 2, False),
]
BEHIND = [("load:_say", 2, True), ("exchange:Exchange.finish", 2, False), ("exchange:shutil.rmtree", 4, False)]


@pytest.mark.parametrize(("step", "call", "after"), [*BEFORE, *WITHIN, *BEHIND])
def test_a_restore(house: House, step: str, call: int, after: bool) -> None:
    made, new_files, new_rows = house.back_up(), house.files(), house.rows()
    house.merge(SYMBOLS[0], seed=70)
    house.merge("KRW-OLD", seed=71)
    house.publish(SYMBOLS[1], 72)
    old_files, old_rows = house.files(), house.rows()
    house.database.dispose()
    run_and_die(house, "restore", step, call, after=after)
    all_listed_are_good(house)

    def again(**options: bool) -> None:
        house.database.dispose()
        restore_backup(house.target, made, house.root, house.url, **options)

    if (step, call, after) in BEFORE:
        assert house.files() == old_files
    if (step, call, after) in BEHIND:
        assert house.files() == new_files
        assert house.rows() == new_rows
    else:
        # A call that refuses to replace anything takes back first what was begun.
        with pytest.raises(InvalidRequest, match="--force"):
            again()
        assert (house.files(), house.rows()) == (old_files, old_rows)
    again(force=True)
    assert (house.files(), house.rows()) == (new_files, new_rows)
    assert not (house.root / ".restore").exists()


@pytest.mark.parametrize(("step", "call", "after"), [*WITHIN[1:4], *BEHIND[:1]])
def test_a_restore_into_an_empty_place_is_simply_run_again(
    house: House,
    tmp_path: Path,
    new_database: Callable[[], str],
    step: str,
    call: int,
    after: bool,
) -> None:
    made = house.back_up()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "backups").symlink_to(house.home / "backups")
    empty = House(tmp_path / "empty", type(house.database)(new_database(), pool_size=2))
    run_and_die(empty, "restore", step, call, after=after)
    restore_backup(house.target, made, empty.root, empty.url)
    assert empty.files() == holds(made)
    assert empty.rows()["dagster.event_logs"] == house.rows()["dagster.event_logs"]
    empty.database.dispose()
