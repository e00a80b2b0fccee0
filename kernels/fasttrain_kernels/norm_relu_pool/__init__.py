"""Batch normalisation, ReLU and max-pool as one operation."""
