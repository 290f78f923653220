# Every target sets up .venv the first time. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Minutes that the benchmark may spend on its grid of algorithms, environments and lanes.
MINUTES ?= 5
DEMO_ALGORITHMS := reinforce a2c npg trpo ppo
DEMO_ENVS := CartPole-v1 MountainCarContinuous-v0

.PHONY: help demo test test-slow lint format docs benchmark benchmark-quick benchmark-gpu notebooks lock clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("purejax_po needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: $(READY)  ## compare five tuned algorithms on two environments, 16 seeds each: table, pictures, report (demo/)
	$(BIN)/purejax-po compare $(DEMO_ALGORITHMS) --preset zoo --env $(DEMO_ENVS) --seeds 16 \
	  --out demo --overwrite

test: lint  ## lint, types and all tests but the slow ones
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(READY)  ## the long learning tests
	$(BIN)/python -m pytest -m slow

lint: $(READY)  ## ruff, codespell and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pyright

docs: $(READY)  ## the documentation, warnings are errors, links checked: docs/_build/html/index.html
	$(BIN)/python benchmarks/pages.py --check
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html
	$(BIN)/python docs/_ext/links.py docs/_build/html

format: $(READY)  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: $(READY)  ## speed: limit, breakdown, lanes, start-up, and peers in virtual environments of their own
	$(BIN)/python benchmarks --minutes $(MINUTES)

benchmark-quick: $(READY)  ## the same with few and short measurements
	$(BIN)/python benchmarks --quick

benchmark-gpu: $(READY)  ## on a GPU, within eight minutes: the kernels' numbers, and speed with each change off and on
	$(BIN)/python benchmarks/on_gpu.py --keep

notebooks: $(READY)  ## run the notebooks again, outputs kept
	$(BIN)/python notebooks/run.py

lock: $(READY)  ## resolve requirements.lock anew from pyproject.toml
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url --no-annotate --upgrade -o requirements.lock

clean:  ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis docs/_build docs/api docs/notebooks
