"""Devices and arithmetic: what `--device` and `--precision` mean, and the autocast context."""

import contextlib

import torch

from .errors import EnvironmentProblem, UsageError


def resolve_device(name: str) -> torch.device:
    """The device of a name: `auto` is the first CUDA device, or the CPU.

    Raises:
        UsageError: a name that is none.
        EnvironmentProblem: a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise UsageError(f"--device {name!r}: allowed are auto, cpu, cuda, cuda:0, cuda:1, ...")
    count = torch.cuda.device_count()
    if kind == "cuda" and int(index or 0) >= count:
        raise EnvironmentProblem(f"--device {name}: this machine has {count} CUDA devices")
    return torch.device(name)


def set_exact_arithmetic() -> None:
    """For this process: a resumed run finds the same bits, and fp32 is fp32.

    Convolutions take neither the algorithm that happens to be fastest nor TF32's shorter mantissa.
    """
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False


def device_name(device: torch.device) -> str:
    """The device in words, for the record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def resolve_precision(precision: str, device: torch.device) -> str:
    """`auto` is bf16 where the device multiplies bf16 matrices natively, else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    flags = torch.cpu.get_capabilities()
    return "bf16" if flags.get("avx512_bf16") or flags.get("amx_bf16") else "fp32"


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context of a forward pass: bf16 autocast, or nothing for fp32."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
