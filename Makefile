# The two commands of the README, and the checks. Requires only make and Python >= 3.11.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One process per core. Tests that share compiled programs run in one process, the longest first (tests/conftest.py).
PARALLEL := -n auto --dist loadscope --no-loadscope-reorder
RUN ?= runs/digits-$(shell date +%Y%m%d-%H%M%S)
# Where this is set, each of the processes that tests start compiles all of the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: search test slow lint docs notebooks pictures package clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo "make search   search convolutional cells for handwritten digits; write a new folder under runs/"
	@echo "make test     run the tests"
	@echo "make slow     run the slow tests (minutes)"
	@echo "make lint     check style, types, imports and words"
	@echo "make docs     build the documentation site in site/; open site/index.html"
	@echo "make notebooks run the notebooks of examples/, so that make docs shows their outputs (minutes)"
	@echo "make pictures draw the pictures of the documentation again (many minutes)"
	@echo "make package  build the source distribution and the wheel of the last commit in dist/"
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
	@$(BIN)/python .ci/check_words.py
	@$(BIN)/deptry .

docs: $(VENV)/.installed-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html; with search: $(BIN)/python -m http.server --directory site"

notebooks: $(VENV)/.installed-test
	@mkdir -p build/notebooks && cp examples/*.ipynb build/notebooks/
	@cd build/notebooks && for notebook in *.ipynb; do \
	  $(abspath $(BIN))/jupyter-execute --inplace $$notebook || exit 1; done

pictures: $(VENV)/.installed-peers
	@$(BIN)/lanas compare nasbench201-cifar10 --searchers lanas,tpe,evolution,random
	@$(BIN)/lanas compare nasbench201-imagenet16 --searchers lanas,tpe,evolution,random
	@$(BIN)/lanas search digits --out $(RUN)
	@$(BIN)/python -m lanas_jax.experiments.pictures $(RUN)

package: $(VENV)/.installed-test
	@rm -rf build/tree dist && mkdir -p build/tree && git archive HEAD | tar -x -C build/tree
	@$(BIN)/python -m build --outdir dist build/tree
	@$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python >= 3.11, or select another: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) -V), but 3.11 or newer is needed. To select another: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make virtual environments: install its venv module (package python3-venv on Debian and Ubuntu)"; exit 1; }

# A stamp file marks an environment into which the current pyproject.toml is installed, with the extras in its name.
$(VENV)/.installed: $(BIN)/python pyproject.toml
	@echo "installing into $(VENV), once"
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: $(BIN)/python pyproject.toml
	@echo "installing into $(VENV), once"
	@$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(BIN)/python pyproject.toml
	@echo "installing into $(VENV), once"
	@$(BIN)/python -m pip install --quiet --editable ".[docs]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-peers: $(BIN)/python pyproject.toml
	@echo "installing into $(VENV), once"
	@$(BIN)/python -m pip install --quiet --editable . "optuna>=4"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml
	@echo "installing into $(VENV), once"
	@$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

# Both at once, for .ci/run.
$(VENV)/.installed-ci: $(BIN)/python pyproject.toml
	@echo "installing into $(VENV), once"
	@$(BIN)/python -m pip install --quiet --editable ".[dev,docs]"
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test $(VENV)/.installed-dev $(VENV)/.installed-docs
