# Everything a person needs; `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?=
RUN_ARGS ?=
TEST_ARGS ?=
REPORT ?= junit
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv install run up test test-peers lint docs audit secrets bench bench-docs figures figures-check bench-quick bench-peers clean clean-data lock lock-peers

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

venv: $(VENV)/.installed  ## Create .venv from the lock, and nothing else

install: $(VENV)/.installed .env  ## Create .venv, install the lock, start and migrate Postgres, write .env

run: install  ## Candles to exports on synthetic candles, then the rankings
	@$(BIN)/coin-hts run $(RUN_ARGS)

up: install  ## Serve the Dagster UI and daemon on 127.0.0.1:3000
	@$(BIN)/coin-hts up $(if $(PORT),--port $(PORT))

# The S3-compatible server of the tests lives in an environment of its own: it patches everything it meets.
.venv-swift/.installed: requirements-swift.lock
	test -x .venv-swift/bin/python || $(PYTHON) -m venv .venv-swift
	.venv-swift/bin/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r requirements-swift.lock
	@touch $@

# What is left in build/reports/ is read by `coin-hts readiness`.
test: $(VENV)/.installed .venv-swift/.installed  ## Run the whole test suite
	$(BIN)/python -m pytest --junitxml=build/reports/$(REPORT).xml --cov --cov-report=json:build/reports/coverage.json $(TEST_ARGS)

# Other engines, to be compared with, live in an environment of their own too: nothing of ours depends on them.
.venv-peers/.installed: requirements-peers.lock
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r requirements-peers.lock
	@touch $@

test-peers: $(VENV)/.installed .venv-peers/.installed  ## Install vectorbt apart and test parity with it
	$(BIN)/python -m pytest coin_hts_pipelines_tests/peers $(TEST_ARGS)

lint: $(VENV)/.installed  ## Ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed  ## Write the generated pages and pictures of docs/ anew
	$(BIN)/python docs/configuration.py
	$(BIN)/python docs/pictures/architecture.py

audit: $(VENV)/.installed  ## Look up known vulnerabilities of the lock (offline: says so)
	$(BIN)/python .ci/audit.py

secrets: $(VENV)/.installed  ## Search the tracked files for secrets
	$(BIN)/python .ci/find_secrets.py

bench: $(VENV)/.installed .venv-peers/.installed  ## Measure every row of docs/benchmarks.md, other engines too
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

# A row that fails is to be read in the documents too.
bench-docs: $(VENV)/.installed .venv-peers/.installed  ## Measure everything (idle machine), write the documents' figures
	-$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.figures

figures: $(VENV)/.installed  ## Write the figures of the documents from what was measured
	$(BIN)/python -m benchmarks.figures

figures-check: $(VENV)/.installed  ## Fail where the figures of a document are not current
	$(BIN)/python -m benchmarks.figures --check

bench-quick: $(VENV)/.installed  ## Compare the quick rows with the committed baseline
	$(BIN)/python -m benchmarks --quick

bench-peers: $(VENV)/.installed .venv-peers/.installed  ## Install vectorbt and backtesting.py apart and run side by side
	$(BIN)/python -m benchmarks peers_backtest peers_sweep

lock:  ## Write requirements.lock anew (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url --no-emit-find-links --quiet -o requirements.lock

lock-peers:  ## Write requirements-peers.lock anew (needs uv)
	printf 'vectorbt[rust]>=1.2,<2\nbacktesting>=0.6.6,<0.7\n' | uv pip compile - --universal --python-version 3.11 \
	    --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --quiet -o requirements-peers.lock

clean:  ## Stop the embedded Postgres, remove .venv and caches; data and .env stay
	-@test -x $(BIN)/coin-hts && $(BIN)/coin-hts db stop
	rm -rf $(VENV) .venv-swift .venv-peers build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-data: clean  ## Also remove everything in data/ (asks first)
	@printf 'This removes every candle, result and run in data/. Type yes: '; read answer && [ "$$answer" = yes ]
	find data -mindepth 1 -not -name README.md -delete
