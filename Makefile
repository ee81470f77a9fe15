# Everything that one does here. `make help` lists it; `make demo` needs nothing but Python 3.11 or newer and make.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

# The first of these that is new enough; PYTHON=… chooses another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install up demo data test gpu check format
.DEFAULT_GOAL := help

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1  \2/p' $(MAKEFILE_LIST) | awk '{ printf "  %s %-8s", $$1, $$2; $$1 = $$2 = ""; print $$0 }'

install: $(READY) ## set up .venv with everything that development needs

$(READY): pyproject.toml constraints/dev.txt
	@test -n "$(PYTHON)" || { echo "Nestor needs Python 3.11 or newer; pass PYTHON=/path/to/python."; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) \
		|| { echo "$(PYTHON) cannot make virtual environments; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Installing into $(VENV) (a few minutes the first time: torch is large)"
	@$(BIN)/python -m pip install -qq --constraint constraints/dev.txt --editable '.[dev]'
	@touch $@

up: $(READY) ## run PostgreSQL, Valkey, API server, dashboard and a worker; Ctrl-C stops them
	@$(BIN)/nestor up

demo: $(READY) ## tune a real model through the whole stack and print what came of it
	@$(BIN)/python -m examples.demo

data: $(READY) ## fetch the data sets of the examples into a cache
	@$(BIN)/python -m examples.data

test: $(READY) ## run all tests
	@.ci/chromium
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q --numprocesses 2 --dist worksteal

# Where Nestor's dependencies and a torch that sees the GPU are installed already, GPU_PYTHON=python3 uses them.
GPU_PYTHON ?= $(BIN)/python

gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(READY)) ## on a machine with a GPU: tests, trials and measurements there, into gpu.json
	@PYTHONPATH=client:server:worker:$$PYTHONPATH NESTOR_TEST_DEVICE=$${NESTOR_TEST_DEVICE:-cuda} \
		$(GPU_PYTHON) -m benchmarks.gpu --json gpu.json

check: $(READY) ## lint, types, import rules, compose file, Dockerfile
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	@$(BIN)/hadolint Dockerfile

format: $(READY) ## put the code into its form
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
