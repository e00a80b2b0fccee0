"""A file store of MLflow: an experiment a study, a run a stage, parameters and metrics.

MLflow 3 keeps the format but refuses it unless MLFLOW_ALLOW_FILE_STORE is true, which holds here
while a store is opened; a database would need more than the slim package.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag  # type: ignore[import-not-found]
from mlflow.tracking import MlflowClient  # type: ignore[import-not-found]

from .runs import Run

ALLOW = "MLFLOW_ALLOW_FILE_STORE"
LENGTH = 6000
"""signs of a parameter's value, the most that MLflow takes"""
STATES = {"failed": "FAILED"}


class MLflow:
    """A `Tracker`.

    Args:
        folder: of the file store.
        home: where it will lie, for the places of artifacts; the folder if not given.
    """

    def __init__(self, folder: Path, home: Path | None = None) -> None:
        self.home = (home or folder).absolute()
        os.environ.setdefault(ALLOW, "true")
        self.client = MlflowClient(folder.absolute().as_uri())
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, str] = {}

    def start(self, run: Run) -> None:
        """Begin a run, with its configuration as parameters."""
        created = self.client.create_run(self._experiment(run.study), run_name=run.name)
        self.runs[run.stage] = created.info.run_id
        params = [Param(name, str(value)[:LENGTH]) for name, value in run.config.items()]
        tags = [RunTag("stage", run.stage), RunTag("study", run.study)]
        self.client.log_batch(created.info.run_id, params=params, tags=tags)

    def log(self, run: Run, epoch: int, values: Mapping[str, float]) -> None:
        """Write an epoch's values."""
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, epoch) for name, value in values.items()]
        self.client.log_batch(self.runs[run.stage], metrics=metrics)

    def end(self, run: Run, epoch: int, state: str, final: Mapping[str, float]) -> None:
        """Write a run's last values, and how it ended as a tag."""
        self.log(run, epoch, final)
        name = self.runs.pop(run.stage)
        self.client.set_tag(name, "state", state)
        self.client.set_terminated(name, STATES.get(state, "FINISHED"))

    def close(self) -> None:
        """End what has not."""
        for name in self.runs.values():
            self.client.set_terminated(name, "KILLED")
        self.runs.clear()

    def _experiment(self, study: str) -> str:
        if study not in self.experiments:
            found: Any = self.client.get_experiment_by_name(study)
            place = (self.home / "artifacts" / study).as_uri()
            self.experiments[study] = (
                found.experiment_id
                if found
                else self.client.create_experiment(study, artifact_location=place)
            )
        return self.experiments[study]
