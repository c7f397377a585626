"""Tests with real processes, a real Postgres and the real command."""
