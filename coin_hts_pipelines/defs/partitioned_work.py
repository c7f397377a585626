"""How an asset body works on its partitions: in parallel, with one outcome each, and honest about partial failure.

This is the only way the assets record materializations. All good: one `MaterializeResult`, with metadata for each
partition. Any bad: each good partition is logged as an event of its own, then the step fails naming the bad ones;
returning or raising alone would mark *all* partitions of the range good or bad. Good ones flow on by automation.
"""

import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import dagster as dg
from dagster._core.definitions.partitions.utils import get_tags_from_multi_partition_key
from dagster._core.errors import DagsterExecutionInterruptedError

from coin_hts_pipelines.control.run_owners import own
from coin_hts_pipelines.defs.partitions import split_key
from coin_hts_pipelines.errors import CoinHtsError, PermanentError, TransientError
from coin_hts_pipelines.operations.logs import bind
from coin_hts_pipelines.parallel import run_parallel
from coin_hts_pipelines.settings import get_settings

RETRY = dg.RetryPolicy(max_retries=2, delay=1, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
_SHOWN = 50


@dataclass(frozen=True)
class Done:
    """A partition that is good: its metadata, and by check name what is wrong with it all the same."""

    metadata: Mapping[str, Any]
    problems: Mapping[str, str] = field(default_factory=dict)


Outcome = Done | Exception
Recorded = dg.AssetCheckResult | dg.MaterializeResult[None]


class Progress(Protocol):
    """Told of every finished item and of the outcome; the command line draws its bar from it."""

    def advance(self, asset: str, keys: int) -> None:
        """`keys` more partitions of `asset` are done."""

    def finished(self, asset: str, good: Collection[str], bad: Mapping[str, str]) -> None:
        """These partitions of `asset` are good, those bad for a reason."""

    def check_interrupt(self) -> None:
        """Raise `DagsterExecutionInterruptedError` if whoever watches wants the work to end."""


class NoProgress:
    """Nobody is watching."""

    def advance(self, asset: str, keys: int) -> None:
        """Do nothing."""

    def finished(self, asset: str, good: Collection[str], bad: Mapping[str, str]) -> None:
        """Do nothing."""

    def check_interrupt(self) -> None:
        """Do nothing: Dagster interrupts by itself."""


def requested_keys(context: dg.AssetExecutionContext) -> list[str]:
    """Partition keys of this run.

    Raises
    ------
    dagster.Failure
        For none: Dagster lets a run over an empty or reversed range succeed without doing anything.
    """
    keys = list(context.partition_keys)
    if not keys:
        raise dg.Failure(
            f"the run asks for no partition of {context.asset_key.to_user_string()}: the range is empty or reversed",
            allow_retries=False,
        )
    return keys


@contextmanager
def never_retried() -> Iterator[None]:
    """Fail the step at once for an error that no retry mends; the retry policy would try anything else again."""
    try:
        yield
    except PermanentError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def work_on(
    context: dg.AssetExecutionContext,
    items: Sequence[tuple[str, tuple[str, ...]]],
    work: Callable[[str, tuple[str, ...], Callable[[], bool]], Mapping[str, Outcome]],
    *,
    progress: Progress,
    checks: Mapping[str, dg.AssetCheckSeverity],
    finish: Callable[[Mapping[str, Done]], None] | None = None,
    also: Callable[[], Mapping[str, Done]] = dict,
) -> Iterator[Recorded]:
    """Run `work(name, keys, cancelled)` for every item in threads, then record what came of each partition.

    Parameters
    ----------
    context
        Of the asset.
    items
        Name and partition keys of each piece of work.
    work
        Returns an outcome per key, or raises for all keys of the item; asks `cancelled()` twice a second.
    progress
        Told of finished items.
    checks
        Severity of each check the asset declares.
    finish
        Called once with the good partitions before they are recorded (to index them, say).
    also
        Partitions the work touched beside the ones asked for, recorded too.

    Raises
    ------
    TransientError
        If some failure may pass and a retry is left: the whole range is worked again.
    dagster.Failure
        If any partition is bad for good; not retried.
    """
    own(context.instance, context.run)
    with interrupts_end_the_run(context):
        yield from _work_on(context, items, work, progress, checks, finish, also)


@contextmanager
def interrupts_end_the_run(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> Iterator[None]:
    """Make a cancel or Ctrl-C cancel: inside a step that has a retry policy Dagster would try again instead."""
    run_id, instance = context.run.run_id, context.instance
    try:
        # The interrupt may have come while the step was being set up.
        if context.retry_number > 0 and _status(instance, run_id) is dg.DagsterRunStatus.CANCELING:
            raise DagsterExecutionInterruptedError
        yield
    except (DagsterExecutionInterruptedError, KeyboardInterrupt):
        if _status(instance, run_id) is dg.DagsterRunStatus.STARTED:
            instance.report_run_canceling(context.run)
        raise dg.Failure("the run was interrupted; what was finished before is kept", allow_retries=False) from None


def _status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus | None:
    run = instance.get_run_by_id(run_id)
    return run.status if run is not None else None


def _work_on(
    context: dg.AssetExecutionContext,
    items: Sequence[tuple[str, tuple[str, ...]]],
    work: Callable[[str, tuple[str, ...], Callable[[], bool]], Mapping[str, Outcome]],
    progress: Progress,
    checks: Mapping[str, dg.AssetCheckSeverity],
    finish: Callable[[Mapping[str, Done]], None] | None,
    also: Callable[[], Mapping[str, Done]],
) -> Iterator[Recorded]:
    asset = context.asset_key.to_user_string()
    started = time.perf_counter()
    progress.check_interrupt()
    with bind(run=context.run.run_id):
        answers = run_parallel(
            items,
            lambda item, cancelled: work(item[0], item[1], cancelled),
            threads=get_settings().worker_threads,
            on_done=lambda item: progress.advance(asset, len(item[1])),
            on_wait=progress.check_interrupt,
        )
    outcomes: dict[str, Outcome] = {}
    for (_, keys), answer in zip(items, answers, strict=True):
        for key in keys:
            outcomes[key] = answer if isinstance(answer, Exception) else answer[key]
    good = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Done)}
    bad = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Exception)}
    passing = [error for error in bad.values() if isinstance(error, TransientError)]
    if passing and context.retry_number < RETRY.max_retries:
        raise passing[0]
    if finish is not None and good:
        finish(good)
    seconds = round(time.perf_counter() - started, 3)
    touched = {key: done for key, done in also().items() if key not in outcomes}
    _log(context, {**good, **touched} if bad else touched, seconds)
    yield from _check_results(context, good, checks)
    if bad:
        for key, error in bad.items():
            if not isinstance(error, CoinHtsError):
                context.log.error(f"{key}: {''.join(traceback.format_exception(error))}")
        reasons = {key: describe(error) for key, error in bad.items()}
        progress.finished(asset, [*good, *touched], reasons)
        raise _failure(reasons, total=len(outcomes))
    _attach(context, good, seconds)
    yield dg.MaterializeResult(asset_key=context.asset_key)
    # Resumed once Dagster has stored the events: only now are the partitions good for whoever watches.
    progress.finished(asset, [*good, *touched], {})


def _attach(context: dg.AssetExecutionContext, good: Mapping[str, Done], seconds: float) -> None:
    # `context.add_asset_metadata` asks the database for all partitions on every call: 46 s for 1,000 of them.
    step = context.get_step_execution_context()
    collected = step._metadata_accumulator
    for key, done in good.items():
        collected = collected.with_additional_asset_metadata(
            asset_key=context.asset_key, metadata={"run_seconds": seconds, **done.metadata}, partition_key=key
        )
    step._metadata_accumulator = collected


def _log(context: dg.AssetExecutionContext, good: Mapping[str, Done], seconds: float) -> None:
    for key, done in good.items():
        tags = _partition_tags(context, key)
        metadata = {"run_seconds": seconds, **done.metadata}
        context.log_event(dg.AssetMaterialization(context.asset_key, partition=key, metadata=metadata, tags=tags))


def _partition_tags(context: dg.AssetExecutionContext, key: str) -> Mapping[str, str]:
    partitions = context.assets_def.partitions_def
    if not isinstance(partitions, dg.MultiPartitionsDefinition):
        return {}
    if not isinstance(key, dg.MultiPartitionKey):
        names = (dimension.name for dimension in partitions.partitions_defs)
        key = dg.MultiPartitionKey(dict(zip(names, split_key(key), strict=True)))
    return get_tags_from_multi_partition_key(key)


def _check_results(
    context: dg.AssetExecutionContext, good: Mapping[str, Done], checks: Mapping[str, dg.AssetCheckSeverity]
) -> Iterator[Recorded]:
    for name, severity in checks.items():
        failing = {key: done.problems[name] for key, done in good.items() if name in done.problems}
        shown = dict(list(failing.items())[:_SHOWN])
        yield dg.AssetCheckResult(
            asset_key=context.asset_key,
            check_name=name,
            passed=not failing,
            severity=severity,
            metadata={
                "partitions": len(good),
                "failing": len(failing),
                **({"failing_partitions": dg.MetadataValue.json(shown)} if failing else {}),
                **({"quality": _findings(context, shown)} if failing else {}),
            },
        )


def _findings(context: dg.AssetExecutionContext, findings: Mapping[str, str]) -> dg.TableMetadataValue:
    """Table of partitions, a column for each of their dimensions, and what was found."""
    partitions = context.assets_def.partitions_def
    multi = isinstance(partitions, dg.MultiPartitionsDefinition)
    dimensions = [one.name for one in partitions.partitions_defs] if multi else ["partition"]
    names = [*dimensions, "finding"]
    rows = [(*(split_key(key) if multi else (key,)), text) for key, text in findings.items()]
    records = [dg.TableRecord(dict(zip(names, row, strict=True))) for row in rows]
    return dg.MetadataValue.table(records, dg.TableSchema([dg.TableColumn(name) for name in names]))


def _failure(reasons: Mapping[str, str], *, total: int) -> dg.Failure:
    text = "; ".join(f"{key}: {reason}" for key, reason in list(reasons.items())[:_SHOWN])
    return dg.Failure(
        f"{len(reasons)} of {total} partitions failed: {text}",
        metadata={"failed_partitions": dg.MetadataValue.json(dict(reasons))},
        allow_retries=False,
    )


def describe(error: Exception) -> str:
    """One sentence about an error; of our own the text alone, of others with the class."""
    return str(error) if isinstance(error, CoinHtsError) else f"{type(error).__name__}: {error}"


def check_specs(
    asset: str, checks: Mapping[str, dg.AssetCheckSeverity], docs: Mapping[str, str]
) -> list[dg.AssetCheckSpec]:
    """Specs of the checks an asset yields from its own body."""
    return [dg.AssetCheckSpec(name, asset=asset, description=docs[name]) for name in checks]
