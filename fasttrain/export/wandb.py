"""Offline runs of Weights & Biases: `wandb sync OUT/wandb/offline-run-*` sends them.

A run's id is the stage's and its group the study's; the step of its series is the epoch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb as library  # type: ignore[import-not-found]

from .runs import Run

PROJECT = "fasttrain"


class WeightsAndBiases:
    """A `Tracker`.

    Args:
        folder: wandb/ is made there.
        project: of the runs.
        mode: offline, or online to send them at once.
    """

    def __init__(self, folder: Path, project: str = PROJECT, mode: Any = "offline") -> None:
        self.folder, self.project, self.mode = folder, project, mode
        self.runs: dict[str, Any] = {}

    def start(self, run: Run) -> None:
        """Begin a run, with its configuration."""
        self.folder.mkdir(parents=True, exist_ok=True)
        opened: Any = library
        self.runs[run.stage] = opened.init(
            dir=str(self.folder),
            mode=self.mode,
            project=self.project,
            group=run.study,
            id=run.stage,
            name=run.name,
            config=dict(run.config),
            reinit="create_new",
            save_code=False,
            settings=opened.Settings(silent=True, console="off", disable_git=True),
        )

    def log(self, run: Run, epoch: int, values: Mapping[str, float]) -> None:
        """Write an epoch's values."""
        self.runs[run.stage].log(dict(values), step=epoch)

    def end(self, run: Run, epoch: int, state: str, final: Mapping[str, float]) -> None:
        """Write a run's last values into its summary."""
        opened = self.runs.pop(run.stage)
        opened.summary.update({**final, "state": state, "epoch": epoch})
        opened.finish(exit_code=1 if state == "failed" else 0)

    def close(self) -> None:
        """End what has not: as failed, for tools show it so."""
        for opened in self.runs.values():
            opened.finish(exit_code=1)
        self.runs.clear()
