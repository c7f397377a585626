"""A small project to back up, and what it looks like: every byte of its files and every row of its database."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from coin_hts_pipelines.backtest import BacktestRequest, BacktestResult, run_backtest
from coin_hts_pipelines.catalog import Database, ResultIndex
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.operations.backup import DirectoryTarget, Manifest, create_backup
from coin_hts_pipelines.results import ResultStore
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.lake.helpers import candles

SYMBOLS = ("KRW-BTC", "KRW-ETH")
PRESET = "daily"
Files = dict[str, str]
Rows = dict[str, str]


@cache
def backtest(seed: int) -> BacktestResult:
    request = BacktestRequest("volume_zone_breakout", {"volume_window": 20, "hold_period_bars": 3})
    return run_backtest(random_walk(120, seed), request)


@dataclass(frozen=True)
class House:
    """A DATA_ROOT with a database and a folder for backups."""

    home: Path
    database: Database

    @property
    def root(self) -> Path:
        return self.home / "data"

    @property
    def url(self) -> str:
        return self.database.url.render_as_string(hide_password=False)

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home, data_root=Path("data"))

    @property
    def target(self) -> DirectoryTarget:
        return DirectoryTarget(self.home / "backups")

    def back_up(self) -> Manifest:
        return create_backup(self.settings, self.database, self.target)

    def merge(self, symbol: str, seed: int = 0, bars: int = 400) -> None:
        CandleStore(self.root).merge(symbol, "1D", candles(bars, seed=seed, start="2023-06-01"), source="files")

    def publish(self, symbol: str, seed: int, keep: int = 3) -> Path:
        saved = ResultStore(self.root, keep=keep).save(
            backtest(seed),
            symbol,
            preset=PRESET,
            candle_source="files",
            synthetic=False,
            started=datetime.now(UTC),
        )
        ResultIndex(self.database).add([(saved.folder, saved.manifest)])
        return saved.folder

    def files(self) -> Files:
        return files_below(self.root)

    def rows(self) -> Rows:
        return rows_of(self.database)


def make_house(home: Path, new_database: Callable[[], str]) -> House:
    """Candles, results with their index, and a table of Dagster's schema."""
    database = Database(new_database(), pool_size=2)
    database.upgrade()
    with database.session() as session:
        session.execute(sa.text("CREATE TABLE dagster.event_logs (id bigserial PRIMARY KEY, event text)"))
        session.execute(
            sa.text(
                "INSERT INTO dagster.event_logs (event) SELECT repeat('event ' || n, 20) FROM generate_series(1, 500) n"
            )
        )
    house = House(home, database)
    for number, symbol in enumerate(SYMBOLS):
        house.merge(symbol, number)
        house.publish(symbol, number)
    return house


def files_below(root: Path) -> Files:
    """SHA-256 of every file that a backup should have."""
    names = ("postgres", "exports", "logs", "inbox", "dagster", ".restore", "README.md")
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
        and path.relative_to(root).parts[0] not in names
        and not path.name.startswith(".")
        and path.suffix != ".lock"
    }


def rows_of(database: Database) -> Rows:
    """Digest of the rows of every table: a count and a checksum of their text."""
    found = {}
    with database.session() as session:
        tables = session.execute(
            sa.text("SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('catalog', 'dagster')")
        ).all()
        for schema, table in tables:
            digest = "count(*)::text || coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '')"
            found[f"{schema}.{table}"] = session.scalar(sa.text(f"SELECT {digest} FROM {schema}.{table} t"))
    return found


def holds(manifest: Manifest) -> Files:
    return {entry.path: entry.sha256 for entry in manifest.files}
