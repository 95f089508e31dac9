# Every command of this project. Needs make, a Python of 3.11 or newer, and a package index; the rest is fetched into .tools and .venv.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $(name))))
UV ?= $(or $(shell command -v uv 2>/dev/null),.tools/bin/uv)
SYNC := $(UV) sync --frozen --quiet

# uv shall neither download a Python nor take an environment of another project for ours
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv
unexport VIRTUAL_ENV
# pyright is bundled with its package, and so is the node it runs on; it shall not ask for newer ones
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help setup run cluster check format test soak chaos kills sdl bench

help: ## show this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name does; do printf '%-14s %s\n' "$$name" "$$does"; done

setup: .venv/pyvenv.cfg ## install everything that development needs
	@$(SYNC)

run: .venv/pyvenv.cfg ## serve on http://127.0.0.1:8000/graphql, with SQLite and no key
	@$(SYNC) --no-dev --inexact
	@exec .venv/bin/python app.py

cluster: .venv/pyvenv.cfg ## the same on PostgreSQL and Redis: two servers behind a proxy, two workers
	@$(SYNC)
	@exec .venv/bin/python -m cluster

check: setup ## formatting, lint, types, import directions, and the printed schema
	@$(UV) lock --check --quiet
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/ruff check --quiet .
	@.venv/bin/pyright
	@.venv/bin/lint-imports --no-logo
	@.venv/bin/python -m resolvers --check

format: setup ## put the code into the form that `make check` asks for
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format --quiet .

# Real servers on a machine that stands still for seconds: now and then a test fails that is right. Five may try again, and are shown.
test: setup ## all tests; ARGS="-k resume" for some
	@.venv/bin/python -m pytest --reruns=1 --max-suite-reruns=5 --rerun-show-tracebacks $(ARGS)

soak: setup ## a minute of everything that takes locks, at once; SOAK_S=600 for longer
	@SOAK_S=$${SOAK_S:-60} .venv/bin/python -m pytest --numprocesses=0 tests/runs/test_lock_order.py $(ARGS)

chaos: setup ## break everything that can break, one thing after the other; CHAOS_ROUNDS=10 CHAOS_PEOPLE=30 for more of it
	@CHAOS_ROUNDS=$${CHAOS_ROUNDS:-3} CHAOS_PEOPLE=$${CHAOS_PEOPLE:-12} .venv/bin/python -m pytest --numprocesses=0 -rP tests/chaos $(ARGS)

kills: setup ## kill -9 a process before and after every write of a run; `make test` has those before
	@KILL_AFTER_COMMITS=1 .venv/bin/python -m pytest --numprocesses=0 tests/runs/test_kills.py $(ARGS)

bench: setup ## measure; ARGS="append --runs 5" for some, ARGS="--postgres" with many machines too
	@.venv/bin/python -m bench $(ARGS)

sdl: setup ## print the schema into schema/schema.graphql
	@.venv/bin/python -m resolvers

.venv/pyvenv.cfg: | $(filter .tools/%,$(UV))
	@test -n "$(PYTHON)" || { echo "Parley needs Python 3.11 or newer; name one with PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Installing into .venv (only the first time)"
	@$(UV) venv --quiet --allow-existing --python "$(PYTHON)"

.tools/bin/uv:
	@test -n "$(PYTHON)" || { echo "Parley needs Python 3.11 or newer; name one with PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -m venv .tools
	@.tools/bin/pip install --quiet --disable-pip-version-check uv
