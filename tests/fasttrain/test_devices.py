"""Devices by name, on machines with no, one and four GPUs: torch.cuda is told what it would find.

What torch itself makes of a device (`set_device` refuses one without an index) is torch's own code.
"""

import pytest
import torch

from fasttrain.errors import EnvironmentProblem, UsageError
from fasttrain.execution import execution
from fasttrain.execution import pack_size as tuning
from fasttrain.execution.measured import Timing
from fasttrain.execution.packing import largest_wave
from fasttrain.machine.precision import device_name, resolve_device, resolve_precision
from fasttrain.machine.provenance import provenance
from fasttrain.plan.config import Config, GridConfig, RunOptions
from fasttrain.plan.trees import build
from fasttrain.training import loading
from fasttrain.training import workbench as module

FREE_BYTES = 1000


class Machine:
    """GPUs of a machine that has none; `current` is the one that kernels would be launched on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.current = 0
        for name, function in {
            "is_available": lambda: count > 0,
            "device_count": lambda: count,
            "is_bf16_supported": lambda including_emulation: self.current % 2 == 0,
            "get_device_name": lambda device: f"GPU {self.index(device)}",
            "mem_get_info": lambda device: (FREE_BYTES, 2 * FREE_BYTES),
            "device": self.as_current(),
        }.items():
            monkeypatch.setattr(torch.cuda, name, function)
        monkeypatch.setattr(torch._C, "_cuda_setDevice", self.set_device, raising=False)

    def set_device(self, index: int) -> None:
        self.current = index

    def index(self, device: torch.device) -> int:
        assert device.index is not None
        return device.index

    def as_current(self) -> type:
        """In place of torch.cuda.device, a context manager: a class here too, as torch asks."""
        machine = self

        class AsCurrent:
            def __init__(self, device: torch.device) -> None:
                self.index = machine.index(device)

            def __enter__(self) -> None:
                self.before, machine.current = machine.current, self.index

            def __exit__(self, *_: object) -> None:
                machine.current = self.before

        return AsCurrent


@pytest.fixture
def machine(monkeypatch):
    return lambda count: Machine(monkeypatch, count)


ONE = {"auto": 0, "cuda": 0, "cuda:0": 0}
FOUND = [(1, name, index) for name, index in ONE.items()]
FOUND += [(4, name, index) for name, index in (ONE | {"cuda:1": 1, "cuda:3": 3}).items()]


@pytest.mark.parametrize(("count", "name", "index"), FOUND)
def test_a_gpu_has_an_index_and_torch_takes_it(machine, count, name, index):
    gpus = machine(count)
    device = resolve_device(name)
    assert device == torch.device("cuda", index)
    torch.cuda.set_device(device)
    assert gpus.current == index
    assert device_name(device) == f"GPU {index}"
    assert provenance(device, "fp32", "")["device"] == f"GPU {index}"


@pytest.mark.parametrize("count", [0, 1, 4])
def test_the_cpu_is_the_cpu(machine, count):
    machine(count)
    assert resolve_device("cpu") == torch.device("cpu")
    if count == 0:
        assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize(
    "name", ["", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:٣", "cuda:1 ", "mps"]
)
def test_other_names_are_refused(machine, count, name):
    machine(count)
    with pytest.raises(UsageError, match="allowed are auto, cpu, cuda, cuda:0"):
        resolve_device(name)


@pytest.mark.parametrize(("count", "name"), [(0, "cuda"), (1, "cuda:1"), (4, "cuda:4")])
def test_gpus_that_the_machine_lacks_are_named(machine, count, name):
    machine(count)
    with pytest.raises(EnvironmentProblem, match=f"--device {name}: this machine has {count} CUDA"):
        resolve_device(name)


@pytest.mark.parametrize(("name", "precision"), [("cuda:2", "bf16"), ("cuda:3", "fp32")])
def test_arithmetic_is_that_of_the_device_named(machine, name, precision):
    gpus = machine(4)
    assert resolve_precision("auto", resolve_device(name)) == precision
    assert gpus.current == 0


@pytest.mark.parametrize(("count", "name", "index"), FOUND)
def test_a_workbench_makes_its_device_the_current_one(
    machine, monkeypatch, tmp_path, count, name, index
):
    gpus = machine(count)
    loaders = []
    monkeypatch.setattr(module, "open_loader", lambda *_, device, **__: loaders.append(device))
    device = resolve_device(name)
    module.open_workbench(Config(), RunOptions(device=name), tmp_path, device, "fp32", {})
    assert gpus.current == index
    assert loaders == [torch.device("cuda", index)]


@pytest.mark.parametrize(
    ("count", "name", "processes", "expected"),
    [
        (1, "auto", None, [0]),
        (1, "cuda:0", 3, [0, 0, 0]),
        (4, "auto", None, [0, 1, 2, 3]),
        (4, "cuda", None, [0, 1, 2, 3]),
        (4, "cuda", 6, [0, 1, 2, 3, 0, 1]),
        (4, "cuda:0", None, [0]),
        (4, "cuda:2", None, [2]),
        (4, "cuda:2", 4, [2, 2, 2, 2]),
    ],
)
def test_processes_take_the_gpus_in_turn_and_share_their_memory(
    machine, monkeypatch, tmp_path, count, name, processes, expected
):
    machine(count)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for opener in (module, loading):
        monkeypatch.setattr(opener, "open_loader", lambda *_, **__: range(1))
    # What two models take, of the half of a GPU's memory that packs may have.
    share = max(expected.count(index) for index in expected)
    monkeypatch.setattr(
        tuning, "measure", lambda _, size: Timing(size, size, 1.0, FREE_BYTES * size // 4 // share)
    )

    def none(workbench, size):
        raise RuntimeError("steps that cannot be captured have no streams")

    monkeypatch.setattr(tuning, "measure_streams", none)
    options = RunOptions(device=name, processes=processes)
    device = resolve_device(name)
    config = Config(grid=GridConfig(plr=tuple(10**-x for x in range(1, 9)), flr=(), k=()))
    workbench = module.open_workbench(config, options, tmp_path, device, "fp32", {})
    stages = build(config, {}, None)
    assert largest_wave(stages) == 8
    chosen = execution.plan_execution(stages, workbench, options)
    assert chosen.processes == len(expected)
    assert [timing.size for timing in chosen.choices[""].timings] == [1, 2]
    if len(expected) > 1:
        workers = chosen.engine(workbench, options)
        devices = [make.args[3] for make in workers.make_workbenches]
        assert devices == [torch.device("cuda", index) for index in expected]
