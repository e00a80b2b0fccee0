"""The optimisers of fasttrain_kernels for packs: SGD on the sphere, and plain SGD."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fasttrain_kernels import FusedSGD, SphereSGD

from ..knobs import Knobs
from .groups import Trained, drop_gradients, laid_out_like
from .kinds import SGD, Sphere

BUFFER = "momentum_buffer"


class FusedPack:
    """One or two optimisers: of the sphere weights, which has the norms, and of the rest."""

    def __init__(
        self,
        trained: Trained,
        first: SphereSGD | FusedSGD,
        rest: FusedSGD | None,
        gradient_noise: float = 0.0,
    ) -> None:
        self.trained = trained
        self.first = first
        self.rest = rest
        self.gradient_noise = gradient_noise
        # Noise is added to gradients in fp32.
        self.takes_copies = not gradient_noise
        self.copies: dict[Tensor, Tensor] = {}

    def start_(self) -> None:
        """Put new networks onto their spheres."""
        if isinstance(self.first, SphereSGD):
            self.first.projected_()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        drop_gradients(self.trained.all, self.copies.values())

    def step(self) -> None:
        """Take one step of every model."""
        if self.gradient_noise:
            self._add_noise()
        self.first.step()
        if self.rest is not None:
            self.rest.step()

    @torch.no_grad()
    def _add_noise(self) -> None:
        """Noise on the gradients, from torch's generator, which training seeds by seed and epoch.

        The models of a pack share it: what one draws does not depend on the others.
        """
        for _, parameter in self.trained.all:
            grad = parameter.grad
            assert grad is not None, "a parameter without a gradient"
            rows = grad.unflatten(0, (self.trained.num_models, -1))
            noise = torch.randn(rows.shape[1:], dtype=grad.dtype, device=grad.device)
            rows.add_(noise, alpha=self.gradient_noise)

    def add_effective_grad_norm_(self, total: Tensor) -> None:
        """Add ||g|| * ||theta|| of the sphere weights, noise included: (num_models,)."""
        self.first.totals(total)

    def state(self) -> dict[str, Tensor]:
        """The momentum buffers, by parameter."""
        return {
            f"{BUFFER}.{name}": optimizer.state[parameter][BUFFER]
            for optimizer, named in self.parts()
            for name, parameter in named
            if BUFFER in optimizer.state.get(parameter, {})
        }

    def load_(self, state: dict[str, Tensor]) -> None:
        """Go on with these momentum buffers."""
        for optimizer, named in self.parts():
            for name, parameter in named:
                if f"{BUFFER}.{name}" in state:
                    buffer = laid_out_like(state[f"{BUFFER}.{name}"], parameter)
                    optimizer.state[parameter] = {BUFFER: buffer}

    def write_copies(self, copies: dict[Tensor, Tensor]) -> None:
        """Each part those of its parameters."""
        assert not self.copies or not copies, "copies that another pass reads would stay behind"
        self.copies = copies
        for optimizer, named in self.parts():
            own = {parameter: copies[parameter] for _, parameter in named if parameter in copies}
            optimizer.write_copies(own)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those of the parts."""
        return [optimizer for optimizer, _ in self.parts()]

    def parts(self) -> list[tuple[SphereSGD | FusedSGD, list[tuple[str, Tensor]]]]:
        """The optimisers, each with what it trains."""
        rest = [] if self.rest is None else [(self.rest, self.trained.free)]
        return [(self.first, self.trained.sphere), *rest]


def on_sphere(
    options: Sphere,
    trained: Trained,
    knobs: Sequence[Knobs],
    *,
    radius: float,
    norms: Sequence[Tensor] = (),
) -> FusedPack:
    """SGD on the sphere.

    Args:
        knobs: of every model; its rate is effective.
        radius: of the joint sphere.
        norms: of other scopes the radii of one model's spheres, fp64 by tensor: `start_norms`.
    """
    rates = rates_of(knobs, trained)
    assert all(model.weight_decay is None for model in knobs)
    rest = None
    if trained.free:
        assert options.free_lr is not None
        rest = FusedSGD(
            trained.free, lr=options.free_lr, num_models=trained.num_models, track=False
        )
    if options.scope == "joint":
        first = SphereSGD(trained.sphere, elr=rates, radius=radius, num_models=trained.num_models)
        return FusedPack(trained, first, rest)
    # Of every tensor the groups of the first model, then those of the next.
    radii = torch.cat([norm.repeat(trained.num_models) for norm in norms]).to(rates.device)
    if options.scope == "equal-norms":
        rates = rates * sum(len(norm) for norm in norms)
    first = SphereSGD(
        trained.sphere,
        elr=rates,
        radius=radii,
        scope="group",
        groups="tensor" if options.scope == "tensor" else "filter",
        num_models=trained.num_models,
    )
    return FusedPack(trained, first, rest)


@torch.no_grad()
def start_norms(scope: str, weights: Sequence[Tensor], radius: float) -> list[Tensor]:
    """Radii of the spheres of one network of these initial weights: fp64, by tensor.

    All weights together have norm `radius`, as on the joint sphere.
    """
    rows = [w.double().reshape(1 if scope == "tensor" else len(w), -1) for w in weights]
    norms = [torch.linalg.vector_norm(row, dim=1) for row in rows]
    every = torch.cat(norms)
    if scope == "equal-norms":
        return [torch.full_like(norm, radius / len(every) ** 0.5) for norm in norms]
    factor = radius / torch.linalg.vector_norm(every)
    return [norm * factor for norm in norms]


def sgd(options: SGD, trained: Trained, knobs: Sequence[Knobs]) -> FusedPack:
    """Plain SGD of all parameters at raw rates."""
    rates = rates_of(knobs, trained)
    decays = [
        options.weight_decay if model.weight_decay is None else model.weight_decay
        for model in knobs
    ]
    # One for all models stays a number on a CPU, whose kernels know it beforehand. On a GPU it lies
    # on the device as rates do: a captured step serves every decay.
    as_number = rates.device.type == "cpu" and len(set(decays)) == 1
    decay = decays[0] if as_number else rates.new_tensor(decays)
    first, *rest = (
        FusedSGD(
            named,
            lr=rates,
            momentum=options.momentum,
            nesterov=options.nesterov,
            weight_decay=decay,
            num_models=trained.num_models,
            track=named is trained.sphere,
        )
        for named in (trained.sphere, trained.free)
        if named
    )
    return FusedPack(trained, first, rest[0] if rest else None, options.gradient_noise)


def rates_of(knobs: Sequence[Knobs], trained: Trained) -> Tensor:
    weight, lrs = trained.sphere[0][1], [model.lr for model in knobs]
    # Of the type that the kernels take: on a GPU every conversion is a launch in every step.
    on_cpu = weight.device.type == "cpu"
    dtype = torch.float64 if on_cpu else torch.promote_types(weight.dtype, torch.float32)
    return torch.tensor(lrs, dtype=dtype, device=weight.device)
