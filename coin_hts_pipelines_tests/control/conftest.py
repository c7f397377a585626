"""Every test of this folder has a project home of its own."""

import pytest

from coin_hts_pipelines_tests.defs.helpers import home

__all__ = ["_at_home", "home"]


@pytest.fixture(autouse=True)
def _at_home(home: object) -> None:
    """Make the home."""
