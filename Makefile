# Parley: everything a developer or a newcomer runs. `make help` lists it.
#
# Settings, all optional:
#   PYTHON               the interpreter that makes .venv (default: the first one of 3.11 or newer)
#   PARLEY_TORCH_INDEX   address of a package index that holds CPU builds of PyTorch. Without it the default index is
#                        used, whose Linux builds may bring several GB of CUDA libraries that Parley does not need.
#   ARGS                 arguments for `make demo`, `make test` (pytest's) and `make benchmark`

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; print("$(name)") if sys.version_info >= (3, 11) else None' 2>/dev/null)))
PARLEY_TORCH_INDEX ?=
# -qq: pip's warnings speak of the index, not of Parley; its errors are shown.
PIP_FLAGS := --disable-pip-version-check $(if $(PARLEY_TORCH_INDEX),--extra-index-url $(PARLEY_TORCH_INDEX))
VENV := .venv
STAMP := $(VENV)/.parley-setup
BIN := $(VENV)/bin
ARGS ?=
NAME ?=
WHEELS ?= wheels

.PHONY: help setup test check lint format typecheck demo benchmark protocol wheels clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(STAMP) ## make .venv with everything in it (once; again when the requirements change)

# An interpreter that answers, a virtual environment that works (a moved or half-made one is made anew), then the packages.
$(STAMP): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "Parley needs Python 3.11 or newer and found none. On Debian: apt-get install python3 python3-venv" >&2; exit 1; fi
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
			if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
				echo "Installing python3-venv, which Debian keeps apart from Python" >&2; \
				{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv; } >&2; \
			else \
				echo "This Python cannot make virtual environments. On Debian: sudo apt-get install python3-venv" >&2; exit 1; \
			fi; \
		fi; \
		echo "Making $(VENV) with $$($(PYTHON) --version)" >&2; \
		rm -rf $(VENV); $(PYTHON) -m venv $(VENV); \
	fi
	@echo "Installing the packages of constraints.txt (a minute or two)" >&2
	@$(BIN)/python -m pip install -qq $(PIP_FLAGS) -c constraints.txt hatchling
	@$(BIN)/python -m pip install -qq $(PIP_FLAGS) -c constraints.txt --no-build-isolation -e '.[dev,demo]'
	@touch $@

test: check ## set up, lint, check types, and run every test (ARGS="tests/ring -k name" for some)
	@$(BIN)/python -m pytest $(ARGS)

check: lint typecheck ## lint and check types

lint: $(STAMP) ## ruff's rules and format, without changing anything
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(STAMP) ## put the code into ruff's format and mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

typecheck: $(STAMP) ## mypy --strict
	@$(BIN)/mypy

demo: $(STAMP) ## train on Fashion-MNIST with three parties, a dealer and a coordinator on this machine
	@$(BIN)/parley demo $(ARGS)

benchmark: $(STAMP) ## measure: make benchmark NAME=relu ARGS="--parties 3 --json"
	@$(BIN)/python -m benchmarks $(NAME) $(ARGS)

protocol: $(STAMP) ## generate services/protocol from protos/
	@$(BIN)/python -m services.build_protocol

# For Python 3.11, which the image has, whatever made .venv.
wheels: $(STAMP) ## download the image's packages into wheels/, for a build without an index
	@mkdir -p $(WHEELS)
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
		>$(WHEELS)/requirements.txt
	@$(BIN)/python -m pip download -qq $(PIP_FLAGS) -c constraints.txt --python-version 3.11 --only-binary :all: \
		-d $(WHEELS) -r $(WHEELS)/requirements.txt hatchling

clean: ## remove .venv and everything else that was generated, except data and results
	rm -rf $(VENV) wheels build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
