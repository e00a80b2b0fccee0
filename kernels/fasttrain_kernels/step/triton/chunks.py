"""What the Triton kernels share: where the elements of a chunk are, how sums are written.

A program works on one block of chunks (`layout.py`, `launch.py`). It reduces a chunk at a time and
writes the sums of the chunk; a group of several chunks is added up by a second, small launch. Both
stages add in a fixed order, so equal inputs give equal bits, without atomics.

A chunk that is consecutive in memory, starts at a vector boundary and consists of whole vectors is
read and written in vectors: 128 bits of the parameters, so 64 of bf16 gradients beside fp32
parameters. Each chunk decides that for itself: others, such as the 27-element rows of a stem, go
element by element and slow nothing else down. Addresses come from tables, so the number of launches
does not depend on the number of tensors, groups or models.

Legend: g gradients, v momentum buffer, d direction of the step, mu momentum.
"""

# Kernels are written in Triton's language, which Python's types do not describe.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl


@triton.jit
def _chunk_place(p_tensors, p_chunks, chunk):
    """Tensor, elements and place of a chunk; a row in runs is counted from its own start."""
    p_chunk = p_chunks + 4 * chunk
    tensor, row = tl.load(p_chunk), tl.load(p_chunk + 1)
    begin, end = tl.load(p_chunk + 2), tl.load(p_chunk + 3)
    p_tensor = p_tensors + 3 * tensor
    num_rows, row_size, run = tl.load(p_tensor), tl.load(p_tensor + 1), tl.load(p_tensor + 2)
    whole = run == row_size
    start = row.to(tl.int64) * run + tl.where(whole, begin, 0)
    return tensor, end - begin, start, tl.where(whole, 0, begin), num_rows, run, whole


@triton.jit
def _address_of(p_table, tensor, start, DTYPE: tl.constexpr):
    """Address in bytes of element `start` of a tensor."""
    return tl.load(p_table + tensor) + start * (DTYPE.primitive_bitwidth // 8)


@triton.jit
def is_aligned(address, DTYPE: tl.constexpr, VECTOR: tl.constexpr):
    """Whether an address is at a vector boundary."""
    return address & (VECTOR * DTYPE.primitive_bitwidth // 8 - 1) == 0


@triton.jit
def chunk_addresses(
    p_thetas, p_others, p_buffers, p_tensors, p_chunks, chunk,
    THETA: tl.constexpr, OTHER: tl.constexpr, VECTOR: tl.constexpr, HAS_BUFFER: tl.constexpr,
):  # fmt: skip
    """Addresses of a chunk in three tensors, its place, and whether all are whole vectors."""
    tensor, count, start, begin, num_rows, run, whole = _chunk_place(p_tensors, p_chunks, chunk)
    a_theta = _address_of(p_thetas, tensor, start, THETA)
    a_other = _address_of(p_others, tensor, start, OTHER)
    a_buffer = _address_of(p_buffers, tensor, start, THETA) if HAS_BUFFER else a_theta
    wide = whole & (count % VECTOR == 0) & is_aligned(a_theta, THETA, VECTOR)
    wide = wide & is_aligned(a_other, OTHER, VECTOR) & is_aligned(a_buffer, THETA, VECTOR)
    return a_theta, a_other, a_buffer, count, begin, num_rows, run, wide


@triton.jit
def vector_pointer(address, DTYPE: tl.constexpr, VECTOR: tl.constexpr):
    """Pointer that the compiler knows to be at a vector boundary."""
    num_bytes: tl.constexpr = VECTOR * DTYPE.primitive_bitwidth // 8
    # Rounding makes a new value, so that the hint cannot leak to where it does not hold.
    rounded = address & -num_bytes
    return tl.multiple_of(rounded.to(tl.pointer_type(DTYPE)), num_bytes)


@triton.jit
def vector_offsets(first, num_elements, BLOCK: tl.constexpr, VECTOR: tl.constexpr):
    """BLOCK offsets in a chunk of whole vectors, and which of them exist: (BLOCK,) each."""
    offset = first + tl.arange(0, BLOCK)
    return offset, offset < tl.multiple_of(num_elements & -VECTOR, VECTOR)


@triton.jit
def run_offsets(first, num_elements, begin, num_rows, run, NARROW: tl.constexpr):
    """Offsets of NARROW elements of any chunk, and which of them exist: (NARROW,) each."""
    element = first + tl.arange(0, NARROW)
    place = begin + element
    offset = (place // run).to(tl.int64) * (run.to(tl.int64) * num_rows) + place % run
    return offset, element < num_elements


@triton.jit
def read(p_values, offset, mask, ACC: tl.constexpr):
    """Values in the type of the sums; 0 where the mask is false."""
    return tl.load(p_values + offset, mask=mask, other=0.0).to(ACC)


@triton.jit
def write(p_values, offset, mask, values):
    """Store values in the type that the pointer has."""
    tl.store(p_values + offset, values.to(p_values.dtype.element_ty), mask=mask)


@triton.jit
def copy_address(p_copies, p_thetas, p_chunks, chunk, a_theta, THETA: tl.constexpr):
    """Address of a chunk in the bf16 copy of its parameter; 0 where that has none."""
    tensor = tl.load(p_chunks + 4 * chunk)
    copy = tl.load(p_copies + tensor)
    before = (a_theta - tl.load(p_thetas + tensor)) // (THETA.primitive_bitwidth // 16)
    return tl.where(copy == 0, copy, copy + before)


@triton.jit
def write_both(
    p_values, a_copy, offset, mask, values, HAS_COPY: tl.constexpr, VECTOR: tl.constexpr
):
    """Store parameters, and rounded to nearest even where they have a copy in bf16.

    VECTOR is how many elements an access has to the copy, of which every chunk is whole; or 1.
    """
    write(p_values, offset, mask, values)
    if HAS_COPY:
        p_copy = vector_pointer(a_copy, tl.bfloat16, VECTOR)
        write(p_copy, offset, mask & (a_copy != 0), values.to(p_values.dtype.element_ty))


@triton.jit
def direction_of(grad, velocity, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr):
    """d = v, or Nesterov's g + mu * v."""
    if NESTEROV:
        direction = grad + MOMENTUM * velocity
    else:
        direction = velocity
    return direction


@triton.jit
def advance(
    p_buffer, offset, mask, grad, HAS_BUFFER: tl.constexpr, MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
):  # fmt: skip
    """v <- mu * v + g, written; the direction of the step with v as it is stored."""
    if HAS_BUFFER:
        velocity = MOMENTUM * read(p_buffer, offset, mask, grad.dtype) + grad
        write(p_buffer, offset, mask, velocity)
        velocity = velocity.to(p_buffer.dtype.element_ty).to(grad.dtype)
        direction = direction_of(grad, velocity, MOMENTUM, NESTEROV)
    else:
        direction = grad
    return direction


@triton.jit
def is_alone(p_first_chunk):
    """Whether a group is one chunk."""
    return tl.load(p_first_chunk + 1) - tl.load(p_first_chunk) == 1


@triton.jit
def store_sums(p_sums, p_partials, group, chunk, alone, num_groups, num_chunks, tt, tg, gg):
    """Write a chunk's sums: to its group if it is alone there, else for the second stage."""
    if alone:
        tl.store(p_sums + group, tt)
        tl.store(p_sums + num_groups + group, tg)
        tl.store(p_sums + 2 * num_groups + group, gg)
    else:
        tl.store(p_partials + chunk, tt)
        tl.store(p_partials + num_chunks + chunk, tg)
        tl.store(p_partials + 2 * num_chunks + chunk, gg)


@triton.jit
def range_sum(p_values, first, last, ACC: tl.constexpr):
    """Sum of values[first:last], in an order that depends on nothing else."""
    total = tl.zeros((512,), ACC)
    for start in range(first, last, 512):
        index = start + tl.arange(0, 512)
        total += tl.load(p_values + index, mask=index < last, other=0.0)
    return tl.sum(total)


@triton.jit
def finish_group(
    p_partials, p_sums, p_first_chunk, group, num_groups, num_chunks, ACC: tl.constexpr
):
    """The sums of a group from those of its chunks."""
    first, last = tl.load(p_first_chunk + group), tl.load(p_first_chunk + group + 1)
    for part in tl.static_range(3):
        total = range_sum(p_partials + part * num_chunks, first, last, ACC)
        tl.store(p_sums + part * num_groups + group, total)
