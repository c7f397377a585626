"""Tables of the catalog, in the Postgres schema `catalog` (Dagster's own live in the schema `dagster`)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, DateTime, Index, MetaData, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "catalog"


class Base(DeclarativeBase):
    """Base of the catalog's tables; constraint names are fixed so that migrations can name them."""

    metadata = MetaData(
        schema=SCHEMA,
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "pk": "pk_%(table_name)s",
        },
    )
    type_annotation_map = {dict[str, Any]: JSONB, list[str]: JSONB, datetime: DateTime(timezone=True), str: Text}  # noqa: RUF012


class PresetRow(Base):
    """A named standing backtest."""

    __tablename__ = "presets"

    name: Mapped[str] = mapped_column(primary_key=True)
    timeframe: Mapped[str]
    request: Mapped[dict[str, Any]]
    start_date: Mapped[str | None]
    end_date: Mapped[str | None]
    builtin: Mapped[bool] = mapped_column(default=False)
    overrides: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (CheckConstraint("name ~ '^[a-z0-9][a-z0-9_]{0,63}$'", name="name_form"),)


class ResultRow(Base):
    """Index of every result ever made: key figures of all, files of the last few."""

    __tablename__ = "results"

    id: Mapped[str] = mapped_column(primary_key=True)
    preset: Mapped[str | None]
    task: Mapped[str | None]
    strategy: Mapped[str]
    timeframe: Mapped[str]
    symbols: Mapped[list[str]]
    status: Mapped[str]
    start_date: Mapped[datetime]
    end_date: Mapped[datetime]
    candle_source: Mapped[str]
    request: Mapped[dict[str, Any]]
    figures: Mapped[dict[str, Any]]
    inputs_digest: Mapped[str]
    result_digest: Mapped[str]
    path: Mapped[str]
    finished_at: Mapped[datetime]
    duration_seconds: Mapped[float]
    error: Mapped[str | None]

    __table_args__ = (
        CheckConstraint("status IN ('completed', 'failed')", name="status"),
        CheckConstraint("start_date <= end_date", name="dates"),
        CheckConstraint("jsonb_typeof(symbols) = 'array' AND jsonb_array_length(symbols) > 0", name="symbols"),
        Index("ix_results_symbols", "symbols", postgresql_using="gin"),
        Index("ix_results_preset", "timeframe", "preset", "finished_at"),
        Index("ix_results_finished_at", "finished_at"),
    )
