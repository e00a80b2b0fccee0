"""What a GPU is spared, shown without one: uploads, casts, reads, copies, and broken devices."""

import signal

import pytest
import torch

from fasttrain.errors import EnvironmentProblem
from fasttrain.execution import measured
from fasttrain.execution.engines import local
from fasttrain.machine import memory, precision
from fasttrain.plan.config import Config, RunOptions, TrainingConfig
from fasttrain.settings.data.named import Named
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.networks.kinds import ConvNet, ResNet18
from fasttrain.settings.optimizers import fused as fused_module
from fasttrain.training import snapshot
from fasttrain.training.angles import angle
from fasttrain.training.captured import CapturedEpochs
from fasttrain.training.evaluate import BatchSums, reestimate_batch_norm_
from fasttrain.training.loading import batch_dtype
from fasttrain.training.pack import Pack
from fasttrain.training.workbench import Workbench, open_workbench
from fasttrain_data import loader as loader_module
from fasttrain_kernels import NormReLUPool

from .capturable import recorded

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)
KNOBS = [Knobs(lr=1e-3), Knobs(lr=3e-3)]


def workbench_of(folder, network=None) -> Workbench:
    config = Config(
        data=Named(kind="digits", n_train=150, n_test=20),
        network=network or ConvNet(width=2, radius=5.0),
        training=TrainingConfig(batch_size=64),
    )
    return open_workbench(config, RunOptions(), folder / "store", CPU, "fp32", {})


@pytest.mark.parametrize("form", ["scale-invariant", "practical"])
def test_sums_of_batch_statistics_are_the_mean_and_are_never_read(tmp_path, monkeypatch, form):
    """As on a GPU, where normalisation is torch's; the last batch is a short one."""
    monkeypatch.setattr(NormReLUPool, "fused", lambda self, input: False)
    workbench = workbench_of(tmp_path, ResNet18(width=2, form=form))
    model, other = workbench.new_model(0), workbench.new_model(0)
    batches = list(workbench.train_loader(0).epoch(0))
    assert len(batches[-1][1]) < len(batches[0][1])
    reestimate_batch_norm_(model, workbench.loss, batches, "fp32", CPU)
    norms = [module for module in other.modules() if isinstance(module, NormReLUPool)]
    for norm in norms:
        norm.momentum = 1.0
    sums = BatchSums(norms)

    def estimate() -> None:
        with torch.no_grad():
            for images, _ in sums.over(batches):
                other(images)
            sums.divide_()

    assert recorded(estimate)
    for (name, mine), theirs in zip(model.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-6, msg=name)


def test_what_is_known_of_an_epoch_is_read_and_nothing_else(tmp_path, monkeypatch):
    workbench = workbench_of(tmp_path)
    opened = []
    models = snapshot.Snapshot.models
    monkeypatch.setattr(
        snapshot.Snapshot, "models", lambda self: opened.append(self) or models(self)
    )
    names, start = workbench.sphere_names, workbench.initial_state(0)
    starts = [[start[name] for name in names]] * 2
    pack = Pack(workbench, 0, KNOBS, None, starts=starts)
    first, second = (pack.train(epoch, tested=False) for epoch in range(2))
    assert not opened
    # What is kept of an epoch is not what the next one leaves.
    before = {name: value.clone() for name, value in first.states[1].items()}
    assert opened and any(
        not torch.equal(value, second.states[1][name]) for name, value in before.items()
    )
    pack.train(2, tested=False)
    assert all(torch.equal(value, first.states[1][name]) for name, value in before.items())
    for epoch in (first, second):
        for model, state in enumerate(epoch.states):
            expected = angle(starts[model], [state[name] for name in names])
            assert float(epoch.moved[model]) == expected > 0


def test_without_a_start_nothing_has_moved(tmp_path):
    assert Pack(workbench_of(tmp_path), 0, KNOBS, None).train(0, tested=False).moved.isnan().all()


def test_the_training_set_is_brought_to_the_device_once(tmp_path):
    workbench = workbench_of(tmp_path)
    first, second = workbench.passes(0), workbench.passes(1)
    assert first.settings.seed != second.settings.seed
    assert first._images is second._images is workbench.unaugmented(1)._images


@pytest.mark.parametrize(
    ("device", "arithmetic", "expected"),
    [
        (CPU, "bf16", torch.float32),
        (CUDA, "fp32", torch.float32),
        (CUDA, "bf16", torch.bfloat16),
    ],
)
def test_batches_are_of_the_type_that_the_network_takes(device, arithmetic, expected):
    assert batch_dtype(Config(), device, arithmetic) == expected


def test_rates_are_fp32_where_kernels_are(monkeypatch):
    made = []
    monkeypatch.setattr(torch, "tensor", lambda values, **options: made.append(options["dtype"]))
    for device in (CPU, CUDA):
        weight = type("Weight", (), {"device": device, "dtype": torch.float32})()
        trained = type("Trained", (), {"sphere": [("weight", weight)]})()
        fused_module.rates_of(KNOBS, trained)
    assert made == [torch.float64, torch.float32]


def segment(device, pool, total, allocated):
    """Memory that torch has reserved, as its snapshot has it."""
    sizes = {"total_size": total, "allocated_size": allocated}
    return {"device": device, "segment_pool_id": pool, **sizes}


@pytest.mark.parametrize("device", [CUDA, torch.device("cuda")])
def test_what_torch_keeps_is_free_but_for_pools_of_graphs(monkeypatch, device):
    reserved = [
        segment(0, (0, 0), 50, 30),
        segment(0, (0, 0), 20, 0),
        segment(0, (0, 1), 400, 7),
        segment(1, (0, 0), 800, 0),
    ]
    for name, value in (
        ("mem_get_info", (100, 1000)),
        ("get_allocator_backend", "native"),
        ("current_device", 0),
        ("memory_snapshot", reserved),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    assert loader_module.free_bytes(device) == memory.free_bytes(device) == 140


def test_what_another_allocator_keeps_is_free(monkeypatch):
    """It has no pools, and refuses a snapshot."""
    for name, value in (
        ("mem_get_info", (100, 1000)),
        ("get_allocator_backend", "cudaMallocAsync"),
        ("memory_reserved", 70),
        ("memory_allocated", 30),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    assert loader_module.free_bytes(CUDA) == 140


def test_cudnn_takes_the_fastest_of_the_deterministic_algorithms():
    precision.set_exact_arithmetic()
    assert torch.backends.cudnn.deterministic and torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32


def test_packs_are_measured_as_they_train(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "WINDOW_S", 0.01)
    replays = []

    def capture(step, stream):
        return lambda: (replays.append(1), step())

    monkeypatch.setattr(
        measured,
        "captured",
        lambda workbench, model, optimizer, loader: CapturedEpochs(
            model, workbench.loss, optimizer, loader, "fp32", CPU, capture
        ),
    )
    workbench = workbench_of(tmp_path)
    timing = measured.measure(workbench, 2)
    assert 0 < timing.step_s < 10 and len(replays) >= 4 * workbench.steps_per_epoch


class Fails:
    """A task in which a kernel of the device fails."""

    def run(self, workbench, report) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


class Passes:
    def run(self, workbench, report) -> None: ...


class Broken:
    """A workbench whose device answers no more."""

    device = torch.device("cuda", 0)


def broken() -> Broken:
    """Made in the worker: its device does not answer."""

    def synchronize(device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    torch.cuda.synchronize = synchronize
    return Broken()


def test_a_worker_whose_device_answers_no_more_is_replaced():
    with local.Workers([broken], 1) as engine:
        before = engine.workers[0].process.pid
        task = Fails()
        engine.start(task, "")
        outcome = engine.wait(lambda *_: None)
        assert outcome.task is task
        assert "an illegal memory access" in (outcome.error or "")
        assert engine.workers[0].process.pid != before
        # What fails without harm to the device keeps its worker.
        after = engine.workers[0].process.pid
        engine.start(Passes(), "")
        assert engine.wait(lambda *_: None).error is None
        assert engine.workers[0].process.pid == after
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def test_a_process_without_a_device_ends_and_says_so(monkeypatch):
    engine = local.InProcess(Broken())  # type: ignore[arg-type]
    engine.start(Fails(), "")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert "an illegal memory access" in (engine.wait(lambda *_: None).error or "")

    def synchronize(device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    engine.start(Fails(), "")
    with pytest.raises(
        EnvironmentProblem, match="cuda:0 no longer answers after RuntimeError: CUDA"
    ):
        engine.wait(lambda *_: None)
