"""`fasttrain export`: its arguments, and what is checked before anything heavy is imported."""

from dataclasses import dataclass
from pathlib import Path

from ..export.folder import check_out
from ..export.targets import Target, check_library
from ..store.marker import check_store
from .arguments import StorePath
from .usage import parse


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write what a store holds for another tool. An earlier export there is replaced."""

    store: StorePath
    """directory of the results"""
    to: Target
    """tensorboard, wandb (offline), mlflow: one run per stage, grouped by study (needs the extra of
    that name); csv: stages and series; latex: one table per study, accuracies over seeds"""
    out: Path | None = None
    """folder to write; STORE-TOOL beside the store if not given"""


def export(arguments: list[str]) -> int:
    """Write what a store holds for another tool; returns the exit code."""
    command = parse(Export, "export", arguments)
    check_library(command.to)
    check_store(command.store, create=False)
    store = command.store.resolve()
    out = command.out or store.with_name(f"{store.name}-{command.to}")
    check_out(out, store)
    from ..export.command import export as write

    print(write(store, command.to, out))
    return 0
