"""A stage as the run of a tracking tool: its name, group, configuration, series and last values.

One mapping serves files that are exported and values that are logged while a study trains: `tag`
names a column, `run_of` a stage. `Tracker` is what each tool's module provides.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..settings.optimizers.kinds import KINDS
from ..store.columns import PASS_COLUMNS
from ..store.curves import measured_epochs
from ..store.tables import Finished, finished, path_words

NAMES = {
    "train_loss": "loss/train",
    "train_accuracy": "accuracy/train",
    "train_balanced_accuracy": "balanced_accuracy/train",
    "grad_norm": "grad_norm/train",
    "test_loss": "loss/test",
    "test_accuracy": "accuracy/test",
    "distance": "distance",
    **dict(zip(PASS_COLUMNS, ("loss/pass", "accuracy/pass", "grad_norm/pass"), strict=True)),
}
"""of the columns of a stage's table of epochs, quantity before set"""
PROBE = re.compile(r"probe_(.*)_(loss|accuracy)")
FINAL = "final/"
"""stands before the names of a stage's last values"""


@dataclass(frozen=True)
class Run:
    """A stage under the names that tools show."""

    stage: str
    """its id"""
    name: str
    study: str
    """the group: of all stages of a set-up the same"""
    config: dict[str, str | int | float | bool | None]
    """configuration and knobs, flat: "network.width": 8"""
    is_average: bool

    @property
    def rate(self) -> dict[str, float]:
        """The stage's learning rate, as a series has it: "elr", or "lr" where it is raw."""
        value = self.config["lr"]
        assert isinstance(value, float)
        name = "elr" if self.config["rate"] == "effective" else "lr"
        return {} if self.is_average else {name: value}


class Tracker(Protocol):
    """Writes runs in the format of a tool, any number of them at once."""

    def start(self, run: Run) -> None:
        """Begin a run, with its configuration."""

    def log(self, run: Run, epoch: int, values: Mapping[str, float]) -> None:
        """Write an epoch's values, by tag."""

    def end(self, run: Run, epoch: int, state: str, final: Mapping[str, float]) -> None:
        """Write a run's last values, by tag, and how it ended."""

    def close(self) -> None:
        """Nothing more follows."""


def tag(column: str) -> str:
    """The name of a column in a tool: `NAMES`, or of a probe set "loss/NAME"."""
    if probe := PROBE.fullmatch(column):
        return f"{probe[2]}/{probe[1]}"
    return NAMES.get(column, column)


def tagged(row: Mapping[str, float | None], before: str = "") -> dict[str, float]:
    """The values that there are, by tag. Missing ones, and test scores without a test, are not."""
    values = {before + tag(str(name)): value for name, value in row.items() if value is not None}
    return {name: float(value) for name, value in values.items() if not math.isnan(value)}


def run_of(stage: Finished) -> Run:
    """The run of a stage, which need not have finished."""
    about, identity = stage.about, stage.identity()
    words = [f"{key}-{about[key]:g}" for key in ("plr", "flr", "k") if about[key] is not None]
    if len(stage.path) > 2:
        words = [path_words(stage.path).replace(">", "-")]
    network = stage.parts()["network"]["model"]
    parts = [stage.kind, *words, f"seed-{about['seed']}", stage.stage[:8]]
    config = dict(_flat(stage.configuration()))
    config |= {name: about[name] for name in ("plr", "flr", "k", "seed", "epochs", "parent")}
    config |= {"kind": stage.kind, "path": path_words(stage.path), "stage": stage.stage}
    config |= {"setup": stage.setup, "rate": KINDS[identity["optimizer"]].rate}
    config["lr"] = float(stage.path[-1]["lr"])
    study = f"{Path(identity['dataset']).stem}-{network}-{stage.setup[:8]}"
    average = about["kind"] == "swa"
    return Run(stage.stage, _plain("_".join(parts)), _plain(study), config, average)


def write(store: Path, tracker: Tracker) -> int:
    """Write every finished stage of a store; returns how many they are.

    An average has its last values alone: what its table holds is the run that it goes along.
    """
    found = finished(store)
    epochs = measured_epochs(store, found)
    tables = dict(list(epochs.groupby("stage"))) if len(epochs) else {}
    try:
        for stage in found:
            run = run_of(stage)
            tracker.start(run)
            if stage.stage in tables and not run.is_average:
                table = tables[stage.stage].drop(columns="stage")
                rows: Any = table.to_dict("records")
                for row in rows:
                    epoch = int(row.pop("epoch"))
                    tracker.log(run, epoch, tagged(row) | run.rate)
            final = tagged(stage.done["result"], FINAL)
            tracker.end(run, stage.done["epoch"], stage.done["state"], final)
    finally:
        tracker.close()
    return len(found)


def _flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            is_plain = isinstance(value, str | int | float | bool | None)
            yield before + key, value if is_plain else str(value)


def _plain(name: str) -> str:
    """A name that is a folder's everywhere."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name)
