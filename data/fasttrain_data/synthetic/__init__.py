"""Data sets that are drawn from seeds."""
