# The two commands of the README, and the checks. Needs make and Python >= 3.11, nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A process per core; tests that share programs stay together, the longest first (tests/conftest.py).
PARALLEL := -n auto --dist loadscope --no-loadscope-reorder
RUN ?= runs/digits-$(shell date +%Y%m%d-%H%M%S)

.PHONY: search test slow lint clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo "make search   search convolutional cells for handwritten digits, into a new folder under runs/"
	@echo "make test     run the tests"
	@echo "make slow     run the tests that take minutes"
	@echo "make lint     check style, types and imports"
	@echo "make clean    remove the virtual environment and build products"

search: $(VENV)/.installed
	@$(BIN)/lanas search digits --out $(RUN)

test: $(VENV)/.installed-test
	@$(BIN)/python -m pytest $(PARALLEL)

slow: $(VENV)/.installed-test
	@$(BIN)/python -m pytest -m slow $(PARALLEL)

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there: install Python >= 3.11, or name one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) -V), but 3.11 or newer is needed. To name another: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make virtual environments: install its venv module (on Debian and Ubuntu the package python3-venv)"; exit 1; }

# A stamp stands for an environment into which this pyproject.toml has been installed, with or without extras.
$(VENV)/.installed: $(BIN)/python pyproject.toml
	@echo "installing into $(VENV), once"
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: $(BIN)/python pyproject.toml
	@echo "installing into $(VENV), once"
	@$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml
	@echo "installing into $(VENV), once"
	@$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test
