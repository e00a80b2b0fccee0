"""Every benchmark: `python -m bench grid`, and the suites of `make bench`."""
