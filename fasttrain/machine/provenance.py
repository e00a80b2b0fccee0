"""Where a result came from: versions, commit, device, date."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from .precision import device_name


def provenance(device: torch.device, precision: str, command: str) -> dict[str, str | None]:
    """Facts about this run that do not change its numbers' identity, for the record."""
    return {
        "fasttrain": _version(),
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "device": device_name(device),
        "precision": precision,
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def about() -> str:
    """Hardware, versions and date, for the head of a table of measurements."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "numba"))
    hardware = f"{device_name(torch.device('cpu'))}, {torch.get_num_threads()} threads"
    return f"{hardware}; {versions}; {datetime.now(UTC):%Y-%m-%d}"


def _version() -> str | None:
    """The installed version; None where it runs from the source tree alone."""
    try:
        return metadata.version("fasttrain-lr")
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree, with `+` for uncommitted changes; None if installed."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        head = subprocess.run(
            [
                "git",
                "-C",
                str(folder),
                "describe",
                "--always",
                "--dirty=+",
                "--abbrev=12",
                "--exclude=*",
            ],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() or None
