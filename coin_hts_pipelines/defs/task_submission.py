"""Submitting a task from the Launchpad of the UI; the command line and programs do so without a run."""

from typing import Any

import dagster as dg
from pydantic import Field

from coin_hts_pipelines.control.pages import task_url
from coin_hts_pipelines.control.tasks import open_queue
from coin_hts_pipelines.defs.jobs import NO_RETRIES
from coin_hts_pipelines.defs.resources import LakeResource
from coin_hts_pipelines.errors import CoinHtsError
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.tasks.task import Task, checked_request


class SubmissionConfig(dg.Config):
    """What is asked for, as `coin-hts task submit` takes it."""

    strategy: str = Field("volume_zone_breakout", description="A strategy of `coin-hts strategy list`.")
    symbols: list[str] = Field(["all"], description="Symbols, or `all` that have candles in the span.")
    timeframe: str = Field("1D", description="1M, 5M, 1H or 1D.")
    params: dict[str, Any] = Field({}, description="Parameters of the strategy; the others keep their defaults.")
    start: str | None = Field(None, description="First day.")
    end: str | None = Field(None, description="Last day.")
    more: dict[str, Any] = Field({}, description="exits, costs, fill, initial_cash, sizing, regime, as in a manifest.")
    grid: dict[str, Any] = Field({}, description="Values of parameters: a sweep.")
    sampling: dict[str, Any] = Field({}, description="method, trials and seed of a sweep.")
    name: str | None = Field(None, description="A name to find it by.")
    keep: bool = Field(False, description="Never cleaned up.")
    idempotency_key: str | None = Field(None, description="The same key answers with the task there is.")


def submit(config: SubmissionConfig, candles: CandleStore) -> Task:
    """Validate and submit; raises InvalidRequest or NoCandles."""
    backtest = {**config.more, "strategy": config.strategy, "timeframe": config.timeframe, "params": config.params}
    document = {
        "backtest": backtest,
        "symbols": "all" if config.symbols == ["all"] else config.symbols,
        **{name: getattr(config, name) for name in ("start", "end", "grid", "sampling", "name", "keep")},
    }
    request = checked_request(document, candles)
    return open_queue().submit(request, idempotency_key=config.idempotency_key)


@dg.op(out=dg.Out(str, description="Id of the task."))
def submit_task(context: dg.OpExecutionContext, config: SubmissionConfig, lake: LakeResource) -> str:
    """Validate a request and put it into the queue."""
    try:
        task = submit(config, lake.candles)
    except CoinHtsError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    page = dg.MetadataValue.url(task_url(task.id))
    context.add_output_metadata({"task": task.id, "page": page, "state": task.state})
    return task.id


@dg.job(tags=NO_RETRIES, description="Submits an asynchronous backtest or sweep; its progress is in backtest_task.")
def submit_backtest_task() -> None:
    """Submit one task."""
    submit_task()
