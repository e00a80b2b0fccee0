"""The step on a CPU, compiled by numba."""
