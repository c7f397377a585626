"""Which backups there are, whether each is whole, and whether every byte is what was written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from coin_hts_pipelines.errors import IntegrityError, InvalidRequest, PermanentError
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


def find_backup(target: Target, name: str, *, damaged: bool = False) -> Manifest:
    """Return the backup of an id, of an unambiguous beginning of one, or the newest whole one for `latest`.

    One that misses something is returned only if `damaged` ones will do.

    Raises
    ------
    InvalidRequest
        If there is none, or several.
    IntegrityError
        If its manifest is damaged, or something it needs is missing.
    """
    listed = list_all(target)
    if name == "latest":
        found = [one for one in listed if one.problem is None][:1]
    else:
        found = [one for one in listed if one.id.startswith(name)]
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

    Raises
    ------
    TransientError
        If the target cannot be read now, which says nothing about the backup.
    """
    users: dict[tuple[str, str], list[str]] = {(manifest.dump.key, manifest.dump.sha256): ["the dump"]}
    for entry in manifest.files:
        users.setdefault((entry.key, entry.sha256), []).append(entry.path)

    def verify(one: tuple[tuple[str, str], list[str]], stop: Asked) -> str | None:  # noqa: ARG001 - seconds at most
        (key, sha256), names = one
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        try:
            target.verify(key, sha256)
        except (IntegrityError, PermanentError) as error:
            return f"{names[0]}{more}: {error}"
        return None

    found = each(list(users.items()), verify, cancelled=cancelled, progress=progress or unheard)
    return [problem for problem in found if problem is not None]


def _listed(target: Target, name: str, created: datetime, keys: dict[str, int]) -> Listed:
    try:
        manifest = Manifest.decode(name, target.read(name + SUFFIX))
    except PermanentError as error:
        return Listed(name, created, None, str(error))
    lost = [key for key, size in manifest.objects.items() if keys.get(key) != size]
    problem = f"{len(lost)} objects are missing or cut short, first {lost[0]}" if lost else None
    return Listed(name, created, manifest, problem)


def _created(name: str) -> datetime | None:
    try:
        return datetime.strptime(name.partition("-")[0], _ID_TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
