"""What does the learning rate do? Dense grids of pre-training and fine-tuning learning rates."""

__version__ = "0.1.0"

from .results import load, load_epochs

__all__ = ["__version__", "load", "load_epochs"]
