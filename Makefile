# Every target sets up the environment by itself; python3 with venv is all it needs.
PYTHON ?= python3
BIN := .venv/bin
WITH := PATH="$(CURDIR)/$(BIN):$$PATH"
# Byte code is written even where the environment keeps Python from it: else each of the many
# processes compiles this project anew.
PYTEST := env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: .venv repro test test-slow golden lint format ui lock bench clean

repro: .venv            ## the sweeps of params.yaml, from download to report
	$(WITH) dvc repro

test: .venv             ## the tests a person runs gladly
	$(PYTEST) -n auto --dist loadfile -m "not slow"

# They also wait for each other, servers and pauses: hence one process more than there are cores.
test-slow: .venv        ## real processes, real data, real servers: minutes
	$(PYTEST) -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist loadgroup -m slow

golden: .venv           ## what trainings compute and searches propose, after their semantics are raised
	OMP_NUM_THREADS=1 $(BIN)/python tests/golden/record.py

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: .venv               ## MLflow on http://127.0.0.1:5000
	$(BIN)/python -m pipeline ui

lock:                   ## new versions into requirements.lock
	$(BIN)/uv pip compile --universal --generate-hashes --no-emit-index-url --no-header \
	  --upgrade --python-version 3.11 --extra dev pyproject.toml -o requirements.lock

.venv: .venv/made

# Scripts hold the path of their interpreter: what was moved or lost it is made anew, and what is of
# another Python than the one that is named.
STALE := $(shell test -d .venv || exit 0; $(BIN)/python -c "" 2>/dev/null && \
  { ! test -e $(BIN)/dvc || head -n 3 $(BIN)/dvc | \
  grep -qF -e "$(realpath .venv)/bin/" -e "$(CURDIR)/.venv/bin/"; } && \
  { test "$(origin PYTHON)" != "command line" || \
  test "$$($(PYTHON) -V)" = "$$($(BIN)/python -V)"; } || echo stale)
ifeq ($(STALE),stale)
.PHONY: .venv/made
endif
FAILED = { echo "error: $(1)" >&2; exit 2; }

# `made` is written last: without it the next command goes on. The uv that installs the lock file
# is the one that is locked in it. The line before the last compiles the slowest imports once, even
# where the environment keeps Python from writing byte code.
.venv/made: requirements.lock pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || $(call FAILED,\
	  $(PYTHON) must be Python 3.11 or newer: install one and name it: make PYTHON=python3.12)
	@rm -f .venv/made
	$(if $(STALE),rm -rf .venv)
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || $(call FAILED,\
	  $(PYTHON) has no venv: install it (Debian: apt install python3-venv); then the same command)
	@echo "installing requirements.lock into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  "$$(grep -oE '^uv==[^ ;]+' requirements.lock)" && \
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --require-hashes -r requirements.lock && \
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --editable . || $(call FAILED,\
	  the packages are not installed; see above why. Where a company has its own certificate: \
	  export SSL_CERT_FILE=FILE.pem PIP_CERT=FILE.pem. Then the same command goes on)
	env -u PYTHONDONTWRITEBYTECODE MLFLOW_DISABLE_TELEMETRY=true $(BIN)/python -W ignore -c \
	  "import dvc.repo, mlflow.pyfunc, mlflow.store.tracking.sqlalchemy_store"
	@touch .venv/made

bench: .venv            ## the tables of bench/README.md, in minutes; trains nothing
	$(BIN)/python -m bench.growth
	$(BIN)/python -m bench.cost

clean:                  ## everything that the other targets make, but not runs/ and the DVC cache
	rm -rf .venv *.egg-info .pytest_cache .ruff_cache .mypy_cache
