"""Devices and arithmetic: what `--device` and `--precision` mean, and the autocast context."""

import contextlib
import re

import torch

from ..errors import EnvironmentProblem, UsageError


def resolve_device(name: str) -> torch.device:
    """The device of a name, a CUDA device with its index: `auto` is the first one, or the CPU.

    Raises:
        UsageError: a name that is none.
        EnvironmentProblem: a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    found = re.fullmatch("cuda(:([0-9]{1,3}))?", name)
    if not found:
        raise UsageError(f"--device {name!r}: allowed are auto, cpu, cuda, cuda:0, cuda:1, ...")
    index, count = int(found[2] or 0), torch.cuda.device_count()
    if index >= count:
        raise EnvironmentProblem(f"--device {name}: this machine has {count} CUDA devices")
    return torch.device("cuda", index)


def set_exact_arithmetic() -> None:
    """For this process: the same algorithms give the same bits, and fp32 is fp32.

    On CUDA convolutions take the fastest of the deterministic algorithms, which cuDNN finds by
    trying them, and never TF32's shorter mantissa.
    """
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False


def answers(device: torch.device) -> bool:
    """Whether this process can still use its device.

    After some errors of a kernel (an illegal address, a failed assertion) CUDA refuses all else
    until the process ends.
    """
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
        return True
    except RuntimeError:
        return False


def device_name(device: torch.device) -> str:
    """The device in words, for the record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.backends.cpu.get_cpu_capability()}"


def resolve_precision(precision: str, device: torch.device) -> str:
    """`auto` is bf16 where the device multiplies bf16 matrices natively, else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        # torch answers for the current device.
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    flags = torch.cpu.get_capabilities()
    return "bf16" if flags.get("avx512_bf16") or flags.get("amx_bf16") else "fp32"


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context of a forward pass: bf16 autocast, or nothing for fp32."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
