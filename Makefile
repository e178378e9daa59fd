PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One more than there are processors: many tests wait for a process, a socket or a moment.
WORKERS ?= $(shell expr $$(nproc) + 1)
SEEDS ?= 1000
LAB ?= tests/lab
# Longest files first, so that no worker is left alone with one at the end.
SUITE := tests/simulation tests/integration tests/unit
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# torch first and alone: the pinned release may lie in a local wheel directory as a CPU build.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --upgrade 'pip>=24'
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(STAMP) ## Create .venv and install everything

demo: $(STAMP) ## Start a cluster, ask it, kill a node in the middle of an answer, print a market report
	$(BIN)/qaicl demo
	$(BIN)/qaicl oracle report --recorded

# A first pull inside a fixture would count against that test's time.
TEST_MODELS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/qaicl-test-models

test: $(STAMP) ## Run the whole test suite but the lab
	@QAICL_MODELS_DIRECTORY=$(TEST_MODELS) $(BIN)/qaicl model pull smollm2-135m all-minilm-l6-v2
	$(BIN)/pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(SUITE)

lint: $(STAMP) ## Check style, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

simulate: $(STAMP) ## Simulate more seeds: make simulate SEEDS=20000
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --workers $(WORKERS)

# The others want data or the lab: each says so in its --help.
BENCHES := cli_start dispatch split store engine report sentiment

bench: $(STAMP) ## Measure speed; each figure beside a named peer
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@for name in $(BENCHES); do echo "== $$name"; $(BIN)/python bench/$$name.py || exit 1; done

lab-up: $(STAMP) ## Boot three real machines (root): see docs/lab.md
	$(BIN)/python tests/lab/lab.py up

lab-down: $(STAMP) ## Power the lab off and remove every trace
	$(BIN)/python tests/lab/lab.py down

test-lab: $(STAMP) ## Run the tests that need the lab (root)
	$(BIN)/pytest -q -m lab $(LAB)

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help setup demo test lint simulate bench lab-up lab-down test-lab clean
