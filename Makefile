# All tasks of the project. `make help` lists them. `make demo` needs Python 3.11 or newer and make.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

# The first of these that is new enough. PYTHON=… overrides it.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install up demo data test fuzz gpu check format vendor
.DEFAULT_GOAL := help

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1  \2/p' $(MAKEFILE_LIST) | awk '{ printf "  %s %-8s", $$1, $$2; $$1 = $$2 = ""; print $$0 }'

install: $(READY) ## set up .venv with everything for development

$(READY): pyproject.toml constraints/dev.txt
	@test -n "$(PYTHON)" || { echo "Nestor needs Python 3.11 or newer; pass PYTHON=/path/to/python."; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) \
		|| { echo "$(PYTHON) cannot create virtual environments. On Debian or Ubuntu run: apt-get install python3-venv"; exit 1; }
	@echo "Installing into $(VENV) (a few minutes the first time: torch is large)"
	@$(BIN)/python -m pip install -qq --constraint constraints/dev.txt --editable '.[dev]'
	@touch $@

up: $(READY) ## run PostgreSQL, Valkey, API server, dashboard and a worker; Ctrl-C stops them
	@$(BIN)/nestor up

demo: $(READY) ## tune a real model through the complete service and print the results
	@$(BIN)/python -m examples.demo

data: $(READY) ## fetch the data sets of the examples into the cache
	@$(BIN)/python -m examples.data

test: $(READY) ## run all tests; fail, too, if they run a smaller part of the code than before
	@.ci/programs
	@rm -f .coverage .coverage.*
	@OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -q --numprocesses 2 --dist worksteal
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report

# The same seed sends the same first requests.
SEED ?= 1

fuzz: $(READY) ## fuzz a server's requests (ten minutes) and programs' operators (five); SEED=2 differs
	@OMP_NUM_THREADS=1 $(BIN)/python -m testbed.fuzzing $(SEED)

# GPU_PYTHON=python3 uses a Python that already has Nestor's dependencies and a torch with GPU support.
GPU_PYTHON ?= $(BIN)/python

gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(READY)) ## on a machine with a GPU: run tests, trials and benchmarks there; write gpu.json
	@PYTHONPATH=client:server:worker:$$PYTHONPATH NESTOR_TEST_DEVICE=$${NESTOR_TEST_DEVICE:-cuda} \
		$(GPU_PYTHON) -m benchmarks.gpu --json gpu.json

check: $(READY) ## lint, types, import rules, compose file, Dockerfile, insecure code, known faults of packages
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/basedpyright
	@.ci/types
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/bandit --quiet --configfile pyproject.toml --recursive client server worker migrations
	@.ci/audit

vendor: $(READY) ## fetch the newest libraries of the dashboard and of /docs
	@.ci/vendor

format: $(READY) ## format the code
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
