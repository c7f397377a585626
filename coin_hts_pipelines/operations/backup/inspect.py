"""Which backups there are, whether each is whole, and whether every byte is what was written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from coin_hts_pipelines.errors import CoinHtsError, IntegrityError, InvalidRequest, PermanentError
from coin_hts_pipelines.operations.backup.manifest import BEGUN, SUFFIX, Manifest
from coin_hts_pipelines.operations.backup.parallel import Asked, Progress, each, never, unheard
from coin_hts_pipelines.operations.backup.targets import Target

_ID_TIME = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True)
class Listed:
    """A backup as it is listed: without a problem it is whole, that is, everything it names is there in full size."""

    id: str
    created: datetime
    manifest: Manifest | None
    problem: str | None = None
    unfinished: bool = False


def list_all(target: Target) -> list[Listed]:
    """Every backup, newest first, those too that are damaged, miss something or did not end."""
    keys = target.keys()
    found = []
    for key in keys:
        name, _, suffix = key.rpartition(".")
        created = _created(name)
        if created is None or f".{suffix}" not in (SUFFIX, BEGUN):
            continue
        if f".{suffix}" == SUFFIX:
            found.append(_listed(target, name, created, keys))
        elif name + SUFFIX not in keys:
            found.append(Listed(name, created, None, "it did not end, or is being made", unfinished=True))
    return sorted(found, key=lambda one: one.id, reverse=True)


def list_backups(target: Target) -> list[Manifest]:
    """Whole backups, newest first."""
    return [one.manifest for one in list_all(target) if one.manifest is not None and one.problem is None]


def find_backup(target: Target, name: str, *, damaged: bool = False, data_root: Path | None = None) -> Manifest:
    """Return the backup of an id, of an unambiguous beginning of one, or the newest whole one for `latest`.

    One that misses something is returned only if `damaged` ones will do. Where several projects keep their backups,
    `latest` is that of `data_root`.

    Raises
    ------
    InvalidRequest
        If there is none, or several.
    IntegrityError
        If its manifest is damaged, or something it needs is missing.
    """
    listed = list_all(target)
    if name == "latest":
        whole = [one for one in listed if one.problem is None]
        # Where none is whole, what is wrong with the newest is to be said.
        found = _of_project(target, whole or [one for one in listed if not one.unfinished], data_root)[:1]
    else:
        found = [one for one in listed if one.id.startswith(name)]
    return _manifest(target, name, found, damaged)


def newest_backup(target: Target, data_root: Path) -> Manifest:
    """Return the newest backup that was finished; raises as `find_backup`, also when only an older one is whole."""
    finished = [one for one in list_all(target) if not one.unfinished]
    return _manifest(target, "latest", _of_project(target, finished, data_root)[:1], damaged=False)


def _of_project(target: Target, listed: list[Listed], data_root: Path | None) -> list[Listed]:
    """Those of a DATA_ROOT, and those that do not say; if there is none of it, all, which must be of one project."""
    roots = {one.manifest.data_root for one in listed if one.manifest is not None}
    if str(data_root) in roots:
        return [one for one in listed if one.manifest is None or one.manifest.data_root == str(data_root)]
    if len(roots) > 1:
        raise InvalidRequest(
            f"in {target.url} lie backups of several projects ({', '.join(sorted(roots))}); name one by its id, see "
            "`coin-hts backup list`"
        )
    return listed


def _manifest(target: Target, name: str, found: list[Listed], damaged: bool) -> Manifest:
    if len(found) != 1:
        problem = "names several backups" if found else "is unknown"
        raise InvalidRequest(f"backup {name!r} {problem} in {target.url}; see `coin-hts backup list`")
    one = found[0]
    if one.manifest is None or (one.problem is not None and not damaged):
        raise IntegrityError(f"backup {one.id} cannot be used: {one.problem}")
    return one.manifest


def verify_backup(
    target: Target, manifest: Manifest, *, progress: Progress | None = None, cancelled: Asked = never
) -> list[str]:
    """Read every byte of a backup and return one sentence for each bad object; none: it is good.

    Damaged objects are set aside, so that the backups that need them are not taken for good, and the next one copies
    them anew.

    Raises
    ------
    TransientError
        If the target cannot be read now, which says nothing about the backup.
    """
    users: dict[tuple[str, str], list[str]] = {(manifest.dump.key, manifest.dump.sha256): ["the dump"]}
    for entry in manifest.files:
        users.setdefault((entry.key, entry.sha256), []).append(entry.path)

    damaged: list[tuple[str, str]] = []

    def verify(one: tuple[tuple[str, str], list[str]], stop: Asked) -> str | None:  # noqa: ARG001 - seconds at most
        (key, sha256), names = one
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        try:
            target.verify(key, sha256)
        except PermanentError as error:
            if isinstance(error, IntegrityError):
                damaged.append((key, sha256))
            return f"{names[0]}{more}: {error}"
        return None

    found = each(list(users.items()), verify, cancelled=cancelled, progress=progress or unheard)
    problems = [problem for problem in found if problem is not None]
    if damaged:
        try:
            with target.exclusive():
                for key, sha256 in damaged:
                    set_aside(target, key, sha256)
        except CoinHtsError as error:
            problems.append(f"damaged objects could not be set aside, so the next backup uses them again: {error}")
    return problems


def set_aside(target: Target, key: str, sha256: str) -> None:
    """Set an object aside that is damaged, as a second look says; the caller keeps others out of the target."""
    try:
        target.verify(key, sha256)
    except IntegrityError:
        target.set_aside(key)


def _listed(target: Target, name: str, created: datetime, keys: dict[str, int]) -> Listed:
    try:
        manifest = Manifest.decode(name, target.read(name + SUFFIX))
    except PermanentError as error:
        return Listed(name, created, None, str(error))
    lost = [key for key, size in manifest.objects.items() if keys.get(key) != size]
    problem = f"{len(lost)} objects are damaged, missing or cut short, first {lost[0]}" if lost else None
    return Listed(name, created, manifest, problem)


def _created(name: str) -> datetime | None:
    try:
        return datetime.strptime(name.partition("-")[0], _ID_TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
