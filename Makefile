# SPDX-License-Identifier: Apache-2.0
# Everything from a fresh checkout; needs Python >= 3.11 with venv, git, make and g++, and no root.
#
#   make demo                          train, build and verify a small network
#   make demo DATASET=fashion-mnist    the same on another data set
#   make quick                         lint, types and the fast tests
#   make test                          lint, types, pages and every test
#   make docs                          the pages as a site, build/site
#   make lint, make clean

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Handed to the demo when given.
DEMO_ARGS := $(if $(DATASET),--dataset $(DATASET))

# Handed to pytest, such as TEST_ARGS="-k axi --seed 7". Two workers: a bench keeps one core busy;
# tests of one file stay on one of them, because they share a slow build. Benches come first: they are
# the longest, and nothing should wait for one at the end.
TEST_ARGS ?=
WORKERS   ?= 2
PYTEST    := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# PyPI's PyTorch brings CUDA along, gigabytes of it; a build without it comes with
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=

.PHONY: demo quick test lint docs clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.demo
	$(BIN)/python -m examples.demo $(DEMO_ARGS)

quick: lint
	$(PYTEST) tests -m "not slow" $(TEST_ARGS)

test: lint docs
	$(PYTEST) sim tests $(TEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# One environment: .demo holds what the demo needs, .dev all that the tests need.
$(VENV)/.demo: EXTRAS := train,sim
$(VENV)/.dev: EXTRAS := dev
$(VENV)/.demo $(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable ".[$(EXTRAS)]" -c constraints.txt $(PIP_ARGS)
	touch $(if $(filter dev,$(EXTRAS)),$(VENV)/.demo) $@

clean:
	rm -rf build runs .ruff_cache .pytest_cache .hypothesis
