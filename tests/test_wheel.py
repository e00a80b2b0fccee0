"""What is published: a wheel of exactly three packages that works without the source tree."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PRESETS = ROOT / "fasttrain" / "presets"
PACKAGES = {"fasttrain", "fasttrain_kernels", "fasttrain_data"}
USE = """
import fasttrain, fasttrain_kernels, fasttrain_data, fasttrain.report
from fasttrain.plan.config import load_config, presets
for module in (fasttrain, fasttrain_kernels, fasttrain_data):
    assert module.__file__.startswith({target!r})
assert len([load_config(name) for name in presets()]) == {count}
"""


def test_the_wheel_holds_three_packages_and_imports_from_an_empty_directory(tmp_path):
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "-o",
            str(tmp_path),
            str(ROOT),
        ],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith("fasttrain_lr-")
    target, empty = tmp_path / "target", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(target)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    code = USE.format(target=str(target), count=len(list(PRESETS.glob("*.toml"))))
    subprocess.run([sys.executable, "-c", code], cwd=empty, env=environment, check=True)
    run = [sys.executable, "-m", "fasttrain", "data", "inspect", "digits"]
    subprocess.run(run, cwd=empty, env=environment, check=True, capture_output=True)
    assert list(empty.iterdir()) == []
