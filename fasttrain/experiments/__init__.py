"""Experiments: the shapes of the trees that studies train, by kind."""
