"""What is asked of the engine, checked before anything is imported for it."""

import re
from importlib.util import find_spec

from ..errors import UsageError

ADDRESS = re.compile(r"auto|[^/\s]+:\d{1,5}")


def check_engine(engine: str, address: str | None, per_gpu: int, device: str) -> None:
    """Raise for options that do not go with the engine, or for an engine that is not installed.

    Raises:
        UsageError: the message says what is allowed.
    """
    if engine != "ray":
        if address is not None:
            raise UsageError(f"--address {address}: needs --engine ray")
        if per_gpu != 1:
            raise UsageError(
                f"--per-gpu {per_gpu}: needs --engine ray; on one machine --processes sets how"
                " many train at once, on all GPUs in turn"
            )
        return
    found = find_spec("ray")
    # A folder of that name in the current directory is none.
    if found is None or found.origin is None:
        raise UsageError(
            "ray is not installed, which --engine ray needs: pip install 'fasttrain-lr[ray]'"
        )
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device}: Ray chooses among GPUs: allowed are auto, cpu, cuda")
    if address is not None and address.startswith("ray://"):
        raise UsageError(
            f"--address {address}: Ray's client cannot pass on messages of running tasks; run"
            " this on a machine of the cluster, with --address auto or HOST:PORT"
        )
    if address is not None and not ADDRESS.fullmatch(address):
        raise UsageError(f"--address {address!r}: allowed are auto and HOST:PORT")
