"""Checkpoints: what they hold and when they go; written beside the training, one at a time."""

import threading

import pytest
import torch

from fasttrain.checkpoints import Checkpoints, CheckpointWriter
from fasttrain.errors import EnvironmentProblem
from fasttrain.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def standing(epochs: int) -> dict[str, torch.Tensor]:
    """What a checkpoint holds of a stage after so many epochs."""
    weights = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    return {"w": weights, "series": torch.zeros(epochs, 5)}


def test_a_checkpoint_reads_back_and_goes_with_the_last_of_its_stages(store):
    one, two = "b" * 16, "c" * 16
    for stage in (one, two):
        store.begin(stage, {})
    assert store.checkpoints.load(one) is None and store.checkpoints.members(one) == []
    content = {one: standing(2), two: standing(2)}
    store.checkpoints.save(content)
    assert torch.equal((store.checkpoints.load(two) or {})["w"], content[two]["w"])
    assert set(store.checkpoints.members(one)) == {one, two}
    assert store.checkpoints.epochs(one) == 2
    store.fail(one, "no luck")
    assert store.state(one) == "failed"
    store.finish(one, {}, {"state": "non-finite"})
    store.checkpoints.tidy()
    assert store.checkpoints.epochs(two) == 2
    store.finish(two, {}, {"state": "done"})
    store.checkpoints.tidy()
    assert store.checkpoints.epochs(two) == 0
    assert not list((store.path / "checkpoints").iterdir())
    names = {path.name for path in (store.path / one).iterdir()}
    assert names == {"stage.json", "done.json"}


def test_of_two_checkpoints_the_farther_one_counts_and_replaces_the_other(store):
    one, two = "b" * 16, "c" * 16
    store.checkpoints.save({one: standing(1), two: standing(1)})
    store.checkpoints.save({one: standing(3)})
    assert store.checkpoints.epochs(one) == 3 and store.checkpoints.members(one) == [one]
    assert store.checkpoints.epochs(two) == 1
    store.checkpoints.save({two: standing(2)})
    assert store.checkpoints.epochs(two) == 2
    store.checkpoints.save({one: standing(4), two: standing(4)})
    assert len(list((store.path / "checkpoints").iterdir())) == 1


def test_a_checkpoint_that_another_worker_has_just_replaced_is_none(store, monkeypatch):
    gone = store.path / "checkpoints" / "gone.safetensors"
    monkeypatch.setattr(Checkpoints, "_files", lambda _: [gone])
    assert store.checkpoints.load("b" * 16) is None and store.checkpoints.members("b" * 16) == []


def test_a_damaged_checkpoint_is_named(store):
    store.begin("b" * 16, {})
    store.checkpoints.save({"b" * 16: standing(1)})
    (path,) = (store.path / "checkpoints").iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(EnvironmentProblem, match=rf"does not match .*; delete {path} and"):
        store.checkpoints.load("b" * 16)
    path.write_bytes(b"\0" * 20)
    with pytest.raises(EnvironmentProblem, match=rf"cannot be read .*; delete {path} and"):
        store.checkpoints.load("b" * 16)


class Disk(Checkpoints):
    """Checkpoints that note when they are written, as slowly as they are told."""

    def __init__(self, path) -> None:
        super().__init__(path, lambda _: False)
        self.may_end = threading.Event()
        self.notes: list[str] = []

    def save(self, content) -> None:
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
    class Full(Checkpoints):
        def save(self, content) -> None:
            raise EnvironmentProblem("disk full")

    with (
        pytest.raises(EnvironmentProblem, match="disk full"),
        CheckpointWriter(Full(tmp_path, lambda _: False), 0) as writer,
    ):
        writer.offer(lambda: {"one": {}})
