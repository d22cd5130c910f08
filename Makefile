# Two commands do everything on a fresh machine with Python 3.11+, git and make:
#   make run     a node, a real workflow on it, its result; stays up until Ctrl-C   (make run ONCE=1 ends after the result)
#   make test    everything that CI runs; what a missing system package leaves out is named at the end
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.ready-to-run
TEST_STAMP := $(VENV)/.ready-to-test
export PYTHONDONTWRITEBYTECODE ?= 1

.PHONY: help run test check format unit soak bench clean
help:
	@sed -n '2,3p' Makefile | cut -c3-
	@echo "  make check   ruff, mypy --strict, import rules        make format  rewrite in the house style"
	@echo "  make unit    unit and conformance tests only          make soak    the long versions (about two hours)"
	@echo "  make bench   W1-W5 on one node, table and JSON        make clean   remove what these commands made"

$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ]; then echo "Thaiyyal Node needs Python 3.11 or newer (python3 here: $$(python3 --version 2>&1)); install it, or say which: make run PYTHON=/path/to/python3.11"; exit 1; fi
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { echo "the venv module is missing: on Debian and Ubuntu, apt-get install python3-venv"; exit 1; }

$(RUN_STAMP): pyproject.toml requirements.lock | $(VENV)/bin/python
	@echo "installing (about 15 s, once)"
	@$(BIN)/pip install --disable-pip-version-check -q -c requirements.lock -e .
	@touch $@

$(TEST_STAMP): pyproject.toml requirements.lock | $(VENV)/bin/python
	@echo "installing, with what the tests want (about 30 s, once)"
	@$(BIN)/pip install --disable-pip-version-check -q -c requirements.lock -e '.[test]'
	@touch $@ $(RUN_STAMP)

run: $(RUN_STAMP)
	@$(BIN)/python -m examples.quickstart $(if $(ONCE),--once)

test: $(TEST_STAMP)
	@$(BIN)/python -m tests $(STAGES)

check: $(TEST_STAMP)
	@$(BIN)/python -m tests static

unit: $(TEST_STAMP)
	@$(BIN)/python -m tests unit

format: $(TEST_STAMP)
	@$(BIN)/ruff check -q --fix . ; $(BIN)/ruff format .

soak: $(TEST_STAMP)
	@$(BIN)/python -m tests --soak $(STAGES)

bench: $(RUN_STAMP)
	@for w in w1 w2 w2p w3 w4 w5; do $(BIN)/python -m benchmarks.$$w || exit 1; done

clean:
	rm -rf $(VENV) .run build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage*
