"""The store: the directory of results, its files, its tables."""
