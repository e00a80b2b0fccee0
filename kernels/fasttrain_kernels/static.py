"""What the Triton kernels compile to, without a GPU: registers, spills, access widths, bytes.

Every kernel is compiled ahead of time for each target and its machine code is read: NVIDIA's with
the disassembler that comes with Triton, AMD's as the assembly that the compiler writes. Run it by
`fasttrain bench --static` or `python -m fasttrain_kernels.static`; the first time takes about a
minute, later ones are read from Triton's cache. It needs compiled kernels, so not the interpreter.

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
|              | the augmentation per value, 4 of them from the table, which stays in a cache  |
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import augment_triton, group_sums, sgd_step, sphere_apply, sphere_step
from .blocks import LAUNCH, block_options
from .groups import CHUNK

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Shared memory of a multiprocessor in bytes; all have 65,536 registers, 64 warps, 32 programs.
_SHARED = {"sm_80": 164 * 1024, "sm_90": 228 * 1024, "sm_100": 228 * 1024}

_ADDRESS_TABLES = {"p_thetas", "p_grads", "p_buffers", "p_outputs"}
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
_TYPES |= {"p_out": "*i32", "p_table": "*i32"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One specialisation of a kernel; parameters are fp32."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    other: torch.dtype | None = None
    """of the gradients or outputs; None for a kernel that touches no parameters"""
    hold: bool = False
    momentum: str = "-"


def cases() -> list[Case]:
    """Every kernel, as it is launched: plain, with momentum, and with bf16 and Nesterov."""
    fp32, bf16 = torch.float32, torch.bfloat16
    made = [
        Case(
            name="group sums", kernel=group_sums._sums_kernel, constants={"HAS_GRAD": True}, other=o
        )
        for o in (fp32, bf16)
    ]
    variants = ((0.0, False, fp32), (0.0, False, bf16), (0.9, False, fp32), (0.9, True, bf16))
    for momentum, nesterov, other in variants:
        step = {"HAS_BUFFER": momentum > 0, "MOMENTUM": momentum, "NESTEROV": nesterov}
        joint, group = step | {"PER_GROUP": False}, step | {"PER_GROUP": True}
        label = "Nesterov" if nesterov else "momentum" if momentum else "-"
        for name, kernel, constants in (
            ("sphere exact, pass 1", sphere_step._step_kernel, joint | {"DEFERRED": False}),
            ("sphere exact, pass 2", sphere_apply._apply_kernel, joint),
            ("sphere deferred", sphere_step._step_kernel, joint | {"DEFERRED": True}),
            ("sphere per group", sphere_step._step_kernel, group | {"DEFERRED": False}),
            ("sgd", sgd_step._sgd_kernel, step | {"WEIGHT_DECAY": 5e-4}),
        ):
            made.append(
                Case(
                    name=name,
                    kernel=kernel,
                    constants=constants,
                    other=other,
                    hold=name == "sphere per group",
                    momentum=label,
                )
            )
    made.append(Case(name="scale", kernel=sphere_step._scale_kernel, constants={}, other=fp32))
    made.append(Case(name="scale", kernel=sphere_step._scale_kernel, constants={}, other=bf16))
    finish = {"ACC": triton.language.float32, "SCALES": True, "num_warps": 4, **LAUNCH}
    made.append(Case(name="finish", kernel=group_sums._finish_kernel, constants=finish))
    augment = augment_triton.constants(32, 32, 3, flip=True, padding=4, cutout=8)
    made.append(
        Case(
            name="augment",
            kernel=augment_triton._augment_kernel,
            constants=augment | augment_triton.LAUNCH,
        )
    )
    return made


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


def _row(case: Case, target: str) -> dict[str, Any]:
    hip = TARGETS[target].backend == "hip"
    nesterov = case.constants.get("NESTEROV", False)
    held = CHUNK if case.hold else None
    chosen = dict(case.constants)
    if case.other is not None:
        chosen |= block_options(torch.float32, case.other, held, nesterov=nesterov, hip=hip)
    compiled = _compile(case.kernel, chosen, target)
    per_thread = chosen.get("BLOCK", 0) // chosen.get("NARROW", 1)
    code = _amd_code(compiled) if hip else _nvidia_code(compiled, target)
    return {
        "kernel": case.name,
        "gradients": str(case.other).removeprefix("torch.") if case.other else "-",
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
        "bytes": _bytes_per_parameter(compiled.asm["ttir"], chosen.get("BLOCK", 0)),
    }


def _compile(kernel: Any, chosen: dict[str, Any], target: str) -> Any:
    names = kernel.arg_names
    signature = {name: _type(name) for name in names}
    constants = {name: chosen[name] for name in names if name.isupper()}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if name.startswith("p_")
    }
    options = {name: value for name, value in chosen.items() if not name.isupper()}
    source = ASTSource(kernel, signature, constants, aligned)
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


def _bytes_per_parameter(ttir: str, block: int) -> int:
    """Bytes of every load and store of a whole block, in the code before it is lowered."""
    accesses = re.findall(rf"tt\.(?:load|store) .*tensor<{block}x!tt\.ptr<[a-z]+(\d+)>>", ttir)
    return sum(int(bits) // 8 for bits in accesses)


def _nvidia_code(compiled: Any, target: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        tools = knobs.nvidia
        usage = _run(tools.cuobjdump.path, "--dump-resource-usage", str(cubin))
        text = _run(tools.nvdisasm.path, str(cubin))
    registers = int(re.search(r"REG:(\d+)", usage)[1])  # type: ignore[index]
    lines = [line.strip() for line in text.splitlines()]
    code = [
        re.sub(r"^/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?", "", line)
        for line in lines
        if re.match(r"/\*[0-9a-f]{4,}\*/\s+[@A-Z]|\.L_", line)
    ]
    names = Counter(line.split()[0].rstrip(";") for line in code)
    return {
        "registers": registers,
        "spills": _count(names, r"(LDL|STL)"),
        "occupancy": _occupancy(registers, compiled.metadata, target),
        # Addresses are 64 bits too, but loaded one by one: PTX tells them from vectors.
        "loads": _vectors(compiled.asm["ptx"], "ld"),
        "stores": _vectors(compiled.asm["ptx"], "st"),
        "atomics": _count(names, r"(ATOM|RED\b|RED\.)"),
        "fp64": _count(names, r"D(ADD|MUL|FMA|SETP|MNMX)\b|.*\.F64"),
        "loop": _loop(code, r"LDG\.E\.128", r"BRA.*\(?`\((\.L_\w+)\)", r"(\.L_\w+):"),
    }


def _vectors(ptx: str, access: str) -> dict[int, int]:
    """Vector accesses to global memory by their bits."""
    found = re.findall(rf"{access}\.global\S*\.v(\d)\.b(\d+)", ptx)
    return dict(Counter(int(count) * int(bits) for count, bits in found))


def _amd_vectors(llir: str, access: str) -> dict[int, int]:
    """The same from LLVM's code, where they are plain accesses or calls of a buffer intrinsic."""
    sizes = {"float": 32, "bfloat": 16, "i32": 32, "i16": 16, "f32": 32, "bf16": 16}
    plain = re.findall(rf"{access} <(\d) x (\w+)>.*ptr addrspace\(1\)", llir)
    calls = re.findall(rf"call .*\.buffer\.{access}\.v(\d)(\w+)\(", llir)
    found = Counter(
        int(count) * sizes.get(kind, 64) for count, kind in plain + calls if count > "1"
    )
    return dict(found)


def _amd_code(compiled: Any) -> dict[str, Any]:
    text = compiled.asm["amdgcn"]
    code = [
        line.strip()
        for line in text.splitlines()
        if re.match(r"\s+[a-z]\w+|\.LBB\w+:", line) and not re.match(r"\s+\.", line)
    ]
    names = Counter(line.split()[0] for line in code)
    waves = int(re.search(r"; Occupancy: (\d+)", text)[1])  # type: ignore[index]
    spilled = re.findall(r"\.[sv]gpr_spill_count:\s+(\d+)", text)
    return {
        "registers": int(re.search(r"\.vgpr_count:\s+(\d+)", text)[1]),  # type: ignore[index]
        "spills": sum(map(int, spilled)),
        "occupancy": waves / 8,
        "loads": _amd_vectors(compiled.asm["llir"], "load"),
        "stores": _amd_vectors(compiled.asm["llir"], "store"),
        "atomics": _count(names, r".*_atomic_"),
        "fp64": _count(names, r".*_f64"),
        "loop": _loop(
            code, r"(?:buffer|global)_load_dwordx4", r"s_c?branch\w*\s+(\.LBB\w+)", r"(\.LBB\w+):"
        ),
    }


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


def _count(names: Counter[str], pattern: str) -> int:
    return sum(count for name, count in names.items() if re.match(pattern, name))


def _loop(code: list[str], load: str, branch: str, label: str) -> int:
    """Instructions of the smallest loop that contains every vector load; 0 without such a load."""
    labels, inside, position = {}, [], 0
    jumps = []
    for line in code:
        if found := re.match(label, line):
            labels[found[1]] = position
            continue
        if re.match(load, line):
            inside.append(position)
        if (found := re.match(branch, line)) and found[1] in labels:
            jumps.append((labels[found[1]], position))
        position += 1
    if not inside:
        return 0
    around = [end - start for start, end in jumps if start <= inside[0] and inside[-1] <= end]
    return min(around, default=position) + 1


def _occupancy(registers: int, metadata: Any, target: str) -> float:
    per_warp = -(-registers * 32 // 256) * 256
    # A program uses 1 KiB of shared memory beside its own.
    programs = min(
        65536 // per_warp // metadata.num_warps,
        64 // metadata.num_warps,
        32,
        _SHARED[target] // (metadata.shared + 1024),
    )
    return programs * metadata.num_warps / 64


if __name__ == "__main__":
    table()
