"""What works and what does not outside of Dagster: settings, folders, Postgres, candles, stores, the exchange, backups.

Each check gives a finding and raises nothing that `guarded` does not turn into one.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from coin_hts_pipelines import clock
from coin_hts_pipelines.errors import CoinHtsError, InvalidCandles, InvalidRequest, TransientError
from coin_hts_pipelines.settings import Settings

_LEAST_FREE_BYTES = 1_000_000_000
_CUT_OFF_SECONDS = 2.3
_EXCHANGE_SECONDS = 2.0
_CLOCK_OFF_SECONDS = 5.0
_OLD_BACKUP = timedelta(days=2)
# What is fetched by the minute is late after this; daily candles come at their time of day.
_LATE = timedelta(minutes=15)
_NAMED = 3
# Nanoseconds of a unit of Parquet's.
_NANOSECONDS = {"milliseconds": 1_000_000, "microseconds": 1000, "nanoseconds": 1}

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One check: `ok`, `warn` or `fail`, and what was found."""

    name: str
    state: str
    detail: str


def guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """Finding of a check; one that raises has failed."""
    try:
        return check()
    except (CoinHtsError, OSError) as error:
        return Finding(name, "fail", str(error) or type(error).__name__)
    except Exception as error:  # of a driver or a library: the other checks go on
        return Finding(name, "fail", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")


def in_background(work: Callable[[], T]) -> Future[T]:
    """Start what may never answer in a thread that keeps no process alive (those of an executor do)."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def cut_off(started: float) -> float:
    """Moment of the monotonic clock until which answers are waited for, once one's own work is done.

    2.3 s after the start, so that a command answers within 3 s; where one's own work took longer the machine is busy,
    and the others get half of that time more.
    """
    now = time.monotonic()
    return max(started + _CUT_OFF_SECONDS, now + (now - started) / 2)


def answer_of(future: Future[T], until: float) -> T:
    """Return what a background piece of work gives until a moment of the monotonic clock.

    Raises
    ------
    TransientError
        If it has not answered by then.
    """
    try:
        return future.result(max(0.0, until - time.monotonic()))
    except TimeoutError:
        if future.done():  # its own error, not ours
            raise
        raise TransientError("no answer; it hangs, or the way to it is blocked") from None


# ---- settings


def check_settings(settings: Settings, unknown: Sequence[str] = ()) -> Finding:
    """Settings that contradict each other, variables that are none, and what is not left at its default."""
    problems = [f"{name} is no setting" for name in unknown] + [text for bad, text in _contradictions(settings) if bad]
    given = sorted(settings.model_fields_set - {"home"})
    text = f"set: {', '.join(given)}" if given else "all at their defaults"
    return Finding("settings", "warn" if problems else "ok", "; ".join([*problems, text]))


def unknown_variables(settings: Settings) -> list[str]:
    """Variables of the environment and of `.env` that look like settings but are read by nobody."""
    from difflib import get_close_matches  # noqa: PLC0415

    from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource  # noqa: PLC0415

    found = {
        *EnvSettingsSource(Settings).env_vars,
        *DotEnvSettingsSource(Settings, env_file=settings.home / ".env").env_vars,
    }
    # The last is written by `setup` for dagster.yaml.
    known = {*Settings.model_fields, "dagster_storage"}
    unknown = []
    for name in sorted(found):
        prefix, own, rest = name.partition("coin_hts_")
        if own and not prefix and rest not in known:
            near = get_close_matches(rest, known, 1)
            unknown.append(name.upper() + (f" (did you mean COIN_HTS_{near[0].upper()}?)" if near else ""))
    return unknown


def _contradictions(settings: Settings) -> Iterator[tuple[bool, str]]:
    uses_s3 = "s3" in (settings.export_store, settings.backup_store)
    yield uses_s3 and not settings.s3_bucket, "something goes to S3 but no bucket is set; set COIN_HTS_S3_BUCKET"
    yield bool(settings.s3_bucket) and not uses_s3, "a bucket is set but neither exports nor backups go to S3"
    keys = (settings.s3_access_key_id is None, settings.s3_secret_access_key is None)
    yield keys[0] != keys[1], "of COIN_HTS_S3_ACCESS_KEY_ID and COIN_HTS_S3_SECRET_ACCESS_KEY only one is set"
    named = settings.export_dir is not None
    yield named and settings.export_store == "s3", "COIN_HTS_EXPORT_DIR is not used while exports go to S3"
    same = named and settings.export_store == "directory" and _device(settings.exports) == _device(settings.root)
    yield same, f"exports go to {settings.exports}, which is on the same disk as the data: a lost disk takes both"
    inside = settings.backup_store == "directory" and settings.backups.is_relative_to(settings.root)
    yield inside, f"backups go to {settings.backups}, which is inside DATA_ROOT"
    kind, _, exchange = settings.source.partition(":")
    fits = settings.source in ("sample", "files") or (kind == "exchange" and bool(exchange))
    yield not fits, f"source {settings.source!r} is unknown; accepted: sample, files, exchange:NAME"
    live, files = settings.live_source, settings.source == "files"
    yield settings.exchange_url is not None and not live, "COIN_HTS_EXCHANGE_URL is not used without a live source"
    yield settings.source_path is not None and not files, "COIN_HTS_SOURCE_PATH is only used by the files source"
    host, sender = settings.smtp_host is not None, settings.alert_mail_from or settings.smtp_user
    whole = host and bool(sender) and bool(settings.alert_mail_to)
    begun = host or bool(sender) or bool(settings.alert_mail_to)
    yield begun and not whole, "mail needs COIN_HTS_SMTP_HOST, COIN_HTS_ALERT_MAIL_FROM and COIN_HTS_ALERT_MAIL_TO"
    login = (settings.smtp_user is None, settings.smtp_password is None)
    yield login[0] != login[1], "of COIN_HTS_SMTP_USER and COIN_HTS_SMTP_PASSWORD only one is set"
    yield not login[1] and not settings.smtp_starttls, "no password is sent to the mail server without STARTTLS"


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _device(path: Path) -> int:
    return _existing(path).stat().st_dev


# ---- folders


@dataclass(frozen=True)
class DiskUsage:
    """Bytes of a disk, as `df` counts: what only root may fill is neither used nor free."""

    used: int
    free: int

    @property
    def used_percent(self) -> float:
        """Share in use."""
        return 100 * self.used / max(1, self.used + self.free)


def disk_usage(path: Path) -> DiskUsage:
    """Disk of a folder, or of what it will be made in."""
    found = shutil.disk_usage(_existing(path))
    return DiskUsage(found.used, found.free)


def check_folder(name: str, path: Path, most_percent: float) -> Finding:
    """A folder, or the one it will be made in, can be written and has room."""
    place = _existing(path)
    if not place.is_dir():
        return Finding(name, "fail", f"{place} is no folder")
    if not os.access(place, os.W_OK):
        return Finding(name, "fail", f"{path} cannot be written")
    usage = disk_usage(place)
    text = f"{path}, {usage.free / 1e9:,.1f} GB free, {usage.used_percent:.0f} % used"
    if usage.used_percent > most_percent:
        return Finding(name, "warn", f"{text}; more than COIN_HTS_ALERT_DISK_PERCENT = {most_percent:g}")
    return Finding(name, "ok" if usage.free > _LEAST_FREE_BYTES else "warn", text)


def check_data_root(settings: Settings) -> Finding:
    """DATA_ROOT exists, can be written, has room, and is no half of two by an interrupted restore."""
    from coin_hts_pipelines.operations.backup import interrupted_restore  # noqa: PLC0415

    settings.root.mkdir(parents=True, exist_ok=True)
    if problem := interrupted_restore(settings.root):
        return Finding("data root", "fail", problem)
    return check_folder("data root", settings.root, settings.alert_disk_percent)


# ---- candles


@dataclass(frozen=True)
class Extent:
    """A symbol's candles of a timeframe: rows and the open time of the newest."""

    rows: int
    last: datetime


class CandleFooters:
    """Rows and newest candle of each series from the footers of the year files; of unchanged files remembered."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[Path, tuple[tuple[int, int], Extent]] = {}
        self.problems: list[str] = []

    def read(self, *, newest_only: bool = False) -> dict[tuple[str, str], Extent]:
        """Each series by symbol and timeframe; with `newest_only` of its last year alone, which is quick."""
        self.problems = []
        found: dict[tuple[str, str], Extent] = {}
        for key, years in self._files():
            for path in years[-1:] if newest_only else years:
                try:
                    one = self._footer(path)
                except FileNotFoundError:
                    continue
                except CoinHtsError as error:
                    self.problems.append(str(error))
                    continue
                before = found.get(key)
                found[key] = Extent(before.rows + one.rows, max(before.last, one.last)) if before else one
        return found

    def _files(self) -> Iterator[tuple[tuple[str, str], list[Path]]]:
        from coin_hts_pipelines.market import Timeframe  # noqa: PLC0415

        # A symbol has a dash and nothing else in DATA_ROOT has.
        for folder in sorted(self._root.glob("*-*/*")):
            if folder.name in Timeframe.__members__.values():
                years = sorted(folder.glob("[0-9][0-9][0-9][0-9].parquet"))
                if years:
                    yield (folder.parent.name, folder.name), years

    def _footer(self, path: Path) -> Extent:
        import pyarrow.parquet as pq  # noqa: PLC0415

        from coin_hts_pipelines.lake.year_files import readable  # noqa: PLC0415

        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        if path not in self._known or self._known[path][0] != stamp:
            with readable(str(path)), pq.ParquetFile(path) as parquet:
                self._known[path] = stamp, Extent(parquet.metadata.num_rows, _newest(parquet, path))
        return self._known[path][1]


def _largest(statistics: Any) -> datetime:
    """Largest timestamp of a row group, read from the raw number.

    pyarrow's own conversion imports pandas, which fails when another thread is importing it too.
    """
    length = _NANOSECONDS[json.loads(statistics.logical_type.to_json())["timeUnit"]]
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=statistics.max_raw * length // 1000)


def _newest(parquet: Any, path: Path) -> datetime:
    """Largest timestamp of a file, by its statistics where it has them."""
    names = parquet.schema_arrow.names
    if "timestamp" not in names:
        raise InvalidCandles(f"{path}: has no column timestamp; replace it")
    groups = [parquet.metadata.row_group(place) for place in range(parquet.metadata.num_row_groups)]
    statistics = [group.column(names.index("timestamp")).statistics for group in groups]
    stamps = str(parquet.schema_arrow.field("timestamp").type).startswith("timestamp")
    if stamps and all(one is not None and one.has_min_max for one in statistics):
        found = [_largest(one) for one in statistics]
    elif stamps:
        found = parquet.read(columns=["timestamp"])["timestamp"].to_pylist()
    else:
        # Somebody's own file, with numbers or texts.
        from coin_hts_pipelines.lake.sources.columns import read_times  # noqa: PLC0415

        column = parquet.read(columns=["timestamp"])["timestamp"].to_pandas()
        try:
            found = [read_times(column, "timestamp").max().to_pydatetime()] if len(column) else []
        except InvalidCandles as error:
            raise InvalidCandles(f"{path}: {error}") from error
    if not found:
        raise InvalidCandles(f"{path}: candles are empty; at least one bar is needed")
    last: datetime = max(found)
    return last if last.tzinfo else last.replace(tzinfo=UTC)


def check_candles(
    settings: Settings,
    series: Mapping[tuple[str, str], Extent],
    problems: Sequence[str],
    asked: Mapping[tuple[str, str], datetime | None] | None = None,
) -> Finding:
    """There are candles, the newest file of each series can be read, and nothing that is fetched is late.

    Parameters
    ----------
    asked
        Of a live source the symbols and timeframes that are fetched, and the end of what was asked for (a bar that
        was not traded makes nothing late); None: nothing is fetched by the clock.
    """
    if problems:
        return Finding("candles", "fail", f"{len(problems)} files cannot be read, first: {problems[0]}")
    if not series and not asked:
        return Finding("candles", "warn", "none stored yet; `make run` makes synthetic ones")
    now = clock.now()
    newest: dict[str, datetime] = {}
    for (_, timeframe), one in series.items():
        newest[timeframe] = max(one.last, newest.get(timeframe, one.last))
    symbols = len({symbol for symbol, _ in series})
    ages = ", ".join(f"{name} {age_text(now - newest[name])}" for name in sorted(newest, key=_length))
    late = [name for name in asked or {} if _is_late(settings, name[1], series.get(name), (asked or {})[name], now)]
    text = f"{symbols} symbols, newest bar opened ago: {ages or 'none'}"
    if late:
        named = ", ".join(f"{symbol} {timeframe}" for symbol, timeframe in late[:_NAMED])
        more = f" and {len(late) - _NAMED} more" if len(late) > _NAMED else ""
        return Finding("candles", "warn", f"{text}; stale: {named}{more}")
    return Finding("candles", "ok", text)


def _length(timeframe: str) -> timedelta:
    from coin_hts_pipelines.market import Timeframe  # noqa: PLC0415

    return Timeframe(timeframe).delta


def _is_late(
    settings: Settings, timeframe: str, one: Extent | None, asked_until: datetime | None, now: datetime
) -> bool:
    length, late = _length(timeframe), _LATE
    if length >= timedelta(days=1):
        hour, minute = map(int, settings.daily_at.split(":"))
        late = timedelta(hours=hour + 1, minutes=minute)
    known = [moment for moment in (one.last + length if one else None, asked_until) if moment is not None]
    return not known or now - max(known) > length + late


def age_text(age: timedelta) -> str:
    """A length of time for a person: 12 s, 5 min, 3.4 h, 2.1 d."""
    seconds = age.total_seconds()
    for unit, size, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{seconds / size:,.1f} {unit}" if unit == "h" else f"{seconds / size:,.0f} {unit}"
    return f"{seconds / 86_400:,.1f} d"


def check_strategies() -> Finding:
    """Every plug-in that is installed can be used."""
    from coin_hts_pipelines.strategies import broken_plugins, list_strategies  # noqa: PLC0415

    broken = broken_plugins()
    if broken:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in broken.items())
        return Finding("strategies", "fail", f"{len(broken)} plug-ins cannot be used: {reasons}")
    return Finding("strategies", "ok", ", ".join(list_strategies()))


# ---- what others serve


def check_export_store(settings: Settings) -> Finding:
    """The export store answers and may be used."""
    if settings.export_store == "directory":
        from coin_hts_pipelines.storage.directory import DirectoryStore  # noqa: PLC0415

        here = DirectoryStore(settings.exports)
        here.check()
        return Finding("export store", "ok", here.url)
    if not settings.s3_bucket:
        raise InvalidRequest("exports go to S3 but no bucket is set; set COIN_HTS_S3_BUCKET")
    # Only who uses S3 needs boto3; one attempt, for an answer that comes late is as good as none.
    from coin_hts_pipelines.storage.s3 import S3Store, s3_client  # noqa: PLC0415

    key, secret, bundle = settings.s3_access_key_id, settings.s3_secret_access_key, settings.s3_ca_bundle
    client = s3_client(
        settings.s3_endpoint_url,
        settings.s3_region,
        key.get_secret_value() if key else None,
        secret.get_secret_value() if secret else None,
        (str(settings.path(bundle)) if bundle else None) if settings.s3_verify else False,
        max_attempts=1,
    )
    store = S3Store(client, settings.s3_bucket, settings.s3_prefix)
    store.check()
    return Finding("export store", "ok", store.url)


def check_exchange(settings: Settings) -> Finding:
    """The exchange answers and its clock agrees with ours, which decides which bars are closed.

    By the `Date` header of a path that has no rate limit; it has whole seconds, rounded down.
    """
    address = settings.exchange_url or _address(settings.exchange)
    asked = clock.now()
    try:
        with urlopen(address, timeout=_EXCHANGE_SECONDS) as response:  # noqa: S310 - of the settings, or ccxt's
            date = response.headers["Date"]
    except HTTPError as error:  # 404 and the like: it is there
        date = error.headers["Date"]
    except (OSError, ValueError) as error:
        return Finding("exchange", "warn", f"{settings.exchange} at {address} cannot be reached: {error}")
    answered = clock.now()
    if date is None:
        return Finding("exchange", "warn", f"{settings.exchange} at {address} does not say what time it is")
    theirs = parsedate_to_datetime(date)
    ahead, behind = (asked - theirs).total_seconds() - 1, (theirs - answered).total_seconds()
    off = max(ahead, behind, 0.0)
    if off > _CLOCK_OFF_SECONDS:
        way = "ahead of" if ahead > behind else "behind"
        text = f"this clock is {off:,.0f} s {way} that of {settings.exchange}; set it by NTP"
        return Finding("exchange", "warn", text)
    return Finding("exchange", "ok", f"{settings.exchange} at {address}, clocks agree within {max(off, 1):.0f} s")


def _address(exchange: str) -> str:
    """Scheme and host of an exchange as ccxt knows it."""
    from coin_hts_pipelines.lake.sources.exchange_client import ExchangeClient  # noqa: PLC0415

    ccxt = ExchangeClient(exchange).ccxt
    urls = ccxt.urls["api"]
    while isinstance(urls, dict):
        urls = urls.get("public") or next(iter(urls.values()))
    parts = urlsplit(ccxt.implode_hostname(urls))
    return f"{parts.scheme}://{parts.netloc}/"


# ---- backups


@dataclass(frozen=True)
class Backups:
    """How many there are, when the newest was made, and how the last drill ended (None: there was none)."""

    count: int = 0
    newest: datetime | None = None
    drill_at: datetime | None = None
    drill_passed: bool | None = None


def read_backups(settings: Settings) -> Backups:
    """Look at the backups and the drills of the settings."""
    from coin_hts_pipelines.operations.backup import last_drill, list_backups, open_target  # noqa: PLC0415

    target = open_target(settings)
    made = [one.created for one in list_backups(target)]
    drill = last_drill(target)
    return Backups(
        len(made), max(made, default=None), drill.finished_at if drill else None, drill.passed if drill else None
    )


def check_backups(settings: Settings) -> Finding:
    """There is a backup not older than two days, and the last drill went well."""
    found = read_backups(settings)
    if found.newest is None:
        return Finding("backups", "warn", "there are none; `coin-hts backup create` makes one")
    age = datetime.now(UTC) - found.newest
    text = f"{found.count}, the newest {age_text(age)} old"
    if found.drill_at is not None:
        drilled = age_text(datetime.now(UTC) - found.drill_at)
        text += f", restored for practice {drilled} ago" if found.drill_passed else f", the drill {drilled} ago failed"
    if found.drill_passed is False:
        return Finding("backups", "fail", f"{text}; `coin-hts backup drill` tries again")
    if age > _OLD_BACKUP:
        return Finding("backups", "warn", f"{text}; `coin-hts backup create` makes one")
    return Finding("backups", "ok", text)
