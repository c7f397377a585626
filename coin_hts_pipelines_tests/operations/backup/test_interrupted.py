"""A restore that was killed: nobody works on what it left, and what is written since is not lost."""

from __future__ import annotations

import pytest

from coin_hts_pipelines.errors import InvalidRequest, PermanentError
from coin_hts_pipelines.operations.backup import interrupted_restore, list_all, restore_backup
from coin_hts_pipelines_tests.operations.backup.helpers import SYMBOLS, House
from coin_hts_pipelines_tests.operations.backup.killed import run_and_die


def test_no_backup_is_made_of_it(house: House) -> None:
    made = house.back_up()
    house.merge("KRW-NEW")
    house.database.dispose()
    assert interrupted_restore(house.root) is None
    run_and_die(house, "restore", "load:_say", 2)
    said = interrupted_restore(house.root)
    assert said is not None
    assert f"`coin-hts backup restore {made.id} --force`" in said
    with pytest.raises(PermanentError, match="was interrupted"):
        house.back_up()
    assert [one.id for one in list_all(house.target)] == [made.id]
    house.database.dispose()
    restore_backup(house.target, made, house.root, house.url, force=True)
    assert interrupted_restore(house.root) is None
    house.back_up()


def test_a_journal_that_cannot_be_read_is_said(house: House) -> None:
    (house.root / ".restore").mkdir()
    (house.root / ".restore" / "journal.json").write_text("{")
    assert "cannot be read" in str(interrupted_restore(house.root))


@pytest.mark.parametrize("force", [True, False])
def test_killed_behind_the_commit_a_later_one_restores_anew(house: House, force: bool) -> None:
    made, files, rows = house.back_up(), house.files(), house.rows()
    house.merge("KRW-OLD")
    house.database.dispose()
    run_and_die(house, "restore", "load:_say", 2, after=True)
    assert (house.files(), house.rows()) == (files, rows)
    if force:
        house.merge(SYMBOLS[0], seed=5)
        house.publish(SYMBOLS[1], 5)
    house.database.dispose()
    restore_backup(house.target, made, house.root, house.url, force=force)
    assert (house.files(), house.rows()) == (files, rows)


def test_what_was_written_since_is_kept_when_it_is_taken_back(house: House) -> None:
    made = house.back_up()
    house.merge(SYMBOLS[0], seed=6)
    before = house.files()
    house.database.dispose()
    run_and_die(house, "restore", "load:_say", 2)
    (house.root / SYMBOLS[0] / "since").write_text("mine")
    house.database.dispose()
    with pytest.raises(InvalidRequest, match="--force"):
        restore_backup(house.target, made, house.root, house.url)
    (kept,) = house.root.glob(".restore.kept-*")
    assert (kept / SYMBOLS[0] / "since").read_text() == "mine"
    now = {name: digest for name, digest in house.files().items() if not name.startswith(kept.name)}
    assert now == before
