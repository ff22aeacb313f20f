# `make demo` and `make test` need nothing but Python 3.11+ and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# CPU-only machines need no CUDA build of torch; constraints.txt pins the version either way.
STAMP := $(VENV)/.installed

# One process per core with one thread each: two busy processes of two threads stall one another.
TEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -n auto --dist worksteal

.PHONY: help demo test cover check-long check-cpus lint clean
help:
	@echo "make demo        set up, train a small model, build it under two budgets, compare"
	@echo "make test        set up, run the tests"
	@echo "make check-long  the tests, and the long checks"
	@echo "make check-cpus  the tests under other CPUs' matrix products; long"
	@echo "make lint        ruff, pyright, import-linter"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,transformers]'
	touch $@

demo: $(STAMP)
	$(BIN)/golfpack demo --out demo

test: $(STAMP)
	$(TEST)

# Coverage costs a third of the time; its floor and what it leaves out are in pyproject.toml.
cover: $(STAMP)
	$(TEST) --cov --cov-report=
	@$(BIN)/coverage report --sort=cover --skip-covered | tail -n 1
	@echo "least covered:" && $(BIN)/coverage report --sort=cover --fail-under=0 | sed -n '3,7p'

check-long: $(STAMP)
	$(TEST) -m "slow or not slow"

# Float matrix products round differently from one CPU to the next. This machine plays others: numpy's
# OpenBLAS and torch take the kernels they are told to, and one or two threads. Four runs cover all pairs.
check-cpus: $(STAMP)
	OPENBLAS_CORETYPE=Prescott ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto
	OPENBLAS_CORETYPE=Haswell ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q -n 1
	ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q -n 1
	ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) demo
