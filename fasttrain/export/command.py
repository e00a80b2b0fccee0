"""`fasttrain export`: a store in the files of another tool."""

from importlib import import_module
from pathlib import Path
from typing import Any

from .folder import replaced
from .runs import write
from .tables import write_csv, write_latex

SHOWN = {
    "tensorboard": "tensorboard --logdir {out}",
    "wandb": "wandb sync {out}/wandb/offline-run-*",
    "mlflow": "MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {out}/mlruns",
    "csv": "{out}/stages.csv, {out}/series.csv",
    "latex": "{out}/*.tex",
}
"""what opens an export"""


def export(store: Path, target: str, out: Path) -> str:
    """Write everything finished in a store for a target; returns a line that says what opens it.

    Raises:
        UsageError: `out` is something that no export wrote.
        EnvironmentProblem: not a store, a damaged file in it, or `out` cannot be written.
    """
    with replaced(out, store) as folder:
        if target == "csv":
            num_stages = write_csv(store, folder)
        elif target == "latex":
            num_stages = write_latex(store, folder)
        else:
            num_stages = write(store, _tracker(target, folder, out))
        for path in folder.rglob("*"):
            if path.is_symlink():
                # Of the latest run, to where it will not be.
                path.unlink()
    return f"{num_stages} stages: {SHOWN[target].format(out=out)}"


def _tracker(target: str, folder: Path, out: Path) -> Any:
    module = import_module(f".{target}", __package__)
    if target == "tensorboard":
        return module.TensorBoard(folder)
    if target == "wandb":
        return module.WeightsAndBiases(folder)
    return module.MLflow(folder / "mlruns", out / "mlruns")
