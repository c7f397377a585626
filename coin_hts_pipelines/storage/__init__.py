"""Object stores for finished files: a local folder or S3, behind one promise. Not here: what the files mean."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from coin_hts_pipelines.storage.directory import DirectoryStore
from coin_hts_pipelines.storage.object_store import ObjectInfo, ObjectStore, UploadOutcome

if TYPE_CHECKING:
    from coin_hts_pipelines.storage.s3 import S3Store, s3_client

__all__ = ["DirectoryStore", "ObjectInfo", "ObjectStore", "S3Store", "UploadOutcome", "s3_client"]


def __getattr__(name: str) -> Any:
    # boto3 takes a quarter of a second, and only who uses S3 needs it.
    if name not in ("S3Store", "s3_client"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.s3"), name)
