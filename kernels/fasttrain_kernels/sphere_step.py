"""One step on the sphere in Triton: all tensors, groups and models in one or two launches.

    theta <- rho * (theta - eta * d) / ||theta - eta * d||        (`reference.py` has the sources)

| projection       | passes | bytes per fp32 parameter | launches                        |
|------------------|--------|--------------------------|---------------------------------|
| joint, exact     | 2      | 20 (momentum 28)         | 2                               |
| joint, deferred  | 1      | 12 (momentum 20)         | 2, the second one tiny          |
| one per group    | 1      | 12 (momentum 20)         | 1; 2 if a group exceeds a chunk |

bf16 gradients take 2 off for every time that they are read (Nesterov's exact step: 32, 28).
The joint norm needs every gradient before any write. `exact` therefore reads twice: the first pass
sums, the second one moves and projects, backwards, because what was read last is still in the
cache; every block of it adds up the blocks' norms of its model for itself. `deferred` writes
unprojected parameters and leaves the factor that they lack in `scale`. A sphere per group has its
norm within the registers of one program, if the group is one chunk; the chunks of longer groups
take the two passes of `exact`, and 20 bytes.

The squared norm of the moved parameters is summed as (theta / rho)^2, from the moved values
themselves: neither a tiny nor a huge radius, nor a gradient along theta, costs digits.

Legend: theta parameters, g gradients, v momentum buffer, d direction of the step (g, or v, or
Nesterov's g + mu * v), eta raw learning rate, rho radius; a subscript i means group i.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .group_sums import (
    LAUNCH,
    Blocks,
    accumulator,
    address_of,
    blocks_of,
    check,
    chunk_place,
    finish_group,
    is_aligned,
    launch_finish,
    options,
    range_sum,
    read,
    run_offsets,
    store_sums,
    vector_offsets,
    vector_pointer,
    write,
)
