"""What a finished grid shows: regimes, geometry, norms, sharpness, features."""

from fasttrain.analysis.tables import TABLES, Grid, empty

__all__ = ["TABLES", "Grid", "empty"]
