"""What once ended in a signal or in garbage, each case in a process of its own.

`python -m tests.kernels.safety_cases` forks for every case and prints a JSON object: what a case
raised, "fine" if nothing, or the signal that ended it.
"""

import copy
import importlib
import json
import os
import signal
import sys

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from fasttrain_kernels import FusedSGD, OnSphere, SphereSGD, group_statistics


def params(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]
    for p in made:
        p.grad = torch.randn(p.shape, generator=generator).to(dtype)
    return made


PAIR = ((6, 5), (7,))


def sharded_model() -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    model = fully_shard(nn.Linear(5, 6), mesh=mesh)
    return model


def dtensor() -> None:
    model = sharded_model()
    optimizer = FusedSGD(model.parameters(), 0.5)
    model(torch.ones(1, 5)).sum().backward()
    before = model.bias.full_tensor().detach().clone()
    optimizer.step()
    torch.testing.assert_close(model.bias.full_tensor().detach(), before - 0.5)


def dtensor_beside_sharded_steps() -> None:
    """What adds up nothing over processes refuses them."""
    model = sharded_model()
    OnSphere(torch.optim.SGD(model.parameters(), 0.1))


def wrapper_subclass() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    FusedSGD([nn.Parameter(TwoTensor(torch.ones(3), torch.ones(3)))], 0.1)


def wrapper_subclass_gradient() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    group_statistics([torch.ones(3)], [TwoTensor(torch.ones(3), torch.ones(3))])


def fake_parameters() -> None:
    with FakeTensorMode():
        FusedSGD(nn.Linear(3, 4).parameters(), 0.1)


def step_inside_fake_mode() -> None:
    optimizer = FusedSGD(params(*PAIR), 0.1, momentum=0.9)
    with FakeTensorMode(allow_non_fake_inputs=True):
        optimizer.step()


def statistics_inside_fake_mode() -> None:
    optimizer = FusedSGD(params(*PAIR), 0.1)
    optimizer.step()
    with FakeTensorMode(allow_non_fake_inputs=True):
        optimizer.statistics()


def loaded_momentum_of_another_shape() -> None:
    other = FusedSGD(params((60, 5), (7,)), 0.1, momentum=0.9)
    other.step()
    FusedSGD(params(*PAIR), 0.1, momentum=0.9).load_state_dict(other.state_dict())


def momentum_of_another_shape() -> None:
    own = params(*PAIR)
    optimizer = FusedSGD(own, 0.1, momentum=0.9)
    optimizer.step()
    optimizer.state[own[0]]["momentum_buffer"] = torch.zeros(2)
    optimizer.step()


def projected_outputs_too_small() -> None:
    SphereSGD(params(*PAIR), elr=0.1).projected_([torch.empty(2), torch.empty(7)])


def projected_outputs_too_few() -> None:
    SphereSGD(params(*PAIR), elr=0.1).projected_([torch.empty(6, 5)])


def projected_outputs_overlap() -> None:
    memory = torch.empty(36)
    SphereSGD(params(*PAIR), elr=0.1).projected_([memory[:30].view(6, 5), memory[29:]])


def projected_outputs_of_any_dtypes() -> None:
    own = params(*PAIR)
    optimizer = SphereSGD(own, elr=0.1, radius=2.0)
    norm = torch.cat([p.detach().flatten() for p in own]).norm()
    for dtypes in ((torch.float16, torch.float64), (torch.float16,) * 2, (torch.bfloat16,) * 2):
        outputs = [torch.empty_like(p, dtype=d) for p, d in zip(own, dtypes, strict=True)]
        optimizer.projected_(outputs)
        for p, output in zip(own, outputs, strict=True):
            torch.testing.assert_close(output.float(), p * 2 / norm, rtol=2**-7, atol=0)


def statistics_of_meta_gradients() -> None:
    group_statistics([torch.ones(3, 3)], [torch.ones(3, 3, device="meta")])


def statistics_of_meta_tensors() -> None:
    found = group_statistics([torch.ones(3, 3, device="meta")])
    assert found.norm.device.type == "meta" and found.norm.shape == (3,)


def statistics_with_a_meta_rate() -> None:
    group_statistics([torch.ones(3, 3)], None, torch.ones((), device="meta"))


def statistics_of_gradients_of_another_shape() -> None:
    group_statistics([torch.ones(300, 3)], [torch.ones(3, 3)])


def statistics_of_too_few_gradients() -> None:
    group_statistics([torch.ones(3, 3), torch.ones(3)], [torch.ones(3, 3)])


def resized_under_a_gradient() -> None:
    own = params(*PAIR)
    optimizer = FusedSGD(own, 0.1)
    optimizer.step()
    own[0].data = torch.ones(600, 5)
    optimizer.step()


def storage_freed() -> None:
    own = params(*PAIR)
    optimizer = FusedSGD(own, 0.1)
    optimizer.step()
    own[0].untyped_storage().resize_(0)
    optimizer.step()


def storage_cut() -> None:
    own = params((600, 50), (7,))
    optimizer = FusedSGD(own, 0.1)
    optimizer.step()
    own[0].grad.untyped_storage().resize_(16)
    optimizer.step()


def radii_of_another_model() -> None:
    other = SphereSGD(params((60, 5), (7,)), elr=0.1, scope="group")
    SphereSGD(params(*PAIR), elr=0.1, scope="group").load_state_dict(other.state_dict())


def another_scope_later() -> None:
    optimizer = SphereSGD(params(*PAIR), elr=0.1)
    optimizer.param_groups[0]["scope"] = "group"
    optimizer.step()


def a_radius_resized() -> None:
    optimizer = SphereSGD(params(*PAIR), elr=0.1, scope="group")
    optimizer.step()
    optimizer.param_groups[0]["radius"].data = torch.ones(1, dtype=torch.float64)
    optimizer.step()


def expanded_parameters() -> None:
    FusedSGD([nn.Parameter(torch.ones(3).expand(400, 3))], 0.1)


def parameters_that_share_memory() -> None:
    first, second = params((6, 5), (6, 5))
    second.data = first.data
    FusedSGD([first, second], 0.1).step()


def parameters_that_overlap_later() -> None:
    first, second = params((6, 5), (6, 5))
    optimizer = FusedSGD([first, second], 0.1)
    optimizer.step()
    memory = torch.ones(55)
    first.data, second.data = memory[:30].view(6, 5), memory[25:].view(6, 5)
    optimizer.step()


def gradients_that_alias_parameters() -> None:
    """They are the gradients before the step, whatever the order in which threads write."""
    for kind in ("own", "shifted", "each other"):
        first, second = params((300, 50), (300, 50))
        if kind == "own":
            first.grad = first.detach()
        elif kind == "shifted":
            memory = torch.randn(15050)
            first.data, first.grad = memory[50:].view(300, 50), memory[:-50].view(300, 50)
        else:
            first.grad, second.grad = second.detach(), first.detach()
        twins = [nn.Parameter(p.detach().clone()) for p in (first, second)]
        for twin, p in zip(twins, (first, second), strict=True):
            twin.grad = p.grad.clone()
        FusedSGD([first, second], 0.1).step()
        torch.optim.SGD(twins, 0.1).step()
        for twin, p in zip(twins, (first, second), strict=True):
            torch.testing.assert_close(twin, p)


def unusual_tensors() -> None:
    """Not contiguous, of one element, empty, frozen, negated lazily, zeros without memory."""

    class Tagged(Tensor):
        pass

    own = [*params((6, 5), (), (0, 4), (3, 4), (4,), (4,), (4,))]
    own[0].grad = torch.randn(5, 6).t()
    own[3].requires_grad_(False)
    own[4].grad = torch.randn(4, dtype=torch.cfloat).conj().imag
    own[5].grad = torch._efficientzerotensor((4,))
    own[6].grad = torch.ones(4).as_subclass(Tagged)
    twins = copy.deepcopy(own)
    for twin, p in zip(twins, own, strict=True):
        twin.grad = torch.zeros(p.shape).add_(p.grad.as_subclass(Tensor).resolve_neg())
    optimizer, other = FusedSGD(own, 0.1, momentum=0.9), torch.optim.SGD(twins, 0.1, momentum=0.9)
    for _ in range(2):
        optimizer.step()
        other.step()
    for twin, p in zip(twins, own, strict=True):
        torch.testing.assert_close(twin, p)


def one_gradient_for_two() -> None:
    first, second = params((6, 5), (6, 5))
    second.grad = first.grad
    before = second.detach().clone()
    optimizer = FusedSGD([first, second], 0.1)
    optimizer.step()
    optimizer.step()
    torch.testing.assert_close(second.detach(), before - 0.2 * first.grad)


def subclass_parameters() -> None:
    """What keeps its numbers in its own memory takes the reference."""

    class Tagged(nn.Parameter):
        pass

    p = Tagged(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = FusedSGD([p], 0.5)
    assert "backend: reference" in repr(optimizer)
    optimizer.step()
    assert p.tolist() == [0.5] * 3


def sparse_parameters() -> None:
    FusedSGD([nn.Parameter(torch.ones(3).to_sparse())], 0.1)


def another_default_device() -> None:
    with torch.device("meta"):
        own = [nn.Parameter(torch.ones(3, 3, device="cpu"))]
        own[0].grad = torch.ones(3, 3, device="cpu")
        optimizer = SphereSGD(own, elr=0.01, momentum=0.9, projection="deferred")
        for _ in range(2):
            optimizer.step()
            optimizer.statistics()
        optimizer.projected_()
    assert abs(float(own[0].norm()) - 3) < 1e-6


def traced() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    optimizer = FusedSGD(params(*PAIR), 0.1)
    make_fx(lambda x: optimizer.step())(torch.ones(1))


def parameters_swapped_in_their_group() -> None:
    """The step is taken on what the group holds now."""
    optimizer = FusedSGD(params(*PAIR), 0.1)
    optimizer.step()
    new = params(*PAIR)
    before = new[0].detach().clone()
    optimizer.param_groups[0]["params"] = new
    optimizer.step()
    assert not torch.equal(new[0], before)


def other_groups_later() -> None:
    optimizer = FusedSGD(params((6, 5), (8,)), 0.1)
    optimizer.step()
    optimizer.param_groups[0]["groups"] = "tensor"
    optimizer.param_groups[0]["num_models"] = 2
    optimizer.step()
    assert len(optimizer.statistics().names) == 4


CASES = {
    name: case
    for name, case in list(globals().items())
    if getattr(case, "__module__", "") == __name__ and name not in ("params", "sharded_model")
}


def outcome(case) -> str:
    """Run a case in a fork of this process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            case()
            found = "fine"
        except BaseException as error:
            found = f"{type(error).__name__}: {error}"
        os.write(writer, found.encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        found = pipe.read()
    _, status = os.waitpid(child, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else found


if __name__ == "__main__":
    # What most cases have torch import, and code that they have compiled: once, before the forks.
    for name in ("torch._dynamo", "torch.distributed.fsdp"):
        importlib.import_module(name)
    warm = params((6, 5), (7,))
    for optimizer in (FusedSGD(warm, 0.1, momentum=0.5), SphereSGD(warm, elr=0.1, radius=1.0)):
        optimizer.step()
        optimizer.statistics()
    json.dump({name: outcome(case) for name, case in CASES.items()}, sys.stdout)
