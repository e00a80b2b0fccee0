"""Epochs of a number of steps instead of passes: lengths and test passes counted in steps.

The batches are those of the passes over the training set, one after another, wherever an epoch
begins: the epoch's number alone says which.
"""

import itertools
from collections.abc import Iterator

from torch import Tensor

from fasttrain_data import Loader


class StepEpochs:
    """A loader whose epochs have so many steps.

    Args:
        passes: the loader of whole passes.
        num_steps: of an epoch.
    """

    def __init__(self, passes: Loader, num_steps: int) -> None:
        self.passes = passes
        self.num_steps = num_steps

    def __len__(self) -> int:
        return self.num_steps

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, as a loader's."""
        first, left = divmod(epoch * self.num_steps, len(self.passes))
        whole = (self.passes.epoch(number) for number in itertools.count(first))
        batches = itertools.chain.from_iterable(whole)
        return itertools.islice(batches, left, left + self.num_steps)

    def explain(self) -> str:
        """One line: what the loader says, and the steps."""
        return f"{self.passes.explain()}; epochs of {self.num_steps} steps, not of a pass"
