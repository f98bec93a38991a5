# todochat: `make run` is all it takes. Python 3.11 or later and make are needed, nothing else.

# PYTHON is what .venv is to be made by; where it is unset, whatever made it will do.
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: run demo test bench bench-scale lint format migrate rollback status schema lock help clean runtime tools
# A failed recipe says one line of its own: make need not say where it stands.
MAKEFLAGS += --no-print-directory
DROPS := ban-drop-table,ban-drop-column,ban-drop-function,ban-drop-domain
SERVICE := .venv/bin/python -m service

run: runtime       ## serve on HOST:PORT (127.0.0.1:8000), on the embedded PostgreSQL unless DATABASE_URL is set
	@exec $(SERVICE) serve

demo: runtime      ## add demo data and say whom to sign in as (ARGS="--users 100 --messages 10000" for many rows)
	@$(SERVICE) demo $(ARGS)

# Four workers for two cores: some tests wait more than they work. Each takes whole files, so that none is set up twice.
# Compiled tests are kept, whatever the environment says.
test: tools        ## run the tests (ARGS="-k name" for some of them)
	@PYTHONDONTWRITEBYTECODE= .venv/bin/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

# About twenty minutes on a machine that does nothing else.
bench: runtime     ## measure todochat beside its peers (ARGS="--without fastify,postgrest", ARGS=--readme)
	@.venv/bin/python -m tests.bench $(ARGS)

# About half an hour; the first time, 40 minutes more to fill ten and thirty times the data, where the disk has room.
bench-scale: runtime ## measure how todochat's cost grows (ARGS="--part imports", ARGS="--part steady --hours 8")
	@.venv/bin/python -m tests.bench.scale $(ARGS)

lint: tools        ## check style, types, imports, migrations and that the lock files are fresh
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/basedpyright
	.venv/bin/lint-imports
	.venv/bin/squawk --exclude-path='*.rollback.sql' migrations/*.sql
	.venv/bin/squawk --exclude=$(DROPS),require-lock-timeout,require-statement-timeout migrations/*.rollback.sql
	.venv/bin/python .ci/locks.py check

format: tools      ## bring the code into shape
	.venv/bin/ruff check --fix-only .
	.venv/bin/ruff format .

migrate: runtime   ## apply pending migrations (MIGRATION_DATABASE_URL, else DATABASE_URL, else the embedded database)
	@$(SERVICE) migrate

rollback: runtime  ## take the latest migration back; says what is lost, and asks (ARGS=--yes: don't ask)
	@$(SERVICE) rollback $(ARGS)

status: runtime    ## say which migrations are applied
	@$(SERVICE) status

schema: runtime    ## write sql/schema.sql, sql/schema.md and sql/filled_queries.sql anew, from the migrations and sql/queries
	@.venv/bin/python -m tests.support.schema_dump
	@$(SERVICE) queries > sql/filled_queries.sql

lock: tools        ## resolve the dependencies of pyproject.toml anew and write the lock files (ARGS="--upgrade")
	@.venv/bin/python .ci/locks.py write $(ARGS)

help:              ## say what there is
	@awk -F '## ' '/^[a-z-]+:.*## / { split($$1, name, ":"); printf "make %-11s %s\n", name[1], $$2 }' Makefile
	@echo 'The command line that these run, with more commands, is .venv/bin/todochat: see .venv/bin/todochat --help'

clean:             ## remove everything that was made here but the database in .data
	@rm -rf .bench .venv .venv.lock dist .hypothesis .import_linter_cache .pytest_cache .ruff_cache .schemathesis
	@rm -rf tests/identity/better_auth/node_modules tests/contract/*_clients/node_modules
	@find service tests -name __pycache__ -type d -prune -exec rm -rf {} +

runtime:
	@PYTHON="$(PYTHON)" sh .ci/install

tools:
	@PYTHON="$(PYTHON)" sh .ci/install tools
