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
CHAPTERS := $(sort $(wildcard notebooks/[0-9][0-9]_*.ipynb))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env build test test-browser print lab bench record gpu-record colab lint clean FORCE
MAKEFLAGS += --no-builtin-rules

help:
	@echo "make book   run the chapters and build the book (PROFILE=smoke, cpu or gpu; now $(PROFILE);"
	@echo "            JOBS chapters at a time; now $(JOBS))"
	@echo "make again  run the chapters a second time and compare all that they show, but for times"
	@echo "make test   run the tests, which also build the whole book in the smoke profile"
	@echo "make test-browser  read every page of that book in chromium, without a network"
	@echo "make print  the built book as one PDF, by chromium: book/_build/book.pdf"
	@echo "make lab    open the chapters' sources in JupyterLab"
	@echo "make bench  run the benchmarks"
	@echo "make record  make the records of a long run (CHAPTER=04_ck_theory_vs_simulation, 12_…, 13_…, 14_…, 15_…, 16_… or 18_…)"
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
	@$(BIN)/python -m pip install -qq --no-compile --progress-bar off --disable-pip-version-check \
	    -c constraints.txt -e '.[book,cluster,test]'
	@cat constraints.txt pyproject.toml > $@

# `make book`, `make again` and single files: the rules are in book/build.mk. One build at a time
# works in a folder, where there is util-linux's flock; another waits until it has ended.
BUILDS := $(filter book again book/% build/%,$(MAKECMDGOALS))

# Two chapters at a time, each on half of the processors, where there is memory for two and no GPU
# to share. (nproc counts what OMP_NUM_THREADS allows; here the machine is meant.)
PROCESSORS := $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 1)
JOBS ?= $(if $(filter-out gpu,$(PROFILE)),$(shell [ $(PROCESSORS) -ge 2 ] \
    && awk '/^MemTotal:/ {exit $$2 < 15e6}' /proc/meminfo 2>/dev/null && echo 2 || echo 1),1)
SIDE_BY_SIDE := $(if $(filter book again,$(BUILDS)),$(filter-out 1,$(JOBS)))

ifneq ($(BUILDS),)
.PHONY: $(BUILDS)
$(BUILDS): build ;@:
endif

build: | $(INSTALLED)
	@exec 9<notebooks; ! command -v flock >/dev/null || flock --nonblock 9 || { \
	    echo "Another build is at work in this folder; this one waits until it has ended" >&2; \
	    flock 9; }; \
	$(if $(SIDE_BY_SIDE),export OMP_NUM_THREADS="$${OMP_NUM_THREADS:-$$(( \
	    ($(PROCESSORS) + $(JOBS) - 1) / $(JOBS) ))}"; )$(MAKE) --no-print-directory \
	    $(if $(SIDE_BY_SIDE),-j$(JOBS) -Otarget) \
	    -f book/build.mk BUILD='$(BUILD)' PROFILE='$(PROFILE)' $(BUILDS) 9<&-

# Tests that build the whole book run beside all others: the two halves take about as long.
# Each has half of the processors: threads that outnumber them wait for each other.
BUILDING := tests/test_build.py tests/test_ledger.py
test: export OMP_NUM_THREADS ?= $(shell echo $$((($(PROCESSORS) + 1) / 2)))
test: $(INSTALLED)
	@mkdir -p build
	@$(BIN)/python -m pytest -m 'not browser' $(BUILDING) >build/test-building.log 2>&1 & building=$$!; \
	trap 'kill $$building; exit 130' INT TERM; \
	$(BIN)/python -m pytest -m 'not browser' $(BUILDING:%=--ignore=%); others=$$?; \
	wait $$building; status=$$?; cat build/test-building.log; \
	[ $$others -eq 0 ] && [ $$status -eq 0 ]

# BOOK=book/_build/html reads another book than the smoke one, which is built if it is not there.
# What every page must show takes as long as all else that a browser is asked.
PAGES := tests/test_browser.py
TOUCHED := $(filter-out $(PAGES),$(shell grep -l pytest.mark.browser tests/test_*.py))
test-browser: $(INSTALLED)
	@test -n '$(BOOK)' || PYTHONPATH=tests $(BIN)/python -c 'import books; books.smoke_book()'
	@mkdir -p build
	@$(BIN)/python -m pytest -m browser $(PAGES) >build/test-pages.log 2>&1 & pages=$$!; \
	trap 'kill $$pages; exit 130' INT TERM; \
	$(BIN)/python -m pytest -m browser $(TOUCHED); touched=$$?; \
	wait $$pages; status=$$?; cat build/test-pages.log; \
	[ $$touched -eq 0 ] && [ $$status -eq 0 ]

print: $(INSTALLED)
	@$(BIN)/python book/printed.py

lab: $(INSTALLED)
	$(BIN)/python -m jupyterlab --LabApp.default_url=/lab/tree/notebooks

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

# Stopped and called again, it goes on. CHAPTER may be one of its records, such as pruning_resnet20,
# and OPTIONS change settings: OPTIONS="--preset smoke --steps 200". gpu-record is its older name.
CHAPTER ?= 15_cifar10
record gpu-record: $(INSTALLED)
	$(BIN)/python -m ntklc_helpers.experiments $(CHAPTER) --output build/records \
	    --results book/results $(OPTIONS)

# Needed once the book has an address on GitHub: its pages then have a button for Colab.
colab: $(INSTALLED)
	@$(BUILD) colab

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(if $(CHAPTERS),$(BIN)/python -m nbstripout --verify $(CHAPTERS))

clean:
	rm -rf build book/_build book/notebooks .hypothesis .pytest_cache .ruff_cache
