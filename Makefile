# Everything that this project asks of a machine is Python 3.10+ with venv and pip, and a package registry.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PYTHONWARNINGS ?= default

.PHONY: help demo test test-slow lint fix bench-demo bench-overhead bench-nms clean

help:
	@echo "make demo       environment, export, benchmark against PyTorch, annotated pictures in demo/"
	@echo "make test       environment and the tests; make test-slow: the longer proofs"
	@echo "make lint       ruff and mypy; make fix: what ruff can mend"
	@echo "make bench-overhead | bench-nms   the measurements of docs/log.md"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), f"Python 3.10 or newer is needed, this is {sys.version}"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/python -m yolopose.benchmarks.demo --output demo

test: $(READY)
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
