"""A user's optimiser of a pack: one for each model, on views of its rows.

To the factory a folded parameter's rows of one model are a tensor of their own, as it is alone. Its
state is kept number by number, under `state/0/exp_avg` or `param_groups/0/weight_decay`, each with
the models as first dimension. Rates are not kept: a leg has its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fasttrain_kernels import TotalsOf

from ...errors import UsageError
from ..custom import call, not_one, told
from .groups import Named, Trained, drop_gradients, laid_out_like
from .kinds import CustomOptimizer

WHERE = "optimizer.factory"
NUMBERS: dict[type, torch.dtype] = {
    bool: torch.bool,
    int: torch.int64,
    float: torch.float64,
}
"""how Python's numbers are kept, and known again"""


class OwnPack:
    """Optimisers of a pack, one per model."""

    def __init__(self, options: CustomOptimizer, trained: Trained, lrs: Sequence[float]) -> None:
        self.options = options
        self.trained = trained
        rows = [parameter.detach().chunk(len(lrs)) for _, parameter in trained.all]
        self.views = [[part[model].requires_grad_() for part in rows] for model in range(len(lrs))]
        self.optimizers = [
            _made(options, views, lr, trained.all)
            for views, lr in zip(self.views, lrs, strict=True)
        ]
        weights = [parameter.detach() for _, parameter in trained.sphere]
        self.norms = TotalsOf(weights, num_models=trained.num_models)
        self.sums = torch.empty(0)

    def start_(self) -> None:
        """Networks start as they are initialised."""

    def zero_grad(self) -> None:
        """Drop all gradients."""
        drop_gradients(self.trained.all)

    def step(self) -> None:
        """Take one step of every model."""
        found = [parameter.grad for _, parameter in self.trained.all]
        grads = [grad for grad in found if grad is not None]
        assert len(grads) == len(found), "a parameter without a gradient"
        self.sums = self.norms.sums(grads[: len(self.trained.sphere)])
        parts = [grad.chunk(len(self.views)) for grad in grads]
        for model, (views, optimizer) in enumerate(zip(self.views, self.optimizers, strict=True)):
            for view, part in zip(views, parts, strict=True):
                grad = part[model]
                view.grad = grad if grad.stride() == view.stride() else laid_out_like(grad, view)
            optimizer.step()

    def add_effective_grad_norm_(self, total: Tensor) -> None:
        """Add ||g|| * ||theta|| of the sphere weights: (num_models,)."""
        self.norms.totals(self.sums, total)

    def state(self) -> dict[str, Tensor]:
        """All that the optimisers keep but their rates."""
        kept = [dict(_kept(optimizer.state_dict())) for optimizer in self.optimizers]
        return {
            path: torch.stack([_tensor(own[path]).detach() for own in kept]) for path in kept[0]
        }

    def load_(self, state: dict[str, Tensor]) -> None:
        """Go on with this state."""
        if not state:
            return
        for model, (views, optimizer) in enumerate(zip(self.views, self.optimizers, strict=True)):
            table = optimizer.state_dict()
            for path, values in state.items():
                _put(table, path, values[model], views)
            optimizer.load_state_dict(table)


def _made(
    options: CustomOptimizer, parameters: Sequence[Tensor], lr: float, named: Named
) -> torch.optim.Optimizer:
    """The optimiser of one model.

    Raises:
        UsageError: the factory raises or gives none, or one that does not take all parameters.
    """
    made = call(options.factory, WHERE, list(parameters), lr, options=options.options)
    if not isinstance(made, torch.optim.Optimizer):
        raise not_one(made, options.factory, WHERE, "a torch.optim.Optimizer")
    taken = {id(p) for group in made.param_groups for p in group["params"]}
    left = [name for (name, _), p in zip(named, parameters, strict=True) if id(p) not in taken]
    if left:
        raise _refused(
            options, f"parameters that train, and no optimiser takes them: {', '.join(left[:5])}"
        )
    return made


def try_out(options: CustomOptimizer, trained: Sequence[Trained], lr: float) -> None:
    """Take steps on copies of a network, before anything trains, going on from a kept state.

    Args:
        trained: two copies, which are changed.

    Raises:
        UsageError: an optimiser that changes nothing, or does not go on to the same bits.
    """
    one, other = (OwnPack(options, copy, [lr]) for copy in trained)
    before = [parameter.detach().clone() for _, parameter in trained[0].all]
    try:
        _steps(one, 0, 2)
        kept = one.state()
    except Exception as error:
        raise _refused(options, f"a step raised {told(error)}") from None
    if all(torch.equal(a, b) for a, (_, b) in zip(before, trained[0].all, strict=True)):
        raise _refused(options, f"trains nothing: steps at a rate of {lr:g} change no parameter")
    with torch.no_grad():
        for (_, a), (_, b) in zip(trained[0].all, trained[1].all, strict=True):
            b.copy_(a)
    try:
        other.load_({path: value.clone() for path, value in kept.items()})
        again = other.state()
        _steps(one, 2, 1)
        _steps(other, 2, 1)
    except Exception as error:
        raise _refused(options, f"cannot go on from its state_dict: {told(error)}") from None
    lost = [path for path, value in kept.items() if not _same(value, again.get(path))]
    pairs = zip(trained[0].all, trained[1].all, strict=True)
    lost += [name for (name, a), (_, b) in pairs if not _same(a, b)]
    if lost:
        raise _refused(
            options,
            f"load_state_dict does not bring back what state_dict gave, bit for bit: {lost[0]}",
        )


def _steps(pack: OwnPack, first: int, count: int) -> None:
    """Steps of gradients that are noise."""
    for number in range(first, first + count):
        generator = torch.Generator().manual_seed(number)
        for _, parameter in pack.trained.all:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.grad = laid_out_like(noise, parameter)
        with torch.random.fork_rng():
            # What the optimiser itself draws.
            torch.manual_seed(number)
            pack.step()


def _same(a: Tensor, b: Tensor | None) -> bool:
    if b is None or a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(torch.nan_to_num(a.detach()), torch.nan_to_num(b.detach()))


def _kept(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a state_dict holds besides rates and what the factory sets, by path."""
    for key, values in table["state"].items():
        yield from _leaves(values, f"state/{key}")
    for index, group in enumerate(table["param_groups"]):
        for key, value in group.items():
            if key not in ("params", "lr") and isinstance(value, bool | int | float | Tensor):
                yield f"param_groups/{index}/{key}{_mark(value)}", value


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}/{key}")
    elif isinstance(value, bool | int | float | Tensor):
        yield f"{path}{_mark(value)}", value
    elif value is not None:
        raise TypeError(f"{path} is a {type(value).__name__}: numbers and tensors can be kept")


def _mark(value: Any) -> str:
    """What tells a Python number from a tensor of one."""
    return "" if isinstance(value, Tensor) else f":{type(value).__name__}"


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=NUMBERS[type(value)])


def _put(table: dict[str, Any], path: str, value: Tensor, views: Sequence[Tensor]) -> None:
    """Put a value that was kept into a state_dict, at its place."""
    kind, owner, *between, last = path.split("/")
    index = int(owner)
    inner = table[kind][index] if kind == "param_groups" else table[kind].setdefault(index, {})
    for step in between:
        inner = inner.setdefault(step, {})
    name, _, mark = last.partition(":")
    if mark:
        inner[name] = value.item()
    elif kind == "state" and value.shape == views[index].shape:
        # As torch lays it out: sums over it are taken in the same order.
        like = torch.empty_like(views[index], dtype=value.dtype, requires_grad=False)
        inner[name] = like.copy_(value)
    else:
        inner[name] = value.clone()


def _refused(options: CustomOptimizer, why: str) -> UsageError:
    return UsageError(f"{WHERE} = {options.factory!r}: {why}")
