"""The manifest beside every result: what was run, on what, with what outcome, and the hash of every file."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from coin_hts_pipelines.errors import IntegrityError

MANIFEST = "manifest.json"


class FileEntry(BaseModel):
    """One file of a result."""

    model_config = ConfigDict(frozen=True)

    name: str
    size: int
    sha256: str


class Manifest(BaseModel):
    """See docs/results.md; `figures` holds the study under `study_*` and the portfolio's metrics, null = undefined."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    id: str
    preset: str | None
    task: str | None = None
    strategy: str
    strategy_version: str
    timeframe: str
    symbols: tuple[str, ...]
    request: dict[str, Any]
    candle_source: str
    synthetic: bool
    bars: int
    span_start: datetime
    span_end: datetime
    inputs_digest: str
    result_digest: str
    figures: dict[str, float | int | None]
    files: tuple[FileEntry, ...]
    started: datetime
    finished: datetime
    duration_seconds: float
    host: str
    versions: dict[str, str]
    error: str | None = None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the manifest of a result directory.

        Raises
        ------
        IntegrityError
            If it is missing or cannot be read.
        """
        path = folder / MANIFEST
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise IntegrityError(f"manifest {path} cannot be read: {error}") from error

    def check_files(self, folder: Path) -> None:
        """Compare size and SHA-256 of every file.

        Raises
        ------
        IntegrityError
            Naming the first file that is missing or different.
        """
        for entry in self.files:
            path = folder / entry.name
            if not path.is_file():
                raise IntegrityError(f"result file {path} is missing")
            if path.stat().st_size != entry.size or sha256_of(path) != entry.sha256:
                raise IntegrityError(f"result file {path} is not what was written (size or SHA-256 differs)")


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
