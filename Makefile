PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
LOWEST := .venv-lowest/installed
DOCS := .venv/installed-docs
PIP := -m pip install --quiet --disable-pip-version-check

# TORCH=cpu takes torch and torchvision from an index of CPU builds, TORCH_INDEX: far smaller ones.
TORCH = default
TORCH_INDEX =
ifeq ($(TORCH),cpu)
ifeq ($(TORCH_INDEX),)
$(error TORCH=cpu needs TORCH_INDEX=URL: an index of CPU builds, as PyTorch's installation page names it)
endif
CPU_TORCH := $(PIP) --index-url '$(TORCH_INDEX)' torch torchvision
else ifneq ($(TORCH),default)
$(error TORCH=$(TORCH): allowed are default and cpu)
endif

# Two tests at a time, each with one thread: more would wait for one another on two cores.
PYTEST := pytest -rs -n 2 -p no:benchmark

.PHONY: demo test test-optional test-lowest lint bench ffcv exports docs ray clean

demo: $(INSTALLED)
ifdef CPU_TORCH
	@$(BIN)/python -c 'import sys, torch; sys.exit(torch.version.cuda and \
		".venv holds torch " + torch.__version__ + ", a CUDA build: make clean first, or see TORCH_INDEX")'
endif
	$(BIN)/fasttrain sweep tick-demo
	$(BIN)/fasttrain sweep digits
	$(BIN)/fasttrain analyse runs/digits
	@echo "Large rates find what small ones do not: runs/tick-demo/report/report.html, and in it"
	@echo "    $$(echo runs/tick-demo/report/figures/*-accuracy.png)"
	@echo "    $$(echo runs/tick-demo/report/figures/*-sparsity.png)"

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/$(PYTEST)

# What differs with FFCV, a browser, TBB, Slurm, Ray and the libraries of exports and of the site.
test-optional: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/$(PYTEST) -m optional

# Kernels and data with the lowest versions that pyproject.toml allows.
test-lowest: $(LOWEST)
	NUMBA_CACHE_DIR=.venv-lowest/numba OMP_NUM_THREADS=1 \
		.venv-lowest/bin/$(PYTEST) tests/kernels tests/data

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/hadolint docs/docker/*.Dockerfile

bench: $(INSTALLED)
	$(BIN)/pytest bench

# Needs the system packages that data/README.md names.
ffcv: $(INSTALLED)
	$(BIN)/python $(PIP) --editable '.[ffcv]'

# The libraries that exports are written by, about 200 MB.
exports: $(INSTALLED)
	$(BIN)/python $(PIP) --editable '.[tensorboard,wandb,mlflow]'

# The documentation as a site, in build/site. It takes nothing from a network but its tools, once.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml
	@echo build/site/index.html

# The engine of clusters, about 280 MB.
ray: $(INSTALLED)
	$(BIN)/python $(PIP) --editable '.[ray]'

clean:
	rm -rf .venv .venv-lowest build dist .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "fasttrain needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
ifdef CPU_TORCH
	$(BIN)/python $(CPU_TORCH)
endif
	$(BIN)/python $(PIP) --editable '.[dev]'
	touch $@

$(DOCS): $(INSTALLED)
	$(BIN)/python $(PIP) --editable '.[docs]'
	touch $@

$(LOWEST): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "the lowest versions are those for Python 3.11: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print(*(line.replace(">=", "==") for line in project["dependencies"]), sep="\n")' > .venv-lowest/lowest.txt
	.venv-lowest/bin/python $(PIP) --editable . pytest pytest-xdist hypothesis --constraint .venv-lowest/lowest.txt
	touch $@
