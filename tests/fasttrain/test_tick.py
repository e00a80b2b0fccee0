"""The study of tick features: its network, whose seeds what follows, batches again, averages."""

import dataclasses

import pandas as pd
import pytest
import torch

import fasttrain as ft
from fasttrain.analysis.regimes import classify
from fasttrain.analysis.setups import all_setups
from fasttrain.api.session import RunOptions, open_session
from fasttrain.errors import UsageError
from fasttrain.report.figures.sparsity import SPARSITY
from fasttrain.settings.networks.modules import LayerNormMLP, fold, unfold
from fasttrain.store.entries import STATE
from fasttrain.store.store import Store
from fasttrain_data.resident import ResidentLoader
from fasttrain_data.synthetic.tick import tick


def study(**keys):
    data = {"kind": "tick", "n_test": 100, "n_probe": 40, **keys.pop("data", {})}
    small = {"width": 8, "steps": 5, "epochs": 5, "finetune_epochs": 3, "evaluate_every": 2}
    small |= {"plr": [1e-2, 1e-1], "flr": [1e-3], "k": [], "seeds": 1, **keys}
    return ft.study("tick-demo", data=data, **small)


def workbench_of(path, **keys):
    config = study(**keys).config
    options = RunOptions(store=path, device="cpu")
    return open_session(config, options, name="tick", command="test").workbench


def test_each_layer_is_scale_invariant_and_the_head_frozen():
    torch.manual_seed(0)
    model = LayerNormMLP(1).double()
    images = torch.randn(20, 1, 16, 2, dtype=torch.float64)
    names = [name for name, _ in model.named_parameters()]
    assert names == ["layers.0.weight", "layers.1.weight", "head.weight"]
    assert [w.numel() for w in model.sphere_parameters()] == [1024, 1024]
    assert model.head.weight.norm().item() == pytest.approx(10, rel=1e-6)
    assert not model.head.weight.requires_grad and model.head.bias is None
    before = model(images)
    assert before.shape == (20, 1)
    for weight in model.sphere_parameters():
        with torch.no_grad():
            weight *= 7
        torch.testing.assert_close(model(images), before, rtol=1e-5, atol=1e-5)
    # As layer norm and linear layers say it.
    x = images.flatten(1)
    for weight in model.sphere_parameters():
        x = x @ weight.T
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-7).sqrt()
        x = x.clamp(min=0)
    torch.testing.assert_close(model(images), x @ model.head.weight.T)


def test_a_pack_is_its_models():
    torch.manual_seed(1)
    models = [LayerNormMLP(1, width=8).double() for _ in range(3)]
    pack = LayerNormMLP(1, width=8, num_models=3).double()
    states = [model.state_dict() for model in models]
    pack.load_state_dict(fold(states))
    images = torch.randn(10, 1, 16, 2, dtype=torch.float64)
    torch.testing.assert_close(pack(images), torch.stack([model(images) for model in models]))
    for state, again in zip(states, unfold(pack.state_dict(), 3), strict=True):
        assert all(torch.equal(value, again[name]) for name, value in state.items())


def test_what_follows_the_data_and_what_the_run(tmp_path):
    workbench = workbench_of(tmp_path / "s", data={"draws": 2, "seed": 5}, seeds=4)
    workbenches = [workbench.of_seed(seed) for seed in range(4)]
    expected = [tick(5 + seed % 2, n_test=100, n_probe=40).digest for seed in range(4)]
    assert [found.data.digest for found in workbenches] == expected
    states = [found.initial_state(seed) for seed, found in enumerate(workbenches)]
    loaders = [found.passes(seed) for seed, found in enumerate(workbenches)]
    orders = [found.order(0).tolist() for found in loaders if isinstance(found, ResidentLoader)]
    for a in range(4):
        for b in range(a):
            same_data, same_run = a % 2 == b % 2, a // 2 == b // 2
            heads = states[a]["head.weight"], states[b]["head.weight"]
            bodies = states[a]["layers.0.weight"], states[b]["layers.0.weight"]
            assert torch.equal(*heads) == same_data
            assert torch.equal(*bodies) == same_run
            assert (orders[a] == orders[b]) == same_run
    total = sum(float(states[0][name].square().sum()) for name in workbench.sphere_names)
    assert total == pytest.approx(1.0, rel=1e-5)


def test_runs_of_several_draws_are_those_of_each_alone(tmp_path):
    both = ft.sweep(study(data={"draws": 2}, seeds=4), store=tmp_path / "both", pack=2)
    names = ["kind", "plr", "train_loss", "test_loss", "test_accuracy"]
    for draw in (0, 1):
        alone = ft.sweep(study(data={"seed": draw}, seeds=2), store=tmp_path / f"{draw}", pack=2)
        rows = both.stages[both.stages["seed"] % 2 == draw]
        expected = alone.stages[names].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows[names].reset_index(drop=True), expected)


@pytest.mark.parametrize("order", ["repeat", "continue"])
def test_fine_tuning_goes_through_the_same_batches_again_if_asked_to(order, tmp_path):
    # At such rates nothing moves, and the loss of an epoch says which batches it had.
    keys = {"plr": [1e-15], "flr": [1e-15], "order": order}
    results = ft.sweep(study(**keys), store=tmp_path / "s", pack=1)
    losses = results.epochs.groupby("kind")["train_loss"].apply(list)
    assert len(set(losses["pretrain"])) == 5
    assert (losses["finetune"] == losses["pretrain"][:3]) == (order == "repeat")
    assert set(losses["finetune"]).isdisjoint(losses["pretrain"]) == (order == "continue")


def test_averages_are_of_the_last_checkpoints_of_pre_training(tmp_path):
    keys = {"k": [1, 3], "averaged": "last"}
    results = ft.sweep(study(**keys), store=tmp_path / "s", pack=2)
    stages = results.stages
    # Beginnings of legs are no rows, and everything is one set-up.
    assert stages["setup"].nunique() == 1
    counts = stages.groupby("kind").size().to_dict()
    assert counts == {"pretrain": 2, "finetune": 2, "swa": 4}
    assert (stages.loc[stages["kind"] != "finetune", "epoch"] == 5).all()
    ends = []
    for epochs in (3, 4, 5):
        path = tmp_path / f"{epochs}"
        alone = ft.sweep(study(flr=[], epochs=epochs), store=path, pack=2).stages
        ends.append(
            {plr: state(path, stage, "model.") for plr, stage in alone[["plr", "stage"]].to_numpy()}
        )
    for row in stages[stages["kind"] == "swa"].to_dict("records"):
        used = [end[row["plr"]] for end in ends[-int(row["k"]) :]]
        for name, value in state(tmp_path / "s", row["stage"], "average.").items():
            mean = torch.stack([weights[name] for weights in used]).mean(dim=0)
            torch.testing.assert_close(value, mean, rtol=1e-4, atol=1e-6)


def state(store, stage, prefix):
    tensors = Store.open(store, create=False).read_tensors(stage, STATE)
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def test_other_counts_of_last_checkpoints_keep_what_is_finished(tmp_path):
    first = ft.sweep(study(k=[2], averaged="last"), store=tmp_path / "s", pack=2).stages
    more = ft.sweep(study(k=[2, 4], averaged="last"), store=tmp_path / "s", pack=2).stages
    assert set(first["stage"]) < set(more["stage"])
    both = first.merge(more, on="stage", suffixes=("", "_again"))
    assert (both["time_s"] == both["time_s_again"]).all()


def test_features_are_sorted_within_a_run(tmp_path):
    study_ = study(seeds=2, k=[2], averaged="last", epochs=40)
    results = ft.sweep(study_, store=tmp_path / "s", pack=2)
    results.figure("sparsity")
    [grid] = all_setups(tmp_path / "s")
    found = SPARSITY.table(grid, classify(grid))
    last = results.sets[results.sets["set"] != "test"]
    last = last[last["epoch"] == last.groupby("stage")["epoch"].transform("max")]
    about = results.stages[["stage", "kind", "plr", "flr"]]
    rows = last.merge(about[about["kind"] == "finetune"], on="stage")
    best = rows.groupby(["plr", "stage"])["accuracy"].max().groupby("plr").mean()
    drawn = found[(found["series"] == "FLR 0.001") & (found["rank"] == 1)]
    assert drawn.set_index("plr")["mean"].to_dict() == pytest.approx(best.to_dict())
    assert sorted(found["rank"].unique()) == list(range(1, 17))
    means = found.pivot(index=["series", "plr"], columns="rank", values="mean")
    assert (means.diff(axis=1).iloc[:, 1:] <= 1e-12).all(axis=None)


def test_frequencies_are_of_pictures_alone_and_paths_have_the_points_asked_for(tmp_path):
    ft.sweep(study(flr=[1e-3, 1e-2]), store=tmp_path / "s", pack=2)
    results = ft.analyse(tmp_path / "s", only=["geometry", "features"], points=11)
    tables = ft.load_analyses(tmp_path / "s")
    assert tables["bands"].empty
    assert tables["paths"].groupby("stage_a").size().tolist() == [11, 11]
    assert results.stages["kind"].nunique() == 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data": {"margin": 1.5}}, "data.margin = 1.5"),
        ({"data": {"draws": 0}}, "data.draws = 0"),
        ({"data": {"n_probe": -1}}, "data.n_probe = -1"),
        ({"data": {"sede": 1}}, "data.sede: no such key.*seed"),
        ({"k": [6], "averaged": "last"}, "grid.k = 6.*pre-training has 5 epochs"),
        ({"k": [2], "averaged": "last", "until_loss": 0.1}, "training.until_loss"),
        ({"norm": "layr"}, "network.norm = 'layr'"),
        ({"norm": "layer", "form": "practical"}, "allowed here is scale-invariant"),
    ],
)
def test_bad_values_are_named(keys, message):
    with pytest.raises(UsageError, match=message):
        study(**keys)


def test_what_needs_pictures_is_refused(tmp_path):
    with pytest.raises(UsageError, match="tick holds no images"):
        ft.sweep(study(data={"flip": True}), store=tmp_path / "s")


def test_the_published_rates():
    config = ft.study("tick").config
    assert len(config.grid.plr) == 23 and len(config.grid.flr) == 11
    assert config.grid.flr == config.grid.plr[:11]
    assert dataclasses.replace(config.grid, seeds=1).k == (2, 5, 10, 20, 50)
