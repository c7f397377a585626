"""The inbox: files that somebody drops into `DATA_ROOT/inbox`, merged into the store or refused with a reason.

Taken in a fixed order: merge, tell whoever works with it, then move the file away. Whoever is interrupted takes the
file once more, and the store stays the same.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from coin_hts_pipelines.errors import InvalidCandles, InvalidRequest
from coin_hts_pipelines.lake.candle_store import CandleStore
from coin_hts_pipelines.lake.sources import FilesSource
from coin_hts_pipelines.market import Span, Timeframe

FOLDER, IMPORTED, REJECTED = "inbox", "imported", "rejected"
MOST_BYTES = 200_000_000
_ENDINGS = (".parquet", ".csv", ".json")
_LONGEST_NAME = 150


@dataclass(frozen=True)
class Dropped:
    """A file in the inbox; it is whole when `state` (size and time of the last change) stays the same for a while."""

    name: str
    state: tuple[int, int]


@dataclass(frozen=True)
class Imported:
    """Symbol, timeframe and UTC years that a file brought candles of."""

    symbol: str
    timeframe: Timeframe
    years: tuple[int, ...]


class Inbox:
    """Files under `{root}/inbox`; only regular files directly in it are looked at, links never."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER

    def files(self) -> list[Dropped]:
        """Files that wait, by name; hidden ones (`.part` of a copy under way, say) are left alone."""
        try:
            with os.scandir(self.folder) as entries:
                shown = [entry for entry in entries if not entry.name.startswith(".")]
                found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in shown]
        except FileNotFoundError:
            return []
        whole = [(name, one) for name, one in found if stat.S_ISREG(one.st_mode)]
        return sorted((Dropped(name, (one.st_size, one.st_mtime_ns)) for name, one in whole), key=lambda one: one.name)

    def take(self, name: str, store: CandleStore) -> list[Imported]:
        """Merge a file, whole or not at all.

        Raises
        ------
        InvalidCandles
            If it is refused; then it is to be rejected.
        TransientError, PermanentError
            If the store cannot be written.
        """
        path = self._path(name)
        source = FilesSource(path)
        series = [(symbol, timeframe) for symbol in source.symbols() for timeframe in source.timeframes(symbol)]
        if not series:
            raise InvalidCandles("; ".join(source.problems) or f"{name} holds no candles")
        # Everything is read and checked before anything is written.
        frames = {one: source.fetch(*one, Span()) for one in series}
        return [
            Imported(*one, tuple(write.year for write in store.merge(*one, frame, source=source.name).writes))
            for one, frame in frames.items()
        ]

    def accept(self, name: str) -> None:
        """Move a file that was merged to `inbox/imported`, over an older one of that name."""
        self._move(name, IMPORTED)

    def reject(self, name: str, reason: str) -> None:
        """Move a file to `inbox/rejected`, with its reason in `{name}.reason.txt` beside it."""
        place = self._move(name, REJECTED)
        place.with_name(f"{place.name}.reason.txt").write_text(reason + "\n", encoding="utf-8")

    def _path(self, name: str) -> Path:
        check_name(name)
        path = self.folder / name
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode):
            raise InvalidCandles(f"{name} is not a regular file")
        if info.st_size > MOST_BYTES:
            raise InvalidCandles(f"{name} has {info.st_size:,} bytes; at most {MOST_BYTES:,} are accepted")
        if info.st_size == 0:
            raise InvalidCandles(f"{name} is empty")
        return path

    def _move(self, name: str, where: str) -> Path:
        target = self.folder / where / Path(name).name
        target.parent.mkdir(exist_ok=True)
        return (self.folder / name).replace(target)


def check_name(name: str) -> None:
    """Refuse names that could be anything but a file directly in the inbox.

    Raises
    ------
    InvalidCandles
        For separators, leading dots, characters that cannot be printed, other endings, or great length.
    """
    if name != Path(name).name or name.startswith(".") or "\\" in name or ".." in name or not name.isprintable():
        raise InvalidCandles(f"the name {name[:80]!r} is not accepted; expected that of a file, without a path")
    if len(name) > _LONGEST_NAME:
        raise InvalidCandles(f"the name {name[:80]!r}... is longer than {_LONGEST_NAME} characters")
    if not name.lower().endswith(_ENDINGS):
        raise InvalidCandles(f"{name} is of no known kind; accepted: {', '.join(_ENDINGS)}")


def stable(now: Collection[Dropped], before: Collection[Dropped]) -> list[str]:
    """Names of files that have not changed between two looks."""
    seen = set(before)
    return [file.name for file in now if file in seen]


def import_file(inbox: Inbox, name: str, store: CandleStore) -> tuple[list[Imported], str | None]:
    """Take a file; a refused one is rejected, with the reason as the second answer. An accepted one is still there."""
    try:
        return inbox.take(name, store), None
    except FileNotFoundError:
        return [], None  # somebody was faster
    except (InvalidCandles, InvalidRequest) as error:
        inbox.reject(name, str(error))
        return [], str(error)
