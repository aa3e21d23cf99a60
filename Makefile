# make demo   one run on real images, under DDP on two workers
# make test   everything a change must pass
# make help   this
PYTHON ?= python3.11
BIN := .venv/bin
PACKAGES := mergenet cluster tune tests benchmarks docs/examples

.PHONY: help demo test lint install
help:
	@sed -n 's/^# //p' Makefile

install: .venv/installed
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-cache-dir -c constraints.txt -e '.[test]'
	@touch $@

demo: install
	$(BIN)/mergenet train digits-cross-structure --workers 2

lint: install
	$(BIN)/ruff check $(PACKAGES)
	$(BIN)/ruff format --check $(PACKAGES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: lint
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --no-loadscope-reorder
