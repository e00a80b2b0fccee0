"""Machine code of a compiled kernel, read: registers, spills, vector accesses, loops, bytes.

NVIDIA's with the disassembler that comes with Triton, AMD's as the assembly that the compiler
writes. The names are those of the columns in `static.py`.
"""

import math
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from triton import knobs

# Shared memory of a multiprocessor in bytes; all have 65,536 registers, 64 warps, 32 programs.
_SHARED = {"sm_80": 164 * 1024, "sm_90": 228 * 1024, "sm_100": 228 * 1024}


def nvidia_code(compiled: Any, target: str) -> dict[str, Any]:
    """What the code for one of NVIDIA's targets needs and does."""
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


def amd_code(compiled: Any) -> dict[str, Any]:
    """The same for AMD's."""
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


def bytes_per_parameter(ttir: str, block: int) -> int:
    """Bytes of every load and store of a whole block, in the code before it is lowered."""
    accesses = re.findall(rf"tt\.(?:load|store) .*tensor<{block}x!tt\.ptr<[a-z]+(\d+)>>", ttir)
    return sum(int(bits) // 8 for bits in accesses)


def bytes_per_number(ttir: str, numbers: int, channels: int) -> float:
    """Bytes of every load and store of a map, of those that a loop repeats if there is one.

    Coefficients, one for each channel of a block, are left out.
    """
    loop = re.search(r"scf\.for.*?scf\.yield", ttir, re.DOTALL)
    code = loop[0] if loop else ttir
    moved = 0
    for shape, bits in re.findall(
        r"tt\.(?:load|store) .*tensor<([\dx]+)x!tt\.ptr<[a-z]+(\d+)>>", code
    ):
        size = math.prod(map(int, shape.split("x")))
        moved += 0 if size == channels else size * int(bits) // 8
    return moved / numbers


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
