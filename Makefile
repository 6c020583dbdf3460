# make demo | test | fast | lint | format | lock | peer | clean: each creates the environment that it needs.
# `make test PYTHON=python3.12` uses that interpreter; every Python version has an environment of its own.
.DEFAULT_GOAL := help
.PHONY: help demo test fast lint format lock peer clean

# The first interpreter of these that runs and is new enough; pip's dialogue and version checks are not wanted.
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
endif
VERSION := $(if $(PYTHON),$(shell "$(PYTHON)" -c 'import sys; v = sys.version_info; print("%d.%d" % v[:2] if v >= (3, 11) else "")' 2>/dev/null))
NO_PYTHON = $(if $(PYTHON),'$(PYTHON)' is not a Python 3.11 or newer that runs,no Python 3.11 or newer was found): name one, for example: make $(or $(MAKECMDGOALS),test) PYTHON=/usr/bin/python3.12

VENV := .venv-$(VERSION)
PY := $(VENV)/bin/python
# Wheels only, each checked against its hash: no code of a package runs while the environment is made.
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --no-input
LOCKED := --require-hashes --only-binary :all:
UV ?= uv

# A worker for each core, up to four; the tests of a file share its searches, so they stay together.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile

DEMO_RUN := runs/demo
DEMO_FLAGS := --evaluations 20

help:
	@sed -n '1,2s/^# //p' Makefile

# A mark is written last, so an environment that was interrupted is made afresh.
$(VENV)/runtime.done: requirements.txt
	$(if $(VERSION),,$(error $(NO_PYTHON)))
	@echo "creating $(VENV) (a minute or so, about 1 GB)"
	@rm -rf $(VENV)
	@"$(PYTHON)" -m venv $(VENV)
	@$(INSTALL) $(LOCKED) -r requirements.txt
	@touch $@

$(VENV)/dev.done: $(VENV)/runtime.done requirements-dev.txt pyproject.toml
	@echo "adding the test tools to $(VENV)"
	@$(INSTALL) $(LOCKED) -r requirements.txt -r requirements-dev.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(VENV)/runtime.done
	@rm -rf $(DEMO_RUN)
	$(PY) -m olm search perceptron $(DEMO_FLAGS) --run-dir $(DEMO_RUN)
	@test -f $(DEMO_RUN)/report.html && echo "report: $(CURDIR)/$(DEMO_RUN)/report.html"

test: $(VENV)/dev.done
	$(PY) -m pytest $(PARALLEL)

fast: $(VENV)/dev.done
	$(PY) -m pytest $(PARALLEL) -m "not slow"

lint: $(VENV)/dev.done
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

format: $(VENV)/dev.done
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

# The second file holds what the first lacks: versions are constrained by the first, whose packages are then left out.
COMPILE = $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
  --no-annotate --custom-compile-command "make lock" --upgrade --quiet pyproject.toml
lock:
	$(COMPILE) --output-file requirements.txt
	$(COMPILE) --extra notebooks --extra test --extra dev --constraint requirements.txt --output-file requirements-dev.txt \
	  $$(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.txt | sort -u)

# PyTorch and cvxpy are needed by benchmarks/peer.py alone; they are added to this Python's environment, not locked by hash.
peer: $(VENV)/dev.done
	$(INSTALL) torch==2.13.0 cvxpy==1.9.3

clean:
	rm -rf .venv-* .cache .pytest_cache .ruff_cache build dist
