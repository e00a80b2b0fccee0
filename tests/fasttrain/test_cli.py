"""What the command line says: one line for a mistake, the right exit code, no traceback."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from typing import get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image

from fasttrain.cli.arguments import BenchGrid, BenchKernels
from fasttrain.plan.config import load_config

MISTAKES = [
    (["swep"], "'swep' is no command (did you mean 'sweep'?)"),
    (["sweep"], "needs a preset or a .toml file first"),
    (["sweep", "--quiet"], "needs a preset or a .toml file first"),
    (["sweep", "digts"], "did you mean 'digits'"),
    (["sweep", "none.toml"], "none.toml: cannot be read: No such file"),
    (["sweep", "digits", "extra"], "extra"),
    (["sweep", "digits", "--epoch", "3"], "--epoch, 3 (did you mean --epochs?)"),
    (["sweep", "digits", "--epochs"], "--epochs"),
    (["sweep", "digits", "--epochs", "0"], "training.epochs = 0: must be greater than 0"),
    (["sweep", "digits", "--epochs", "x"], "--epochs"),
    (["sweep", "digits", "--plr", ""], "--plr: empty"),
    (["sweep", "digits", "--plr", "1e-3,x"], "--plr: 'x' is not a learning rate"),
    (["sweep", "digits", "--plr", "1,1"], "--plr: 1 is given twice"),
    (["sweep", "digits", "--flr", "0"], "--flr: 0: a learning rate is a finite number above 0"),
    (["sweep", "digits", "--k", "0"], "--k: 0: a number of checkpoints"),
    (["sweep", "digits", "--seeds", "0"], "grid.seeds = 0"),
    (
        ["sweep", "digits", "--model", "resnet19"],
        "Expected one of ('convnet', 'resnet18',",
    ),
    (["sweep", "digits", "--precision", "fp16"], "fp16"),
    (["sweep", "digits", "--dataset", "cifar11"], "did you mean 'cifar10'"),
    (["sweep", "digits", "--dataset", "none.npz"], "none.npz"),
    (["sweep", "digits", "--n-train", "5000"], "n_train is 5000"),
    (["sweep", "digits", "--crop-padding", "8"], "crop_padding = 8"),
    (["sweep", "digits", "--device", "tpu"], "device = 'tpu': allowed are auto, cpu, cuda"),
    (["train", "digits"], "--plr"),
    (["train", "digits", "--plr=-1"], "--plr: -1: a learning rate"),
    (["train", "digits", "--plr", "1", "--seed=-1"], "--seed -1"),
    (["train", "digits", "--plr", "1", "--seed", "9" * 23], "below 2^63"),
    (["report"], "STORE directory of the results (required)"),
    (["bench", "kernels", "--only", "packs"], "'pack'). (did you mean 'pack'?)"),
    (["bench", "kernels", "--rounds", "1"], "--rounds 1: must be at least 2"),
    (["bench", "grid", "--rounds", "0"], "--rounds 0: must be at least 1"),
    (["bench", "kernel"], "'kernel' is no action (did you mean 'kernels'?)"),
    (["bench", "data", "--dataset", "dgits"], "did you mean 'digits'"),
    (["sweep", "digits", "--plr", "1e-3", "1e-2"], "with commas: --plr 1e-3,1e-2)"),
    (["sweep", "digits", "--quiet", "--k", "2", "5", "9"], "with commas: --k 2,5,9)"),
    (["locate", "digits", "--flr", "1e-3", "1e-2"], "with commas: --flr 1e-3,1e-2)"),
    (["sweep", "digits", "x.npz"], "x.npz (did you mean --dataset x.npz?)"),
    (["sweep", "digits", "cifar10"], "cifar10 (did you mean --dataset cifar10?)"),
    (["sweep", "x.npz"], "as in: fasttrain sweep digits --dataset x.npz"),
    (["analyse", "here", "--only", "shapness"], "(did you mean 'sharpness'?)"),
    (["locate", "digits", "--ratio", "1"], "--ratio 1: must be above 1"),
    (["data", "inspect", "dgits"], "did you mean 'digits'"),
    (["data", "inspect", "digits", "--image-size", "8"], "data.image_size: no such key"),
    (["data", "inspect", "a.beton", "--image-size", "8"], "--image-size: applies to a folder"),
    (["data", "inspct", "digits"], "'inspct' is no action (did you mean 'inspect'?)"),
    (["data", "inspect", "no.beton"], "no.beton cannot be read: No such file"),
    (["data", "verify", "no.beton"], "no.beton cannot be read: No such file"),
    (["data", "write", "digits", "x.bin"], "x.bin: the name of an FFCV file ends in .beton"),
    (["data", "write", "digits", "x.beton", "--mode", "png"], "png"),
    (["data", "write", "digits", "x.beton", "--mode", "jpg"], "mode 'jpg' needs 3 channels"),
    (["sweep", "digits", "--loader", "ffvc"], "ffvc"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda v: str(v)[:40])
def test_a_mistake_is_one_line_and_exit_code_2(fasttrain, tmp_path, arguments, message):
    outcome = fasttrain(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("fasttrain: ") and outcome.err.count("\n") == 1
    assert message in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "digits", "--device", "cuda:99"], "CUDA devices"),
        (["report", "nowhere"], "nowhere: no such store"),
        (["sweep", "digits", "--store", "/dev/null/store"], "/dev/null/store: cannot be made"),
    ],
)
def test_a_fault_of_the_environment_is_one_line_and_exit_code_1(fasttrain, arguments, message):
    outcome = fasttrain(*arguments)
    assert outcome.code == 1
    assert message in outcome.err and outcome.err.count("\n") == 1


def test_bad_arrays_are_named(fasttrain, tmp_path):
    images = np.zeros((4, 8, 8, 1), np.uint8)
    np.savez(
        tmp_path / "bad.npz",
        train_images=images,
        train_labels=np.arange(3),
        test_images=images,
        test_labels=np.zeros(4, int),
    )
    outcome = fasttrain("sweep", "digits", "--dataset", "bad.npz")
    assert outcome.code == 2
    assert "bad.npz" in outcome.err and outcome.err.count("\n") == 1


POSITIONALS = {
    "sweep": "PRESET|FILE.toml",
    "train": "PRESET|FILE.toml",
    "locate": "PRESET|FILE.toml",
    "report": "STORE",
    "analyse": "STORE",
    "data inspect": "DATASET|FILE.beton",
    "data write": "DATASET FILE.beton",
    "data verify": "FILE.beton",
    "bench kernels": "]",
    "bench data": "]",
    "bench grid": "]",
}


def test_help_comes_for_every_command(fasttrain, capsys):
    overview = fasttrain("--help")
    assert overview.code == 0 and "digits" in overview.out
    assert fasttrain().code == 2
    assert "write|inspect|verify" in fasttrain("data", "--help").out
    assert "kernels|data|grid" in fasttrain("bench", "--help").out
    for command, positional in POSITIONALS.items():
        with pytest.raises(SystemExit) as stop:
            fasttrain(*command.split(), "--help")
        assert stop.value.code == 0
        text = capsys.readouterr().out
        usage = text.splitlines()[0]
        assert usage.startswith(f"usage: fasttrain {command} ") and positional in usage
        assert "options options" not in text and "config." not in text


def test_benchmarks_are_those_that_help_names():
    from bench import optimizer_step as benchmarks
    from bench.grid import cases

    (networks, _) = get_args(get_type_hints(BenchKernels)["only"])
    assert get_args(networks) == tuple(benchmarks.CASES)
    assert get_args(get_type_hints(BenchGrid)["case"]) == tuple(cases.CASES)


def test_help_shows_the_values_of_the_preset(fasttrain, capsys):
    with pytest.raises(SystemExit):
        fasttrain("sweep", "cifar10-resnet18", "--help")
    text = capsys.readouterr().out
    radius = load_config("cifar10-resnet18").network.radius
    assert f"(default: {radius})" in text


def test_data_describes_a_set(fasttrain):
    outcome = fasttrain("data", "inspect", "digits")
    assert outcome.code == 0
    assert "8 x 8 x 1, uint8" in outcome.out
    assert "1437" in outcome.out


def test_data_brings_the_images_of_a_folder_to_one_size(fasttrain, tmp_path):
    for split, side in (("train", 8), ("test", 9)):
        for name in ("black", "white"):
            (tmp_path / "mine" / split / name).mkdir(parents=True)
            picture = Image.new("RGB", (side, 12), name)
            picture.save(tmp_path / "mine" / split / name / "0.png")
    outcome = fasttrain("data", "inspect", "mine")
    assert outcome.code == 2 and "give image_size" in outcome.err
    said = fasttrain("data", "inspect", "mine", "--image-size", "6").out
    assert "6 x 6 x 3, uint8" in said and "4 images of other sizes resized to 6x6" in said
    assert fasttrain("data", "write", "mine", "all.npz", "--image-size", "6").code == 0
    assert "6 x 6 x 3, uint8" in fasttrain("data", "inspect", "all.npz").out


def test_data_describes_the_data_of_a_preset_or_a_file(fasttrain, tmp_path):
    said = fasttrain("data", "inspect", "ps10").out
    assert "8 x 16 x 1, uint8" in said and "10: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in said
    assert "simple patterns have a complexity E_y H(P(x|y)) of 52.00 bits" in said
    assert "complex patterns have a complexity E_y H(P(x|y)) of 136.00 bits" in said
    (tmp_path / "mine.toml").write_text('[data]\nkind = "ps10"\ncomplex_bits = 1\nn_train = 50\n')
    said = fasttrain("data", "inspect", "mine.toml").out
    assert "of 80.00 bits (1 a step)" in said and "training images           50\n" in said
    assert "16 x 2 x 1, float32" in fasttrain("data", "inspect", "tick-demo").out
    (tmp_path / "mine.toml").write_text('[data]\nkind = "ps10"\ncomplex_bits = 9\n')
    outcome = fasttrain("data", "inspect", "mine.toml")
    assert outcome.code == 2 and "complex_bits is 9" in outcome.err
    assert outcome.err.count("\n") == 1


def test_data_writes_inspects_and_verifies_a_file(fasttrain, tmp_path):
    file = str(tmp_path / "digits.beton")
    written = fasttrain("data", "write", "digits", file, "--split", "test")
    assert written.code == 0
    assert "digits, test" in written.out and "360, raw" in written.out
    assert fasttrain("data", "inspect", file).out == written.out
    assert fasttrain("data", "verify", file).out.startswith(f"{file} is sound: 360 images")
    with open(file, "r+b") as content:
        content.seek(2**23 + 5)
        content.write(b"xyz")
    outcome = fasttrain("data", "verify", file)
    assert outcome.code == 2
    assert "is damaged" in outcome.err and outcome.err.count("\n") == 1


def test_a_console_without_utf8_and_a_live_terminal(tmp_path, tiny):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "fasttrain", "sweep", str(tiny), "--k", "none", "--pack", "2"]
    run = dict(cwd=tmp_path, env=environment, check=True)
    subprocess.run(command, **run, capture_output=True)
    # A terminal 80 columns wide shows the live table and no line per stage.
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    terminal = {**environment, "PYTHONIOENCODING": "utf-8", "TERM": "xterm"}
    process = subprocess.Popen(
        [*command, "--store", "live"], cwd=tmp_path, env=terminal, stdout=slave, stderr=slave
    )
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # Linux: reading a terminal that has hung up fails.
        while piece := os.read(master, 65536):
            shown += piece
    os.close(master)
    assert process.wait() == 0
    text = shown.decode()
    assert "running" in text and "ETA" in text and "[1/" not in text
    assert "report: live/report/report.html" in text


def test_bench_checks_and_times_every_variant(fasttrain):
    outcome = fasttrain("bench", "kernels", "--only", "pack", "--rounds", "2", "--no-compile")
    assert outcome.code == 0, outcome.err
    assert "16 ConvNets, width 8, packed: 390,528 parameters, n = 2" in outcome.out
    assert "| ours, deferred, statistics | 12 |" in outcome.out
