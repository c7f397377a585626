"""An object store in a bucket of S3 or a server that speaks S3 (OpenStack Swift, MinIO and others).

Every upload is checked twice: the server is sent a SHA-256 to refuse altered bytes by (AWS and Swift do, some servers
do not), and afterwards HEAD must show the size, SHA-256 metadata and ETag computed here from the file, and the stored
checksum where the server returns one (AWS does, Swift does not).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import UTC
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as boto
from botocore.config import Config

from coin_hts_pipelines.errors import CoinHtsError, IntegrityError, InvalidRequest, TransientError
from coin_hts_pipelines.storage.object_store import (
    NO_METADATA,
    SHA256_KEY,
    ObjectInfo,
    UploadOutcome,
    check_key,
    check_metadata,
    check_prefix,
    commit,
    compare_sha256,
    copy_hashed,
    expected_sha256,
    guess_content_type,
    open_source,
    os_errors,
    temporary_file,
)
from coin_hts_pipelines.storage.s3_digests import MIN_PART, Digests, base64_text, differences, digest_file
from coin_hts_pipelines.storage.s3_errors import KEY_SETTINGS, is_absent, s3_errors

MIB = 1 << 20


def s3_client(
    endpoint_url: str | None,
    region: str,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    verify: bool | str | None = None,
    *,
    max_attempts: int = 4,
) -> Any:
    """Build a boto3 client: path-style addresses, 5 s to connect, 60 s for an answer, repeats with growing pauses.

    Without keys boto3 looks for credentials where it always does (environment, profile, role). `verify` is the path of
    a certificate file to trust, or False to trust any; None is the machine's own list.

    Raises
    ------
    InvalidRequest
        If the endpoint is not a URL, or holds a user and password.
    """
    parts = urlsplit(endpoint_url or "https://")
    if parts.scheme not in {"http", "https"} or (endpoint_url and not parts.hostname) or "@" in parts.netloc:
        raise InvalidRequest(
            "COIN_HTS_S3_ENDPOINT_URL is not valid; give https://host[:port] without user and password "
            f"(these are {KEY_SETTINGS}), or leave it out for AWS"
        )
    with s3_errors("make an S3 client", endpoint_url or "https://aws"):
        return boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=region,
            aws_access_key_id=access_key_id,
            aws_secret_access_key=secret_access_key,
            verify=verify,
            config=Config(
                s3={"addressing_style": "path"},
                connect_timeout=5,
                read_timeout=60,
                retries={"mode": "standard", "total_max_attempts": max_attempts},
            ),
        )


class S3Store:
    """Objects of one bucket below `prefix`, by a ready boto3 client.

    Files of `multipart_threshold` bytes and more go up in parts of `part_size` bytes; `page_size` is that of listings.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        prefix: str = "",
        *,
        multipart_threshold: int = 64 * MIB,
        part_size: int = 16 * MIB,
        page_size: int = 1000,
    ) -> None:
        if part_size < MIN_PART:
            raise InvalidRequest(f"part size {part_size} is not valid; S3 takes parts of at least {MIN_PART} bytes")
        if multipart_threshold < 1:
            raise InvalidRequest(f"multipart threshold {multipart_threshold} is not valid; give at least 1 byte")
        if not 1 <= page_size <= 1000:
            raise InvalidRequest(f"page size {page_size} is not valid; S3 lists 1 to 1000 objects a page")
        self._client = client
        self._bucket = bucket
        self._prefix = f"{check_key(prefix.strip('/'))}/" if prefix.strip("/") else ""
        self._threshold = multipart_threshold
        self._part_size = part_size
        self._page_size = page_size
        self.url = f"s3://{bucket}/{self._prefix}".rstrip("/")

    def check(self) -> None:
        """Raise if the server is not reachable, the bucket is not there, or reading or writing is not allowed.

        Writing is tried by beginning a multipart upload and dropping it, which leaves no object behind.
        """
        with self._errors(f"read {self.url}"):
            self._probe()
        probe = self._at(".coin-hts-check")
        with self._errors(f"write to {self.url}"):
            upload = self._client.create_multipart_upload(**probe)
            self._client.abort_multipart_upload(**probe, UploadId=upload["UploadId"])

    def upload(
        self,
        source: Path,
        key: str,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        content_type: str | None = None,
    ) -> UploadOutcome:
        """Store a file; see `ObjectStore.upload`. An object with its size, SHA-256 and ETag is left alone."""
        known = check_metadata(metadata)
        about = {**self._at(check_key(key)), "ContentType": content_type or guess_content_type(key)}
        with open_source(source) as stream, self._errors(f"upload {source} to {self._where(key)}"):
            digests = digest_file(stream, self._threshold, self._part_size)
            present = self._head(key)
            if present and not differences(present, digests):
                return UploadOutcome(self._info(key, present), skipped=True)
            about["Metadata"] = {**known, SHA256_KEY: digests.sha256}
            stream.seek(0)
            if digests.parts:
                self._put_parts(stream, digests, about)
            else:
                checksum = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": digests.checksum}
                self._client.put_object(**about, **checksum, Body=stream)
            return UploadOutcome(self._confirmed(key, digests), skipped=False)

    def download(self, key: str, target: Path) -> ObjectInfo:
        """Fetch an object to a file; see `ObjectStore.download`."""
        check_key(key)
        with os_errors(f"write {target}"), temporary_file(target.parent) as (path, copy):
            info, actual = self._read(key, copy)
            compare_sha256(self._where(key), actual, expected_sha256(self._where(key), info.sha256))
            commit(path, copy, target)
        return info

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""
        with self._errors(f"delete {self._where(check_key(key))}"):
            self._client.delete_object(**self._at(key))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose key begins with `prefix`, sorted by key, page by page."""
        wanted = self._prefix + check_prefix(prefix)
        paginator = self._client.get_paginator("list_objects_v2")
        with self._errors(f"list {self.url}"):
            pages = paginator.paginate(
                Bucket=self._bucket, Prefix=wanted, PaginationConfig={"PageSize": self._page_size}
            )
            for entry in (entry for page in pages for entry in page.get("Contents", [])):
                if not entry["Key"].endswith("/"):  # consoles put such empty objects to show a folder
                    yield self._info(entry["Key"].removeprefix(self._prefix), entry)

    def head(self, key: str) -> ObjectInfo | None:
        """Describe an object without reading it; None when there is none. A missing bucket is an error."""
        with self._errors(f"read {self._where(check_key(key))}"):
            found = self._head(key)
            if found is None:
                self._probe()
        return None if found is None else self._info(key, found)

    def verify(self, key: str, sha256: str | None = None) -> ObjectInfo:
        """Read every byte of an object; see `ObjectStore.verify`."""
        where = self._where(check_key(key))
        info, actual = self._read(key)
        compare_sha256(where, actual, expected_sha256(where, info.sha256, sha256))
        return info

    def _at(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _where(self, key: str) -> str:
        return f"{self.url}/{key}"

    def _errors(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return s3_errors(doing, self._client.meta.endpoint_url)

    def _probe(self) -> None:
        """Ask by GET, whose answer names the reason of a refusal; HEAD has no body and says 403 or 404 only."""
        self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    def _head(self, key: str) -> Mapping[str, Any] | None:
        try:
            found: Mapping[str, Any] = self._client.head_object(**self._at(key), ChecksumMode="ENABLED")
        except boto.ClientError as error:
            if is_absent(error):
                return None
            self._probe()
            raise
        return found

    def _read(self, key: str, target: BinaryIO | None = None) -> tuple[ObjectInfo, str]:
        with self._errors(f"read {self._where(key)}"):
            answer = self._client.get_object(**self._at(key))
            with contextlib.closing(answer["Body"]) as body:
                _, actual = copy_hashed(body, target)
            return self._info(key, answer), actual

    def _put_parts(self, stream: BinaryIO, digests: Digests, about: Mapping[str, Any]) -> None:
        upload = self._client.create_multipart_upload(**about, ChecksumAlgorithm="SHA256")
        target = {"Bucket": about["Bucket"], "Key": about["Key"], "UploadId": upload["UploadId"]}
        done = []
        try:
            for number, part in enumerate(digests.parts, start=1):
                named = {"PartNumber": number, "ChecksumSHA256": base64_text(part.sha256)}
                answer = self._client.upload_part(**target, **named, Body=stream.read(part.size))
                done.append({**named, "ETag": answer["ETag"]})
            self._client.complete_multipart_upload(**target, MultipartUpload={"Parts": done})
        except BaseException:
            with contextlib.suppress(boto.BotoCoreError, boto.ClientError):
                self._client.abort_multipart_upload(**target)
            raise

    def _confirmed(self, key: str, digests: Digests) -> ObjectInfo:
        """Return what the server has after an upload; what is ours but wrong is removed."""
        where, found = self._where(key), self._head(key)
        theirs = found and found["Metadata"].get(SHA256_KEY)
        if found is None or theirs not in {None, digests.sha256}:
            raise TransientError(f"{where} was replaced or deleted by another writer right after its upload; try again")
        wrong = differences(found, digests)
        if not wrong:
            return self._info(key, found)
        try:
            self.delete(key)
        except CoinHtsError as error:
            raise IntegrityError(f"{where} was stored wrongly ({wrong}) and is still there: {error}") from error
        raise IntegrityError(f"{where} was stored wrongly ({wrong}) and has been removed; upload it again")

    def _info(self, key: str, found: Mapping[str, Any]) -> ObjectInfo:
        """Describe an object by a HEAD or GET answer or by a row of a listing, which knows less."""
        metadata = dict(found.get("Metadata", {}))
        return ObjectInfo(
            key=key,
            size=found["ContentLength"] if "ContentLength" in found else found["Size"],
            sha256=metadata.pop(SHA256_KEY, None),
            etag=found["ETag"].strip('"'),
            content_type=found.get("ContentType"),
            modified=found["LastModified"].astimezone(UTC),
            metadata=metadata,
        )
