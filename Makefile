# Every target works on a fresh machine with Python 3.11+ and make; the environment is made when it is first needed.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
QUICK  ?= 0
SERVE  ?= 1

.DEFAULT_GOAL := help
.PHONY: demo test test-all check bench serve build help

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "ailab needs Python 3.11 or newer, this is " + sys.version'
	@echo "installing into $(VENV), a minute or two ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

demo: $(VENV)/.installed ## Train 60 models, print the leaderboard, serve it (SERVE=0 stops before serving)
	$(BIN)/python examples/train_model/sweep.py
	@if [ "$(SERVE)" != "0" ]; then $(BIN)/ailab serve; fi

test: $(VENV)/.installed ## Run the tests
	$(BIN)/python -Im pytest -m "not long" -n 2 --dist loadfile

test-all: $(VENV)/.installed ## Run the tests with the long forms of the promises
	$(BIN)/python -Im pytest -n 2 --dist loadfile

check: $(VENV)/.installed ## Format, lint, types, layers, generated files
	$(BIN)/ruff format --check ailab api examples tests
	$(BIN)/ruff check ailab api examples tests
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -Im pytest -q tests/promises/test_schemas_are_current.py

bench: $(VENV)/.installed ## Measure against limits and other trackers; writes tests/bench/RESULTS.md (QUICK=1: limits only, printed)
	$(BIN)/python tests/bench/bench.py $(if $(filter-out 0,$(QUICK)),--quick)

serve: $(VENV)/.installed ## Serve the store of this folder
	$(BIN)/ailab serve

build: $(VENV)/.installed ## Build the wheel and the source archive into dist/
	$(BIN)/python -m build

help: ## Say what the targets do
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'
