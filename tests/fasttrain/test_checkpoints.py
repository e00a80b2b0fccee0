"""Checkpoints: what they hold and when they go; written beside the training, one at a time."""

import threading

import pytest
import torch

from fasttrain.errors import EnvironmentProblem
from fasttrain.store.checkpoints import Checkpoints, CheckpointWriter
from fasttrain.store.store import Store

from .stored import begin, finish, pretraining


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def standing(epochs: int) -> dict[str, torch.Tensor]:
    """What a checkpoint holds of a stage after so many epochs."""
    weights = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    return {"w": weights, "series": torch.zeros(epochs, 5)}


def test_a_checkpoint_reads_back_and_goes_with_the_last_of_its_stages(store):
    one, two = (begin(store, pretraining(seed)) for seed in (1, 2))
    assert store.checkpoints.load("pack", {one}) == {}
    content = {one: standing(2), two: standing(2)}
    store.checkpoints.save("pack", content)
    read = store.checkpoints.load("pack", {two})
    assert read.keys() == {one, two}
    assert torch.equal(read[two]["w"], content[two]["w"])
    assert store.checkpoints.epochs(one) == 2
    store.fail(one, "no luck")
    assert store.state(one) == "failed"
    finish(store, pretraining(1), state="non-finite")
    store.checkpoints.tidy()
    assert store.checkpoints.epochs(two) == 2
    finish(store, pretraining(2))
    store.checkpoints.tidy()
    assert store.checkpoints.epochs(two) == 0
    assert not list((store.path / "checkpoints").iterdir())
    names = {path.name for path in (store.path / one).iterdir()}
    assert names == {"stage.json", "done.json", "state.safetensors"}


def test_a_pack_goes_on_from_its_own_checkpoint_where_it_stands_farthest(store):
    one, two = "b" * 16, "c" * 16
    store.checkpoints.save("whole", {one: standing(1), two: standing(1)})
    # One has parted from the pack, and has yet to be finished.
    store.checkpoints.save("whole", {two: standing(3)})
    assert store.checkpoints.load("whole", {one, two}).keys() == {two}
    assert store.checkpoints.load("whole", {one}).keys() == {one, two}
    store.checkpoints.save("other", {one: standing(5)})
    assert store.checkpoints.epochs(one) == 5 and store.checkpoints.epochs(two) == 3
    assert len(store.checkpoints.load("whole", {two})[two]["series"]) == 3
    assert store.checkpoints.load("other", {two}) == {}
    store.checkpoints.save("whole", {one: standing(4), two: standing(4)})
    store.checkpoints.save("other", {one: standing(6), two: standing(6)})
    assert len(list((store.path / "checkpoints").iterdir())) == 1


def test_a_checkpoint_that_another_worker_has_just_replaced_is_none(store, monkeypatch):
    gone = store.path / "checkpoints" / "gone.safetensors"
    monkeypatch.setattr(Checkpoints, "files", lambda *_: [gone])
    assert store.checkpoints.load("gone", {"b" * 16}) == {}
    assert store.checkpoints.epochs("b" * 16) == 0


def test_a_damaged_checkpoint_is_named(store):
    store.checkpoints.save("pack", {"b" * 16: standing(1)})
    (path,) = (store.path / "checkpoints").iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(EnvironmentProblem, match=rf"does not match .*; delete {path} and"):
        store.checkpoints.load("pack", {"b" * 16})
    path.write_bytes(b"\0" * 20)
    with pytest.raises(EnvironmentProblem, match=rf"cannot be read .*; delete {path} and"):
        store.checkpoints.load("pack", {"b" * 16})


class Disk(Checkpoints):
    """Checkpoints that note when they are written, as slowly as they are told."""

    def __init__(self, path) -> None:
        super().__init__(path, lambda _: False)
        self.may_end = threading.Event()
        self.notes: list[str] = []

    def save(self, pack, content) -> None:
        (stage,) = content
        self.notes.append(f"begin {stage}")
        assert self.may_end.wait(30)
        self.notes.append(f"end {stage}")


def test_an_interruption_does_not_let_two_writings_overlap(tmp_path, monkeypatch):
    disk = Disk(tmp_path)
    with CheckpointWriter(disk, "pack", 0) as writer:
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
    with CheckpointWriter(disk, "pack", 1000) as writer:
        writer.offer(lambda: {"one": {}})
    assert disk.notes == []


def test_what_stops_a_writing_stops_the_training(tmp_path):
    class Full(Checkpoints):
        def save(self, pack, content) -> None:
            raise EnvironmentProblem("disk full")

    with (
        pytest.raises(EnvironmentProblem, match="disk full"),
        CheckpointWriter(Full(tmp_path, lambda _: False), "pack", 0) as writer,
    ):
        writer.offer(lambda: {"one": {}})
