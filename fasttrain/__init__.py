"""What does the learning rate do? Dense grids of pre-training and fine-tuning learning rates."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analysis.records import load_analyses
    from .results import load, load_epochs

__version__ = "0.1.0"

__all__ = ["__version__", "load", "load_analyses", "load_epochs"]


def __getattr__(name: str) -> Any:
    """Import tables when they are first asked for: torch takes seconds, help should not."""
    if name in ("load", "load_epochs"):
        from . import results

        return getattr(results, name)
    if name == "load_analyses":
        from .analysis import records

        return records.load_analyses
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
