"""Writing beside the training: one at a time, in order, and what stops it is raised."""

import threading

import pytest

from fasttrain.checkpoints import CheckpointWriter
from fasttrain.errors import EnvironmentProblem
from fasttrain.store import Store


class Disk(Store):
    """A store that notes when it writes, as slowly as it is told."""

    def __init__(self, path) -> None:
        super().__init__(path)
        self.may_end = threading.Event()
        self.notes: list[str] = []

    def save_checkpoint(self, content) -> None:
        (stage,) = content
        self.notes.append(f"begin {stage}")
        assert self.may_end.wait(30)
        self.notes.append(f"end {stage}")


def test_an_interruption_does_not_let_two_writings_overlap(tmp_path, monkeypatch):
    disk = Disk(tmp_path)
    with CheckpointWriter(disk, 0) as writer:
        writer.offer(lambda: {"one": {}})
        result, interrupted = writer.writing.result, []

        def interrupt_once():
            if not interrupted:
                interrupted.append(True)
                raise KeyboardInterrupt
            disk.may_end.set()
            return result()

        monkeypatch.setattr(writer.writing, "result", interrupt_once)
        with pytest.raises(KeyboardInterrupt):
            writer.offer(lambda: {"two": {}})
        writer.write(lambda: {"three": {}})
    assert disk.notes == ["begin one", "end one", "begin three", "end three"]


def test_nothing_is_written_before_the_interval_has_passed(tmp_path):
    disk = Disk(tmp_path)
    with CheckpointWriter(disk, 1000) as writer:
        writer.offer(lambda: {"one": {}})
    assert disk.notes == []


def test_what_stops_a_writing_stops_the_training(tmp_path):
    class Full(Store):
        def save_checkpoint(self, content) -> None:
            raise EnvironmentProblem("disk full")

    with (
        pytest.raises(EnvironmentProblem, match="disk full"),
        CheckpointWriter(Full(tmp_path), 0) as writer,
    ):
        writer.offer(lambda: {"one": {}})
