"""Dagster's entry point."""

from coin_hts_pipelines.control.dagster_logs import configure_dagster_logs
from coin_hts_pipelines.defs import build_defs

configure_dagster_logs()
defs = build_defs()
