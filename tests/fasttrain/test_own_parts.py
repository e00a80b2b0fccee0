"""A user's data, network and optimiser, through the whole program."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import fasttrain as package
from fasttrain.errors import UsageError
from fasttrain.plan.config import Config, RunOptions, check, load_config
from fasttrain.plan.stages import setup_sections
from fasttrain.plan.trees import build
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.networks.kinds import ConvNet, CustomNetwork
from fasttrain.settings.optimizers.kinds import CustomOptimizer, Sphere
from fasttrain.store.store import Store
from fasttrain.training import pack
from fasttrain.training.run_pack import run_pack
from fasttrain.training.workbench import open_workbench, trained

from .conftest import contents, forget_own_parts
from .own_parts import SMALL, TOML, PlainNet

CPU = torch.device("cpu")


def workbench_of(config: Config, folder: Path, store: str = "store"):
    return open_workbench(config, RunOptions(), folder / store, CPU, "fp32", {})


def ids(workbench) -> list[str]:
    return [
        s.id
        for s in build(workbench.config, setup_sections(workbench.config, workbench.data, "fp32"))
    ]


def run(workbench) -> None:
    """Every stage of the grid, one after the other, in this process."""
    for stage in build(workbench.config, setup_sections(workbench.config, workbench.data, "fp32")):
        run_pack([stage], workbench, lambda *_: None)


def test_own_parts_train_by_the_whole_program(fasttrain, own):
    outcome = fasttrain("sweep", "own.toml", "--processes", "2", "--store", "store")
    assert outcome.code == 0, outcome.err
    assert "train_images: (N, H, W) as gray" in outcome.out
    assert "network: 1 of 5 trained tensors have recorded norms: conv.weight" in outcome.out
    table = package.load("store")
    assert len(table) == 6 and set(table["state"]) <= {"done", "at-chance"}
    assert set(table["model"]) == {"own:Net"} and table["width"].isna().all()
    assert set(table["dataset"]) == {"stripes"} and set(table["rate"]) == {"raw"}
    assert table["distance"].notna().any() and table["grad_norm"].dropna().gt(0).all()
    store = Store.open(Path("store"), create=False)
    about = store.description(store.stages()[0])
    assert about["setup"]["network"]["options"] == {"width": 6}
    tensors = store.read_tensors(table["stage"][0], "state.safetensors")
    assert {"model.conv.weight", "model.head.bias"} <= set(tensors)
    # Workers find the parts as this process does.
    here = workbench_of(load_config("own.toml"), own, "here")
    run(here)
    assert contents(own / "here") == contents(own / "store")
    assert fasttrain("analyse", "store", "--only", "norms", "sharpness", "features").code == 0
    analyses = package.load_analyses("store")
    assert len(analyses["sharpness"]) and len(analyses["norms"]) and len(analyses["bands"])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_stopped_anywhere_it_ends_in_the_same_bits(own, monkeypatch, dropout):
    """Momentum, counters and what is drawn: all of it goes on."""
    text = TOML.replace("width = 6", f"width = 6\ndropout = {dropout}")
    (own / "own.toml").write_text(text)
    config = load_config("own.toml")
    run(workbench_of(config, own, "whole"))
    real, calls = pack.Pack.enqueue, []

    def stopping(self, epoch, **how):
        calls.append(epoch)
        if len(calls) % 2 == 0:
            raise KeyboardInterrupt
        return real(self, epoch, **how)

    monkeypatch.setattr(pack.Pack, "enqueue", stopping)
    num_stops = 0
    while True:
        try:
            # As a new process: nothing is remembered, and torch's generator is where it is.
            torch.manual_seed(1 + num_stops)
            run(workbench_of(config, own, "parts"))
            break
        except KeyboardInterrupt:
            num_stops += 1
    assert num_stops > 5
    assert contents(own / "whole") == contents(own / "parts")


def test_a_network_that_cannot_fold_trains_one_by_one(own):
    workbench = workbench_of(load_config("own.toml"), own)
    assert workbench.at_most(8) == 1
    with pytest.raises(AssertionError, match="cannot fold"):
        workbench.new_model(0, 2)
    folded = workbench_of(Config(optimizer=CustomOptimizer(factory="own:Lion")), own)
    assert folded.at_most(8) == 8


def test_models_of_a_pack_take_the_steps_that_they_take_alone(own):
    config = dataclasses.replace(
        Config(network=ConvNet(width=2, form="practical")),
        optimizer=CustomOptimizer(factory="torch.optim:RMSprop", options={"momentum": 0.9}),
    )
    workbench = workbench_of(config, own)
    together = pack.Pack(workbench, 0, [Knobs(lr=1e-3), Knobs(lr=1e-2)], None)
    found = together.train(0, tested=False)
    for model, lr in enumerate((1e-3, 1e-2)):
        alone = pack.Pack(workbench, 0, [Knobs(lr=lr)], None).train(0, tested=False)
        for mine, other in (
            (found.states[model], alone.states[0]),
            (found.optimizers[model], alone.optimizers[0]),
        ):
            assert mine.keys() == other.keys()
            for name, value in mine.items():
                torch.testing.assert_close(value, other[name], rtol=2e-3, atol=2e-4)


def test_functions_stand_for_their_names():
    from .own_parts import PlainNet as same

    name = f"{PlainNet.__module__}:PlainNet"
    assert CustomNetwork(factory=same).factory == name
    config = check({"network": PlainNet, "optimizer": {"kind": "adam"}}, "here")
    assert config.network == CustomNetwork(factory=name)
    assert check(config, "here") == config
    with pytest.raises(UsageError, match="at the top of a module"):
        check({"network": lambda shape, outputs: None}, "here")


def test_what_lies_on_the_sphere_is_named_or_found(own):
    for factory in ("own:Net", "own:Unnamed"):
        network = CustomNetwork(factory=factory)
        workbench = workbench_of(Config(network=network, optimizer=Sphere(free_lr=0.1)), own)
        assert workbench.sphere_names == ["conv.weight"]
        assert workbench.free_names == ["norm.weight", "norm.bias", "head.weight", "head.bias"]
        parts = trained(workbench.network(0))
        every = {n for n, p in workbench.network(0).net.named_parameters() if p.requires_grad}
        assert {name for name, _ in parts.all} == every


def test_a_change_of_the_source_is_another_identity_and_said(fasttrain, own):
    workbench = workbench_of(load_config("own.toml"), own)
    before = ids(workbench)
    Store.open(own / "store", create=True)
    run(workbench)
    (own / "own.py").write_text(SMALL + "\n# A remark.\n")
    forget_own_parts()
    assert not set(ids(workbench_of(load_config("own.toml"), own))) & set(before)
    outcome = fasttrain("sweep", "own.toml", "--store", "store", "--dry-run", "--pack", "1")
    assert outcome.code == 0
    for part, name in (("network", "Net"), ("data", "stripes"), ("optimizer", "Lion")):
        assert f"{part}: the source of own:{name} has changed: 6 stages in store" in outcome.out
    refused = fasttrain("analyse", "store")
    assert refused.code == 2 and "its source has changed since" in refused.err
    (own / "own.py").write_text(SMALL)
    forget_own_parts()
    assert ids(workbench_of(load_config("own.toml"), own)) == before
    again = fasttrain("sweep", "own.toml", "--store", "store", "--dry-run", "--pack", "1")
    assert "has changed" not in again.out and "nothing left to run" in again.out


def test_a_source_that_changes_while_a_sweep_runs_stops_its_workers(own):
    config = load_config("own.toml")
    record = workbench_of(config, own).provenance
    (own / "own.py").write_text(SMALL + "\n")
    with pytest.raises(UsageError, match="source was changed while the sweep ran"):
        open_workbench(config, RunOptions(), own / "store", CPU, "fp32", record)


def test_options_are_part_of_identity_and_the_radius_of_the_sphere(own):
    def of(**keys):
        return ids(
            workbench_of(
                Config(
                    network=CustomNetwork(factory="own:Net", **keys), optimizer=Sphere(free_lr=0.1)
                ),
                own,
            )
        )

    assert of() == of(options={}) != of(options={"width": 5})
    assert of() != of(radius=3.0)


def test_probe_sets_of_a_factory(own):
    text = TOML.replace('"own:stripes"', '"own:stripes"\noptions = { probe = true }')
    (own / "own.toml").write_text(text)
    data = workbench_of(load_config("own.toml"), own).data
    assert list(data.probes) == ["turned"]


def test_data_of_a_function_are_inspected_and_written(fasttrain, own):
    outcome = fasttrain("data", "inspect", "own:stripes")
    assert outcome.code == 0 and "train_images: (N, H, W) as gray" in outcome.out
    assert fasttrain("data", "write", "own:stripes", "all.npz").code == 0
    [digest] = [line for line in outcome.out.splitlines() if line.startswith("digest")]
    assert digest in fasttrain("data", "inspect", "all.npz").out
    wrong = fasttrain("data", "inspect", "own:stirpes")
    assert wrong.code == 2 and "did you mean 'stripes'?" in wrong.err


def test_a_report_gives_the_command_of_a_cell_of_its_file(own):
    from fasttrain.report.page.cell_command import NoCommand, train_command
    from fasttrain.store.tables import finished

    Store.open(own / "store", create=True)
    run(workbench_of(load_config("own.toml"), own))
    configuration = json.loads(json.dumps(finished("store")[0].configuration()))
    command = train_command(configuration, ["fasttrain sweep own.toml --store store"])
    assert command.split()[:4] == ["fasttrain", "train", "own.toml", "--store"]
    with pytest.raises(NoCommand, match="another network now than 'own:Net'"):
        train_command(configuration, ["fasttrain sweep digits"])


def test_a_network_without_anything_scale_invariant_has_no_sphere(own):
    network = CustomNetwork(factory=PlainNet)
    with pytest.raises(UsageError, match="no parameter is scale-invariant"):
        workbench_of(Config(network=network), own)
    plain = workbench_of(
        Config(network=network, optimizer=CustomOptimizer(factory="own:Lion")), own
    )
    assert plain.sphere_names == ["linear.weight"] and plain.free_names == ["linear.bias"]
