# The files that `make book` makes, and from what. The Makefile calls this with the lock held and
# the environment made; BUILD, PROFILE and AGAIN come from there.

HTML := book/_build/html/index.html

CHAPTERS := $(basename $(notdir $(sort $(wildcard notebooks/[0-9][0-9]_*.ipynb))))
EXECUTED := $(CHAPTERS:%=book/notebooks/%.ipynb)
PAGES := $(shell find book -type f -not -path 'book/notebooks/*' -not -path 'book/_build/*' \
    -not -name '*.py' -not -name '*.mk' -not -path '*/.*' -not -path '*/__pycache__/*')

# What the reference pages are made from.
SOURCES := $(shell find ntklc_helpers -name '*.py')

.DELETE_ON_ERROR:
.PHONY: book inputs again
MAKEFLAGS += --no-builtin-rules

book: $(HTML)
	@echo "The book: $(HTML)"

# Rewrites build/parameters/CHAPTER.json only where the profile or that chapter's values changed,
# and build/modules/CHAPTER.json where a module did that the chapter imports, itself or through
# others: what a chapter does not use may change without running it again.
inputs:
	@$(BUILD) inputs $(PROFILE)

$(CHAPTERS:%=build/parameters/%.json) $(CHAPTERS:%=build/modules/%.json): inputs ;@:

$(EXECUTED): book/notebooks/%.ipynb: notebooks/%.ipynb build/parameters/%.json build/modules/%.json
	@$(BUILD) chapter $*

# Records of long runs are shown beside what runs here.
$(patsubst %,book/notebooks/%.ipynb,04_ck_theory_vs_simulation 05_ntk_theory_vs_simulation 06_finite_size): $(wildcard book/results/published_kernels.*)
book/notebooks/13_training.ipynb: $(wildcard book/results/training_curves.*)
book/notebooks/14_mnist.ipynb: $(wildcard $(addprefix book/results/,trained_mnist_*.* conversions.*))
book/notebooks/15_cifar10.ipynb: $(wildcard $(addprefix book/results/,cifar10_* trained_cifar10_*))
book/notebooks/16_convolutions.ipynb: $(wildcard $(addprefix book/results/,convolutions.* patches*.* conv_machine*.*))
book/notebooks/17_bytes_and_inference.ipynb: $(wildcard book/results/inference.* book/results/chip.*)
book/notebooks/18_random_pruning.ipynb: $(wildcard book/results/pruning_*)
book/notebooks/20_your_own_network.ipynb book/notebooks/22_issues_answered.ipynb: $(wildcard book/results/conversions.*)
book/notebooks/21_slips.ipynb: $(wildcard book/results/published_programs.*)

# A chapter that shows others' numbers runs again when one of these changed, not when a sentence did:
# each run puts down what it recorded, and leaves the file alone where that is the same.
build/recorded/%.json: book/notebooks/%.ipynb
	@test -f $@ || $(BUILD) recorded $*

book/notebooks/15_cifar10.ipynb: build/recorded/14_mnist.json
LEDGER := 23_ledger
book/notebooks/$(LEDGER).ipynb: $(patsubst %,build/recorded/%.json,$(filter-out $(LEDGER),$(CHAPTERS)))

# The longest chapter first: another waits for it. What it put down stands where it is likely to be
# there: make passes over a file that is not ready, and comes back to it after all others.
ORDER := $(filter %/14_mnist.ipynb,$(EXECUTED)) \
    $(subst book/notebooks/12_,build/recorded/14_mnist.json book/notebooks/12_,$(EXECUTED))
$(HTML): $(ORDER) $(PAGES) $(SOURCES) _config.yml $(addprefix book/,colophon.py measured.py reference.py)
	@$(BUILD) pages

# A chapter that shows something else the second time is an error; `make -k again` runs all.
AGAIN ?= $(CHAPTERS)
again: $(AGAIN:%=build/again/%.ipynb)

build/again/%.ipynb: book/notebooks/%.ipynb
	@$(BUILD) again $*
