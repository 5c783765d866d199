# `make test` needs nothing but python3 (3.11 or later) and make: it sets everything up in .venv.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PATHS := $(wildcard walrep tests benchmarks)

.DEFAULT_GOAL := help
.PHONY: help check test test-servers lint fast demo demo-s3 servers bench bench-quick month soak crash faults engines coverage mutants format clean

help:  ## Show this list
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed -E 's/^([a-z0-9-]+):[^#]*## */\1\t/' | expand -t 12

# The stamp is younger than pyproject.toml once the install is complete; a failed one leaves no stamp.
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(READY)

lint: $(READY)  ## Format check, lint, types, import contracts
	$(BIN)/ruff format --check $(PATHS)
	$(BIN)/ruff check $(PATHS)
	$(BIN)/mypy
	$(BIN)/lint-imports

fast: $(READY)  ## The fast tests
	$(BIN)/python -m pytest -n 2 -m 'not slow'

check: lint fast  ## Before every commit: lint and the fast tests, about a minute

test: lint servers  ## What CI runs: lint and all tests, under ten minutes
	$(BIN)/python -m pytest -n 3 --dist worksteal

# S3 servers for the tests, from PyPI, in environments of their own; they are also made when a test first needs one.
servers: $(READY)
	$(BIN)/python -m tests.store.servers

test-servers: $(READY)  ## The stores' contract and the main job on MinIO and Garage; needs Go and Rust to build them
	$(BIN)/python -m pytest tests/servers/full_servers.py

demo: $(READY)  ## Replicate a small app's database to a folder and restore it to three seconds ago
	$(BIN)/python -m walrep.testing.demo

demo-s3: $(READY)  ## The same with a bucket of a real S3 server on this machine
	$(BIN)/python -m tests.store.demo

bench: $(READY)  ## The benchmarks: the small ones, then walrep beside other ways to protect a database, under 40 minutes
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks compare

bench-quick: $(READY)  ## walrep beside other ways to protect a database: a look of three minutes
	$(BIN)/python -m benchmarks compare --quick

month: $(READY)  ## 30 days in virtual time, idle, steady, in bursts: objects, requests, bytes, 100 restores of each
	$(BIN)/python -m benchmarks.month

soak: $(READY)  ## The long runs, hours of them; results as JSON in soak-results/. SEED=n: one run of the model again
	$(if $(SEED),,$(BIN)/python -m tests.hostile --seconds 60 --restores 200 --out soak-results)
	$(BIN)/python -m tests.model $(if $(SEED),--seed $(SEED),--minutes 120) --out soak-results

crash: $(READY)  ## A kill, a power cut, a failing disk at every call that changes something: some 2000 short lives
	$(BIN)/python -m tests.crash

faults: $(READY)  ## A store that fails in every way at every request: some 2300 short lives
	$(BIN)/python -m tests.faults

engines: $(READY)  ## The app on 13 older releases of SQLite, 3.40 to 3.53, from PyPI into .venv-engines/
	$(BIN)/python -m tests.hostile.engines

coverage: $(READY)  ## Branch coverage of walrep/core by the tests that drive it
	$(BIN)/python -m coverage run -m pytest -m "not slow" tests/core tests/disk tests/sqlite tests/engine tests/cli
	$(BIN)/python -m coverage report

mutants: $(READY)  ## Apply every patch of tests/mutants; each must be killed by a test
	$(BIN)/python -m tests.mutants

format: $(READY)  ## Format, and fix what can be fixed
	$(BIN)/ruff check --fix-only --quiet $(PATHS)
	$(BIN)/ruff format $(PATHS)

clean:  ## Remove everything that was built or measured
	rm -rf .venv .venv-servers .venv-engines .coverage build dist demo-data soak-results benchmarks/results .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find $(PATHS) -name __pycache__ -type d -prune -exec rm -rf {} +
