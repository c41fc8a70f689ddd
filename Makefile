# make help lists what there is to do.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEV := dev

# torch: a folder of wheels where pip is told of one, else the build that fits this machine (CPU without a GPU, CUDA with one).
TORCH := $(if $(PIP_FIND_LINKS),,--torch-backend auto)

# Python's bytecode is written once: without it each process of a sweep compiles torch and mlflow anew.
export UV_COMPILE_BYTECODE := 1
export UV_FIND_LINKS := $(PIP_FIND_LINKS)
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install quickstart test extras check docs fix clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 14

install: $(VENV)/.installed  ## make the environment in .venv and install everything into it

$(VENV)/.installed: pyproject.toml requirements/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(TORCH) --constraint requirements/constraints.txt --editable '.[$(DEV)]'
	touch $@

quickstart: install  ## the quickstart sweep: one small model, three precisions, four tasks; minutes on a CPU
	@$(BIN)/bioquant run experiment=quickstart
	@echo "Open the UI: $(BIN)/bioquant ui   then http://127.0.0.1:5000"

# A file is one worker's: its fixtures are made once. Half of the time tests wait for processes they have started.
test: install  ## the whole test suite, fast tests first
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# In an environment of its own: transformers imports these libraries wherever they are, which takes every process seconds.
extras:  ## test the recipes whose libraries are extras, in .venv_extras
	$(MAKE) install VENV=.venv_extras DEV=dev,torchao
	.venv_extras/bin/python -m pytest tests/test_quants_extra.py

check: install  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

docs: install  ## build the documentation into site/, without a network; a dead link or an unexplained key fails
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --quiet --strict

fix: install  ## format and repair what ruff can repair
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment and what runs left behind
	rm -rf $(VENV) .venv_extras site mlruns multirun/*
