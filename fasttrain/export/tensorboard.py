"""Event files of TensorBoard: a folder a study, in it a folder a run; `tensorboard --logdir OUT`.

The hyperparameters' page compares the runs by their configuration and last values.
"""

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from .runs import Run


class TensorBoard:
    """A `Tracker`.

    Args:
        folder: where studies' folders are made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writers: dict[str, SummaryWriter] = {}

    def start(self, run: Run) -> None:
        """Begin a run, with its configuration as a text."""
        writer = SummaryWriter(str(self.folder / run.study / run.name))
        lines = (f"    {name} = {value}" for name, value in run.config.items())
        writer.add_text("configuration", "\n".join(lines))
        self.writers[run.stage] = writer

    def log(self, run: Run, epoch: int, values: Mapping[str, float]) -> None:
        """Write an epoch's values."""
        for name, value in values.items():
            self.writers[run.stage].add_scalar(name, value, epoch)
        self.writers[run.stage].flush()

    def end(self, run: Run, epoch: int, state: str, final: Mapping[str, float]) -> None:
        """Write a run's last values."""
        writer = self.writers.pop(run.stage)
        given = {name: value for name, value in run.config.items() if value is not None}
        for summary in hparams({**given, "state": state}, dict(final)):
            writer._get_file_writer().add_summary(summary)
        for name, value in final.items():
            writer.add_scalar(name, value, epoch)
        writer.close()

    def close(self) -> None:
        """Close what has not ended."""
        for writer in self.writers.values():
            writer.close()
        self.writers.clear()
