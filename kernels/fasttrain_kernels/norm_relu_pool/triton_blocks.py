"""How the Triton kernels of a fused normalisation divide a tensor, and what they are compiled for.

Numbers of a block are 16 a thread of an NVIDIA warp, so that two vectors of 128 bits of bf16, or
four of fp32, are on their way at once. A block has all channels of its rows up to `MAX_CHANNELS`,
where a row of them is 128 bytes of bf16.
"""

from typing import Any, NamedTuple

import torch
import triton

SUM_BLOCK, SUM_WARPS = 4096, 8
BLOCK, WARPS = 2048, 4
"""Numbers of y at once, and warps, of the sums and of what is written."""

MAX_CHANNELS, MIN_CHANNELS = 64, 8
"""Channels of a block at most, and at least where a window is large."""

MAX_CHUNKS = 512
"""Chunks of rows: a program of the second launch holds what all of them sum up to."""

CHUNK_CHANNELS = 8
"""Channels of such a program: 32 bytes of what each chunk wrote."""

LAUNCH = {"num_stages": 1}
"""Compile options of every kernel."""


class Chunks(NamedTuple):
    """Rows of C numbers, divided for their sums."""

    rows: int
    chunk_rows: int
    num_chunks: int
    sizes: dict[str, Any]

    @property
    def grid(self) -> tuple[int, int]:
        """Programs: chunks and blocks of channels."""
        return self.num_chunks, triton.cdiv(self.sizes["C"], self.sizes["BLOCK_C"])


def chunks_of(rows: int, c: int) -> Chunks:
    """At most `MAX_CHUNKS`, of whole blocks but the last."""
    block_c = min(MAX_CHANNELS, triton.next_power_of_2(c))
    block_r = SUM_BLOCK // block_c
    chunk_rows = triton.cdiv(triton.cdiv(rows, block_r), MAX_CHUNKS) * block_r
    sizes = {"C": c, "BLOCK_R": block_r, "BLOCK_C": block_c, "num_warps": SUM_WARPS, **LAUNCH}
    return Chunks(rows, chunk_rows, triton.cdiv(rows, chunk_rows), sizes)


def merge_sizes(chunks: Chunks) -> dict[str, Any]:
    """Of the kernels that add chunks up."""
    held = triton.next_power_of_2(chunks.num_chunks)
    warps = max(WARPS, held * CHUNK_CHANNELS // 512)
    sizes = {"C": chunks.sizes["C"], "CHUNKS": held, "BLOCK_C": CHUNK_CHANNELS}
    return sizes | {"num_warps": warps, **LAUNCH}


def channel_sizes(c: int) -> dict[str, Any]:
    """Of the kernel that needs running statistics alone."""
    return {"C": c, "BLOCK_C": min(128, triton.next_power_of_2(c)), "num_warps": 4, **LAUNCH}


def row_sizes(c: int) -> dict[str, Any]:
    """Of the kernels that write rows."""
    block_c = min(MAX_CHANNELS, triton.next_power_of_2(c))
    sizes = {"C": c, "BLOCK_R": BLOCK // block_c, "BLOCK_C": block_c}
    return sizes | {"num_warps": WARPS, **LAUNCH}


def window_sizes(c: int, h: int, w: int, pool: tuple[int, int]) -> dict[str, Any]:
    """Of the kernels that write windows: a block of a large one has fewer channels."""
    places = triton.next_power_of_2(pool[0] * pool[1])
    most = max(MIN_CHANNELS, BLOCK // places)
    block_c = min(MAX_CHANNELS, most, triton.next_power_of_2(c))
    windows = max(1, BLOCK // (places * block_c))
    warps = max(WARPS, windows * places * block_c // 512)
    return {
        "H": h,
        "W": w,
        "KH": pool[0],
        "KW": pool[1],
        "C": c,
        "WINDOWS": windows,
        "PLACES": places,
        "BLOCK_C": block_c,
        # Of 64 threads each on AMD.
        "num_warps": min(warps, 32 if torch.version.hip is None else 16),
        **LAUNCH,
    }


def grid(count: int, each: int, sizes: dict[str, Any]) -> tuple[int, int]:
    """Programs: so many at once, of rows or windows, and blocks of channels."""
    return triton.cdiv(count, each), triton.cdiv(sizes["C"], sizes["BLOCK_C"])
