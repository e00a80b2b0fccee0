"""What the normalisation of a network goes with: its form, and what is optimised on a sphere."""

from typing import TYPE_CHECKING

from ..errors import UsageError
from ..settings.optimizers.kinds import Sphere

if TYPE_CHECKING:
    from .config import Config


def check_norm(config: "Config", origin: str) -> None:
    """Return if the network's normalisation goes with its form and the optimiser.

    Raises:
        UsageError: in one line, what does not.
    """
    # What lies on the sphere of a custom network is known when it is built.
    form, norm = (getattr(config.network, name, None) for name in ("form", "norm"))
    where = f"{origin}: network.norm = {norm!r}"
    if norm in ("layer", "weight") and form == "practical":
        raise UsageError(
            f"{where}: has no affine parameters, and the form is practical; allowed here is"
            " scale-invariant"
        )
    if norm == "none" and form == "scale-invariant":
        raise UsageError(
            f"{where}: without normalisation nothing is scale-invariant; allowed here is"
            " network.form = 'practical'"
        )
    if norm == "none" and isinstance(config.optimizer, Sphere):
        raise UsageError(
            f"{where}: without normalisation nothing is scale-invariant, and the optimizer is"
            " sphere; allowed are sgd, adam and custom"
        )
