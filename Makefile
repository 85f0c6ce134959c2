# `make demo` and `make test` need nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHAPES := hilbertnet.architecture.operators,hilbertnet.kernels.recursion,hilbertnet.networks.filters

.PHONY: demo test slow shapes lint format types docs wheel clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e ".[test,docs]"
	touch $@

demo: $(VENV)/.installed  ## digits, five seeds, a third held out
	$(BIN)/hilbertnet fit digits --seeds 5 --filters 32,128

test: $(VENV)/.installed  ## the quick suite
	$(BIN)/python -m pytest -n 2

slow: $(VENV)/.installed  ## what takes longer
	$(BIN)/python -m pytest -n 2 -m slow tests

shapes: $(VENV)/.installed  ## shape annotations, checked at run time, in the rooms of plain torch
	$(BIN)/python -m pytest -n 2 --jaxtyping-packages=$(SHAPES),beartype.beartype tests/architecture/test_operators.py tests/kernels tests/networks

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(VENV)/.installed
	$(BIN)/mypy

docs: $(VENV)/.installed
	rm -rf docs/api/generated  # pages of names that are gone would stay
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

wheel: $(VENV)/.installed
	$(BIN)/python -m build --outdir dist

clean:
	rm -rf $(VENV) build dist docs/_build docs/api/generated
