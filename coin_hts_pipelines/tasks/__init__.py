"""Asynchronous backtests: requests with an id and a state that tells the truth. Not here: Dagster, who runs them."""
