"""Two processes that train together: what they find, for `test_sharded.py` to compare with one.

`python -m tests.kernels.rank_cases RANK SIZE FOLDER` joins the processes of a folder, and writes
what a rank has found there.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from fasttrain_kernels import FusedSGD, SphereSGD

STEPS = 3

MAKERS = {
    "joint": lambda p: SphereSGD(p, elr=0.01, momentum=0.9, nesterov=True, radius=5.0),
    "joint, tensors": lambda p: SphereSGD(p, elr=0.01, groups="tensor"),
    "group": lambda p: SphereSGD(p, elr=0.01, momentum=0.9, scope="group"),
    "group, tensors": lambda p: SphereSGD(p, elr=0.01, scope="group", groups="tensor"),
    "plain": lambda p: FusedSGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "decay as a tensor": lambda p: FusedSGD(p, 0.1, weight_decay=torch.tensor([0.01])),
    "dampening": lambda p: FusedSGD(p, 0.1, momentum=0.9, dampening=0.5, maximize=True),
    "mixed": lambda p: SphereSGD(
        [{"params": p[:3]}, {"params": p[3:], "sphere": False, "lr": 0.1}], elr=0.01
    ),
}


def network() -> nn.Module:
    """With dimensions that two do not divide, and a row that only one process has."""
    torch.manual_seed(0)
    layers = nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1)
    return nn.Sequential(*layers).double()


def batches(rank: int | None = None) -> list[Tensor]:
    """One for every step: of all processes, or of one."""
    generator = torch.Generator().manual_seed(1)
    found = [torch.randn(8, 6, dtype=torch.float64, generator=generator) for _ in range(STEPS)]
    return found if rank is None else [batch.chunk(2)[rank] for batch in found]


def train(model: nn.Module, optimizer: Any, inputs: list[Tensor]) -> dict[str, Any]:
    for batch in inputs:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
    return found_of(model, optimizer)


def found_of(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    statistics = optimizer.statistics()
    totals = optimizer.totals()
    return {
        "params": [whole(p) for p in model.parameters()],
        "momentum": [
            whole(optimizer.state[p]["momentum_buffer"])
            for p in model.parameters()
            if "momentum_buffer" in optimizer.state.get(p, {})
        ],
        "statistics": statistics.to_dict(),
        "totals": [float(totals.norm), float(totals.grad_norm)],
    }


def whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


def sharded() -> nn.Module:
    model = network()
    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
    return fully_shard(model, mesh=mesh)


def replicated(shape: tuple[int, int], rank: int) -> dict[str, Any]:
    """HSDP: split over one dimension of a mesh, the same over the other."""
    mesh = dist.init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard"))
    model = fully_shard(network(), mesh=mesh)
    optimizer = MAKERS["joint"](list(model.parameters()))
    return train(model, optimizer, batches(rank))


def strided() -> None:
    """Tensor parallelism below FSDP: rows of a part come from several places."""
    mesh = dist.init_device_mesh("cpu", (1, 2), mesh_dim_names=("data", "tensor"))
    model = parallelize_module(network(), mesh["tensor"], {"0": ColwiseParallel()})
    FusedSGD(list(fully_shard(model, mesh=mesh["data"]).parameters())[:2], 0.1)


def reductions(model: nn.Module, rank: int) -> list[int]:
    """Numbers that every all-reduce of a step adds up, of several param groups."""
    p = list(model.parameters())
    groups = [{"params": p[:2]}, {"params": p[2:4]}, {"params": p[4:], "sphere": False, "lr": 0.1}]
    optimizer = SphereSGD(groups, elr=0.01)
    model(batches(rank)[0]).square().mean().backward()
    found, all_reduce = [], dist.all_reduce

    def counted(tensor: Tensor, *given: Any, **options: Any) -> Any:
        found.append(tensor.numel())
        return all_reduce(tensor, *given, **options)

    dist.all_reduce = counted
    try:
        optimizer.step()
    finally:
        dist.all_reduce = all_reduce
    return found


def outcome(attempt: Any) -> str:
    try:
        attempt()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "fine"


def moved_by_making_a_state(maker: Any) -> bool:
    model = sharded()
    with torch.no_grad():
        next(model.parameters()).mul_(2.0)
    optimizer = maker(list(model.parameters()))
    before = [whole(p) for p in model.parameters()]
    get_optimizer_state_dict(model, optimizer)
    return not all(map(torch.equal, before, [whole(p) for p in model.parameters()]))


def columns() -> dict[str, Any]:
    """Filters of which every process has a part."""
    mesh = dist.init_device_mesh("cpu", (2,))
    params = []
    for shape in ((4, 6), (3, 5)):
        generator = torch.Generator().manual_seed(sum(shape))
        theta = torch.randn(shape, dtype=torch.float64, generator=generator)
        p = nn.Parameter(distribute_tensor(theta, mesh, [Shard(1)]))
        p.grad = distribute_tensor(theta.cos(), mesh, [Shard(1)])
        params.append(p)
    optimizer = SphereSGD(params, elr=0.05, scope="group")
    optimizer.step()
    return {
        "params": [whole(p) for p in params],
        "statistics": optimizer.statistics().to_dict(),
    }


def refusals() -> dict[str, str]:
    # Its package warns on import, in some versions.
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = sharded()
    params, params_of_one = list(model.parameters()), list(network().parameters())
    flattened = FullyShardedDataParallel(network(), device_id=torch.device("cpu"))
    original = FullyShardedDataParallel(
        network(), use_orig_params=True, device_id=torch.device("cpu")
    )

    def otherwise_split() -> None:
        optimizer, ones = FusedSGD(params, 0.1), torch.ones(5, 6, dtype=torch.float64)
        params[0].grad = distribute_tensor(ones, params[0].device_mesh, [Shard(1)])
        optimizer.step()

    return {
        "deferred": outcome(lambda: SphereSGD(params, elr=0.1, projection="deferred")),
        "pack": outcome(lambda: FusedSGD(params, 0.1, num_models=2)),
        "mixed": outcome(lambda: FusedSGD([*params, nn.Parameter(torch.ones(3))], 0.1)),
        "flattened": outcome(lambda: FusedSGD(flattened.parameters(), 0.1)),
        "original": outcome(lambda: SphereSGD(original.parameters(), elr=0.1)),
        "zero": outcome(lambda: ZeroRedundancyOptimizer(params_of_one, SphereSGD, elr=1.0)),
        "gradient": outcome(otherwise_split),
        "strided": outcome(strided),
    }


def checkpoint(folder: Path) -> dict[str, Any]:
    """Save after some steps, and go on."""
    model = sharded()
    optimizer = MAKERS["joint"](list(model.parameters()))
    train(model, optimizer, batches(dist.get_rank()))
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
    }
    dcp.save(state, checkpoint_id=folder / "checkpoint")
    return train(model, optimizer, batches(dist.get_rank()))


def resumed(folder: Path) -> dict[str, Any]:
    """Go on from a checkpoint, whatever the number of processes that wrote it."""
    size = dist.get_world_size()
    model = sharded()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_().add_(1.0)
    optimizer = MAKERS["joint"](list(model.parameters()))
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
    }
    dcp.load(state, checkpoint_id=folder / "checkpoint")
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])
    return train(model, optimizer, batches(dist.get_rank() if size > 1 else None))


def main(rank: int, size: int, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    meeting = f"file://{folder}/meeting-{size}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    found: dict[str, Any] = {}
    if size == 2:
        for name, maker in MAKERS.items():
            model = sharded()
            optimizer = maker(list(model.parameters()))
            found[name] = train(model, optimizer, batches(rank))
            model = network()
            optimizer = maker(list(model.parameters()))
            found[f"ddp {name}"] = train(DistributedDataParallel(model), optimizer, batches(rank))
        found["columns"] = columns()
        found["reductions"] = reductions(sharded(), rank)
        for shape in ((2, 1), (1, 2)):
            found[f"replicated {shape}"] = replicated(shape, rank)
        found["moved"] = {name: moved_by_making_a_state(maker) for name, maker in MAKERS.items()}
        found["refusals"] = refusals()
        found["gone on"] = checkpoint(folder)
    found["resumed"] = resumed(folder)
    torch.save(found, folder / f"found-{size}-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    # A thread of gloo that asks for the interpreter while that ends aborts the process, now and
    # then ("terminate called without an active exception"): what was found is written by now.
    sys.stdout.flush()
    os._exit(0)
