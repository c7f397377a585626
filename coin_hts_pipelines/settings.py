"""Every setting, once. Nothing else in the package reads the environment or `.env`.

Each field is read from `COIN_HTS_<FIELD>`, from the process environment first and then from the `.env` of the project
home: the working directory if it holds a `.env` or `dagster.yaml`, otherwise the checkout this package was installed
from. A few older names are accepted where the field's own name stands in neither. An empty value is as good as none.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from coin_hts_pipelines.errors import InvalidRequest

_CHECKOUT = Path(__file__).resolve().parent.parent
_MARKERS = (".env", "dagster.yaml")

DEFAULT_SYMBOLS = (
    "KRW-ADA", "KRW-AVAX", "KRW-BTC", "KRW-DOGE", "KRW-DOT", "KRW-ETH", "KRW-LINK", "KRW-SOL", "KRW-XLM", "KRW-XRP",
)  # fmt: skip

# Of a live source, where nobody has named any.
DEFAULT_UNIVERSE = (
    "KRW-ADA", "KRW-BCH", "KRW-BTC", "KRW-DOGE", "KRW-ETH", "KRW-NEAR", "KRW-SOL", "KRW-XLM", "KRW-XRP",
)  # fmt: skip

_TIME_OF_DAY = r"^([01]\d|2[0-3]):[0-5]\d$"

CommaList = Annotated[tuple[str, ...], NoDecode]


def find_home() -> Path:
    """Project home: relative paths and `.env` are looked up here."""
    here = Path.cwd()
    if any((here / marker).is_file() for marker in _MARKERS):
        return here
    if any((_CHECKOUT / marker).is_file() for marker in _MARKERS):
        return _CHECKOUT
    return here


def _names(field: str, *older: str) -> AliasChoices:
    return AliasChoices(f"coin_hts_{field}", *older)


class Settings(BaseSettings):
    """All settings of the project with their defaults; `.env.example` shows each."""

    model_config = SettingsConfigDict(
        env_prefix="coin_hts_", env_ignore_empty=True, extra="ignore", populate_by_name=True, frozen=True
    )

    home: Path = Field(default_factory=find_home, description="Project home; relative paths start here.")
    data_root: Path = Field(
        Path("data"), validation_alias=_names("data_root", "data_root"), description="Candles, results, reports."
    )
    dagster_home: Path = Field(
        Path(), validation_alias=_names("dagster_home", "dagster_home"), description="Folder of dagster.yaml."
    )

    database_url: SecretStr | None = Field(
        None,
        validation_alias=_names("database_url", "database_url"),
        description="Postgres of Dagster and the catalog; empty: the embedded server under DATA_ROOT/postgres.",
    )
    database_pool_size: int = Field(20, ge=1, description="Connections kept open by the catalog.")
    database_max_overflow: int = Field(40, ge=0, description="Connections beyond the pool at a peak.")
    database_pool_recycle: int = Field(3600, ge=1, description="Seconds after which a connection is renewed.")

    source: str = Field(
        "sample", description="Where candles come from: sample (synthetic), files, or exchange:NAME (exchange:upbit)."
    )
    source_path: Path | None = Field(None, description="Folder of the files source; empty: DATA_ROOT itself.")
    exchange_url: str | None = Field(None, description="Address of the exchange; empty: its own.")
    daily_at: str = Field("00:05", pattern=_TIME_OF_DAY, description="When daily candles are refreshed, UTC.")
    universe: str = Field(
        "list", pattern="^(list|all)$", description="New markets that are switched on: those of the list below, or all."
    )
    quote: str = Field("KRW", description="Quote currency of the markets that are looked at; all: every one.")
    symbols: CommaList = Field(DEFAULT_SYMBOLS, description="Symbols of the sample source, and of the universe.")
    timeframes: CommaList = Field(("1D", "1H", "5M", "1M"), description="Timeframes that have assets.")
    first_year: int = Field(2017, ge=2009, le=2100, description="First year partition (Upbit opened in 2017).")
    threads: int = Field(0, ge=0, description="Threads of one run; 0: one per processor.")
    keep_results: int = Field(3, ge=1, description="Result directories kept per preset and symbol.")

    task_max_attempts: int = Field(
        3,
        ge=1,
        le=100,
        validation_alias=_names("task_max_attempts", "task_max_attempts"),
        description="How often a task is tried at most.",
    )
    task_timeout_seconds: float = Field(
        3600,
        gt=0,
        validation_alias=_names("task_timeout_seconds", "task_timeout_seconds"),
        description="How long one attempt of a task may take.",
    )
    task_lost_seconds: float = Field(60, ge=3, description="Seconds without a sign of life after which it is lost.")
    task_result_ttl_days: float = Field(
        7,
        ge=0,
        validation_alias=_names("task_result_ttl_days", "task_result_ttl_days"),
        description="Days after which the clean-up removes the result of a completed task.",
    )
    task_failed_ttl_days: float = Field(1, ge=0, description="Days after which it removes what a failed task left.")
    task_batch: int = Field(50, ge=1, le=1000, description="Tasks that share a run at most.")
    task_runs: int = Field(3, ge=1, description="Runs of tasks at once; dagster.yaml limits all runs together.")

    export_store: str = Field("directory", pattern="^(directory|s3)$", description="directory or s3.")
    export_dir: Path | None = Field(None, description="Folder of the directory store; empty: DATA_ROOT/exports.")
    s3_bucket: str | None = Field(None, validation_alias=_names("s3_bucket", "aws_bucket_name"), description="Bucket.")
    s3_region: str = Field("us-east-1", validation_alias=_names("s3_region", "aws_region"), description="Region.")
    s3_endpoint_url: str | None = Field(
        None, validation_alias=_names("s3_endpoint_url", "aws_endpoint_url_s3"), description="Empty: AWS itself."
    )
    s3_prefix: str = Field("", description="Key prefix inside the bucket.")
    s3_verify: bool = Field(True, description="Check the TLS certificate.")
    s3_ca_bundle: Path | None = Field(None, description="CA bundle of a private store.")
    s3_access_key_id: SecretStr | None = Field(
        None, validation_alias=_names("s3_access_key_id", "aws_access_key_id"), description="Empty: boto3's own chain."
    )
    s3_secret_access_key: SecretStr | None = Field(
        None, validation_alias=_names("s3_secret_access_key", "aws_secret_access_key"), description="Secret key."
    )

    backup_dir: Path | None = Field(
        None, description="Folder of the backups; empty: the folder backups beside DATA_ROOT. Better another disk."
    )
    backup_store: str = Field(
        "directory", pattern="^(directory|s3)$", description="directory, or s3: the bucket of the exports."
    )
    backup_at: str = Field("02:00", pattern=_TIME_OF_DAY, description="When the daily backup is made, Asia/Seoul.")
    backup_keep_daily: int = Field(7, ge=1, description="Newest backups of a day that are kept.")
    backup_keep_weekly: int = Field(4, ge=0, description="Newest backups of a week that are kept.")
    backup_keep_monthly: int = Field(3, ge=0, description="Newest backups of a month that are kept.")

    retention_run_days: int = Field(
        30, ge=1, description="Days after which finished runs, and alerts that are over, are removed."
    )
    retention_export_days: int = Field(
        90, ge=1, description="Days after which exports of presets and results no longer current are removed."
    )
    retention_task_days: int = Field(90, ge=1, description="Days after which rows of finished tasks are removed.")

    slack_webhook_url: SecretStr | None = Field(
        None,
        validation_alias=_names("slack_webhook_url", "slack_webhook_url"),
        description="Incoming webhook of Slack for alerts; empty: none are sent there.",
    )
    smtp_host: str | None = Field(
        None, validation_alias=_names("smtp_host", "smtp_host"), description="Mail server for alerts; empty: no mail."
    )
    smtp_port: int = Field(
        587, ge=1, le=65535, validation_alias=_names("smtp_port", "smtp_port"), description="Its port."
    )
    smtp_starttls: bool = Field(True, description="Speak TLS to it; without it no password is sent.")
    smtp_ca_bundle: Path | None = Field(None, description="CA bundle of a private mail server.")
    smtp_user: str | None = Field(
        None, validation_alias=_names("smtp_user", "smtp_user"), description="Login; empty: none."
    )
    smtp_password: SecretStr | None = Field(
        None, validation_alias=_names("smtp_password", "smtp_password"), description="Password of the login."
    )
    alert_mail_from: str | None = Field(None, description="Sender of the mails.")
    alert_mail_to: CommaList = Field((), description="Receivers of the mails.")
    alert_repeat_hours: float = Field(6, gt=0, description="Hours after which an alert that lasts is sent again.")
    alert_most_per_hour: int = Field(20, ge=1, description="Alerts sent an hour at most; the others are summed up.")
    alert_disk_percent: float = Field(80, gt=0, le=100, description="Share of the disk in use that is worth an alert.")

    ui_url: str | None = Field(None, description="Address of the Dagster UI in links; empty: host and port below.")
    runbooks_url: str | None = Field(
        None, description="Address of docs/runbooks in alerts, as your repository serves it; empty: the path here."
    )
    host: str = Field("127.0.0.1", description="Address `make up` listens on.")
    port: int = Field(3000, ge=1, le=65535, description="Port `make up` listens on.")
    log_level: str = Field(
        "INFO", pattern="(?i)^(debug|info|warning|error|critical)$", description="Level of the logs."
    )
    log_dir: Path | None = Field(None, description="Folder of the log files; empty: DATA_ROOT/logs.")
    log_max_megabytes: int = Field(20, ge=1, description="Size at which a log file is put aside.")
    log_files: int = Field(10, ge=1, description="Log files put aside that are kept.")
    numba_cache_dir: Path | None = Field(None, description="Cache of compiled kernels, for read-only installations.")

    @field_validator("symbols", "timeframes", "alert_mail_to", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, the environment and `.env`, in this order."""
        return init_settings, env_settings, dotenv_settings

    def path(self, value: Path) -> Path:
        """Absolute form of a path setting."""
        return value.expanduser() if value.expanduser().is_absolute() else (self.home / value).resolve()

    @property
    def root(self) -> Path:
        """Absolute DATA_ROOT."""
        return self.path(self.data_root)

    @property
    def exports(self) -> Path:
        """Absolute folder of the directory export store."""
        return self.path(self.export_dir) if self.export_dir else self.root / "exports"

    @property
    def backups(self) -> Path:
        """Absolute folder of the directory of backups."""
        return self.path(self.backup_dir) if self.backup_dir else self.root.parent / "backups"

    @property
    def logs(self) -> Path:
        """Absolute folder of the log files."""
        return self.path(self.log_dir) if self.log_dir else self.root / "logs"

    @property
    def postgres(self) -> Path:
        """Data directory of the embedded server."""
        return self.root / "postgres"

    @property
    def reports(self) -> Path:
        """Folder of the HTML reports."""
        return self.root / "reports"

    @property
    def ui(self) -> str:
        """Address of the Dagster UI, without a slash at the end."""
        # An address that stands for all of them is no address to go to.
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        return (self.ui_url or f"http://{host}:{self.port}").rstrip("/")

    @property
    def exports_tasks(self) -> bool:
        """Whether results of tasks are exported: only to a place that was named; by default it is the same disk."""
        return self.export_store == "s3" or self.export_dir is not None

    @property
    def embedded(self) -> bool:
        """Whether Postgres is the embedded server."""
        return self.database_url is None

    @property
    def live_source(self) -> bool:
        """Whether candles come from a live exchange, so that refreshing by the clock makes sense."""
        return self.source.startswith("exchange")

    @property
    def exchange(self) -> str:
        """Name of the live exchange, empty without one."""
        return self.source.partition(":")[2] if self.live_source else ""

    @property
    def universe_symbols(self) -> tuple[str, ...]:
        """Symbols of the universe that are switched on when they are first seen."""
        return self.symbols if "symbols" in self.model_fields_set else DEFAULT_UNIVERSE

    @property
    def universe_wanted(self) -> tuple[str, ...] | Literal["all"]:
        """The same, or all."""
        return "all" if self.universe == "all" else self.universe_symbols

    @property
    def universe_quote(self) -> str | None:
        """Quote currency of the markets that are looked at, None for every one."""
        return None if self.quote.lower() == "all" else self.quote.upper()

    @property
    def worker_threads(self) -> int:
        """Threads a run computes with."""
        return self.threads or os.cpu_count() or 1


@cache
def get_settings() -> Settings:
    """Return the settings of this process, read once.

    Raises
    ------
    InvalidRequest
        If a setting is out of range; the message names the variable.
    """
    home = find_home()
    env_file = home / ".env"
    try:
        settings = Settings(_env_file=env_file if env_file.is_file() else None)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper()
        name = name if name.startswith(("COIN_HTS_", "AWS_")) else f"COIN_HTS_{name}"
        raise InvalidRequest(f"setting {name} is not accepted: {first['msg']}") from None
    if settings.numba_cache_dir is not None:
        # numba reads this when it is imported, which the kernels do later than anybody asks for settings.
        os.environ.setdefault("NUMBA_CACHE_DIR", str(settings.path(settings.numba_cache_dir)))
    return settings


def publish(**variables: str) -> None:
    """Set variables of this process for the libraries that read them (Dagster does)."""
    os.environ.update(variables)
