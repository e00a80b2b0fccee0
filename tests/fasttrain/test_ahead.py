"""The next epoch is told to the device before the last one is read, and nothing else changes.

Graphs are those of the stand-in; what is enqueued and read is noted in its order.
"""

import dataclasses

import pytest

from fasttrain.execution.packing import make_packs
from fasttrain.plan.config import Config, GridConfig, RunOptions, TrainingConfig
from fasttrain.plan.stages import setup_sections
from fasttrain.plan.trees import build
from fasttrain.settings.data.named import Named
from fasttrain.settings.networks.kinds import ConvNet
from fasttrain.settings.optimizers.kinds import SGD, Sphere
from fasttrain.training.enqueued import Enqueued
from fasttrain.training.pack import Pack
from fasttrain.training.run_pack import run_pack
from fasttrain.training.workbench import open_workbench

from .conftest import contents
from .test_captured import CPU, StandIn, with_captures

SPHERE = Config(
    data=Named(kind="digits", n_train=80, n_test=20),
    network=ConvNet(width=2),
    optimizer=Sphere(),
    training=TrainingConfig(epochs=5, finetune_epochs=4, batch_size=32),
    grid=GridConfig(plr=(1e-3, 1e-2), flr=(1e-3, 3e-3), k=(2,)),
)
DIVERGES = dataclasses.replace(
    SPHERE,
    network=ConvNet(width=2, form="practical"),
    optimizer=SGD(momentum=0.9),
    grid=GridConfig(plr=(1e-2, 1e30, 1e-3), flr=(1e-2,), k=()),
)
REACHES = dataclasses.replace(
    SPHERE, training=dataclasses.replace(SPHERE.training, until_loss=3.0, evaluate_every=3)
)
STOPS = {"stop_at_chance": True}


@pytest.fixture
def noted(monkeypatch):
    """What was enqueued and read, in order: one list for every pack."""
    packs: list[list[str]] = []
    made, enqueue, read = Pack.__init__, Pack.enqueue, Enqueued.read

    def new(self, *arguments, **options):
        made(self, *arguments, **options)
        packs.append([])

    def enqueued(self, epoch, **options):
        packs[-1].append(f"enqueue {epoch}")
        return enqueue(self, epoch, **options)

    def reads(self):
        packs[-1].append("read")
        return read(self)

    monkeypatch.setattr(Pack, "__init__", new)
    monkeypatch.setattr(Pack, "enqueue", enqueued)
    monkeypatch.setattr(Enqueued, "read", reads)
    return packs


def carried_out(folder, config, reported, **options):
    """Run a grid's packs into a store; returns what it holds."""
    told = RunOptions(checkpoint_s=0, **options)
    workbench = open_workbench(config, told, folder, CPU, "fp32", {})
    stages = build(config, setup_sections(config, workbench.data, "fp32"))
    for pack in make_packs(stages, 3):
        run_pack(pack, workbench, lambda stage, epoch, row: reported.append((stage.id, epoch)))
    found = contents(folder)
    assert found
    return found


def in_turn(first, count):
    return [note for e in range(first, first + count) for note in (f"enqueue {e}", "read")]


def ahead(first, count):
    between = [note for e in range(first + 1, first + count) for note in (f"enqueue {e}", "read")]
    return [f"enqueue {first}", *between, "read"]


@pytest.mark.parametrize("config", [SPHERE, DIVERGES, REACHES], ids=["ends", "diverges", "reaches"])
@pytest.mark.parametrize("options", [{}, STOPS], ids=["", "stop-at-chance"])
def test_records_are_those_of_one_epoch_after_another(
    monkeypatch, tmp_path, noted, config, options
):
    plain, reported = [], []
    expected = carried_out(tmp_path / "plain", config, plain, **options)
    one_by_one = [list(notes) for notes in noted]
    assert all(n == in_turn(int(n[0].split()[1]), len(n) // 2) for n in one_by_one if n)
    noted.clear()
    stand_in = StandIn()
    with_captures(monkeypatch, stand_in)
    found = carried_out(tmp_path / "graphs", config, reported, **options)
    assert stand_in.replays
    assert found == expected and reported == plain
    if options:
        # The outcome decides: every epoch is read before the next.
        assert noted == one_by_one
    elif config is REACHES:
        # So it does in pre-training, part of which ends early.
        assert len(one_by_one[0]) < 2 * config.training.epochs and noted[0] == one_by_one[0]
    else:
        assert noted[0] != one_by_one[0]


def test_the_next_epoch_is_enqueued_before_the_last_one_is_read(monkeypatch, tmp_path, noted):
    with_captures(monkeypatch, StandIn())
    carried_out(tmp_path, SPHERE, [])
    trained = [notes for notes in noted if notes]
    assert trained[0] == ahead(0, 5)
    assert all(notes == ahead(5, len(notes) // 2) for notes in trained[1:])


def test_what_was_enqueued_is_dropped_where_a_run_diverges(monkeypatch, tmp_path, noted):
    with_captures(monkeypatch, StandIn())
    carried_out(tmp_path, DIVERGES, [])
    first, second = noted[:2]
    # The first epoch ends one of three: what was told meanwhile is told again, of two models.
    assert first == ["enqueue 0", "enqueue 1", "read"]
    assert second == ahead(1, 4)


def test_without_graphs_nothing_runs_ahead(monkeypatch, tmp_path, noted):
    def fails(step, stream):
        raise RuntimeError("no graph")

    with_captures(monkeypatch, fails)
    carried_out(tmp_path, SPHERE, [])
    first = noted[0]
    # Until it is known: a capture is tried after some steps.
    assert first[:2] == ["enqueue 0", "enqueue 1"]
    assert first[2:] == ["read", "read", *in_turn(2, 3)]
