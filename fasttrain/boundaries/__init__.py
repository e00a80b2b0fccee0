"""Where the regimes meet, found by probes."""
