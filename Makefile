# SPDX-License-Identifier: Apache-2.0
# Everything from a fresh checkout; needs Python >= 3.11 with venv, git, make and g++, and no root.
#
#   make demo                          train, build and verify a small network
#   make demo DATASET=fashion-mnist    the same on another data set
#   make test                          lint and every test
#   make lint, make venv, make clean

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Handed to the demo when given.
DEMO_ARGS := $(if $(DATASET),--dataset $(DATASET))

# Handed to pytest, such as TEST_ARGS="-k axi --seed 7". Two workers: a bench keeps one core busy;
# tests of one file stay on one of them, because they share a slow build.
TEST_ARGS ?=
WORKERS   ?= 2

.PHONY: demo test lint venv clean
.DEFAULT_GOAL := demo

demo: venv
	$(BIN)/python -m examples.demo $(DEMO_ARGS)

test: lint
	$(BIN)/python -m pytest tests sim -n $(WORKERS) --dist loadfile $(TEST_ARGS)

lint: venv
	$(BIN)/ruff check .

venv: $(STAMP)

# PyPI's PyTorch brings CUDA along, gigabytes of it; a build without it comes with
#   make venv PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable . -c constraints.txt $(PIP_ARGS)
	touch $@

clean:
	rm -rf build runs .ruff_cache .pytest_cache .hypothesis
