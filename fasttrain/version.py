"""The version: that of the tag `v1.2.3` that the source tree is at or after, or `RELEASE`.

The build reads it (`[tool.hatch.version]`), so that this file imports nothing of the package. No
result depends on it: a store's identities hold versions of parts and of torch alone.
"""

import re
import subprocess
from importlib import metadata
from pathlib import Path

RELEASE = "0.1.0"
"""of a source tree without git or tags"""
DESCRIBED = re.compile(r"v(\d+(?:\.\d+)*(?:(?:a|b|rc)\d+)?)-(\d+)-g([0-9a-f]+)")


def of_tree(root: Path = Path(__file__).parents[1]) -> str:
    """The version of a source tree: "1.2.3" at its tag, "1.2.3.post4+g0123abc" 4 commits after."""
    if not (root / ".git").exists():
        return RELEASE
    command = ["git", "-C", str(root), "describe", "--tags", "--long", "--match", "v[0-9]*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return RELEASE
    found = DESCRIBED.fullmatch(done.stdout.strip())
    if found is None:
        return RELEASE
    return found[1] if found[2] == "0" else f"{found[1]}.post{found[2]}+g{found[3]}"


def installed() -> str:
    """The version that is installed, or that of the source tree that it runs from."""
    try:
        return metadata.version("fasttrain-lr")
    except metadata.PackageNotFoundError:
        return of_tree()
