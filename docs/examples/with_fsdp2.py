"""A network sharded by FSDP2, its weights on one sphere, over several processes.

    torchrun --nproc-per-node 2 docs/examples/with_fsdp2.py

Every process keeps a part of each weight, gradient and momentum. The norm of the sphere is that of
all parts together, so that two processes train as one does. The last lines save a checkpoint that
any number of processes can load. Without GPUs it runs on gloo.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.fsdp import fully_shard

from fasttrain_kernels import SphereSGD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--save", type=Path, help="folder for a checkpoint")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    if device == "cuda":
        torch.cuda.set_device(rank % torch.cuda.device_count())
    torch.manual_seed(0)
    width = options.width
    layers = [nn.Linear(16, width, bias=False), nn.RMSNorm(width), nn.ReLU()]
    layers += [nn.Linear(width, width, bias=False), nn.RMSNorm(width), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, 4)).to(device)
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(model)

    # Before a normaliser the length of a weight means nothing: those are on the sphere.
    invariant = [model[0].weight, model[3].weight]
    known = set(map(id, invariant))
    rest = [p for p in model.parameters() if id(p) not in known]
    optimizer = SphereSGD(
        [{"params": invariant, "elr": 1e-3}, {"params": rest, "sphere": False, "lr": 0.05}],
        lr=0.05,
        momentum=0.9,
    )
    teacher = torch.randn(16, 4, device=device)
    torch.manual_seed(1 + rank)
    for step in range(options.steps):
        x = torch.randn(256 // size, 16, device=device)
        loss = nn.functional.cross_entropy(model(x), (x @ teacher).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == options.steps - 1:
            mean = loss.detach() / size
            dist.all_reduce(mean)
            if rank == 0:
                print(f"step {step}: loss {mean.item():.4f}")
    norm = torch.stack([w.detach().square().sum().full_tensor() for w in invariant]).sum().sqrt()
    radius = optimizer.param_groups[0]["radius"].item()
    if rank == 0:
        print(f"norm {norm.item():.6f}, radius {radius:.6f}, of {size} processes")
    if options.save is not None:
        of_model, of_optimizer = get_state_dict(model, optimizer)
        state = {"model": of_model, "optimizer": of_optimizer}
        checkpoint.save(state, checkpoint_id=options.save)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # Threads of gloo are still there, and one that asks for the interpreter while that ends aborts
    # the process, now and then: all is written by now.
    sys.stdout.flush()
    os._exit(0)
