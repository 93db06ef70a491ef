# make run   try it: builds the environment, starts `gatehouse up --demo`, prints the address and a login
# make test  everything that is tested, as CI does it

PYTHON ?= python3
BIN := .venv/bin
# pip only; no package index is named anywhere. The locks are whole, hence --no-deps: the pip of Debian 12 (23.0)
# refuses a name with an extra, which another package asks for, where hashes are required
PIP := $(BIN)/pip --disable-pip-version-check --quiet
PYTEST := $(BIN)/pytest
ARGS ?=
# tests wait more than they compute: one more process than this machine has cores
JOBS ?= $(shell expr $$(nproc) + 1)
PARALLEL := -n $(JOBS) --dist loadscope --no-loadscope-reorder

.PHONY: run run-real test test-fast check format lock dashboards sbom audit clean

run: .venv/run
	@$(BIN)/gatehouse up --demo $(ARGS)

run-real: .venv/run
	@deploy/cpu/run.sh $(ARGS)

test: .venv/dev check
	$(PYTEST) $(PARALLEL) --cov --cov-report= --durations=15 -p no:cacheprovider $(ARGS)
	$(BIN)/coverage report

test-fast: .venv/dev
	$(PYTEST) $(PARALLEL) -q -m "not engine and not web" $(ARGS)

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/run: requirements.lock pyproject.toml
	@tools/system.sh run
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; choose it with PYTHON=")'
	@echo "building the environment (once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) install --no-deps --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: requirements-dev.lock tools/system.sh .venv/run
	@tools/system.sh test
	@$(PIP) install --no-deps --require-hashes -r requirements-dev.lock
	@touch $@

lock:
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
	  pyproject.toml requirements-build.in -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
	  -c requirements.lock pyproject.toml --extra otlp -o requirements-otlp.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
	  -c requirements.lock pyproject.toml --extra postgresql -o requirements-postgresql.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
	  -c requirements.lock pyproject.toml requirements-build.in --group dev -o requirements-dev.lock

sbom:
	@$(PYTHON) tools/supply.py sbom

audit:
	@$(PYTHON) tools/supply.py audit

dashboards: .venv/dev
	$(BIN)/python deploy/grafana/build.py

clean:
	rm -rf .venv build dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
