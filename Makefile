# Every command makes `.venv` first when it is missing or older than what it was made from.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
PY := .venv/bin/python
STAMP := .venv/.installed
STACK := $(PY) -m deploy.local
ARGS ?=
LOCK := var/lock-venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links $(ARGS)

.PHONY: help demo up down ps logs dlq new-epoch sweep sim mutants test test-large bench soak check fmt format-check lint types imports lock venv

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml requirements.lock
	@echo "making .venv"
	@$(PYTHON) -c 'import sys; sys.exit("Lockstep needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements.lock
	@$(PY) -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

venv: $(STAMP) ## make .venv, with everything the other commands need

demo: $(STAMP) ## start everything, sync a real tree between two devices, show what happens, stop
	@$(PY) -m deploy.local.demo

up: $(STAMP) ## start the stack in the background; returns when it is ready
	@$(STACK) up

down: $(STAMP) ## stop the stack; its data stays in var/
	@$(STACK) down

ps: $(STAMP) ## what runs, with process ids and readiness
	@$(STACK) ps

logs: $(STAMP) ## the last log lines of everything; `make logs ARGS="-f upload"` follows one
	@$(STACK) logs $(ARGS)

dlq: $(STAMP) ## dead letters: `make dlq ARGS=list`, `make dlq ARGS=replay`
	@$(STACK) exec -- $(PY) -m libs.messaging.dlq $(or $(ARGS),list)

new-epoch: $(STAMP) ## the last step of a restore from backup (docs/operations.md)
	@$(STACK) exec -- $(PY) -m services.metadata new-epoch

sweep: $(STAMP) ## do documents and S3 belong together? `make sweep ARGS=--repair` mends, `ARGS=--json`
	@$(STACK) exec -- $(PY) -m services.janitor sweep $(ARGS)

test: $(STAMP) ## all tests; starts what they need on free ports
	@$(PY) -m pytest -n 3 --dist loadfile $(ARGS)

test-large: $(STAMP) ## a large file over kills of the agent: SIZE=50G PARTS=9500 DOWNLOAD=1 (TMPDIR: where)
	@$(PY) -m tests.large $(if $(SIZE),--size $(SIZE)) $(if $(PARTS),--parts $(PARTS)) \
		$(if $(DOWNLOAD),--download) $(ARGS)

bench: $(STAMP) ## measure beside rclone and rsync: SIZE=1G ROUNDS=3 JSON=FILE ARGS="transfer|delta|history"
	@$(PY) -m tests.bench $(if $(SIZE),--size $(SIZE)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(JSON),--json $(JSON)) $(ARGS)

soak: $(STAMP) ## random operations on real devices: ROUNDS=60 SEED= DEVICES=2|3 MODE=offline|live|kill|…
	@$(PY) -m tests.soak $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) \
		$(if $(DEVICES),--devices $(DEVICES)) $(if $(MODE),--mode $(MODE)) $(ARGS)

sim: $(STAMP) ## play many histories of whole agents in simulation: `make sim SEEDS=2000 FIRST=0`
	@$(PY) -m tests.simulation.search --seeds $(or $(SEEDS),1000) --first $(or $(FIRST),0) $(ARGS)

mutants: $(STAMP) ## put deliberate bugs into the agent, one at a time: the simulation must find each
	@$(PY) -m tests.simulation.mutants $(ARGS)

check: format-check lint types imports ## format, lint, types, import contracts

format-check: $(STAMP)
	@$(PY) -m ruff format --check .

lint: $(STAMP)
	@$(PY) -m ruff check .

types: $(STAMP)
	@$(PY) -m mypy

imports: $(STAMP)
	@.venv/bin/lint-imports

fmt: $(STAMP) ## format the code and apply safe fixes
	@$(PY) -m ruff check --fix-only --quiet .
	@$(PY) -m ruff format .

lock: ## write the locks again from pyproject.toml; `ARGS=--upgrade` takes newer versions
	@test -x var/lock-venv/bin/uv || { $(PYTHON) -m venv var/lock-venv && var/lock-venv/bin/pip install --quiet 'uv>=0.9,<1'; }
	@$(LOCK) --all-extras pyproject.toml --output-file requirements.lock
	@$(LOCK) --extra server --constraint requirements.lock pyproject.toml --output-file requirements-server.lock
