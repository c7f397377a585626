"""Steers a Dagster instance from outside. Here: preparing, launching, watching. Not here: what an asset does."""
