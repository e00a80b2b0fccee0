"""What can be exported to, and the library that each needs. Imports nothing heavy."""

from importlib.util import find_spec
from typing import Literal, get_args

from ..errors import UsageError

Target = Literal["tensorboard", "wandb", "mlflow", "csv", "latex"]
LIBRARIES = ("tensorboard", "wandb", "mlflow")
"""targets that need the library of their name, which the extra of that name brings"""
TARGETS: tuple[str, ...] = get_args(Target)


def check_library(target: str) -> None:
    """Raise if the library of a target is not installed.

    Raises:
        UsageError: the message names the extra that brings it.
    """
    if target not in LIBRARIES:
        return
    found = find_spec(target)
    # A folder of that name in the current directory, such as wandb/, is none.
    if found is None or found.origin is None:
        raise UsageError(
            f"{target} is not installed, which this needs: pip install 'fasttrain-lr[{target}]'"
        )
