# SPDX-License-Identifier: GPL-2.0-or-later
# Everything a person types: `make help` lists it. Each target installs what it needs.

VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.ready
# Programs of bpf/, compiled for the engine prebuilt.
READY := build/bpf.stamp
# A file stays with one process, for its tests share what they read. Files begin by name, for what takes longest is not last then.
# One more than there are processors: some wait for processes and signals.
UNIT_TESTS = $(PYTHON) -m pytest -q --numprocesses $$(($$(nproc) + 1)) --dist loadfile --no-loadscope-reorder tests/unit
# Most guests have one emulated CPU, and many tests wait for theirs: two files at a time left a quarter of two processors
# idle. Three take some 10 GiB at most. They begin in the order of tests/live/conftest.py.
# QEMU may run code of a kernel that was just patched; lab/README.md tells how it ends. Only such a test gets another try.
QEMU_FAULT = --reruns 1 --only-rerun "Oops: int3"
LIVE_TESTS = $(PYTHON) -m pytest -v --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 30 $(QEMU_FAULT) tests/live

# Tests start Python hundreds of times: it compiles each module once, though the machine may say it should not.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo compare matrix test check bench dist examples results screenshots clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## boot a real guest, trace an inflate and a deflate in it, show where the time went
	@$(PYTHON) -m lab.demo

compare: $(READY)  ## two drivers in turn, 10 times, and what that proves; ROUNDS=, SIZE=, BEFORE=, AFTER=, OUT=, SELF=
	@$(PYTHON) -m lab.$(if $(SELF),compare_same_driver,compare_drivers)

matrix: $(READY)  ## record on every kernel the lab knows, an hour or two; ONLY=word,... for some; see docs/matrix.md
	@$(PYTHON) -m lab.matrix

test: $(READY) lint  ## all tests, those in real guests included
	$(UNIT_TESTS)
	$(LIVE_TESTS)

check: $(READY) lint  ## format, lint, types and all but the longest unit tests
	$(UNIT_TESTS) -m "not thorough"

bench: $(READY)  ## measure what is promised; ONLY=name for one figure, BENCH_JSON=file for JSON
	@$(PYTHON) -m bench

dist: $(READY)  ## wheel, source distribution, bundle and Debian package into dist/
	@$(PYTHON) -m packages

examples: $(READY)  ## record the examples anew in the lab; ONLY=name for some of them
	@$(PYTHON) -m lab.examples

results: $(READY)  ## record both sides on a clock of instructions, write the tables of docs/results.md; ONLY=name,..., SIZE=
	@$(PYTHON) -m lab.results

screenshots: $(READY)  ## take the pictures of the README anew, in a headless browser
	@$(PYTHON) -m lab.screenshots

clean:  ## remove what make made here; `python -m lab clean` removes the cached image
	rm -rf $(VENV) bpf/objects build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: lint
lint: $(READY)
	$(PYTHON) -m ruff format --check --quiet .
	$(PYTHON) -m ruff check --quiet .
	$(PYTHON) -m mypy --no-error-summary

$(INSTALLED): pyproject.toml lab/make-venv
	@lab/make-venv $(VENV)
	@touch $@

# What bpf/ is compiled with: the numbers of words, and the marks of constants.
DEFINITIONS := balloontrace/format/vocabulary.py balloontrace/trace/engines/constants.py

$(READY): $(INSTALLED) hatch_build.py $(DEFINITIONS) $(wildcard bpf/*.[ch])
	@$(PYTHON) hatch_build.py
	@touch $@
