# make demo     install into .venv and run the whole loop on the embedded model
# make test     install what the tests need and run them; ARGS="-k runs" chooses
# make slow     the tests that take minutes
# make lint     ruff (lint, format) and mypy
# make pictures the pictures of the app in examples/pictures, written by the app itself
# make clean    remove .venv and everything built
# make PYTHON=python3.12 …   uses that Python (3.11 or newer)

PYTHON ?= python3
VENV := .venv
ARGS ?=
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check

# The install is editable, so only these files ask for another one.
BUILT_FROM := pyproject.toml $(wildcard setup.py) \
	$(shell find minialign/cpu/native -type f 2>/dev/null)

.DELETE_ON_ERROR:
.PHONY: help demo test slow lint pictures clean

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

demo: $(VENV)/.installed
	$(VENV)/bin/minialign demo $(ARGS)

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest $(ARGS)

slow: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -m slow $(ARGS)

lint: $(VENV)/.installed-lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

pictures: $(VENV)/.installed-test
	PYTHONPATH=tests $(VENV)/bin/python -m support.screens examples/pictures

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find minialign -name '*.so' -delete

$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null || { \
		echo "minialign needs Python 3.11 or newer, and there is no $(PYTHON)." >&2; \
		echo "  make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "minialign needs Python 3.11 or newer, and $(PYTHON) is" \
			"$$($(PYTHON) --version 2>&1)." >&2; \
		echo "  make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "Could not make $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; \
		rm -rf $(VENV); exit 1; }
	@touch $@

$(VENV)/.installed: $(VENV)/.python $(BUILT_FROM)
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.python $(BUILT_FROM)
	$(PIP) install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-lint: $(VENV)/.python $(BUILT_FROM)
	$(PIP) install --quiet --editable '.[test,lint]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test
