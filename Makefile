# The front door, for people and for CI. `make help` lists what there is.
SHELL := /bin/sh
PYTHON ?= python3
.DEFAULT_GOAL := help

.PHONY: help up deploy down logs test lint lock chaos load bench fields

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

up: ## start the stack (Compose where an engine answers, else natively) and wait until it is healthy
	@sh deploy/up.sh

deploy: ## a new version with Compose, without losing a request; the old one goes on where the new one does not start
	@sh deploy/deploy.sh

down: ## stop it; data stays
	@sh deploy/down.sh

logs: ## follow the logs of every process
	@sh deploy/logs.sh

test: .venv/developing ## run every test; the container suite too where an engine answers
	@sh tests/packages.sh
	@# Most tests wait for something. Two files at a time wait together; within a file tests may share a stack. What loads
	@# or measures the processor comes after, alone.
	.venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone"
	.venv/bin/pytest -m alone

lint: .venv/developing ## ruff, mypy, import-linter, hadolint, shellcheck; what gunicorn, nginx, gixy and Compose say of their files
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/hadolint $$(git ls-files '*Dockerfile')
	.venv/bin/shellcheck .ci/run $$(git ls-files '*.sh')
	sh tests/lint.sh

chaos: .venv/developing ## kill the monitor a thousand times while alerts fire, and count what was lost (about five minutes)
	.venv/bin/python -m tests.chaos --kills 1000

load: .venv/developing ## ask 50,000 times while everything is reloaded, and count what was lost (about three minutes)
	.venv/bin/python -m tests.loss --requests 50000 --rate 320

bench: .venv/developing .venv/bench/installed ## measure it beside others, and write bench/RESULTS.md (under ten minutes, on a quiet machine)
	@sh tests/packages.sh
	.venv/bin/python -m bench

fields: .venv/installed ## write docs/logs.md's tables and Elasticsearch's template anew, from service/fields.py
	.venv/bin/python deploy/elk/generate.py

lock: .venv/developing ## choose dependencies anew, within what pyproject.toml allows
	.venv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --quiet \
	  --upgrade --output-file requirements.txt
	.venv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --quiet \
	  --extra dev --constraint requirements.txt --output-file requirements-dev.txt
	.venv/bin/uv pip compile bench/requirements.in --universal --python-version 3.11 --generate-hashes --no-header --quiet \
	  --upgrade --output-file bench/requirements.txt

# What the stack needs; what its developers need besides. Each is remade when its lock changes.
.venv/installed: requirements.txt pyproject.toml
	@echo "Installing into .venv; the first time takes about a minute." >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON to one")'
	@# Debian without python3-venv leaves one behind that has no pip.
	@test -x .venv/bin/pip || $(PYTHON) -m venv --clear .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv/developing: requirements-dev.txt .venv/installed
	@echo "Installing what tests and checks need." >&2
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

# What is only compared with, apart: its dependencies are none of ours.
.venv/bench/installed: bench/requirements.txt .venv/installed
	@echo "Installing what is compared with." >&2
	@.venv/bin/python -m venv --clear .venv/bench
	@.venv/bench/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r bench/requirements.txt
	@touch $@
