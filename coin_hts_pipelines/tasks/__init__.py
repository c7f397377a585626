"""Asynchronous backtests: requests with an id and a state that tells the truth. Not here: Dagster, who runs them."""

from coin_hts_pipelines.tasks.dead_letters import DeadLetter, DeadLetters
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines.tasks.task import Claim, Signal, Task, TaskRequest, checked_request, resolve_symbols
from coin_hts_pipelines.tasks.worker import TaskWorker

__all__ = [
    "Claim",
    "DeadLetter",
    "DeadLetters",
    "Signal",
    "Task",
    "TaskQueue",
    "TaskRequest",
    "TaskWorker",
    "checked_request",
    "resolve_symbols",
]
