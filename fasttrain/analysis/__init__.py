"""What a finished grid shows: regimes, geometry, norms, sharpness, features."""
