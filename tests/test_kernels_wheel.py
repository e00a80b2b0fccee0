"""`fasttrain-kernels`, the kernels alone: its wheel works where only what it depends on is."""

import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
USE = """
import importlib.metadata, importlib.util, sys
sys.path[:0] = {paths!r}
for absent in ("fasttrain", "fasttrain_data", "pandas", "torchvision", "pydantic", "pytest"):
    assert importlib.util.find_spec(absent) is None, absent
import torch, fasttrain_kernels
assert fasttrain_kernels.__file__.startswith({target!r})
assert fasttrain_kernels.__version__ == importlib.metadata.version("fasttrain-kernels")
weight = torch.nn.Parameter(torch.ones(3, 4))
for optimizer in (
    fasttrain_kernels.SphereSGD([weight], elr=0.1),
    fasttrain_kernels.OnSphere(torch.optim.Adam([weight], lr=0.1)),
):
    weight.grad = torch.arange(12.0).view(3, 4)
    optimizer.step()
assert "numba" in repr(fasttrain_kernels.SphereSGD([weight], elr=0.1))
torch.testing.assert_close(weight.norm(), torch.tensor(12.0).sqrt())
"""


def build(folder: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(target)]
    subprocess.run([*command, str(folder)], check=True, capture_output=True)
    (wheel,) = target.glob("*.whl")
    return wheel


def required(name: str, known: dict[str, importlib.metadata.Distribution]) -> None:
    """A distribution that is installed here, and all that it requires without extras."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in known:
        return
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        # Of another platform.
        return
    known[name] = found
    for line in found.requires or ():
        if "extra ==" not in line:
            required(re.match(r"[\w.-]+", line)[0], known)  # type: ignore[index]


def links_to(names: list[str], folder: Path) -> None:
    """A folder to import from that holds these distributions, what they require, and no more."""
    known: dict[str, importlib.metadata.Distribution] = {}
    for name in names:
        required(name, known)
    folder.mkdir()
    for distribution in known.values():
        for top in {file.parts[0] for file in distribution.files or ()}:
            source = Path(str(distribution.locate_file(top)))
            if top != ".." and source.exists() and not (folder / top).exists():
                (folder / top).symlink_to(source)


def test_the_wheel_holds_one_package_and_works_where_nothing_else_is(tmp_path):
    wheel = build(ROOT / "kernels", tmp_path)
    assert wheel.name.startswith("fasttrain_kernels-")
    target, links, empty = (tmp_path / name for name in ("target", "links", "empty"))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(target)
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"fasttrain_kernels"}
    assert "fasttrain_kernels/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    needed = [re.match(r"Requires-Dist: ([\w-]+)", line) for line in lines]
    dependencies = [match[1] for match in needed if match]
    assert dependencies == ["numba", "numpy", "torch"]
    links_to(dependencies, links)
    empty.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    code = USE.format(paths=[str(target), str(links)], target=str(target))
    # Without `site` no other package is found.
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_both_distributions_ship_the_same_kernels(tmp_path):
    contents = []
    for folder in (ROOT, ROOT / "kernels"):
        wheel = build(folder, tmp_path / folder.name)
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if n.startswith("fasttrain_kernels/")]
            contents.append({name: archive.read(name) for name in names})
    assert contents[0] == contents[1]
