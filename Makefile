# The two commands that a new machine needs are `make demo` and `make test`; the others are for those who work here.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
# `make TORCH=cpu ...` installs the small build of torch, without CUDA, from the index of PyTorch.
TORCH ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Arguments of the bench of baselines, such as `make bench BENCH="e2cnn --batch 2"` or `BENCH=--quick`.
BENCH ?=
# Arguments of the bench of epochs at the published size, small enough for two cores; `make paper` needs a GPU.
PAPER ?= --models convnet,relaxed_steerable_rotation --windows 2 --batch 1 --rounds 2
INSTALLED := $(VENV)/.installed

.PHONY: help demo test lint check bench gpu-check paper remembered docs install slurm-up slurm-down clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/' | expand -t 20

demo: install  ## simulate, train three families, and show the leaderboard
	$(BIN)/symbench data prepare quickstart
	$(BIN)/symbench run quickstart
	$(BIN)/symbench sync quickstart
	$(BIN)/symbench leaderboard quickstart --html runs/quickstart.html
	@echo
	@echo "The report:   runs/quickstart.html   (open it in a browser)"
	@echo "MLflow:       $(BIN)/symbench ui   (starts a server on this machine and prints the links)"

test: install  ## the tests; parts that need what is not here are skipped and say why
	$(BIN)/pytest -n auto

lint: install  ## format, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## what CI runs

bench: install  ## time of baselines, epochs, ranks, and symbench itself (docs/throughput.md)
	$(BIN)/python -m benchmark.bench.baselines $(BENCH)
	$(BIN)/python -m benchmark.bench.epoch
	$(BIN)/python -m benchmark.bench.epoch icml2022-rotation $(PAPER)
	$(BIN)/python -m benchmark.bench.particles
	$(BIN)/python -m benchmark.bench.ddp
	$(BIN)/python -m benchmark.bench.overhead

gpu-check: install  ## what symbench asks of a GPU, step by step; without one, what a CPU can show
	$(BIN)/python -m benchmark.bench.gpu_check

paper: install  ## benches and boards at the published size, on GPUs; continues if called again; HOURS=8 limits it
	PATH="$(CURDIR)/$(BIN):$$PATH" docs/paper-size.sh

remembered: install  ## benchmark/suite/remembered.json again, after a change to a baseline, a dataset or what they import
	$(BIN)/python -m benchmark.planning.remember

docs: install  ## the site of the documentation, build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python docs/build_site.py

install: $(INSTALLED)  ## the environment in .venv, with the pins of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "symbench needs Python 3.11 to 3.13; say which with `make PYTHON=python3.11 ...`")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH),--extra-index-url https://download.pytorch.org/whl/$(TORCH)) torch
	$(PIP) -e '.[dev]'
	touch $@

slurm-up: install  ## a real SLURM of two nodes on this machine, to try `--on test-cluster`; needs root and its packages
	$(BIN)/python tests/slurm/cluster.py up

slurm-down:  ## stop it
	$(BIN)/python tests/slurm/cluster.py down

clean:  ## remove the environment; the store (runs/) stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
