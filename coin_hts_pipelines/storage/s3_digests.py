"""What an S3 server must say of a file once it has it: computed from the file, compared with a HEAD answer."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.storage.object_store import READ_SIZE, SHA256_KEY

# Limits of S3 itself; the last part may be smaller.
MIN_PART = 5 << 20
MAX_PARTS = 10_000


@dataclass(frozen=True)
class Part:
    """One part of a multipart upload."""

    size: int
    md5: bytes
    sha256: bytes


@dataclass(frozen=True)
class Digests:
    """Size, SHA-256 (hex), ETag and SHA-256 checksum (base64) of a file; no parts if it goes up in one piece.

    In parts, ETag and checksum are digests of the digests of the parts, the ETag with `-N` behind it.
    """

    size: int
    sha256: str
    etag: str
    checksum: str
    parts: tuple[Part, ...]


def digest_file(stream: BinaryIO, threshold: int, part_size: int) -> Digests:
    """Read an open file to its end; from `threshold` bytes on it is taken in parts of `part_size` bytes.

    Raises
    ------
    InvalidRequest
        If there are more parts than S3 takes.
    """
    in_parts = os.fstat(stream.fileno()).st_size >= threshold
    size, sha256, md5 = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    parts = []
    while block := stream.read(part_size if in_parts else READ_SIZE):
        size += len(block)
        sha256.update(block)
        if in_parts:
            part_md5 = hashlib.md5(block, usedforsecurity=False).digest()
            parts.append(Part(len(block), part_md5, hashlib.sha256(block).digest()))
        else:
            md5.update(block)
    if len(parts) > MAX_PARTS:
        raise InvalidRequest(f"a file of {size} bytes has {len(parts)} parts; S3 takes {MAX_PARTS}, raise part_size")
    if not parts:
        return Digests(size, sha256.hexdigest(), md5.hexdigest(), base64_text(sha256.digest()), ())
    etag = hashlib.md5(b"".join(part.md5 for part in parts), usedforsecurity=False).hexdigest()
    checksum = hashlib.sha256(b"".join(part.sha256 for part in parts)).digest()
    return Digests(size, sha256.hexdigest(), f"{etag}-{len(parts)}", base64_text(checksum), tuple(parts))


def differences(found: Mapping[str, Any], digests: Digests) -> str:
    """Name what a HEAD answer says otherwise than the local file; empty when they agree."""
    pairs = {
        "size": (found["ContentLength"], digests.size),
        "sha256 metadata": (found["Metadata"].get(SHA256_KEY), digests.sha256),
        "ETag": (found["ETag"].strip('"'), digests.etag),
        # AWS ends the checksum of a multipart object in `-N` as it does the ETag, other servers do not.
        "stored checksum": (found.get("ChecksumSHA256", digests.checksum).partition("-")[0], digests.checksum),
    }
    if str(found.get("ServerSideEncryption", "")).startswith("aws:kms"):
        del pairs["ETag"]  # with KMS keys it is no MD5
    return ", ".join(
        f"{name} {actual}, expected {wanted}" for name, (actual, wanted) in pairs.items() if actual != wanted
    )


def base64_text(digest: bytes) -> str:
    """Write a digest as checksum headers have it."""
    return base64.b64encode(digest).decode()
