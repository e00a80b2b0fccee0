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
        self.batches: Iterator[tuple[Tensor, Tensor]] = iter(())
        self.at = -1
        """the step of the next of these batches"""

    def __len__(self) -> int:
        return self.num_steps

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, as of a loader; found at no cost where the last one ended."""
        if self.at != epoch * self.num_steps:
            self.at = epoch * self.num_steps
            first, done = divmod(self.at, len(self.passes))
            whole = (self.passes.epoch(number) for number in itertools.count(first))
            self.batches = itertools.islice(itertools.chain.from_iterable(whole), done, None)
        for batch in itertools.islice(self.batches, self.num_steps):
            self.at += 1
            yield batch

    def explain(self) -> str:
        """One line: what the loader says, and the steps."""
        return f"{self.passes.explain()}; epochs of {self.num_steps} steps, not of a pass"
