"""Parquet files laid out as `{root}/{SYMBOL}/{TIMEFRAME}/{YEAR}.parquet`, and nothing about what their columns mean.

Reads go through a pyarrow filesystem, so a root may be a bucket; local writes go through `lake.atomic`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from coin_hts_pipelines.errors import InvalidCandles, InvalidRequest, PermanentError, TransientError
from coin_hts_pipelines.lake.atomic import locked, remove_leftovers, write_atomically, write_error
from coin_hts_pipelines.market import Timeframe, normalize_symbol

_YEAR_FILE = re.compile(r"(\d{4})\.parquet")
_PREFIX = "coin_hts."


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Turn whatever a reader says about a broken file into InvalidCandles that names it."""
    try:
        yield
    except (FileNotFoundError, InvalidCandles):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        # Parquet's own complaints come as OSError too, but without a number.
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
            raise PermanentError(f"cannot read {path}: {error.strerror}; give this user read permission") from error
        if isinstance(error, OSError) and error.errno is not None:
            raise TransientError(f"cannot read {path}: {error.strerror}; try again") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidCandles(
            f"{path}: cannot be read ({reason}); the file is damaged or not what its name says, replace it"
        ) from error


def file_metadata(parquet: pq.ParquetFile) -> dict[str, str]:
    """Key-value metadata this package wrote into a Parquet file, without its prefix."""
    found: Mapping[bytes, bytes] = parquet.metadata.metadata or {}
    return {
        key.decode().removeprefix(_PREFIX): value.decode()
        for key, value in found.items()
        if key.startswith(_PREFIX.encode())
    }


class YearFiles:
    """One folder tree of year files.

    Parameters
    ----------
    root
        Local folder, or the path inside `filesystem`.
    filesystem
        Where the files are; None is the local disk.
    """

    def __init__(self, root: Path | str, filesystem: pafs.FileSystem | None = None) -> None:
        self.local = filesystem is None or isinstance(filesystem, pafs.LocalFileSystem)
        self.filesystem = filesystem or pafs.LocalFileSystem()
        self.root = str(Path(root).absolute()) if self.local else str(root).rstrip("/")

    def path(self, symbol: str, timeframe: Timeframe, year: int) -> str:
        """Path of a year file, whether it exists or not."""
        return f"{self.root}/{symbol}/{timeframe}/{year:04d}.parquet"

    def _entries(self, folder: str, *, recursive: bool = False) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(folder, allow_not_found=True, recursive=recursive)
        try:
            return list(self.filesystem.get_file_info(selector))
        except FileNotFoundError:
            # Arrow lists first and asks afterwards whether the folder exists: another process made it in between.
            return list(self.filesystem.get_file_info(selector))

    def symbols(self) -> list[str]:
        """Symbols that have a year file, sorted; folders that are no symbols are left alone."""
        return sorted(
            entry.base_name
            for entry in self._entries(self.root)
            if entry.type == pafs.FileType.Directory
            and _is_symbol(entry.base_name)
            and self.timeframes(entry.base_name)
        )

    def timeframes(self, symbol: str) -> list[Timeframe]:
        """Timeframes of a symbol that have a year file, shortest first."""
        found = set()
        for entry in self._entries(f"{self.root}/{symbol}", recursive=True):
            folder = entry.path.rsplit("/", 2)[-2]
            if _YEAR_FILE.fullmatch(entry.base_name) and folder in Timeframe.__members__.values():
                found.add(Timeframe(folder))
        return sorted(found, key=lambda timeframe: timeframe.delta)

    def years(self, symbol: str, timeframe: Timeframe) -> list[int]:
        """Years that have a file, sorted."""
        entries = self._entries(f"{self.root}/{symbol}/{timeframe}")
        return sorted(int(match[1]) for entry in entries if (match := _YEAR_FILE.fullmatch(entry.base_name)))

    @contextmanager
    def open(self, symbol: str, timeframe: Timeframe, year: int) -> Iterator[pq.ParquetFile]:
        """Open a year file.

        Raises
        ------
        FileNotFoundError
            There is none.
        InvalidCandles
            It is not Parquet, or breaks off.
        """
        path = self.path(symbol, timeframe, year)
        with readable(path), self.filesystem.open_input_file(path) as stream:
            yield pq.ParquetFile(stream, page_checksum_verification=True)

    def metadata(self, symbol: str, timeframe: Timeframe, year: int) -> dict[str, str]:
        """Return the metadata this package wrote into a year file."""
        with self.open(symbol, timeframe, year) as parquet:
            return file_metadata(parquet)

    def read(
        self, symbol: str, timeframe: Timeframe, year: int, columns: Sequence[str] | None = None
    ) -> tuple[pa.Table, dict[str, str]]:
        """Read the named columns as far as the file has them (None: all), and the file's metadata."""
        with self.open(symbol, timeframe, year) as parquet:
            present = parquet.schema_arrow.names
            wanted = None if columns is None else [name for name in columns if name in present]
            return parquet.read(columns=wanted, use_threads=False), file_metadata(parquet)

    def size(self, symbol: str, timeframe: Timeframe, year: int) -> int:
        """Return the bytes of a year file, 0 when it is gone."""
        return self.filesystem.get_file_info(self.path(symbol, timeframe, year)).size or 0

    def changed_at(self, symbol: str, timeframe: Timeframe, year: int) -> int | None:
        """Nanoseconds since the epoch at which a local year file came to be what and where it is; None: out of reach.

        By the times of change, which nobody can set: a copy may keep its old time of modification, and files of a
        folder that is moved in keep both of theirs, but the folder of their symbol is a changed one.
        """
        path = Path(self.path(symbol, timeframe, year))
        try:
            return max(path.stat().st_ctime_ns, path.parent.parent.stat().st_ctime_ns)
        except OSError:  # removed meanwhile, or a link that leads nowhere
            return None

    def lock(self, symbol: str, timeframe: Timeframe) -> AbstractContextManager[None]:
        """Exclude every other writer of a symbol's timeframe: threads and processes of this machine.

        All its years share one lock, because whether a year may be written depends on the source of the others.
        A bucket has no locks, so there the lock file stands in this machine's temporary folder.
        """
        place = f"{self.root}/{symbol}/{timeframe}"
        if self.local:
            return locked(Path(place))
        key = hashlib.sha256(f"{self.filesystem.type_name}:{place}".encode()).hexdigest()
        return locked(Path(tempfile.gettempdir()) / f"coin_hts_locks_{os.getuid()}" / key)

    def write(self, symbol: str, timeframe: Timeframe, year: int, table: pa.Table, metadata: Mapping[str, str]) -> str:
        """Write a year file whole or not at all and return its path; the caller holds the lock."""
        path = self.path(symbol, timeframe, year)
        tagged = table.replace_schema_metadata({f"{_PREFIX}{key}": value for key, value in metadata.items()})

        def write_to(sink: IO[Any] | pa.NativeFile) -> None:
            pq.write_table(tagged, sink, compression="zstd", write_page_checksum=True)

        if self.local:
            remove_leftovers(Path(path))
            write_atomically(Path(path), write_to)
            return path
        temporary = f"{path}.tmp"
        try:
            self.filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
            try:
                with self.filesystem.open_output_stream(temporary) as stream:
                    write_to(stream)
                self.filesystem.move(temporary, path)
            except BaseException:
                if self.filesystem.get_file_info(temporary).type == pafs.FileType.File:
                    self.filesystem.delete_file(temporary)
                raise
        except OSError as error:
            known = write_error(path, error)
            if known is None:
                raise
            raise known from error
        return path

    def remove(self, symbol: str, timeframe: Timeframe, year: int) -> bool:
        """Remove a year file and return whether there was one; the caller holds the lock."""
        path = self.path(symbol, timeframe, year)
        if self.filesystem.get_file_info(path).type == pafs.FileType.NotFound:
            return False
        self.filesystem.delete_file(path)
        return True


def parse_key(symbol: str, timeframe: str | Timeframe) -> tuple[str, Timeframe]:
    """Canonical symbol and timeframe of what a caller wrote."""
    return normalize_symbol(symbol), Timeframe.parse(timeframe)


def _is_symbol(name: str) -> bool:
    try:
        return normalize_symbol(name) == name
    except InvalidRequest:
        return False
