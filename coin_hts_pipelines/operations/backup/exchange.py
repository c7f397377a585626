"""The exchange at the end of a restore, and the journal by which an interrupted one is known. Not here: Postgres."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from coin_hts_pipelines.lake.atomic import write_atomically

STAGING = ".restore"
_JOURNAL = "journal.json"
_log = logging.getLogger(__name__)


def interrupted_restore(data_root: Path) -> str | None:
    """One sentence about a restore that was interrupted where files and database do not belong together; cheap."""
    journal = data_root / STAGING / _JOURNAL
    try:
        backup = json.loads(journal.read_bytes())["id"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"the journal of an interrupted restore, {journal}, cannot be read: {error}"
    return (
        f"the restore of backup {backup} into {data_root} was interrupted: files and database may not belong together; "
        f"run `coin-hts backup restore {backup} --force` again"
    )


@dataclass(frozen=True)
class Exchange:
    """The renaming of everything at once, as far as the journal knows what has been begun."""

    root: Path

    @property
    def staging(self) -> Path:
        """Folder of everything that is under way; nobody else may read it."""
        return self.root / STAGING

    @property
    def new(self) -> Path:
        """What is to come."""
        return self.staging / "new"

    @property
    def old(self) -> Path:
        """What was there."""
        return self.staging / "old"

    @property
    def journal(self) -> Path:
        """Says what is being renamed."""
        return self.staging / _JOURNAL

    def begin(self) -> None:
        """Make an empty folder for what is to come."""
        shutil.rmtree(self.staging, ignore_errors=True)
        self.root.mkdir(parents=True, exist_ok=True)
        self.staging.mkdir(mode=0o700)
        self.new.mkdir()

    def make(self, mark: str, backup_id: str, replaced: Collection[Path]) -> None:
        """Put the old entries aside and the new ones in their place."""
        self.old.mkdir()
        note = {
            "mark": mark,
            "id": backup_id,
            "old": [path.name for path in replaced],
            "new": sorted(path.name for path in self.new.iterdir()),
        }
        write_atomically(self.journal, lambda stream: stream.write(json.dumps(note).encode()))
        for name in note["old"]:
            (self.root / name).rename(self.old / name)
        for name in note["new"]:
            (self.new / name).rename(self.root / name)
        os.sync()

    def settle(self, committed: str | None) -> str | None:
        """Finish an exchange whose transaction was committed, and return its backup; take any other one back."""
        done = None
        if self.journal.exists():
            note = json.loads(self.journal.read_bytes())
            if note["mark"] == committed:
                done = str(note["id"])
            else:
                self._undo(note["old"], note["new"])
                self._keep_what_is_newer()
        self.finish()
        return done

    def finish(self) -> None:
        """Forget the exchange and remove what it replaced."""
        self.journal.unlink(missing_ok=True)
        shutil.rmtree(self.staging, ignore_errors=True)

    def _undo(self, old: Collection[str], new: Collection[str]) -> None:
        for name in new:
            if not (self.new / name).exists() and (name not in old or (self.old / name).exists()):
                (self.root / name).rename(self.new / name)
        for name in old:
            if (self.old / name).exists():
                (self.old / name).rename(self.root / name)
        os.sync()

    def _keep_what_is_newer(self) -> None:
        """Keep the folders taken back if somebody has written into them since they were put in place."""
        since = self.journal.stat().st_mtime_ns
        if any(path.is_file() and path.stat().st_mtime_ns > since for path in self.new.rglob("*")):
            kept = self.root / f"{STAGING}.kept-{secrets.token_hex(4)}"
            self.new.rename(kept)
            _log.warning("what was written since a restore was interrupted is kept in %s", kept)
