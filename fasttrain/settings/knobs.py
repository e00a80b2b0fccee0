"""What is constant over a leg and may differ within a pack. Imports nothing heavy."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """What is constant over a leg and may differ between the models of a pack."""

    lr: float
    """learning rate: effective for the optimiser sphere, raw for others"""
    weight_decay: float | None = None
    """the optimiser's own if None"""
    noise: float = 0.0
    """standard deviation of the noise on activations (`models.noise`)"""

    def given(self) -> dict[str, float]:
        """The values that differ from their defaults, by name, and the rate."""
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name == "lr" or getattr(self, f.name) != f.default
        }

    def label(self) -> str:
        """The knobs in a few words, the rate first."""
        rate, *others = self.given().items()
        return " ".join([f"{rate[1]:g}", *(f"{name} {value:g}" for name, value in others)])
