# The two main commands are `make train` and `make test`. Everything is installed into $(VENV), once.
VENV ?= .venv
PYTHON ?=
OUT ?= runs/first
ARGS ?=
PY := $(VENV)/bin/python
INPUTS := pyproject.toml constraints.txt
NAME ?=
REPRODUCTIONS = $(patsubst experiments/reproductions/%/run.py,%,$(wildcard experiments/reproductions/*/run.py))

.PHONY: help train test test-slow lint types bench reproduce reproduce-gpu clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22
	@echo
	@echo '  ARGS="..." is passed on to train.py or pytest; OUT=runs/name chooses the run directory;'
	@echo '  PYTHON=python3.12 VENV=.venv-312 chooses another interpreter (3.11 or newer).'

train: $(VENV)/.base ## train the default model on the embedded digits, with a report in runs/first
	@$(PY) experiments/train.py --out $(OUT) $$([ -e $(OUT)/config.json ] && echo --resume) $(ARGS)

test: $(VENV)/.test ## run the tests (a few minutes)
	$(PY) -m pytest $(ARGS)

test-slow: $(VENV)/.test ## run the slow tests: kills, MNIST through TFDS, notebooks, all variants
	$(PY) -m pytest -m slow $(ARGS)

lint: $(VENV)/.lint ## check style and format with ruff
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.lint ## check types with basedpyright
	$(VENV)/bin/basedpyright

bench: $(VENV)/.bench ## compare speed and test ELBO with PyTorch, NumPyro, ... (ARGS="--suite --dataset FOLDER" or --data-dir: MNIST)
	$(PY) experiments/benchmarks/training.py $(ARGS)

reproduce: $(VENV)/.base ## reproduce a published result: NAME=linear, or any other folder of experiments/reproductions/
	@test -f "experiments/reproductions/$(NAME)/run.py" || { echo "error: NAME: expected one of $(REPRODUCTIONS), got '$(NAME)'" >&2; exit 2; }
	$(PY) experiments/reproductions/$(NAME)/run.py $(ARGS)

reproduce-gpu: $(VENV)/.base ## reproduce on a GPU, within 15 minutes, what is too long for two cores (ARGS="--dataset FOLDER")
	$(PY) experiments/reproductions/gpu.py $(ARGS)

clean: ## remove the virtual environment and caches, but not runs/
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache

# The interpreter is $(PYTHON) if given, else the first of these that is new enough.
$(VENV)/bin/python:
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "creating $(VENV) with $$($$python --version)"; $$python -m venv $(VENV) && exit 0 || exit 1; fi; done; \
	echo "error: expected Python 3.11 or newer; install one, or pass PYTHON=/path/to/python" >&2; exit 1

define install
	@echo 'installing vae_jax$(1) into $(VENV); the first time takes about a minute ...'
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.$(1)'
	@touch $@
endef

$(VENV)/.base: $(INPUTS) | $(VENV)/bin/python
	$(call install,)
$(VENV)/.test: $(INPUTS) | $(VENV)/bin/python
	$(call install,[test])
	@touch $(VENV)/.base
$(VENV)/.lint: $(INPUTS) | $(VENV)/bin/python
	$(call install,[lint])
$(VENV)/.bench: $(INPUTS) | $(VENV)/bin/python
	$(call install,[bench])
