"""A byte that flips in the target: the next backup copies the object anew, and what is damaged is not listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from coin_hts_pipelines import IntegrityError
from coin_hts_pipelines.operations.backup import (
    DirectoryTarget,
    Keep,
    create,
    drill_backup,
    find_backup,
    list_all,
    list_backups,
    prune_backups,
    restore_backup,
    verify_backup,
)
from coin_hts_pipelines_tests.operations.backup.helpers import House, holds
from coin_hts_pipelines_tests.operations.backup.test_restore import bring, spoil


@pytest.fixture(autouse=True)
def _old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files written a moment ago count as old: their times are taken for granted, and so they are not read again."""
    monkeypatch.setattr(create, "_YOUNG_NS", 0)


def test_found_by_verify_it_is_copied_again(house: House, empty: House) -> None:
    made = house.back_up()
    bad = made.files[0]
    spoil(house, bad.key)
    (problem,) = verify_backup(house.target, made)
    assert bad.path in problem
    assert list_backups(house.target) == []
    assert "1 objects are damaged" in str(list_all(house.target)[0].problem)
    assert (house.target.root / "damaged" / bad.sha256).is_file()
    second = house.back_up()
    assert bad.key in second.objects
    assert verify_backup(house.target, second) == []
    assert list_backups(house.target) == [second, made], "the old one needs the same bytes"
    bring(house, second, empty)
    assert empty.files() == holds(second)
    prune_backups(house.target, Keep(7, 0, 0))
    assert list((house.target.root / "damaged").iterdir()) == []


def test_found_by_a_restore_it_is_not_offered_again(house: House, empty: House) -> None:
    made = house.back_up()
    spoil(house, made.files[0].key)
    with pytest.raises(IntegrityError, match="damaged"):
        bring(house, made, empty)
    assert list_backups(house.target) == []
    with pytest.raises(IntegrityError, match="cannot be used: 1 objects are damaged"):
        find_backup(house.target, made.id)
    assert verify_backup(house.target, house.back_up()) == []


def test_found_by_a_drill_it_is_copied_again(house: House) -> None:
    made = house.back_up()
    spoil(house, made.files[0].key)
    with pytest.raises(IntegrityError, match="damaged"):
        drill_backup(house.settings, house.target)
    with pytest.raises(IntegrityError, match="cannot be used"):
        drill_backup(house.settings, house.target)
    assert verify_backup(house.target, house.back_up()) == []


def test_while_another_is_at_work_it_is_only_said(house: House) -> None:
    made = house.back_up()
    spoil(house, made.files[0].key)
    with house.target.exclusive():
        problems = verify_backup(house.target, made)
    assert "could not be set aside" in problems[-1]
    assert list_backups(house.target) == [made]


def test_what_a_second_look_finds_good_stays(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    made = house.back_up()
    real, tried = DirectoryTarget.verify, []

    def verify(self: DirectoryTarget, key: str, sha256: str) -> None:
        tried.append(key)
        if len(tried) == 1:
            raise IntegrityError("a cable")
        real(self, key, sha256)

    monkeypatch.setattr(DirectoryTarget, "verify", verify)
    assert len(verify_backup(house.target, made)) == 1
    assert list_backups(house.target) == [made]


def test_the_folder_is_its_owners_alone(house: House, empty: House, monkeypatch: pytest.MonkeyPatch) -> None:
    made = house.back_up()
    assert house.target.root.stat().st_mode & 0o777 == 0o700
    seen: list[int] = []
    real = DirectoryTarget.fetch

    def fetch(self: DirectoryTarget, key: str, sha256: str, path: Path) -> None:
        seen.append((empty.root / ".restore").stat().st_mode & 0o777)
        real(self, key, sha256, path)

    monkeypatch.setattr(DirectoryTarget, "fetch", fetch)
    restore_backup(house.target, made, empty.root, empty.url)
    assert set(seen) == {0o700}
    assert empty.root.stat().st_mode & 0o777 != 0o700, "the server's own user must get through"
