# make install      the environment in .venv (EXTRAS=cuda12, cuda13 or tpu for accelerators; several: EXTRAS=cuda12,peers;
#                   later commands keep them, until others are named)
# make quickstart   data, training, evaluation and the figure of return against context, in minutes on a CPU
# make test         lint and every test; TEST_SEED=1 draws the data of numeric tests anew, XLA_FLAGS reach every test
# make test-gpu     the tests that hold on a GPU as well, on one; all others test devices of the CPU, also where there is a GPU
# make test-fast    lint and the tests that are not marked slow: under three minutes on two cores
# make docs         the documentation as a site, in build/site
# make constraints  resolve the dependencies anew for every supported Python
# PYTHON=... chooses the interpreter; without it the first usable of python3.12, python3.11, python3, python3.13 is taken.
# VENV=... puts the environment elsewhere.

.DEFAULT_GOAL := install
.PHONY: install quickstart test test-fast test-gpu lint format docs constraints clean

VENV ?= .venv
EXTRAS ?=
PYTHON ?=

python := $(VENV)/bin/python
# A supported version that can make environments; an environment that is there already is kept unless PYTHON says otherwise.
candidates := $(or $(PYTHON),$(wildcard $(python)) python3.12 python3.11 python3 python3.13)
usable := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
found = $(shell for p in $(candidates); do if "$$p" -c '$(usable)' >/dev/null 2>&1; then echo "$$p"; break; fi; done)

install:
	$(eval base := $(found))
	$(if $(base),,$(error needs Python 3.11, 3.12 or 3.13 with venv (tried: $(candidates)); Debian: apt-get install python3 python3-venv))
	@.ci/install "$(base)" "$(VENV)" "$(EXTRAS)"

quickstart: install
	$(python) -m experiments.quickstart

lint: install
	$(python) -m ruff check .
	$(python) -m ruff format --check .

format: install
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

# A file's tests stay in one process; most of their time is compilation, which uses one core. In the first part tests/conftest.py orders the files, those
# with slow tests first; in the second part xdist does, those with most tests first.
# The second part has eight devices, whose number XLA fixes for a whole process: its conftest.py adds it to what XLA_FLAGS holds.
test: lint
	.ci/alive pytest $(python) -m pytest tests --ignore tests/multidevice -n 2 --dist loadfile --no-loadscope-reorder --durations 10
	.ci/alive pytest $(python) -m pytest tests/multidevice -n 2 --dist loadfile --durations 10

# Tests that start processes or compile much carry the mark `slow` (pyproject.toml).
test-fast: lint
	$(python) -m pytest tests --ignore tests/multidevice -m "not slow" -n 2 --dist loadfile -q --durations 10
	$(python) -m pytest tests/multidevice -m "not slow" -n 2 --dist loadfile -q --durations 10

# tests/conftest.py says which.
test-gpu: install
	TEST_PLATFORM=gpu $(python) -m pytest tests --ignore tests/multidevice --durations 10

docs: install
	$(python) -m experiments.reports.reference_pages
	NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict

# Versions only, no addresses of an index and no paths, so that they hold with any mirror. 3.13 gets dm_control's line by hand: .ci/install says why.
constraints: install
	$(python) -m pip install uv
	for v in 3.11 3.12 3.13; do \
		$(VENV)/bin/uv pip compile --quiet --upgrade --no-emit-index-url --no-annotate --no-header --python-version $$v \
			--extra test --extra cuda12 --extra cuda13 --extra tpu --extra slurm --extra wandb --extra peers --extra dev pyproject.toml \
			--output-file constraints/py$$(echo $$v | tr -d .).txt || exit 1; \
	done
	grep '^dm-control==' constraints/py312.txt >> constraints/py313.txt

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
