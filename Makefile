# Two commands: `make demo` and `make test`. Each sets up its own virtual environment first, once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
DEMO   ?= demo-run

.PHONY: help setup demo test check format clean

help:
	@echo "make demo    train, score and predict on a generated collection ($(DEMO)/)"
	@echo "make test    run the tests"
	@echo "make check   formatting, lint and types"
	@echo "make setup   only make $(VENV)"

setup: $(VENV)/.dev-installed

demo: $(VENV)/.installed
	$(BIN)/stadapter demo --out $(DEMO) --overwrite

# Two processes, a file at a time: fixtures that a file shares are made once.
test: $(VENV)/.dev-installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.dev-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev-installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info

# torch is asked for alone and by its exact version: where a small CPU build is offered, pip takes it,
# while an open range would pull several GB of CUDA packages.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "stadapter needs Python >= 3.10; run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt torch==2.13.0
	$(PIP) install -q -c constraints.txt torchvision==0.28.0 -e .
	@touch $@

$(VENV)/.dev-installed: $(VENV)/.installed
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	@touch $@
