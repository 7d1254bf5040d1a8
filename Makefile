# Two commands matter: `make run` and `make test`.  Both need Python >= 3.11, make and git.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS   ?=
# Tests of real processes wait for one another's clocks half of the time.
WORKERS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
# What is installed, as files: a second run finds them newer than the locks and is immediate.
RUN    := $(VENV)/.installed-run
DEV    := $(VENV)/.installed-dev

.PHONY: help setup run test test-deploy test-all check fix docs bench lock clean

help:      ## this list
	@sed -n 's/^\([a-z-]*\): *[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

setup: $(DEV)  ## virtual environment with everything

run: $(RUN)    ## API, consumer and a sandbox inbox on a throw-away store, with a line to try
	@$(BIN)/emailerctl dev $(ARGS)

test: $(DEV)   ## the whole suite, no service needed; ARGS="tests/unit -x" for a part
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

test-deploy: $(DEV) ## image, Compose and Ansible with a Docker engine of its own; root on Debian 12
	@tools=$$(.ci/deploy-tools) && DEPLOY_TOOLS=$$tools $(BIN)/python -m pytest tests/deploy -p no:xdist $(ARGS)

test-all: $(DEV) ## the whole suite with branch coverage
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal --cov --cov-report=term $(ARGS)

check: $(DEV)  ## format, ruff, mypy, import-linter, generated files up to date
	@echo "format" && $(BIN)/ruff format --quiet --check .
	@echo "ruff" && $(BIN)/ruff check --quiet .
	@echo "mypy" && $(BIN)/mypy --no-error-summary
	@echo "floors" && $(BIN)/lint-imports --no-logo > $(VENV)/.floors || { cat $(VENV)/.floors; exit 1; }
	@echo "generated files" && $(BIN)/python -m tests.house.generate --check
	@echo "check: all good"

fix: $(DEV)    ## let ruff repair what it can
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format .

docs: $(DEV)   ## rewrite the generated parts
	@$(BIN)/python -m tests.house.generate

bench: $(DEV)  ## the ratios of docs/benchmarks.md, side by side in one run
	@$(BIN)/python -m bench $(ARGS)

lock: $(DEV)   ## resolve the dependencies anew; ARGS=--upgrade for the newest of each
	@$(BIN)/uv pip compile $(LOCKING) $(ARGS) pyproject.toml --group build --extra smtp \
		-o requirements.lock
	@$(BIN)/uv pip compile $(LOCKING) $(ARGS) pyproject.toml --group build --extra dev \
		--constraint requirements.lock -o requirements-dev.lock
LOCKING := --quiet --universal --no-strip-extras --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

clean:         ## remove what was built, the virtual environment included
	@rm -rf $(VENV) dist build .coverage* htmlcov .pytest_cache .mypy_cache .ruff_cache \
		.hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) > /dev/null || { \
		echo "emailerctl needs Python 3.11 or newer, and there is no $(PYTHON)." \
		"Install it, or name yours: make PYTHON=/path/to/python3"; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "emailerctl needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
		"Name another one: make PYTHON=python3.12"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "$(PYTHON) can't make virtual environments." \
		"On Debian and Ubuntu: apt-get install python3-venv"; exit 1; } >&2
	@echo "Making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# No network and no build environment for our own code: its build tools are in the locks.
EDITABLE := $(PIP) install --no-deps --no-build-isolation --no-index --editable .

$(RUN): requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing what emailerctl needs (requirements.lock)"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(EDITABLE)
	@touch $@

$(DEV): requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "Installing what emailerctl and its tests need (requirements-dev.lock)"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@$(EDITABLE)
	@touch $@ $(RUN)
