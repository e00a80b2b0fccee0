PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test lint bench clean

demo: $(INSTALLED)
	$(BIN)/fasttrain sweep digits
	$(BIN)/fasttrain analyse runs/digits

# Two tests at a time, each with one thread: more would wait for one another on two cores.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -rs -n 2 -p no:benchmark

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(INSTALLED)
	$(BIN)/pytest bench

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "fasttrain needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@if pkg-config --exists opencv4 libturbojpeg 2>/dev/null; then \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[ffcv]' \
		|| echo "FFCV could not be built here: its tests will be skipped"; \
	else echo "no OpenCV and turbojpeg here (pkg-config): FFCV is left out, its tests skipped"; fi
	touch $@
