# `make book` and `make test` need Python 3.11 and nothing else: each makes its environment first.
# pip is used as you configured it: to get the CPU build of torch, set PIP_EXTRA_INDEX_URL to its index.

PROFILE ?= cpu
VENV ?= .venv
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
    && { echo $$python; break; }; done)

BIN := $(VENV)/bin
BUILD := $(BIN)/python book/build.py
INSTALLED := $(VENV)/.ntklc-installed
HTML := book/_build/html/index.html

CHAPTERS := $(basename $(notdir $(sort $(wildcard notebooks/[0-9][0-9]_*.ipynb))))
EXECUTED := $(CHAPTERS:%=book/notebooks/%.ipynb)
PAGES := $(shell find book -type f -not -path 'book/notebooks/*' -not -path 'book/_build/*' \
    -not -name '*.py' -not -path '*/.*' -not -path '*/__pycache__/*')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# A chapter uses all cores, so one runs at a time; PARALLEL=1 lets -j run more, each on few threads.
ifndef PARALLEL
.NOTPARALLEL:
endif
.PHONY: help env book parameters again test test-browser lab bench gpu-record colab lint clean FORCE
MAKEFLAGS += --no-builtin-rules

help:
	@echo "make book   run the chapters and build the book (PROFILE=smoke, cpu or gpu; now $(PROFILE))"
	@echo "make again  run the chapters a second time and compare all that they show, but for times"
	@echo "make test   run the tests, which also build the whole book in the smoke profile"
	@echo "make test-browser  read every page of that book in chromium, without a network"
	@echo "make lab    open the chapters' sources in JupyterLab"
	@echo "make bench  run the benchmarks"
	@echo "make gpu-record  make the records of a long run (CHAPTER=12_cifar10 or 14_random_pruning)"
	@echo "make colab  let every chapter be opened on Colab, from the book's address on GitHub"
	@echo "make lint   check style, formatting and types, and that notebooks are stored without outputs"
	@echo "make env    make the environment in VENV=$(VENV) from the lock"
	@echo "make clean  remove what the build made; the environment stays"

# The stamp holds the lock and the project file it was installed from, so that neither a fresh
# checkout nor a copy of the folder reinstalls what is already right.
UP_TO_DATE := $(shell cat constraints.txt pyproject.toml | cmp -s - $(INSTALLED) \
    && $(BIN)/python -c '' 2>/dev/null && echo yes)

env: $(INSTALLED)

$(INSTALLED): $(if $(UP_TO_DATE),,FORCE)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found: install it," \
	        "or name it with PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	    $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	        echo "PYTHON=$(PYTHON) must be Python 3.11 or newer" >&2; exit 1; }; \
	    $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module:" \
	        "install it (on Debian and Ubuntu the package python3-venv)" >&2; exit 1; }; \
	    rm -f $(BIN)/python*; $(PYTHON) -m venv $(VENV); }
	@echo "Installing the locked environment into $(VENV); the first time this takes some minutes"
	@$(BIN)/python -m pip install -qq --progress-bar off --disable-pip-version-check \
	    -c constraints.txt -e '.[book,test]'
	@cat constraints.txt pyproject.toml > $@

book: $(HTML)
	@echo "The book: $(HTML)"

# Rewrites build/parameters/CHAPTER.json only where the profile or that chapter's values changed.
parameters: | $(INSTALLED)
	@$(BUILD) parameters $(PROFILE)

$(CHAPTERS:%=build/parameters/%.json): parameters ;@:

$(EXECUTED): book/notebooks/%.ipynb: notebooks/%.ipynb build/parameters/%.json \
    $(wildcard ntklc_helpers/*.py)
	@$(BUILD) chapter $*

# Records of long runs are shown beside what runs here.
book/notebooks/12_cifar10.ipynb: $(wildcard book/results/cifar10_*)
book/notebooks/14_random_pruning.ipynb: $(wildcard book/results/pruning_*)

# A chapter that shows others' numbers runs again when one of these changed, not when a sentence did:
# each run puts down what it recorded, and leaves the file alone where that is the same.
build/recorded/%.json: book/notebooks/%.ipynb
	@test -f $@ || $(BUILD) recorded $*

book/notebooks/12_cifar10.ipynb: build/recorded/11_mnist.json
LEDGER := 18_ledger
book/notebooks/$(LEDGER).ipynb: $(patsubst %,build/recorded/%.json,$(filter-out $(LEDGER),$(CHAPTERS)))

$(HTML): $(EXECUTED) $(PAGES) _config.yml book/colophon.py | $(INSTALLED)
	@$(BUILD) pages

# A chapter that shows something else the second time is an error; `make -k again` runs all.
AGAIN ?= $(CHAPTERS)
again: $(AGAIN:%=build/again/%.ipynb)

build/again/%.ipynb: book/notebooks/%.ipynb
	@$(BUILD) again $*

test: $(INSTALLED)
	$(BIN)/python -m pytest -m 'not browser'

# BOOK=book/_build/html reads another book than the smoke one, which is built if it is not there.
test-browser: $(INSTALLED)
	$(BIN)/python -m pytest -m browser

lab: $(INSTALLED)
	$(BIN)/python -m jupyterlab --LabApp.default_url=/lab/tree/notebooks

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

# Stopped and called again, it goes on. OPTIONS="--only NAME" makes one of a chapter's records;
# others change settings.
CHAPTER ?= 12_cifar10
gpu-record: $(INSTALLED)
	$(BIN)/python -m ntklc_helpers.gpu_record $(CHAPTER) --output build/records/$(CHAPTER) \
	    --results book/results $(OPTIONS)

# Needed once the book has an address on GitHub: its pages then have a button for Colab.
colab: $(INSTALLED)
	@$(BUILD) colab

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(if $(CHAPTERS),$(BIN)/python -m nbstripout --verify $(CHAPTERS:%=notebooks/%.ipynb))

clean:
	rm -rf build book/_build book/notebooks .hypothesis .pytest_cache .ruff_cache
