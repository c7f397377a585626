"""Alerts in the log."""

from __future__ import annotations

import logging

import pytest

from coin_hts_pipelines.operations.alerts import Alert, LogAlerts
from coin_hts_pipelines.settings import get_settings


@pytest.mark.parametrize(
    ("base", "link"),
    [
        ("", "docs/runbooks/disk_full.md"),
        ("https://git.example/hts/docs/runbooks/", "https://git.example/hts/docs/runbooks/disk_full.md"),
    ],
)
def test_the_runbook_is_linked_where_it_is_served(monkeypatch: pytest.MonkeyPatch, base: str, link: str) -> None:
    monkeypatch.setenv("COIN_HTS_RUNBOOKS_URL", base)
    get_settings.cache_clear()
    try:
        assert Alert("disk_full", "full", "", None, "warning").runbook == link
    finally:
        get_settings.cache_clear()


@pytest.mark.parametrize(
    ("text", "link", "line"),
    [
        ("poison", "http://host/page", "It broke: poison http://host/page"),
        ("poison", None, "It broke: poison"),
        ("one\ntwo\r\n\n\tthree", None, "It broke: one two three"),
        ("\x1b[31mred\x1b[0m\0 \x85 \u2028 end", "http://host/page", "It broke: [31mred [0m end http://host/page"),
        ("100 % of %s and {braces}", None, "It broke: 100 % of %s and {braces}"),
        ("캔들 없음", None, "It broke: 캔들 없음"),
    ],
)
def test_an_alert_is_one_line_with_the_link_at_its_end(
    caplog: pytest.LogCaptureFixture, text: str, link: str | None, line: str
) -> None:
    LogAlerts().send(Alert("kind", "It broke", text, link, "warning"))
    assert caplog.record_tuples == [("coin_hts_pipelines.alerts", logging.ERROR, line)]
