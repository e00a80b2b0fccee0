"""Copies in bf16 that steps write beside parameters: the same steps, and what a cast would give."""

import copy as copies_of_objects
import pickle

import pytest
import torch
from torch.nn import functional as F

from fasttrain_kernels import FusedSGD, SphereAdam, SphereSGD

SHAPES = [(8, 3, 3, 3), (16, 8, 3, 3), (40, 16), (16,), (2, 9000)]
OPTIMIZERS = {
    "joint": lambda p, **own: SphereSGD(p, elr=1e-2, **own),
    "momentum": lambda p, **own: SphereSGD(p, lr=0.1, momentum=0.9, nesterov=True, **own),
    "per group": lambda p, **own: SphereSGD(p, elr=1e-2, scope="group", **own),
    "sgd": lambda p, **own: FusedSGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, **own),
    "untracked": lambda p, **own: FusedSGD(p, lr=0.1, track=False, **own),
    "adam": lambda p, **own: SphereAdam(p, lr=0.01, **own),
    "plain adam": lambda p, **own: SphereAdam([{"params": p, "sphere": False}], lr=0.01, **own),
}


def parameters(seed=0):
    torch.manual_seed(seed)
    made = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    made[0].data = made[0].data.to(memory_format=torch.channels_last)
    return made


def empty_copies(some):
    return {p: torch.empty_like(p, dtype=torch.bfloat16).requires_grad_() for p in some}


def pickled_and_back(some):
    return pickle.loads(pickle.dumps(some))


def assert_rounded(copies):
    for theta, copy in copies.items():
        assert torch.equal(copy, theta.bfloat16())


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_without(name, backend, every):
    """Of all parameters and of every second one, with gradients as a backward pass leaves them."""
    plain, mine = parameters(), parameters()
    one = OPTIMIZERS[name](plain, backend=backend)
    other = OPTIMIZERS[name](mine, backend=backend)
    copies = empty_copies(mine[::every])
    other.write_copies(copies)
    assert_rounded(copies)
    for step in range(3):
        torch.manual_seed(step)
        for theta, same in zip(plain, mine, strict=True):
            grad = torch.empty_like(theta, dtype=torch.bfloat16).normal_()
            theta.grad = grad.float()
            copies.get(same, same).grad = grad if same in copies else grad.float()
        one.step()
        other.step()
        for a, b in zip(plain, mine, strict=True):
            # numba's Adam rounds otherwise where it reads gradients in bf16.
            same = "adam" not in name or backend == "reference" or every == 2
            assert torch.equal(a, b) if same else torch.allclose(a, b, rtol=1e-6, atol=1e-7)
        assert_rounded(copies)
    if name != "untracked":
        for a, b in zip(one.totals(), other.totals(), strict=True):
            torch.testing.assert_close(a, b)
    other.zero_grad()
    assert all(p.grad is None for p in [*mine, *copies.values()])


def test_a_forward_pass_may_read_copies_only_until_the_next_step():
    [weight] = [torch.nn.Parameter(torch.randn(4, 4))]
    optimizer = FusedSGD([weight], lr=0.1)
    copies = empty_copies([weight])
    optimizer.write_copies(copies)
    [copy] = copies.values()
    x = torch.randn(3, 4, dtype=torch.bfloat16, requires_grad=True)
    F.linear(x, copy).sum().backward()
    out = F.linear(x, copy)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_torch_is_told_that_copies_were_written(monkeypatch):
    """By kernels that it does not see."""
    theta = torch.nn.Parameter(torch.randn(4, 4))
    optimizer = FusedSGD([theta], lr=0.1)
    copies = empty_copies([theta])
    optimizer.write_copies(copies)
    copies[theta].grad = torch.ones_like(copies[theta])
    optimizer.step()
    binding = optimizer._bindings[0]
    unseen = binding.backend._replace(sgd_step_=lambda *given, **options: torch.zeros(3, 4))
    monkeypatch.setattr(binding, "backend", unseen)
    before = copies[theta]._version
    optimizer.step()
    assert copies[theta]._version == before + 1


def test_projections_write_copies_too():
    thetas = parameters()
    optimizer = SphereSGD(thetas, elr=1e-2, radius=1.0)
    copies = empty_copies(thetas[:2])
    optimizer.write_copies(copies)
    optimizer.projected_()
    assert_rounded(copies)
    assert sum(float(theta.detach().square().sum()) for theta in thetas) == pytest.approx(1.0)


def test_a_step_at_rate_0_and_parameters_without_gradients_leave_them():
    for make in (OPTIMIZERS["joint"], OPTIMIZERS["sgd"], OPTIMIZERS["adam"]):
        thetas = parameters()
        optimizer = make(thetas)
        copies = empty_copies(thetas)
        optimizer.write_copies(copies)
        copies[thetas[1]].grad = torch.randn_like(copies[thetas[1]])
        optimizer.step()
        assert_rounded(copies)
        optimizer.param_groups[0]["lr"] = 0.0
        optimizer.step()
        assert_rounded(copies)


def test_copies_are_no_part_of_states():
    thetas = parameters()
    optimizer = OPTIMIZERS["sgd"](thetas)
    before = optimizer.state_dict()
    copies = empty_copies(thetas)
    optimizer.write_copies(copies)
    assert optimizer.state_dict().keys() == before.keys()
    assert optimizer.param_groups[0].keys() == FusedSGD(parameters()).param_groups[0].keys()
    # What loads a state goes on writing.
    optimizer.load_state_dict(before)
    for copy in copies.values():
        copy.grad = torch.ones_like(copy)
    optimizer.step()
    assert_rounded(copies)
    optimizer.write_copies({})
    optimizer.step()
    assert all(torch.equal(copy, theta.bfloat16()) for theta, copy in copies.items())


@pytest.mark.parametrize("again", [copies_of_objects.deepcopy, pickled_and_back])
@pytest.mark.parametrize("name", ["sgd", "joint", "adam"])
def test_copied_and_unpickled_optimisers_write_copies_of_their_own(name, again):
    thetas = parameters()
    optimizer = OPTIMIZERS[name](thetas)
    copies = empty_copies(thetas)
    optimizer.write_copies(copies)
    for copy in copies.values():
        copy.grad = torch.ones_like(copy)
    optimizer.step()
    other, mine = again((optimizer, copies))
    before = [copy.clone() for copy in copies.values()]
    assert mine.keys() == set(other.param_groups[0]["params"]) and not mine.keys() & copies.keys()
    for copy in mine.values():
        copy.grad = torch.ones_like(copy)
    other.step()
    assert_rounded(mine)
    assert all(map(torch.equal, copies.values(), before))
    optimizer.step()
    assert all(map(torch.equal, other.param_groups[0]["params"], thetas))
    assert not any(map(torch.equal, copies.values(), before))


def test_a_parameter_that_has_left_its_group_is_refused():
    thetas = parameters()
    optimizer = OPTIMIZERS["sgd"](thetas)
    copies = empty_copies(thetas)
    optimizer.write_copies(copies)
    for copy in copies.values():
        copy.grad = torch.ones_like(copy)
    left = optimizer.param_groups[0]["params"].pop()
    before = [theta.detach().clone() for theta in thetas]
    with pytest.raises(ValueError, match=r"no parameters here, of shapes \(2, 9000\)"):
        optimizer.step()
    assert all(map(torch.equal, thetas, before))
    del copies[left]
    optimizer.write_copies(copies)
    optimizer.step()
    assert_rounded(copies)


@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad_leaves_no_gradient_beside_a_copy(to_none):
    """Of a parameter that had one before, say."""
    one, other = (torch.nn.Parameter(torch.randn(8, 4)) for _ in range(2))
    optimizer = FusedSGD([one, other], lr=0.1)
    one.grad, other.grad = torch.ones_like(one), torch.ones_like(other)
    copies = empty_copies([one])
    optimizer.write_copies(copies)
    optimizer.zero_grad(to_none)
    assert one.grad is None and copies[one].grad is None
    assert other.grad is None if to_none else not other.grad.any()
    copies[one].grad = torch.ones_like(copies[one])
    optimizer.step()
    assert_rounded(copies)


def shared(theta):
    """The first half of the parameter's own memory."""
    halves = theta.detach().view(-1).view(torch.bfloat16)
    return halves[: theta.numel()].view(theta.shape)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (lambda t: torch.empty_like(t), "must be a plain torch.bfloat16 tensor of shape"),
        (lambda t: torch.empty_like(t, dtype=torch.float16), "must be a plain torch.bfloat16"),
        (lambda t: torch.empty(40, 15, dtype=torch.bfloat16), "got Tensor of shape"),
        (lambda t: torch.empty(16, 40, dtype=torch.bfloat16).t(), r"strides \(1, 40\)"),
        (lambda t: torch.empty_like(t, dtype=torch.bfloat16, device="meta"), "on meta"),
        (lambda t: t.detach().bfloat16().to_sparse(), "layout torch.sparse_coo"),
        (shared, "share memory"),
    ],
)
def test_copies_that_do_not_fit_are_refused(of, message):
    theta = torch.nn.Parameter(torch.randn(40, 16))
    optimizer, before = FusedSGD([theta], lr=0.1), theta.detach().clone()
    with pytest.raises(ValueError, match=message):
        optimizer.write_copies({theta: of(theta)})
    assert torch.equal(theta, before) and not optimizer._copies.of


def test_what_is_written_may_not_overlap():
    thetas = [torch.nn.Parameter(torch.randn(4, 4)) for _ in range(2)]
    optimizer = FusedSGD(thetas, lr=0.1, momentum=0.9)
    whole = torch.empty(24, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="share memory"):
        optimizer.write_copies({thetas[0]: whole[:16].view(4, 4), thetas[1]: whole[8:].view(4, 4)})
    # Nor with a buffer that comes later.
    buffer = torch.zeros(4, 4)
    optimizer.write_copies({thetas[0]: shared(buffer)})
    for theta in thetas:
        theta.grad = torch.ones_like(theta)
    optimizer.state[thetas[0]]["momentum_buffer"] = buffer
    before = [theta.detach().clone() for theta in thetas]
    with pytest.raises(ValueError, match="share memory"):
        optimizer.step()
    assert all(map(torch.equal, thetas, before))


def test_a_copy_that_was_changed_is_refused_by_the_next_step():
    theta = torch.nn.Parameter(torch.randn(8, 4))
    optimizer = FusedSGD([theta], lr=0.1)
    copies = empty_copies([theta])
    optimizer.write_copies(copies)
    theta.grad, before = torch.ones_like(theta), theta.detach().clone()
    copies[theta].data = torch.empty(4, 8, dtype=torch.bfloat16).t()
    with pytest.raises(ValueError, match=r"strides \(1, 8\)"):
        optimizer.step()
    copies[theta].data = torch.empty(8, 4, dtype=torch.bfloat16)
    copies[theta].untyped_storage().resize_(8)
    with pytest.raises(ValueError, match="its storage has 8"):
        optimizer.step()
    assert torch.equal(theta, before)


def test_other_refusals():
    theta, other = (torch.nn.Parameter(torch.randn(8, 4)) for _ in range(2))
    copies = empty_copies([theta, other])
    with pytest.raises(ValueError, match=r"no parameters here, of shapes \(8, 4\)"):
        FusedSGD([theta], lr=0.1).write_copies(copies)
    del copies[other]
    with pytest.raises(ValueError, match="projection='deferred'"):
        SphereSGD([theta], lr=0.1, projection="deferred").write_copies(copies)
    for option in ({"dampening": 0.5}, {"maximize": True}, {"differentiable": True}):
        with pytest.raises(ValueError, match="steps of torch's function"):
            FusedSGD([theta], lr=0.1, momentum=0.9, **option).write_copies(copies)
    optimizer = FusedSGD([theta], lr=0.1)
    optimizer.write_copies(copies)
    theta.grad = torch.ones_like(theta)
    copies[theta].grad = torch.ones_like(copies[theta])
    before = theta.detach().clone()
    with pytest.raises(ValueError, match="both have a gradient"):
        optimizer.step()
    assert torch.equal(theta, before)
