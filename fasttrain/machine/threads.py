"""Threads: a process computes with as many as it was given.

torch's operations and our compiled loops run on one team, that of torch's OpenMP. numba has a pool
of its own, for loops that it parallelises itself; FFCV's are the only ones. The first question
about the number of numba's threads starts that pool. Where it is OpenMP's too, its start sets the
size of torch's team to one thread per core. So only the FFCV loader asks, and puts torch's back.
"""

import torch

from ..errors import EnvironmentProblem


def check_threads(count: int) -> None:
    """See that this process computes with so many threads.

    Raises:
        EnvironmentProblem: something has set another number.
    """
    found = torch.get_num_threads()
    if found != count:
        raise EnvironmentProblem(
            f"a worker that was given {count} threads computes with {found}: its numbers would not"
            " repeat, and workers would wait for one another"
        )
