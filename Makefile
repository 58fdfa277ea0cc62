# Every target makes .venv when it is missing and installs into it what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test lint clean

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

.venv/product: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -e .
	@touch $@

.venv/dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@ .venv/product

demo: .venv/product  ## install and run the embedded example (about 3 minutes on 2 cores)
	$(BIN)/python run.py

test: .venv/dev  ## install with the development extra and run the tests
	$(BIN)/python -m pytest -q

lint: .venv/dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove caches of tools, never runs or stores
	rm -rf .mypy_cache .ruff_cache .pytest_cache
