"""What the Triton kernels compile to, without a GPU: registers, spills, access widths, bytes.

Every kernel is compiled ahead of time for each target and its machine code is read
(`machine_code.py`). Run it by `fasttrain bench kernels --static`, or, where kernels alone are
installed, `python -m fasttrain_kernels.compiled.static`; the first time takes about a minute, later
ones are read from Triton's cache. It needs compiled kernels, so not the interpreter.

| column       | meaning                                                                       |
|--------------|-------------------------------------------------------------------------------|
| registers    | per thread (AMD: vector registers)                                            |
| spills       | accesses to local memory in the code (AMD: spilled registers)                 |
| shared       | bytes of shared memory per program                                            |
| occupancy    | fraction of a multiprocessor's warps that fit at once                         |
| loads,stores | vector accesses in the code: how many of how many bits                        |
| instructions | per element, in the smallest loop around the vector loads; where a chunk is   |
|              | held in registers that loop is the whole kernel, so an upper bound            |
| bytes        | of memory traffic per parameter, by the loads and stores of whole chunks; of  |
|              | the augmentation per value, 4 of them from the table, which stays in a cache; |
|              | of a normalisation per number of its map, or of the map that is pooled; of    |
|              | the cross-entropy per logit of a tile, labels included                        |

Of the normalisations `gradients` is what the map is stored in, of the cross-entropy the logits.
"""

from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ..augment import triton as augment_triton
from ..augment.augment import Patch
from ..small_mlp import triton as mlp_triton
from ..step.layout import CHUNK
from ..step.triton import adam_step, group_sums, scale, totals
from ..step.triton.launch import LAUNCH, block_options
from .machine_code import amd_code, bytes_per_number, bytes_per_parameter, nvidia_code
from .steps import COPY, step_cases
from .stored import MAPS, Case, loss_cases, norm_cases

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
_ADDRESS_TABLES = {"p_thetas", "p_grads", "p_buffers", "p_outputs", "p_copies"}
_INTEGER_TABLES = {
    "p_tensors",
    "p_chunks",
    "p_group_of_chunk",
    "p_first_chunk",
    "p_blocks",
    "p_first_block",
    "p_long_groups",
}
# Of the augmentation, whose values are moved as bits.
_TYPES = {"p_images": "*u8", "p_rows": "*i64", "p_samples": "*i64", "seed": "i64", "epoch": "i64"}
_TYPES |= {"p_out": "*i32", "p_table": "*i32", "p_labels": "*i64", "patch_seed": "i64"}
_TYPES |= {"p_key": "*i64", "p_positions": "*i64", "p_chosen": "*i64"}
# Of the norms of whole models.
_TYPES |= {"p_groups": "*i64", "p_product": "*fp64"}
# Of the small MLPs.
_TYPES |= {name: "*i64" for name in ("p_targets", "p_order", "p_bounds")}
_TYPES |= {"p_hits": "*i32", "radius": "fp32", "eps": "fp32"}

# Of the cross-entropy.
_TYPES |= {name: "*i64" for name in ("p_right", "p_hits_sum", "p_images_sum")}
_TYPES |= {"p_loss_sum": "*fp64"}

# Of the normalisations.
_TYPES |= {"p_count": "*i64", "p_statistics": "*fp64"}


def cases() -> list[Case]:
    """Every kernel, as it is launched: plain, with momentum, bf16 and Nesterov, with copies."""
    fp32, bf16 = torch.float32, torch.bfloat16
    made = [
        Case(
            name="group sums", kernel=group_sums._sums_kernel, constants={"HAS_GRAD": True}, other=o
        )
        for o in (fp32, bf16)
    ]
    variants = ((0.0, False, fp32), (0.0, False, bf16), (0.9, False, fp32), (0.9, True, bf16))
    for momentum, nesterov, other in variants:
        made += step_cases(momentum, nesterov, other)
    for momentum, nesterov in ((0.0, False), (0.9, False), (0.9, True)):
        made += step_cases(momentum, nesterov, bf16, copies=True)
    adam = {"BETA1": 0.9, "BETA2": 0.999, "EPS": 1e-8}
    for o, copies in ((fp32, False), (bf16, False), (bf16, True)):
        name, chosen = f"adam{COPY * copies}", adam | {"HAS_COPY": copies}
        # Triton leaves out what is None: 3.6 gives even an unused argument registers.
        chosen |= {} if copies else {"p_copies": None}
        made.append(Case(name=name, kernel=adam_step._adam_kernel, constants=chosen, other=o))
    for o, copies in ((fp32, False), (bf16, False), (fp32, True)):
        name, chosen = f"scale{COPY * copies}", {"HAS_COPY": copies}
        made.append(Case(name=name, kernel=scale._scale_kernel, constants=chosen, other=o))
    finish = {"ACC": triton.language.float32, "num_warps": 4, **LAUNCH}
    made.append(Case(name="adam, groups", kernel=adam_step._groups_kernel, constants=finish))
    finish = {"ACC": triton.language.float32, "SCALES": True, "num_warps": 4, **LAUNCH}
    made.append(Case(name="finish", kernel=group_sums._finish_kernel, constants=finish))
    norms = {"ACC": triton.language.float32, "SCALED": True, "ADDS": True, "BLOCK": totals.BLOCK}
    norms |= {"num_warps": 4, **LAUNCH}
    made.append(Case(name="totals", kernel=totals._totals_kernel, constants=norms))
    for trains in (True, False):
        sizes = mlp_triton.constants(2, 32, 32, 16, trains=trains)
        sizes |= {"ACC": triton.language.float32, **mlp_triton.LAUNCH}
        name = "mlp, steps" if trains else "mlp, scores"
        made.append(Case(name=name, kernel=mlp_triton._mlp_kernel, constants=sizes))
    augment = augment_triton.constants(32, 32, 3, flip=True, padding=4, cutout=8)
    sizes = torch.empty(7, 7, 3), torch.empty(10, 7, 7, 3)
    patch = Patch(*sizes, top=12, left=12, share=0.8, alone=0.2, strength=1.75, seed=0)
    for name, given, keyed, placed in (
        ("augment", None, 0, 0),
        ("augment, key on the device", None, 1, 0),
        ("augment, next of an epoch", None, 1, 1),
        ("augment, patches", patch, 0, 0),
    ):
        own = augment_triton.patch_constants(given, torch.float32)
        own |= {"KEYED": keyed, "PLACED": placed}
        made.append(
            Case(
                name=name,
                kernel=augment_triton._augment_kernel,
                constants=augment | own | augment_triton.LAUNCH,
            )
        )
    return made + loss_cases() + norm_cases()


def report(targets: tuple[str, ...] = tuple(TARGETS)) -> list[dict[str, Any]]:
    """One row per kernel, specialisation and target; the columns are those of the module's table.

    Raises:
        RuntimeError: the kernels were imported for Triton's interpreter.
    """
    if knobs.runtime.interpret:
        raise RuntimeError("the static report needs compiled kernels: unset TRITON_INTERPRET")
    return [_row(case, target) for case in cases() for target in targets]


def table(rows: list[dict[str, Any]] | None = None) -> None:
    """Print the report."""
    rows = report() if rows is None else rows
    columns = list(rows[0])
    cells = [columns] + [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{count}x{bits}" for bits, count in sorted(value.items())) or "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def compiled_for(case: Case, target: str) -> tuple[Any, dict[str, Any]]:
    """A kernel compiled for a target, and what it was specialised on."""
    hip = TARGETS[target].backend == "hip"
    nesterov = case.constants.get("NESTEROV", False)
    held = CHUNK if case.hold else None
    chosen = dict(case.constants)
    if case.other is not None:
        moments = "BETA1" in case.constants
        chosen |= block_options(
            torch.float32, case.other, held, nesterov=nesterov, hip=hip, moments=moments
        )
    return _compile(case, chosen, target), chosen


def _row(case: Case, target: str) -> dict[str, Any]:
    compiled, chosen = compiled_for(case, target)
    if case.stored is None:
        per_thread = chosen.get("BLOCK", 0) // chosen.get("NARROW", 1)
        moved = bytes_per_parameter(compiled.asm["ttir"], chosen.get("BLOCK", 0))
    else:
        per_thread = _numbers(chosen) // (chosen["num_warps"] * TARGETS[target].warp_size)
        moved = bytes_per_number(compiled.asm["ttir"], _numbers(chosen), _columns(chosen))
    hip = TARGETS[target].backend == "hip"
    code = amd_code(compiled) if hip else nvidia_code(compiled, target)
    return {
        "kernel": case.name,
        "gradients": str(case.other or case.stored or "-").removeprefix("torch."),
        "momentum": case.momentum,
        "target": target,
        "registers": code["registers"],
        "spills": code["spills"],
        "shared": compiled.metadata.shared,
        "occupancy": code["occupancy"],
        "loads": code["loads"],
        "stores": code["stores"],
        "atomics": code["atomics"],
        "fp64": code["fp64"],
        "instructions": code["loop"] / per_thread if per_thread else 0.0,
        "bytes": moved,
    }


def _compile(case: Case, chosen: dict[str, Any], target: str) -> Any:
    names = case.kernel.arg_names
    signature = {name: _type(name) for name in names}
    if case.stored is not None:
        kind = "*bf16" if case.stored == torch.bfloat16 else "*fp32"
        signature |= {name: kind for name in MAPS if name in names}
    absent = {name for name in names if chosen.get(name, name) is None}
    signature |= dict.fromkeys(absent, "constexpr")
    constants = {name: chosen[name] for name in names if name.isupper() or name in absent}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if name.startswith("p_") and name not in absent
    }
    options = {
        name: value for name, value in chosen.items() if not name.isupper() and name not in absent
    }
    source = ASTSource(case.kernel, signature, constants, aligned)
    return triton.compile(source, target=TARGETS[target], options=options)


def _type(name: str) -> str:
    if name.isupper():
        return "constexpr"
    if name in _TYPES:
        return _TYPES[name]
    if name in _ADDRESS_TABLES:
        return "*i64"
    if name in _INTEGER_TABLES:
        return "*i32"
    return "*fp32" if name.startswith("p_") else "i32"


def _numbers(chosen: dict[str, Any]) -> int:
    """Of a block of a normalisation, or of a tile of logits."""
    rows = chosen.get("BLOCK_R") or chosen.get("ROWS") or chosen["WINDOWS"] * chosen["PLACES"]
    return rows * _columns(chosen)


def _columns(chosen: dict[str, Any]) -> int:
    return chosen.get("BLOCK_C") or chosen["COLUMNS"]


if __name__ == "__main__":
    table()
