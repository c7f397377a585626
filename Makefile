# Everything a person needs; `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 3000
RUN_ARGS ?=
TEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install run up test lint bench clean clean-data lock

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# Installed once for each state of the lock; pip compiles to byte code as it installs.
$(VENV)/.installed: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing; install Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q coin_hts_pipelines
	@touch $@

.env: $(VENV)/.installed
	@$(BIN)/coin-hts setup
	@touch $@

install: $(VENV)/.installed .env  ## Create .venv, install the lock, start and migrate Postgres, write .env

run: install  ## Candles to exports on synthetic candles, then the rankings
	@$(BIN)/coin-hts run $(RUN_ARGS)

up: install  ## Serve the Dagster UI and daemon on 127.0.0.1:3000
	@$(BIN)/coin-hts up --port $(PORT)

# The S3-compatible server of the tests lives in an environment of its own: it patches everything it meets.
.venv-swift/.installed: requirements-swift.lock
	test -x .venv-swift/bin/python || $(PYTHON) -m venv .venv-swift
	.venv-swift/bin/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r requirements-swift.lock
	@touch $@

test: $(VENV)/.installed .venv-swift/.installed  ## Run the whole test suite
	$(BIN)/python -m pytest $(TEST_ARGS)

lint: $(VENV)/.installed  ## Ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed  ## Measure speed and memory and print a table
	$(BIN)/python -m benchmarks

lock:  ## Write requirements.lock anew (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url --no-emit-find-links --quiet -o requirements.lock

clean:  ## Stop the embedded Postgres, remove .venv and caches; data and .env stay
	-@test -x $(BIN)/coin-hts && $(BIN)/coin-hts db stop
	rm -rf $(VENV) .venv-swift build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-data: clean  ## Also remove everything in data/ (asks first)
	@printf 'This removes every candle, result and run in data/. Type yes: '; read answer && [ "$$answer" = yes ]
	find data -mindepth 1 -not -name README.md -delete
