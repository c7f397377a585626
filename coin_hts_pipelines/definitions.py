"""Dagster's entry point."""

from coin_hts_pipelines.defs import build_defs

defs = build_defs()
