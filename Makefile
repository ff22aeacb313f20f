# `make demo` and `make test` need nothing but Python 3.11+ and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# CPU-only machines need no CUDA build of torch; constraints.txt pins the version either way.
STAMP := $(VENV)/.installed

# One process per core with one thread each: two busy processes of two threads stall one another.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

.PHONY: help demo test check-long lint clean
help:
	@echo "make demo        set up, train a small model, build it under two budgets, compare"
	@echo "make test        set up, run the tests"
	@echo "make check-long  the tests, and the long checks"
	@echo "make lint        ruff, pyright, import-linter"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/golfpack demo --out demo

test: $(STAMP)
	$(TEST)

check-long: $(STAMP)
	$(TEST) -m "slow or not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) demo
