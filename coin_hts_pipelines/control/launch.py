"""Runs layers of the asset graph in this process, as real runs of the instance, over exactly the keys asked for."""

from __future__ import annotations

import logging
import os
import signal
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.storage.tags import MAX_RETRIES_TAG

from coin_hts_pipelines.control.instance import connection_errors
from coin_hts_pipelines.control.ranges import cut_into_boxes
from coin_hts_pipelines.control.run_owners import owner_tags
from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START, SYMBOLS, join_key, year_partitions
from coin_hts_pipelines.errors import CoinHtsError


class Watcher(Protocol):
    """Follows the work from outside."""

    def advance(self, asset: str, keys: int) -> None:
        """`keys` more partitions of `asset` are done."""


@dataclass
class LayerOutcome:
    """What came of one layer: good keys, bad keys with their reasons, and the runs."""

    good: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    run_ids: list[str] = field(default_factory=list)


class InterruptWitness:
    """Knows for sure whether Ctrl-C was pressed.

    Dagster has its own handlers while a run is on, and an exception raised by a handler may be lost in a destructor or
    a pool's clean-up. The interpreter writes every signal to the wake-up descriptor, whatever the handlers do.
    """

    def __init__(self) -> None:
        self._seen = False
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def __call__(self) -> bool:
        """Whether an interrupt has come since this witness was made."""
        with suppress(BlockingIOError):
            self._seen |= signal.SIGINT in os.read(self._read, 4096)
        return self._seen

    def close(self) -> None:
        """Stop watching."""
        signal.set_wakeup_fd(self._before)
        os.close(self._read)
        os.close(self._write)


class _Collector:
    """The `progress` resource of a launched run."""

    def __init__(self, watcher: Watcher, interrupted: Callable[[], bool]) -> None:
        self.watcher = watcher
        self._interrupted = interrupted
        self.outcome = LayerOutcome()
        self.reported = False

    def advance(self, asset: str, keys: int) -> None:
        self.watcher.advance(asset, keys)

    def check_interrupt(self) -> None:
        if self._interrupted():
            raise DagsterExecutionInterruptedError

    def finished(self, asset: str, good: Collection[str], bad: Mapping[str, str]) -> None:  # noqa: ARG002
        self.reported = True
        self.outcome.good += good
        self.outcome.bad.update(bad)


class Launcher:
    """Runs assets in this process on an instance; a context manager, to be used in the main thread."""

    def __init__(self, instance: dg.DagsterInstance, watcher: Watcher) -> None:
        self.instance = instance
        self.witness = InterruptWitness()
        self.collector = _Collector(watcher, self.witness)
        self.job = build_defs(progress=self.collector).resolve_implicit_global_asset_job_def()

    def __enter__(self) -> Launcher:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching for interrupts."""
        self.witness.close()

    def register(self, dimension: str, keys: Sequence[str]) -> list[str]:
        """Add dynamic partition keys in sorted order and return all of that dimension in stored order."""
        known = set(self.instance.get_dynamic_partitions(dimension))
        new = sorted(set(keys) - known)
        if new:
            self.instance.add_dynamic_partitions(dimension, new)
        return list(self.instance.get_dynamic_partitions(dimension))

    def run_symbol_years(
        self, asset: str, keys: Collection[tuple[str, int]], config: Mapping[str, Any]
    ) -> LayerOutcome:
        """Run an asset partitioned by symbol and year."""
        symbols = list(self.instance.get_dynamic_partitions(SYMBOLS))
        years = list(year_partitions().get_partition_keys())
        wanted = [(symbol, str(year)) for symbol, year in keys]
        return self._run_boxes(asset, wanted, symbols, years, config)

    def run_preset_symbols(self, asset: str, keys: Collection[tuple[str, str]], presets: str) -> LayerOutcome:
        """Run an asset partitioned by preset and symbol."""
        first = list(self.instance.get_dynamic_partitions(presets))
        second = list(self.instance.get_dynamic_partitions(SYMBOLS))
        return self._run_boxes(asset, keys, first, second, {})

    def run_presets(self, asset: str, keys: Collection[str], presets: str) -> LayerOutcome:
        """Run an asset partitioned by preset alone."""
        stored = list(self.instance.get_dynamic_partitions(presets))
        total = LayerOutcome()
        for box in cut_into_boxes([(key, "") for key in keys], stored, [""]):
            self._run(asset, box.first[0], box.last[0], [first for first, _ in box.keys], {}, total)
        return total

    def _run_boxes(
        self,
        asset: str,
        keys: Collection[tuple[str, str]],
        first: Sequence[str],
        second: Sequence[str],
        config: Mapping[str, Any],
    ) -> LayerOutcome:
        total = LayerOutcome()
        for box in cut_into_boxes(keys, first, second):
            members = [join_key(*key) for key in box.keys]
            self._run(asset, join_key(*box.first), join_key(*box.last), members, config, total)
        return total

    def _run(
        self, asset: str, first: str, last: str, keys: Sequence[str], config: Mapping[str, Any], total: LayerOutcome
    ) -> None:
        if self.witness():
            raise KeyboardInterrupt
        run_id = str(uuid.uuid4())
        self.collector.outcome, self.collector.reported = LayerOutcome(), False
        with _canceled_when_interrupted(self.instance, run_id):
            try:
                self.job.execute_in_process(
                    instance=self.instance,
                    asset_selection=[dg.AssetKey(asset)],
                    run_id=run_id,
                    run_config={
                        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                        **({"ops": {asset: {"config": dict(config)}}} if config else {}),
                    },
                    tags={
                        # Whoever started it sees that it failed; no daemon tries it again behind their back.
                        MAX_RETRIES_TAG: "0",
                        RANGE_START: first,
                        RANGE_END: last,
                        **owner_tags(run_id),
                    },
                )
            except Exception as error:  # whatever ends a run ends this layer's keys, not the process
                if self.witness():
                    raise KeyboardInterrupt from None
                if not self.collector.reported:
                    logging.getLogger(__name__).debug("run %s failed", run_id, exc_info=True)
                    self.collector.outcome.bad = dict.fromkeys(keys, _reason(_chain(error)))
        outcome = self.collector.outcome
        total.run_ids.append(run_id)
        total.good += outcome.good
        total.bad.update(outcome.bad)


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    return chain


def _reason(chain: Sequence[BaseException]) -> str:
    """First line of our own error behind what Dagster raised, or of the root cause.

    Raises
    ------
    sqlalchemy.exc.SQLAlchemyError, DagsterPostgresException
        If that is a lost Postgres: it ends all work, not this run alone.
    """
    for error in chain:
        if isinstance(error, connection_errors()):
            raise error
    best = next((one for one in chain if isinstance(one, CoinHtsError | dg.Failure)), chain[-1])
    return next(iter(str(best).strip().splitlines()), type(best).__name__)


@contextmanager
def _canceled_when_interrupted(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Turn Ctrl-C into a CANCELED run; Dagster itself would call it failed, since nobody asked it to cancel."""
    try:
        yield
    except (KeyboardInterrupt, DagsterExecutionInterruptedError):
        run = instance.get_run_by_id(run_id)
        if run is not None and run.status not in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED):
            instance.report_run_canceled(run, "interrupted from the keyboard")
            instance.event_log_storage.free_concurrency_slots_for_run(run_id)
        raise KeyboardInterrupt from None
