"""The bucket of the exports: versions are kept, what is broken or superseded expires, and who may do what.

A rule of ours is known by its id, which begins with `coin-hts-`, and the prefix it is about; those of others, and of
another project in the same bucket, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from coin_hts_pipelines.errors import PermanentError
from coin_hts_pipelines.storage.s3_errors import error_code, s3_errors

TASK_EXPORT_DAYS, NONCURRENT_DAYS, BROKEN_UPLOAD_DAYS = 30, 30, 1
_OURS = "coin-hts-"
# The calls of `storage/s3.py` by what IAM calls them: a listing is of the bucket, the others are of its objects.
_BUCKET_ACTIONS = ("s3:ListBucket",)
_OBJECT_ACTIONS = ("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject")


@dataclass(frozen=True)
class Step:
    """One thing the bucket should have: `done`, `unchanged`, `planned` (dry run) or `failed`, and why."""

    name: str
    state: str
    detail: str = ""


def lifecycle_rules(prefix: str) -> list[dict[str, Any]]:
    """Rules for the keys below a prefix (empty or ending in a slash); only exports of tasks expire themselves."""
    # The ids of a bucket are all different, and a prefix may be longer than an id.
    mark = sha256(prefix.encode()).hexdigest()[:12]
    return [
        {
            "ID": f"{_OURS}task-exports-{mark}",
            "Status": "Enabled",
            "Filter": {"Prefix": f"{prefix}tasks/"},
            "Expiration": {"Days": TASK_EXPORT_DAYS},
        },
        {
            "ID": f"{_OURS}noncurrent-versions-{mark}",
            "Status": "Enabled",
            "Filter": {"Prefix": prefix},
            "NoncurrentVersionExpiration": {"NoncurrentDays": NONCURRENT_DAYS},
            # The mark that a removed object leaves, once no version is behind it.
            "Expiration": {"ExpiredObjectDeleteMarker": True},
        },
        {
            "ID": f"{_OURS}broken-uploads-{mark}",
            "Status": "Enabled",
            "Filter": {"Prefix": prefix},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": BROKEN_UPLOAD_DAYS},
        },
    ]


def least_policy(bucket: str, prefix: str) -> dict[str, Any]:
    """IAM policy with what exports and backups need of a bucket, and nothing else; `bootstrap` itself needs more."""
    arn = f"arn:aws:s3:::{bucket}"
    listing: dict[str, Any] = {"Effect": "Allow", "Action": [*_BUCKET_ACTIONS], "Resource": arn}
    if prefix:
        listing["Condition"] = {"StringLike": {"s3:prefix": f"{prefix}*"}}
    return {
        "Version": "2012-10-17",
        "Statement": [listing, {"Effect": "Allow", "Action": [*_OBJECT_ACTIONS], "Resource": f"{arn}/{prefix}*"}],
    }


def bootstrap(client: Any, bucket: str, prefix: str, *, dry_run: bool = False) -> list[Step]:
    """Turn on versioning and set our lifecycle rules; what the store refuses is said, and the rest is done.

    Parameters
    ----------
    client
        A boto3 client of S3 whose user may change the bucket.
    bucket, prefix
        Where the exports are; the prefix is empty or ends in a slash.
    dry_run
        Only say what would be done.

    Raises
    ------
    TransientError
        If the store cannot be reached or is failing.
    """
    steps: dict[str, Callable[[Any, str, str, bool], str]] = {"versioning": _version, "lifecycle": _set_rules}
    done = []
    for name, step in steps.items():
        try:
            with s3_errors(f"set the {name} of bucket {bucket}", client.meta.endpoint_url):
                done.append(Step(name, step(client, bucket, prefix, dry_run)))
        except PermanentError as error:
            done.append(Step(name, "failed", str(error)))
    return done


def _version(client: Any, bucket: str, prefix: str, dry_run: bool) -> str:  # noqa: ARG001 - one form for all steps
    if client.get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled":
        return "unchanged"
    if not dry_run:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return "planned" if dry_run else "done"


def _set_rules(client: Any, bucket: str, prefix: str, dry_run: bool) -> str:
    found = _lifecycle(client, bucket)
    rules = found.get("Rules", [])
    kept = [_modern(rule) for rule in rules if not _is_ours(rule, prefix)]
    wanted = [*kept, *lifecycle_rules(prefix)]
    by_id = lambda rule: str(rule.get("ID", ""))  # noqa: E731
    if sorted(wanted, key=by_id) == sorted(rules, key=by_id):
        return "unchanged"
    if not dry_run:
        # A setting of the whole that a put without it would take back.
        size = {key: found[key] for key in ("TransitionDefaultMinimumObjectSize",) if key in found}
        client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": wanted}, **size)
    return "planned" if dry_run else "done"


def _is_ours(rule: Mapping[str, Any], prefix: str) -> bool:
    name = str(rule.get("ID", ""))
    about = f"{prefix}tasks/" if name.startswith(f"{_OURS}task-exports") else prefix
    return name.startswith(_OURS) and _modern(rule).get("Filter", {}).get("Prefix", "") == about


def _lifecycle(client: Any, bucket: str) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = client.get_bucket_lifecycle_configuration(Bucket=bucket)
    except client.exceptions.ClientError as error:
        if error_code(error) == "NoSuchLifecycleConfiguration":
            return {}
        raise
    return found


def _modern(rule: Mapping[str, Any]) -> dict[str, Any]:
    """A rule of the old form, whose prefix stands outside of a filter, in the form that S3 takes beside new ones."""
    if "Prefix" not in rule or "Filter" in rule:
        return dict(rule)
    return {**{key: value for key, value in rule.items() if key != "Prefix"}, "Filter": {"Prefix": rule["Prefix"]}}
