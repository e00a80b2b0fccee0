"""fasttrain from Python: studies, their results, and the networks that they end in."""
