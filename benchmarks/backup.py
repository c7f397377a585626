"""A backup of 1 GB of candles: the first, one when nothing has changed, reading it back, restoring it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import Row, seconds_of
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.operations.backup import (
    create_backup,
    list_backups,
    open_target,
    restore_backup,
    verify_backup,
)
from coin_hts_pipelines.operations.embedded_postgres import start_server, stop_server
from coin_hts_pipelines.settings import Settings

_BYTES = 1_000_000_000
_BARS = 500_000


def _candles(seed: int) -> pd.DataFrame:
    """Most of a year of minutes that does not compress, as real ones hardly do."""
    rng = np.random.default_rng(seed)
    prices = 1000 * np.exp(np.cumsum(rng.normal(0, 0.001, (_BARS, 1)), axis=0)) * (1 + rng.random((_BARS, 4)) / 1000)
    stamps = pd.date_range(datetime(2024, 1, 1, tzinfo=UTC), periods=_BARS, freq="min").as_unit("us")
    frame = pd.DataFrame({"timestamp": stamps, "open": prices[:, 0], "close": prices[:, 1]})
    return frame.assign(high=prices.max(axis=1), low=prices.min(axis=1), volume=rng.random(_BARS))


def _fill(root: Path) -> int:
    """Write about 1 GB of year files and return the bytes: a symbol made, the others copies with a byte behind."""
    store = CandleStore(root)
    store.merge("KRW-T000", "1M", _candles(0), source="files")
    content = (root / "KRW-T000" / "1M" / "2024.parquet").read_bytes()
    count = _BYTES // len(content)
    for number in range(1, count):
        folder = root / f"KRW-T{number:03d}" / "1M"
        folder.mkdir(parents=True)
        (folder / "2024.parquet").write_bytes(content + number.to_bytes(2, "big"))
    return count * len(content)


def rows() -> Iterator[Row]:
    """Back up, back up again, verify, restore."""
    home = Path(tempfile.mkdtemp(prefix="hts-bench-"))
    database = Database(start_server(home / "pg"), pool_size=4)
    empty = Database(start_server(home / "other"), pool_size=1)
    try:
        database.upgrade()
        settings = Settings(home=home, data_root=Path("data"))
        target = open_target(settings)
        megabytes = _fill(settings.root) / 1e6

        def back_up() -> None:
            create_backup(settings, database, target)

        note = f"{megabytes:,.0f} MB"
        yield Row("backup of 1 GB of candles, the first", seconds_of(back_up), "s", note=note)
        back_up()  # files that are two seconds old are read once more
        yield Row("backup of 1 GB of candles, nothing changed", seconds_of(back_up), "s", 10, note=note)
        made = list_backups(target)[0]
        verify = seconds_of(lambda: verify_backup(target, made))
        yield Row("verify, every byte", megabytes / verify, "MB/s")
        url = empty.url.render_as_string(hide_password=False)
        restore = seconds_of(lambda: restore_backup(target, made, home / "restored", url))
        yield Row("restore, files and database", megabytes / restore, "MB/s", 50, at_least=True, note=note)
    finally:
        database.dispose()
        empty.dispose()
        stop_server(home / "pg")
        stop_server(home / "other")
        shutil.rmtree(home, ignore_errors=True)
