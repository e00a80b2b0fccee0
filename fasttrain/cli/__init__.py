"""The command line: a thin layer on `fasttrain.api`."""
