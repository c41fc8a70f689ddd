# make help lists what there is to do.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEV := dev
# Versions of requirements/constraints.txt that an extra does not allow.
UNPINNED := none

# torch: a folder of wheels where pip is told of one, else the build that fits this machine (CPU without a GPU, CUDA with one).
TORCH := $(if $(PIP_FIND_LINKS),,--torch-backend auto)

# Python's bytecode is written once: without it each process of a sweep compiles torch and mlflow anew.
export UV_COMPILE_BYTECODE := 1
export UV_FIND_LINKS := $(PIP_FIND_LINKS)
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install quickstart test extras check docs fix lock wheel sbom clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 14

install: $(VENV)/.installed  ## make the environment in .venv and install everything into it

$(VENV)/.installed: pyproject.toml requirements/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	grep -vE '^($(UNPINNED))==' requirements/constraints.txt > $(VENV)/constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(TORCH) --constraint $(VENV)/constraints.txt --editable '.[$(DEV)]'
	touch $@

quickstart: install  ## the quickstart sweep: one small model, three precisions, four tasks; minutes on a CPU
	@$(BIN)/bioquant run experiment=quickstart
	@echo "Open the UI: $(BIN)/bioquant ui   and the page it names"

# A file is one worker's: its fixtures are made once. Half of the time tests wait for processes they have started.
test: install  ## the whole test suite, fast tests first
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# In an environment of its own: transformers imports these libraries wherever they are, which takes every process seconds.
extras:  ## test the recipes whose libraries are extras, in .venv_extras
	$(MAKE) install VENV=.venv_extras DEV=dev,hqq,torchao,gptq,compressed-tensors UNPINNED=numpy
	.venv_extras/bin/python -m pytest tests/test_quants_extra.py tests/test_gptq.py

check: install  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

docs: install  ## build the documentation into site/, without a network; a dead link or an unexplained key fails
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --quiet --strict

fix: install  ## format and repair what ruff can repair
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# From constraints.txt, for Linux on x86-64. PyPI's torch is the CUDA build; PyTorch's CPU build is of an index of its own and has no hash here.
LOCK := UV_FIND_LINKS= $(BIN)/uv pip compile --quiet --no-annotate --custom-compile-command "make lock" --python-version 3.11 \
	--python-platform x86_64-unknown-linux-gnu --constraint requirements/constraints.txt --extra server pyproject.toml

lock: install  ## pin what users install, from constraints.txt: requirements/cuda.txt with hashes, requirements/cpu.txt
	$(LOCK) --generate-hashes --output-file requirements/cuda.txt
	$(LOCK) --output-file requirements/cpu.txt
	sed -i -E '/^nvidia-ml-py/!{/^(nvidia-|cuda-|triton==)/d}' requirements/cpu.txt

wheel: install  ## build the wheel into dist/
	$(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python --out-dir dist

sbom: install  ## list what is installed in .venv as CycloneDX JSON: dist/sbom.json
	mkdir -p dist
	$(BIN)/uv tool run --quiet --from cyclonedx-bom cyclonedx-py environment --output-file dist/sbom.json $(BIN)/python

clean:  ## remove the environment and what runs left behind
	rm -rf $(VENV) .venv_extras dist site mlruns multirun/*
