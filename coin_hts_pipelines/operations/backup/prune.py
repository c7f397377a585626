"""Which backups stay, and the removal of the others with what only they needed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime

from coin_hts_pipelines.errors import IntegrityError
from coin_hts_pipelines.market import KST
from coin_hts_pipelines.operations.backup.inspect import Listed, list_all
from coin_hts_pipelines.operations.backup.manifest import BEGUN, DAMAGED, OBJECTS, SUFFIX
from coin_hts_pipelines.operations.backup.parallel import Asked, Progress, never, stop_if, unheard
from coin_hts_pipelines.operations.backup.targets import Target
from coin_hts_pipelines.settings import Settings

# Whatever else lies in the folder is somebody else's.
_OBJECT = re.compile(rf"{OBJECTS}([0-9a-f]{{2}})/\1[0-9a-f]{{62}}")
_LEFT = re.compile(rf"\d{{8}}T\d{{6}}\.\d{{6}}Z-[0-9a-f]{{8}}\{BEGUN}|{DAMAGED}[0-9a-f]{{64}}")


@dataclass(frozen=True)
class Keep:
    """Of how many days, weeks and months that have a backup the newest one stays."""

    daily: int
    weekly: int
    monthly: int

    @classmethod
    def of(cls, settings: Settings) -> Keep:
        """Take them from the settings."""
        return cls(settings.backup_keep_daily, settings.backup_keep_weekly, settings.backup_keep_monthly)


@dataclass(frozen=True)
class Pruned:
    """Ids of the backups removed, newest first, then how many objects and bytes."""

    backups: tuple[str, ...]
    objects: int
    bytes: int


def to_keep(moments: Iterable[datetime], keep: Keep) -> set[datetime]:
    """Moments of the backups that stay: the newest always, and the newest of each of the last days, weeks and months.

    Days, ISO weeks and months are those of Asia/Seoul, and only those count that have a backup.
    """
    newest_first = sorted(moments, reverse=True)
    kept = set(newest_first[:1])
    rules: tuple[tuple[int, Callable[[datetime], Hashable]], ...] = (
        (keep.daily, lambda local: local.date()),
        (keep.weekly, lambda local: local.isocalendar()[:2]),
        (keep.monthly, lambda local: (local.year, local.month)),
    )
    for count, period in rules:
        newest: dict[Hashable, datetime] = {}
        for moment in newest_first:
            newest.setdefault(period(moment.astimezone(KST)), moment)
        kept.update(list(newest.values())[:count])
    return kept


def prune_backups(
    target: Target,
    keep: Keep,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
    cancelled: Asked = never,
) -> Pruned:
    """Remove backups that are not to be kept, what interrupted ones left, and objects that are damaged or not needed.

    Manifests go first, so that no listed backup ever lacks an object. Backups that miss something do not count and
    are left alone: a person decides.

    Raises
    ------
    IntegrityError
        If a manifest cannot be read: what it needs is not known, so nothing is removed.
    TransientError
        Another one is at work, or the target cannot be reached.
    """
    told = progress or unheard
    with target.exclusive():
        listed = list_all(target)
        keys = target.keys()
        unreadable = [one for one in listed if one.manifest is None and not one.unfinished]
        if unreadable:
            raise IntegrityError(
                f"{unreadable[0].problem}; nothing is pruned, for what it needs is not known: "
                f"remove {unreadable[0].id}{SUFFIX} from {target.url} if it is lost"
            )
        whole = [one for one in listed if one.problem is None]
        # Another project that keeps its backups here has days of its own.
        moments: dict[str, list[datetime]] = defaultdict(list)
        for one in whole:
            moments[_root(one)].append(one.created)
        kept = {root: to_keep(made, keep) for root, made in moments.items()}
        gone = [one.id for one in whole if one.created not in kept[_root(one)]]
        needed: set[str] = set()
        for one in listed:
            if one.manifest is not None and one.id not in gone:
                needed.update(one.manifest.objects)
        orphans = [key for key in keys if _OBJECT.fullmatch(key) and key not in needed]
        left = [key for key in keys if _LEFT.fullmatch(key)]
        doomed = [*(name + SUFFIX for name in gone), *left, *orphans]
        for done, key in enumerate(() if dry_run else doomed, start=1):
            stop_if(cancelled)
            target.delete(key)
            told(done / len(doomed))
        return Pruned(tuple(gone), len(orphans), sum(keys[key] for key in orphans))


def _root(one: Listed) -> str:
    return one.manifest.data_root if one.manifest is not None else ""
