"""What does the learning rate do? Dense grids of pre-training and fine-tuning learning rates.

import fasttrain as ft

study = ft.study("digits", plr=[1e-3, 1e-2], epochs=3)
results = ft.sweep(study, store="runs/digits")
results.stages, results.epochs, results.figure("accuracy")
ft.load_model(results.store, results.stages["stage"][0])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from .analysis.records import load_analyses
    from .api.logging import log_to
    from .api.models import Classifier, load_model
    from .api.results import Results
    from .api.running import Located, analyse, locate, merge, sweep
    from .api.studies import Setting, Study, study
    from .errors import EnvironmentProblem, UsageError
    from .execution.callbacks import Callback
    from .store.sets import load_sets
    from .store.tables import load, load_epochs

_PLACES = {
    "api.studies": ("Setting", "Study", "study"),
    "api.running": ("Located", "analyse", "locate", "merge", "sweep"),
    "api.results": ("Results",),
    "api.logging": ("log_to",),
    "execution.callbacks": ("Callback",),
    "api.models": ("Classifier", "load_model"),
    "analysis.records": ("load_analyses",),
    "store.tables": ("load", "load_epochs"),
    "store.sets": ("load_sets",),
    "errors": ("EnvironmentProblem", "UsageError"),
}
_PLACE = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "Callback",
    "Classifier",
    "EnvironmentProblem",
    "Located",
    "Results",
    "Setting",
    "Study",
    "UsageError",
    "__version__",
    "analyse",
    "load",
    "load_analyses",
    "load_epochs",
    "load_model",
    "load_sets",
    "locate",
    "log_to",
    "merge",
    "study",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """Import what is offered when it is first asked for: torch takes seconds, help should not."""
    if name == "__version__":
        return import_module(f"{__name__}.version").installed()
    if name not in _PLACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
