"""A pytest plugin that writes down every operation that `storage/s3.py` asks of a server, one a line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from botocore.client import BaseClient

from coin_hts_pipelines.storage import s3


def _by_the_store() -> bool:
    """Whether the call comes from there, and not from a test that prepares or looks."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename == s3.__file__:
            return True
        frame = frame.f_back
    return False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--calls", type=Path, required=True)


@pytest.fixture(autouse=True, scope="session")
def _recorded(request: pytest.FixtureRequest) -> Iterator[None]:
    call = BaseClient._make_api_call
    with request.config.getoption("--calls").open("w") as calls, pytest.MonkeyPatch.context() as patch:

        def recorded(self: BaseClient, name: str, given: Any) -> Any:
            if _by_the_store():
                print(name, file=calls, flush=True)
            return call(self, name, given)

        patch.setattr(BaseClient, "_make_api_call", recorded)
        yield
