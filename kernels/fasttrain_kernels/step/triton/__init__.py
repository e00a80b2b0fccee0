"""The step in Triton."""
