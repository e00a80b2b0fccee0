"""Pairs of patterns: the network of two groups, noise on gradients, refusals, the figure over d."""

import math
from pathlib import Path

import pytest
import torch

from fasttrain.analysis.regimes import classify
from fasttrain.analysis.setups import all_setups
from fasttrain.errors import UsageError
from fasttrain.plan.config import RunOptions, check, load_table
from fasttrain.report import drawn
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.networks.modules import fold
from fasttrain.settings.networks.two_layer import TwoLayer
from fasttrain.settings.optimizers.groups import Trained
from fasttrain.settings.optimizers.kinds import SGD
from fasttrain.training.pack import Pack
from fasttrain.training.workbench import open_workbench


def changed(**sections):
    """The preset with other values."""
    table = load_table("pattern-pairs")
    return {**table, **{name: table[name] | values for name, values in sections.items()}}


def workbench(folder, **sections):
    config = check(changed(**{"data": {"dimension": 6}, **sections}), "here")
    return open_workbench(config, RunOptions(), folder, torch.device("cpu"), "fp32", {})


def test_the_network_is_two_groups_with_fixed_outputs():
    torch.manual_seed(0)
    net = TwoLayer((1, 2, 5), 1, 4, 0.5)
    x = torch.randn(7, 1, 2, 5)
    w = torch.tensor([0.5, 0.5, -0.5, -0.5])
    expected = torch.relu(x[:, 0, 0] @ net.first.T) @ w + torch.relu(x[:, 0, 1] @ net.second.T) @ w
    torch.testing.assert_close(net(x), expected[:, None])
    assert [name for name, _ in net.named_parameters()] == ["first", "second"]
    wide = TwoLayer((1, 2, 50), 1, 1000, 0.5)
    for weights in (wide.first, wide.second):
        assert weights.std().item() == pytest.approx(0.5, rel=0.02)


def test_a_pack_computes_what_each_of_its_networks_does():
    torch.manual_seed(0)
    nets = [TwoLayer((1, 2, 5), 1, 4, 0.5) for _ in range(3)]
    pack = TwoLayer((1, 2, 5), 1, 4, 0.5, num_models=3)
    pack.load_state_dict(fold([net.state_dict() for net in nets]))
    x = torch.randn(7, 1, 2, 5)
    assert (pack.num_models, pack.num_outputs) == (3, 1)
    torch.testing.assert_close(pack(x), torch.stack([net(x) for net in nets]))


@pytest.mark.parametrize("shape", [(3, 2, 5), (1, 8, 8)])
def test_inputs_that_are_no_pairs_are_refused(shape):
    with pytest.raises(UsageError, match=r"takes two vectors a sample, \(1, 2, d\)"):
        TwoLayer(shape, 1, 4, 0.5)


def test_noise_on_gradients_is_one_draw_for_all_models():
    weights = torch.randn(2 * 3, 4, requires_grad=True)
    start, grad = weights.detach().clone(), torch.randn(6, 4)
    knobs = [Knobs(lr=0.5), Knobs(lr=0.25)]
    options = SGD(weight_decay=0.1, gradient_noise=2.0)
    optimizer = options.build(Trained([("w", weights)], [], 2), knobs)
    weights.grad = grad.clone()
    torch.manual_seed(3)
    optimizer.step()
    torch.manual_seed(3)
    noise = 2 * torch.randn(3, 4)
    rates = torch.tensor([0.5] * 3 + [0.25] * 3)[:, None]
    expected = start - rates * (grad + noise.repeat(2, 1) + 0.1 * start)
    torch.testing.assert_close(weights.detach(), expected)


def test_training_with_noise_goes_on_to_the_same_bits(tmp_path):
    own = workbench(tmp_path)
    knobs = [Knobs(lr=4.0), Knobs(lr=0.4)]
    whole = Pack(own, 0, knobs, None)
    first, second = (whole.train(epoch, tested=True) for epoch in (0, 1))
    # What others draw meanwhile is no part of it.
    torch.manual_seed(99)
    again = Pack(own, 0, knobs, first.states).train(1, tested=True)
    alone = Pack(own, 1, knobs, first.states).train(1, tested=True)
    for state, resumed, other in zip(second.states, again.states, alone.states, strict=True):
        assert all(torch.equal(state[name], resumed[name]) for name in state)
        # Another seed draws other noise.
        assert not torch.equal(state["first"], other["first"])
    assert torch.equal(second.probes, again.probes)


def test_an_epoch_is_so_many_steps_of_the_whole_training_set(tmp_path):
    own = workbench(tmp_path, training={"steps": 3})
    batches = list(own.train_loader(0).epoch(1))
    assert [len(labels) for _, labels in batches] == [6, 6, 6]
    assert batches[0][0].shape == (6, 1, 2, 6)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"network": {"width": 3}}, "network.width = 3: must be a multiple of 2"),
        ({"network": {"init_std": 0.0}}, "network.init_std = 0.0: must be greater than 0"),
        ({"data": {"separation": -1.0}}, "data.separation = -1.0: must be greater than 0"),
        ({"data": {"scale": math.nan}}, "data.scale = nan: must be"),
        ({"optimizer": {"gradient_noise": -1.0}}, "optimizer.gradient_noise = -1.0: must be"),
        ({"training": {"loss": "squared"}}, "allowed is binary-cross-entropy"),
        ({"data": {"crop_padding": 1}}, "data.crop_padding = 1: pattern-pairs are vectors"),
        ({"data": {"sale": 1.0}}, "data.sale: no such key (did you mean 'scale'?)"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(sections, message):
    with pytest.raises(UsageError) as refused:
        check(changed(**sections), "here")
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_parts_that_do_not_fit_together_are_refused_by_name():
    for section, part, message in (
        (
            "network",
            {"kind": "convnet"},
            "'convnet': pattern-pairs are vectors",
        ),
        ("data", {"dataset": "digits"}, "data.dataset = 'digits': a two-layer network reads pairs"),
        ("optimizer", {"kind": "sphere"}, "nothing of a two-layer network is scale-invariant"),
    ):
        with pytest.raises(UsageError, match=message):
            check({**load_table("pattern-pairs"), section: part}, "here")


SMALL = """
[data]
kind = "pattern-pairs"
dimension = 6
[network]
kind = "two-layer"
width = 4
[optimizer]
kind = "sgd"
gradient_noise = 0.01
[training]
loss = "binary-cross-entropy"
batch_size = 1000
[grid]
seeds = 2
[experiment]
kind = "chain"
legs = [[{ lr = 0.4, epochs = 1 }], [{ lr = 4.0, epochs = 1 }, { lr = 0.4, epochs = 1 }]]
"""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--kappa", "0"), "kappa is 0, it must be a finite number above 0"),
        (("--dimension", "1"), "dimension is 1, it must be 2 or more"),
        (("--kappa", "1e-9"), "training samples: allowed are 4.."),
    ],
)
def test_data_that_cannot_be_drawn_are_one_line_and_make_no_store(fasttrain, given, message):
    outcome = fasttrain("sweep", "pattern-pairs", "--store", "s", *given)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert message in outcome.err
    assert not Path("s").exists()


def test_the_figure_has_the_dimensions_of_a_store_that_differ_in_nothing_else(fasttrain, tmp_path):
    file, store = tmp_path / "small.toml", tmp_path / "s"
    file.write_text(SMALL)

    def grids(*flags):
        outcome = fasttrain(
            "sweep", file, "--store", store, "--pack", "1", "--processes", "1", *flags
        )
        assert outcome.code == 0, outcome.err
        return all_setups(store)

    [alone] = grids()
    [drawing] = [d for d in drawn(alone, classify(alone)) if d.drawing.name == "dimensions"]
    assert "of one dimension: sweep --dimension" in drawing.missing
    grids("--dimension", "12")
    # Another width is another question.
    found = grids("--dimension", "24", "--width", "2")
    assert sorted(grid.dimensions["dimension"].nunique() for grid in found) == [1, 2, 2]
    wider = next(grid for grid in found if grid.dimensions["dimension"].nunique() == 2)
    # Three legs, two seeds, two dimensions, four sets.
    assert len(wider.dimensions) == 3 * 2 * 2 * 4
    [drawing] = [d for d in drawn(wider, classify(wider)) if d.drawing.name == "dimensions"]
    table = drawing.table
    assert table is not None
    assert set(table["dimension"]) == {6, 12} and set(table["path"]) == {"0.4", "4", "4>0.4"}
    titles = [ax.get_title() for ax in drawing.figure.axes]
    assert titles == ["mixed", "p-only", "q-only", "test"]
    one = table[(table["set"] == "p-only") & (table["path"] == "4") & (table["dimension"] == 12)]
    rows = wider.dimensions.query("set == 'p-only' and path == '4' and dimension == 12")
    assert one["mean"].item() == pytest.approx(1 - rows["accuracy"].mean())
    assert one["n"].item() == 2
