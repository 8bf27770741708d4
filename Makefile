# Every target sets up the environment by itself; python3 with venv is all it needs.
PYTHON ?= python3
BIN := .venv/bin
WITH := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: repro test test-slow lint format ui lock bench clean

repro: .venv            ## the sweeps of params.yaml, from download to report
	$(WITH) dvc repro

test: .venv             ## the tests a person runs gladly
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

test-slow: .venv        ## real processes, real data, real servers: minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m slow

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: .venv               ## MLflow on http://127.0.0.1:5000
	$(BIN)/python -m pipeline ui

lock:                   ## new versions into requirements.lock
	$(BIN)/uv pip compile --universal --generate-hashes --no-emit-index-url --no-header \
	  --upgrade --python-version 3.11 --extra dev pyproject.toml -o requirements.lock

# The uv that installs the lock file is the one that is locked in it. The last line compiles the
# slowest imports once, even where the environment keeps Python from writing byte code.
.venv: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  "$$(grep -oE '^uv==[^ ;]+' requirements.lock)"
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --require-hashes -r requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	env -u PYTHONDONTWRITEBYTECODE MLFLOW_DISABLE_TELEMETRY=true $(BIN)/python -W ignore -c \
	  "import dvc.repo, mlflow.pyfunc, mlflow.store.tracking.sqlalchemy_store"
	touch .venv

bench: .venv            ## the tables of bench/README.md, in minutes; trains nothing
	$(BIN)/python -m bench.growth
	$(BIN)/python -m bench.pruning

clean:                  ## everything that the other targets make, but not runs/ and the DVC cache
	rm -rf .venv *.egg-info .pytest_cache .ruff_cache .mypy_cache
