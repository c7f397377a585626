"""Which backups stay, and that nothing a kept one needs goes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines import IntegrityError, TransientError, clock
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.market import KST
from coin_hts_pipelines.operations.backup import (
    Keep,
    create_backup,
    find_backup,
    list_all,
    list_backups,
    prune_backups,
    restore_backup,
    to_keep,
    verify_backup,
)
from coin_hts_pipelines_tests.operations.backup.helpers import SYMBOLS, House, holds

DAY = datetime(2025, 3, 1, 17, tzinfo=UTC)  # 02:00 of the next day in Seoul

moments = st.lists(
    st.integers(0, 120 * 86_400).map(lambda seconds: DAY - timedelta(seconds=seconds)), min_size=1, max_size=60
)
keeps = st.builds(Keep, st.integers(1, 10), st.integers(0, 6), st.integers(0, 5))


@given(moments, keeps)
def test_the_rules(given_moments: list[datetime], keep: Keep) -> None:
    kept = to_keep(given_moments, keep)
    assert kept <= set(given_moments)
    assert max(given_moments) in kept
    counts = [
        (keep.daily, lambda m: m.astimezone(KST).strftime("%Y-%m-%d")),
        (keep.weekly, lambda m: m.astimezone(KST).strftime("%G-%V")),
        (keep.monthly, lambda m: m.astimezone(KST).strftime("%Y-%m")),
    ]
    wanted = {max(given_moments)}
    for count, period in counts:
        for name in sorted({period(m) for m in given_moments}, reverse=True)[:count]:
            wanted.add(max(m for m in given_moments if period(m) == name))
    assert kept == wanted


@given(moments, keeps)
def test_pruning_again_removes_nothing_more(given_moments: list[datetime], keep: Keep) -> None:
    kept = to_keep(given_moments, keep)
    assert to_keep(kept, keep) == kept


@given(st.integers(1, 400), keeps)
def test_day_by_day_it_stays_within_the_numbers(days: int, keep: Keep) -> None:
    kept: set[datetime] = set()
    for number in range(days):
        kept = to_keep(kept | {DAY + timedelta(days=number)}, keep)
    assert len(kept) <= keep.daily + keep.weekly + keep.monthly
    assert {DAY + timedelta(days=days - 1 - number) for number in range(min(days, keep.daily))} <= kept


def make_days(house: House, days: int) -> list[str]:
    """A backup a day with something new in each, oldest first."""
    ids = []
    for number in range(days):
        house.merge(SYMBOLS[0], seed=100 + number)
        house.publish(SYMBOLS[1], 100 + number)  # two equal dumps of one second would share an object
        with clock.simulated(lambda number=number: DAY + timedelta(days=number)):
            ids.append(house.back_up().id)
    return ids


def test_only_what_no_kept_one_needs_goes(house: House, empty: House) -> None:
    ids = make_days(house, 4)
    (house.target.root / "objects" / "ff").mkdir(exist_ok=True)
    (house.target.root / "objects" / "ff" / ("f" * 64)).write_text("an orphan")
    (house.target.root / "20250101T000000.000000Z-00000000.partial").write_text("")
    (house.target.root / "mine.txt").write_text("left alone")
    before = house.target.keys()
    said = prune_backups(house.target, Keep(2, 0, 0), dry_run=True)
    assert house.target.keys() == before
    shares: list[float] = []
    done = prune_backups(house.target, Keep(2, 0, 0), progress=shares.append)
    assert done == said
    assert done.backups == (ids[1], ids[0])
    assert shares[-1] == 1.0
    left = list_backups(house.target)
    assert [one.id for one in left] == [ids[3], ids[2]]
    needed = {key for one in left for key in one.objects}
    after = house.target.keys()
    assert set(after) == needed | {f"{one.id}.json" for one in left} | {"mine.txt"}
    assert done.objects == len([key for key in before if key.startswith("objects/")]) - len(needed)
    assert done.bytes == sum(size for key, size in before.items() if key.startswith("objects/") and key not in needed)
    assert [verify_backup(house.target, one) for one in left] == [[], []]
    restore_backup(house.target, left[1], empty.root, empty.url)
    assert empty.files() == holds(left[1])
    assert prune_backups(house.target, Keep(2, 0, 0)).objects == 0


def test_a_manifest_that_cannot_be_read_stops_it(house: House) -> None:
    ids = make_days(house, 2)
    path = house.target.root / f"{ids[0]}.json"
    path.write_bytes(path.read_bytes().replace(b'"size":', b'"sizf":', 1))
    before = house.target.keys()
    with pytest.raises(IntegrityError, match=f"nothing is pruned.*{ids[0]}"):
        prune_backups(house.target, Keep(1, 0, 0))
    assert house.target.keys() == before
    assert [one.problem is None for one in list_all(house.target)] == [True, False]


def test_one_that_misses_something_neither_counts_nor_goes(house: House) -> None:
    ids = make_days(house, 2)
    newest = list_backups(house.target)[0]
    (house.target.root / newest.dump.key).unlink()
    prune_backups(house.target, Keep(1, 0, 0))
    assert [one.id for one in list_all(house.target)] == ids[::-1]
    assert [one.id for one in list_backups(house.target)] == [ids[0]]


def test_never_beside_a_backup(house: House) -> None:
    house.back_up()
    with house.target.exclusive(), pytest.raises(TransientError, match="another backup"):
        prune_backups(house.target, Keep(1, 0, 0))


def test_what_is_not_ours_stays(house: House) -> None:
    house.back_up()
    names = ["x.partial", "sub/20250101T000000.000000Z-00000000.partial", "objects/mine.txt", "objects/aa/notes",
             f"objects/aa/{'b' * 64}", f"other/objects/aa/{'a' * 64}", "damaged/mine"]  # fmt: skip
    for name in names:
        (house.target.root / name).parent.mkdir(parents=True, exist_ok=True)
        (house.target.root / name).write_text("x")
    prune_backups(house.target, Keep(1, 0, 0))
    assert set(names) <= set(house.target.keys())


def test_two_projects_in_one_folder_each_keep_their_own(house: House, tmp_path: Path) -> None:
    other = House(tmp_path / "other", house.database)
    other.merge(SYMBOLS[0], seed=9)
    ids: dict[str, list[str]] = {"own": [], "others": []}
    for number in range(2):
        with clock.simulated(lambda number=number: DAY + timedelta(hours=number)):
            ids["own"].append(house.back_up().id)
            ids["others"].append(create_backup(other.settings, other.database, house.target).id)
    prune_backups(house.target, Keep(1, 0, 0))
    assert {one.id for one in list_backups(house.target)} == {ids["own"][1], ids["others"][1]}
    assert find_backup(house.target, "latest", data_root=house.root).id == ids["own"][1]
    assert find_backup(house.target, "latest", data_root=other.root).id == ids["others"][1]
    with pytest.raises(InvalidRequest, match="several projects"):
        find_backup(house.target, "latest", data_root=tmp_path / "new")
