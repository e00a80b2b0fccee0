"""Completion of commands, flags and choices by a shell, as tyro makes it of the arguments."""

import contextlib
import io
from typing import Annotated, Any, Union

import tyro
from tyro.conf import OmitArgPrefixes, subcommand

from ..errors import UsageError, nearest
from .arguments import BENCHMARKS, DATA_ACTIONS, REGISTRY, Locate, Sweep, Train
from .export import Export
from .stores import Analyse, Doctor, Merge, Note, Report, Serve, StoreStatus

SHELLS = ("bash", "zsh")
PRINT_COMPLETION = "--print-completion"
_COMMANDS: dict[str, Any] = {
    "sweep": Sweep,
    "train": Train,
    "locate": Locate,
    "analyse": Analyse,
    "report": Report,
    "serve": Serve,
    "merge": Merge,
    "export": Export,
    "status": StoreStatus,
    "note": Note,
    "doctor": Doctor,
    "data": DATA_ACTIONS,
    "bench": BENCHMARKS,
}


def completion(shell: str) -> str:
    """The script that completes `fasttrain` in a shell.

    Raises:
        UsageError: no shell that there is one for.
    """
    if shell not in SHELLS:
        raise UsageError(
            f"{PRINT_COMPLETION} {shell!r}: no such shell{nearest(shell, SHELLS)}; allowed are"
            f" {', '.join(SHELLS)}, as in: fasttrain {PRINT_COMPLETION} bash"
        )
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(
            _one_of(_COMMANDS),
            prog="fasttrain",
            args=["--tyro-print-completion", shell],
            registry=REGISTRY,
            config=(OmitArgPrefixes,),
        )
    return text.getvalue()


def _one_of(commands: dict[str, Any]) -> Any:
    """Commands as one type, those with several actions as such a type themselves."""
    named = [
        Annotated[
            _one_of(made) if isinstance(made, dict) else made, subcommand(name, prefix_name=False)
        ]
        for name, made in commands.items()
    ]
    return Union[tuple(named)]  # noqa: UP007
