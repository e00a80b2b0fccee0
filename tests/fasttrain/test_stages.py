"""What stages compute: averages, batch-norm statistics, distances."""

import pickle

import pytest
import torch

from fasttrain.plan.config import load_config
from fasttrain.plan.stages import averages, predecessors, setup_sections
from fasttrain.plan.trees import build
from fasttrain.settings.knobs import Knobs
from fasttrain.store.store import Store
from fasttrain.store.tables import load_epochs
from fasttrain.training.angles import angle
from fasttrain.training.evaluate import reestimate_batch_norm_, score_in_eval_mode, score_test_set
from fasttrain.training.loop import train_epoch
from fasttrain.training.progress import Progress
from fasttrain.training.workbench import Workbench
from fasttrain_data import load as load_data
from fasttrain_kernels import NormReLUPool


def new_workbench(tiny, tmp_path) -> tuple[Workbench, list]:
    config = load_config(str(tiny))
    data = load_data("digits").subset(config.data.n_train, config.data.n_test)
    store = Store.open(tmp_path / "runs" / "tiny", create=True)
    workbench = Workbench(config, data, store, torch.device("cpu"), "fp32", {})
    return workbench, build(config, setup_sections(config, data, "fp32"))


def test_an_average_is_the_mean_of_the_checkpoints_of_the_continuing_run(fasttrain, tiny, tmp_path):
    assert fasttrain("sweep", tiny, "--pack", "1").code == 0
    workbench, stages = new_workbench(tiny, tmp_path)
    pretrain = stages[0]
    average = next(s for s in stages if s.parent is pretrain and s.k == 3)
    model = workbench.new_model(0)
    start = Progress.from_tensors(workbench.store.read_tensors(pretrain.id, "state.safetensors"))
    model.load_state_dict(start.model)
    optimizer = workbench.new_optimizer(model, 0, [pretrain.knobs])
    checkpoints = [[w.detach().clone() for w in model.sphere_parameters()]]
    for epoch in (3, 4):
        batches = workbench.train_loader(0).epoch(epoch)
        train_epoch(model, workbench.loss, optimizer, batches, "fp32", workbench.device)
        checkpoints.append([w.detach().clone() for w in model.sphere_parameters()])
    kept = Progress.from_tensors(workbench.store.read_tensors(average.id, "state.safetensors"))
    with torch.no_grad():
        for (name, weight), values in zip(
            model.named_sphere_parameters(), zip(*checkpoints, strict=True), strict=True
        ):
            # A running mean in fp32 rounds once per checkpoint.
            torch.testing.assert_close(kept.average[name], torch.stack(values).mean(0))
            weight.copy_(kept.average[name])
    batches = list(workbench.train_loader(0).epoch(5))
    in_train_mode = reestimate_batch_norm_(model, workbench.loss, batches, "fp32", workbench.device)
    # Scored with the statistics that it has from then on, as on the test set.
    train = score_in_eval_mode(model, workbench.loss, batches, "fp32", workbench.device)
    result = (workbench.store.summary(average.id) or {})["result"]
    assert result["train_accuracy"] == train.accuracy.item()
    assert result["train_loss"] == train.loss.item() != in_train_mode.loss.item()
    assert result["train_balanced_accuracy"] is None
    assert (
        result["test_accuracy"]
        == score_test_set(
            model, workbench.loss, workbench.test_loader, "fp32", workbench.device
        ).accuracy.item()
    )


def test_batch_norm_statistics_are_the_plain_mean_over_batches(tiny, tmp_path):
    workbench, _ = new_workbench(tiny, tmp_path)
    model, reference = workbench.new_model(0), workbench.new_model(0)
    batches = list(workbench.train_loader(0).epoch(0))
    assert [len(labels) for _, labels in batches] == [64, 64, 22]
    reestimate_batch_norm_(model, workbench.loss, batches, "fp32", workbench.device)
    norms = [m for m in reference.modules() if isinstance(m, NormReLUPool)]
    for norm in norms:
        norm.momentum = None
    for images, _ in batches:
        reference(images)
    for ours, theirs in zip(model.buffers(), reference.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert all(m.momentum == 0.1 for m in model.modules() if isinstance(m, NormReLUPool))


def test_every_seed_and_rate_is_its_own_stage_and_predecessors_are_those_of_other_grids(
    tiny, tmp_path
):
    _, stages = new_workbench(tiny, tmp_path)
    assert len({stage.id for stage in stages}) == len(stages)
    pretrain = stages[0]
    longest = averages(pretrain, [4])[0]
    assert [s.k for s in predecessors(longest)] == [3, 2, 1]
    assert {s.id for s in predecessors(longest)} >= {s.id for s in stages if s.k == 3} - {
        s.id for s in stages if s.plr != pretrain.plr
    }


def test_shorter_stages_are_made_once_and_stay_in_the_process(tiny, tmp_path):
    _, stages = new_workbench(tiny, tmp_path)
    longest = averages(stages[0], [4])[0]
    assert longest.id
    before = pickle.dumps(longest)
    first, second = (list(predecessors(longest)) for _ in range(2))
    assert len(first) == 3 and all(a is b for a, b in zip(first, second, strict=True))
    assert pickle.dumps(longest) == before
    sent = pickle.loads(before)
    assert sent.id == longest.id and list(predecessors(sent)) == first


def test_an_epoch_reads_nothing_from_the_device(tiny, tmp_path):
    """On the meta device there is nothing to read: any host read raises."""
    workbench, _ = new_workbench(tiny, tmp_path)
    workbench.device = torch.device("meta")
    model = workbench.new_model(0)
    optimizer = workbench.new_optimizer(model, 0, [Knobs(lr=0.1)])
    batches = [(torch.empty(8, 1, 8, 8, device="meta"), torch.empty(8, device="meta").long())] * 2
    totals = train_epoch(model, workbench.loss, optimizer, batches, "fp32", workbench.device)
    assert all(value.is_meta for value in totals)
    with pytest.raises(RuntimeError):
        totals.train_loss.item()


def test_distance_is_the_angle_from_the_start_of_the_stage(fasttrain, tiny, tmp_path):
    assert fasttrain("sweep", tiny, "--plr", "1e-2", "--k", "2").code == 0
    workbench, stages = new_workbench(tiny, tmp_path)
    pretrain, finetune = stages[0], stages[1]
    ends = {
        stage.id: Progress.from_tensors(
            workbench.store.read_tensors(stage.id, "state.safetensors")
        ).model
        for stage in (pretrain, finetune)
    }

    def between(a, b):
        return angle(*([state[name] for name in workbench.sphere_names] for state in (a, b)))

    wanted = [
        between(workbench.initial_state(0), ends[pretrain.id]),
        between(ends[pretrain.id], ends[finetune.id]),
    ]
    epochs = load_epochs(workbench.store.path)
    for stage, value in zip((pretrain, finetune), wanted, strict=True):
        series = epochs[epochs["stage"] == stage.id]["distance"]
        assert series.iloc[-1] == value > 0
        assert (series > 0).all()
