# One virtual environment, made from the lock. `make demo` and `make test` are all that a new machine needs.
PYTHON ?= python3
VENV := .venv
PYTEST := $(VENV)/bin/python -m pytest
TORCH := $(shell grep '^torch==' requirements.lock)

.PHONY: help venv demo test test-gpu check bench lock clean
help:        ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

venv: $(VENV)/installed  ## the environment, from requirements.lock

# torch first and by its exact pin: it brings the CUDA libraries where there is a GPU build, and everything else finds it installed.
$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else "braid needs Python 3.11 or 3.12: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: venv   ## a whole run on this machine: submit, kill a worker and a node, watch it recover and finish
	$(VENV)/bin/braid demo

test: venv   ## the whole test suite
	$(PYTEST) -n 2 --dist loadgroup

test-gpu: venv  ## the tests that need CUDA
	$(PYTEST) tests/gpu

check: venv  ## style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: venv  ## figures of this machine, as ratios within one run
	$(VENV)/bin/python -m bench

lock:        ## renew requirements.lock (needs uv)
	uv pip compile pyproject.toml requirements.in --extra dev --python-version 3.11 --no-annotate --no-header --quiet | sed 's/+cpu$$//' > requirements.lock

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
