"""Object stores for finished files: a local folder or S3, behind one promise. Not here: what the files mean."""

from coin_hts_pipelines.storage.directory import DirectoryStore
from coin_hts_pipelines.storage.object_store import ObjectInfo, ObjectStore, UploadOutcome
from coin_hts_pipelines.storage.s3 import S3Store, s3_client

__all__ = ["DirectoryStore", "ObjectInfo", "ObjectStore", "S3Store", "UploadOutcome", "s3_client"]
