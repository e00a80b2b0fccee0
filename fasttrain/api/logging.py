"""Live logging to the tools that `fasttrain export` writes for."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import UsageError, nearest
from ..execution.callbacks import Callback, Logging
from ..export.targets import check_library

Tool = Literal["tensorboard", "wandb", "mlflow"]


def log_to(tool: Tool, folder: str | os.PathLike[str]) -> Callback:
    """A callback for `sweep` that logs every stage as a run, as `fasttrain export` writes it.

    Args:
        folder: created if missing. W&B logs offline, into its wandb/; MLflow into its mlruns/.

    Raises:
        UsageError: no such tool, or its library is not installed.
    """
    tools = get_args(Tool)
    if tool not in tools:
        raise UsageError(
            f"log_to: {tool!r} is no tool{nearest(str(tool), tools)}; allowed are"
            f" {', '.join(tools)}"
        )
    check_library(tool)
    module: Any = import_module(f"fasttrain.export.{tool}")
    names = {"tensorboard": "TensorBoard", "wandb": "WeightsAndBiases", "mlflow": "MLflow"}
    return Logging(getattr(module, names[tool])(Path(folder).expanduser()))
