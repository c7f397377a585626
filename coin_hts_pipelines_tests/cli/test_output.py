"""What is printed for programs."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone

import pandas as pd
import pytest

from coin_hts_pipelines.cli.output import print_json

SEOUL = timezone(timedelta(hours=9))


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (datetime(2026, 1, 1, 9, tzinfo=SEOUL), "2026-01-01T00:00:00+00:00"),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00+00:00"),
        (pd.Timestamp("2026-01-01 09:00", tz="Asia/Seoul"), "2026-01-01T00:00:00+00:00"),
        (date(2026, 1, 1), "2026-01-01"),
        (float("nan"), None),
        ([float("inf"), {"a": (1, 2)}], [None, {"a": [1, 2]}]),
    ],
)
def test_times_are_utc_and_undefined_numbers_null(
    value: object, printed: object, capsys: pytest.CaptureFixture[str]
) -> None:
    print_json({"value": value})
    assert json.loads(capsys.readouterr().out) == {"value": printed}
