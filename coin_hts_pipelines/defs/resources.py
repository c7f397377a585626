"""What the assets work with, built from the settings: the lake, the catalog, the results and the export store."""

from pathlib import Path
from typing import Any

from dagster import ConfigurableResource

from coin_hts_pipelines import clock
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.lake import CandleStore, IndicatorStore
from coin_hts_pipelines.lake.sources import CandleSource, FilesSource, SampleSource, StoredSource
from coin_hts_pipelines.results import ResultStore
from coin_hts_pipelines.settings import Settings, get_settings, publish
from coin_hts_pipelines.storage import DirectoryStore, ObjectStore


class LakeResource(ConfigurableResource[Any]):
    """Candles, indicator frames and results under one DATA_ROOT."""

    data_root: str
    keep_results: int = 3

    @property
    def root(self) -> Path:
        """DATA_ROOT."""
        return Path(self.data_root)

    @property
    def candles(self) -> CandleStore:
        """Candle files."""
        return CandleStore(self.root)

    @property
    def indicators(self) -> IndicatorStore:
        """Indicator files."""
        return IndicatorStore(self.root)

    @property
    def results(self) -> ResultStore:
        """Result directories."""
        return ResultStore(self.root, keep=self.keep_results)


class CatalogResource(ConfigurableResource[Any]):
    """The catalog in Postgres; the connection comes from the settings, so that no password stands in the UI."""

    @property
    def database(self) -> Database:
        """The process's connection."""
        return open_database()


class ExportStoreResource(ConfigurableResource[Any]):
    """Where results are exported to: a directory or an S3-compatible bucket; credentials come from the settings."""

    kind: str
    directory: str
    bucket: str | None = None
    prefix: str = ""
    region: str = "us-east-1"
    endpoint_url: str | None = None
    verify: bool = True

    def open(self) -> ObjectStore:
        """Open the store."""
        if self.kind == "directory":
            return DirectoryStore(Path(self.directory))
        if not self.bucket:
            raise InvalidRequest("exports go to S3 but no bucket is set; set COIN_HTS_S3_BUCKET")
        from dagster_aws.s3 import S3Resource  # noqa: PLC0415 - half a second, which every process would pay

        settings = get_settings()
        if settings.s3_ca_bundle is not None:
            publish(AWS_CA_BUNDLE=str(settings.path(settings.s3_ca_bundle)))
        key, secret = settings.s3_access_key_id, settings.s3_secret_access_key
        client = S3Resource(
            region_name=self.region,
            endpoint_url=self.endpoint_url,
            verify=None if self.verify else False,
            aws_access_key_id=key.get_secret_value() if key else None,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
        ).get_client()
        from coin_hts_pipelines.storage import S3Store  # noqa: PLC0415 - boto3

        return S3Store(client, self.bucket, self.prefix)


def lake_resource(settings: Settings) -> LakeResource:
    """Lake of the settings."""
    return LakeResource(data_root=str(settings.root), keep_results=settings.keep_results)


def export_store_resource(settings: Settings) -> ExportStoreResource:
    """Export store of the settings."""
    return ExportStoreResource(
        kind=settings.export_store,
        directory=str(settings.exports),
        bucket=settings.s3_bucket,
        prefix=settings.s3_prefix,
        region=settings.s3_region,
        endpoint_url=settings.s3_endpoint_url,
        verify=settings.s3_verify,
    )


def open_source(name: str, path: Path | None, store_root: Path) -> CandleSource:
    """Candle source by its name in the settings; `files` without a folder of its own is the store itself.

    Raises
    ------
    InvalidRequest
        For an unknown name.
    """
    if name == "sample":
        return SampleSource(now=clock.now())
    if name == "files":
        if path is None or path.resolve() == store_root.resolve():
            return StoredSource(CandleStore(store_root))
        return FilesSource(path)
    kind, _, exchange = name.partition(":")
    if kind == "exchange" and exchange:
        from coin_hts_pipelines.lake.sources.exchange import ExchangeSource  # noqa: PLC0415 - only who fetches needs it

        return ExchangeSource(exchange, get_settings().exchange_url, clock.now)
    raise InvalidRequest(f"source {name!r} is unknown; accepted: sample, files, exchange:NAME such as exchange:upbit")
