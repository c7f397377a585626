"""Keeping the house running: the embedded server, health. Not here: anything that knows Dagster."""
