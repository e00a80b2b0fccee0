"""A chunk of whole vectors that a sphere per group holds in the registers of one program.

Legend: theta parameters, g gradients, v momentum buffer, eta raw learning rate.
"""

# Kernels are written in Triton's language, which Python's types do not describe.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from .chunks import advance, is_alone, read, vector_offsets, vector_pointer, write_both


@triton.jit
def group_wide(
    a_theta, a_grad, a_buffer, a_copy, count, eta, p_radius, p_first_chunk,
    THETA: tl.constexpr, GRAD: tl.constexpr, ACC: tl.constexpr, VECTOR: tl.constexpr,
    BLOCK: tl.constexpr, HAS_BUFFER: tl.constexpr, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr,
    HAS_COPY: tl.constexpr,
):  # fmt: skip
    """A chunk's sums as `sphere_step.py` takes them; a group of its own is projected at once."""
    offset, mask = vector_offsets(0, count, BLOCK, VECTOR)
    p_theta = vector_pointer(a_theta, THETA, VECTOR)
    p_buffer = vector_pointer(a_buffer, THETA, VECTOR)
    theta = read(p_theta, offset, mask, ACC)
    grad = read(vector_pointer(a_grad, GRAD, VECTOR), offset, mask, ACC)
    tt, tg, gg = tl.sum(theta * theta), tl.sum(theta * grad), tl.sum(grad * grad)
    theta -= eta * advance(p_buffer, offset, mask, grad, HAS_BUFFER, MOMENTUM, NESTEROV)
    # Loaded here, because registers are short.
    inverse = 1.0 / tl.load(p_radius)
    moved = tl.sum((theta * inverse) * (theta * inverse))
    if is_alone(p_first_chunk):
        theta *= 1.0 / tl.sqrt(moved)
        write_both(p_theta, a_copy, offset, mask, theta, HAS_COPY, VECTOR)
    return tt, tg, gg, moved
