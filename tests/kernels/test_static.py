"""What the kernels compile to for each target, without a GPU."""

import re

import pytest

static = pytest.importorskip(
    "fasttrain_kernels.compiled.static", reason="Triton is not installed here"
)

COPY = " with a bf16 copy"

# Memory traffic per fp32 parameter: kernel, gradients, momentum -> bytes.
BYTES = {
    ("group sums", "float32", "-"): 8,
    ("group sums", "bfloat16", "-"): 6,
    ("sphere exact", "float32", "-"): 20,
    ("sphere exact", "bfloat16", "-"): 16,
    ("sphere exact", "float32", "momentum"): 28,
    ("sphere deferred", "float32", "-"): 12,
    ("sphere deferred", "bfloat16", "-"): 10,
    ("sphere deferred", "float32", "momentum"): 20,
    ("sphere per group", "float32", "-"): 12,
    ("sphere per group", "bfloat16", "-"): 10,
    ("sphere per group", "float32", "momentum"): 20,
    ("sgd", "float32", "-"): 12,
    ("sgd", "bfloat16", "-"): 10,
    ("sgd", "float32", "momentum"): 20,
    ("sgd decays", "float32", "-"): 12,
    ("sgd decays", "bfloat16", "-"): 10,
    ("sgd decays", "float32", "momentum"): 20,
    ("adam", "float32", "-"): 28,
    ("adam", "bfloat16", "-"): 26,
    ("scale", "float32", "-"): 8,
    ("scale", "bfloat16", "-"): 6,
    # The bf16 copy takes 2 more, and no launch.
    ("sphere exact" + COPY, "bfloat16", "-"): 18,
    ("sphere exact" + COPY, "bfloat16", "momentum"): 28,
    ("sphere exact" + COPY, "bfloat16", "Nesterov"): 30,
    ("sphere per group" + COPY, "bfloat16", "-"): 12,
    ("sphere per group" + COPY, "bfloat16", "momentum"): 20,
    ("sgd" + COPY, "bfloat16", "-"): 12,
    ("sgd" + COPY, "bfloat16", "momentum"): 20,
    ("sgd decays" + COPY, "bfloat16", "momentum"): 20,
    ("adam" + COPY, "bfloat16", "-"): 28,
    ("scale" + COPY, "float32", "-"): 10,
}


@pytest.fixture(scope="module")
def rows():
    return static.report()


def label(row):
    return f"{row['kernel']}, {row['gradients']}, {row['momentum']}, {row['target']}"


def test_every_kernel_compiles_for_every_target(rows):
    assert {row["target"] for row in rows} == {"sm_80", "sm_90", "sm_100", "gfx942"}
    assert len({label(row) for row in rows}) == len(rows) == 4 * len(static.cases())


# Accesses to local memory, where a compiler needs more than the 64 registers that occupancy allows.
SPILLS = {}
IS_3_6 = static.triton.__version__.startswith("3.6.")
if IS_3_6:
    SPILLS = {
        "sphere per group, float32, momentum, sm_80": 6,
        "sphere per group with a bf16 copy, bfloat16, momentum, sm_80": 2,
        "norm statistics, -, -, sm_100": 1,
    }


def test_no_spills_but_those_known(rows):
    assert {label(row): row["spills"] for row in rows if row["spills"]} == SPILLS


# What a normalisation computes per channel, not per number, is fp64, and the sums of an epoch.
PER_CHANNEL = {"norm statistics", "norm slopes", "norm running"}
SUMS = {"totals", "cross-entropy of 10", "cross-entropy of 1000"}


@pytest.mark.parametrize("column", ["atomics", "fp64"])
def test_none(rows, column):
    found = {row["kernel"] for row in rows if row[column]}
    assert found == (PER_CHANNEL | SUMS if column == "fp64" else set())


# Triton 3.6 keeps more of Adam's step in registers than 3.8 does, most beside a copy: registers and
# occupancy.
WIDE = {"adam": (72, 0.43), "adam" + COPY: (88, 0.31)} if IS_3_6 else {}


def streaming(rows):
    """All but small MLPs, which hold products (`test_mlp_triton.py`), what normalises, the loss."""
    return [row for row in rows if not row["kernel"].startswith(("mlp", "norm", "cross"))]


def test_at_most_64_registers(rows):
    rows = streaming(rows)
    most = {label(row): WIDE.get(row["kernel"], (64, 0.5))[0] for row in rows}
    found = {label(row): row["registers"] for row in rows}
    assert not {name: count for name, count in found.items() if not 0 < count <= most[name]}


def test_occupancy_is_at_least_a_half(rows):
    rows = streaming(rows)
    least = {label(row): WIDE.get(row["kernel"], (64, 0.5))[1] for row in rows}
    found = {label(row): row["occupancy"] for row in rows}
    assert not {name: share for name, share in found.items() if not least[name] <= share <= 1}


def test_accesses_are_vectors(rows):
    """128 bits of fp32; the 4 values of bf16 beside them are 64. Every byte moves in a vector."""
    for row in streaming(rows):
        if row["kernel"] in ("finish", "totals", "adam, groups") or "augment" in row["kernel"]:
            continue
        copies = COPY in row["kernel"] and "pass 1" not in row["kernel"]
        half = copies or row["gradients"] == "bfloat16"
        accesses = row["loads"].keys() | row["stores"].keys()
        assert accesses == ({128, 64} if half else {128}), label(row)
        vectors = row["loads"].get(128, 0) + row["stores"].get(128, 0)
        halves = row["loads"].get(64, 0) + row["stores"].get(64, 0)
        num_accesses = vectors + halves
        # Per vector of 4 parameters: so many bytes, in accesses of 16 and of 8.
        num_vectors = (16 * vectors + 8 * halves) / (4 * row["bytes"])
        assert num_vectors in (1, 2, 4) and num_accesses % num_vectors == 0, label(row)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_copies_round_to_nearest_even(target):
    """As a cast of torch does: so the instruction, and no other of its kind."""
    made = [case for case in static.cases() if COPY in case.name and "pass 1" not in case.name]
    assert len(made) == 14
    for case in made:
        code = static.compiled_for(case, target)[0].asm["ptx"]
        casts = set(re.findall(r"cvt\.\w+\.bf16\w*\.f32|cvt\.\w*\.?bf16x2\.f32", code))
        assert casts and all(cast.startswith("cvt.rn.bf16") for cast in casts), (case.name, casts)


def sums_of(case, target):
    """Layouts of a kernel's numbers, and what is added up in which."""
    code = static.compiled_for(case, target)[0].asm["ttgir"]
    return re.findall(r"#blocked\w* = .*", code), re.findall(r"\}\) : \((tensor<[^)]*)\) ->", code)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
@pytest.mark.parametrize("momentum", [(0.0, False), (0.9, False), (0.9, True)])
def test_steps_with_copies_add_in_the_order_of_those_without(momentum, target):
    """Beside bf16 gradients and copies a thread has the numbers that it has beside fp32."""
    plain = static.step_cases(*momentum, static.torch.float32)
    found = {case.name: sums_of(case, target) for case in plain}
    for case in static.step_cases(*momentum, static.torch.bfloat16, copies=True):
        layouts, sums = sums_of(case, target)
        assert (layouts, sorted(set(sums))) == (
            found[case.name.replace(COPY, "")][0],
            sorted(set(found[case.name.replace(COPY, "")][1])),
        ), case.name
        assert layouts and (sums or "pass 2" in case.name)


def test_bytes_per_parameter(rows):
    found = {}
    for row in rows:
        if row["target"] == "sm_90":
            key = row["kernel"].split(",")[0], row["gradients"], row["momentum"]
            found[key] = found.get(key, 0) + row["bytes"]
    assert {key: found[key] for key in BYTES} == BYTES


# Of a normalisation, per number of its map and byte of such a number; a window has 4.
ACCESSES = {
    "norm moments": 1,
    "norm output": 2,
    "norm pooled output": 1.25,
    "norm products": 2,
    "norm gradient": 3,
    "norm pooled gradient": 2.25,
}


def maps(rows):
    return [row for row in rows if row["kernel"] in ACCESSES]


def test_bytes_per_number_of_a_normalisation(rows):
    for row in maps(rows):
        size = 2 if row["gradients"] == "bfloat16" else 4
        assert row["bytes"] == ACCESSES[row["kernel"]] * size, label(row)
    assert {row["kernel"] for row in maps(rows)} == ACCESSES.keys()


# Tiles of maps that the code reads, and coefficients of every channel.
READS = {
    "norm moments": (2, 0),
    "norm output": (1, 3),
    "norm pooled output": (1, 3),
    "norm products": (2, 0),
    "norm gradient": (2, 5),
}


def test_normalisations_move_maps_in_vectors_of_128_bits(rows):
    """A thread has 16 numbers, 8 on AMD, and coefficients of the channels of one vector."""
    for row in maps(rows):
        numbers, size = (
            (8 if row["target"] == "gfx942" else 16),
            (2, 4)[row["gradients"] != "bfloat16"],
        )
        vectors = numbers * size // 16
        name = row["kernel"]
        if name in READS:
            tiles, coefficients = READS[name]
            # Moments begin with a row of their chunk.
            others = coefficients * 4 // size + (name == "norm moments")
            assert row["loads"].keys() == {128}, label(row)
            assert row["loads"][128] >= tiles * vectors + others, label(row)
        if name in ("norm output", "norm gradient", "norm pooled gradient"):
            assert row["stores"] == {128: vectors}, label(row)


# Triton 3.6 takes two more than 3.8 for gfx942.
MOST_OF_MAPS = 82 if IS_3_6 else 80


def test_normalisations_leave_room_for_three_eighths_of_the_warps(rows):
    for row in maps(rows):
        assert 0 < row["registers"] <= MOST_OF_MAPS and row["occupancy"] >= 0.375, label(row)


def test_table_prints_every_row(rows, capsys):
    static.table(rows)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows) + 1 and lines[0].split()[:2] == ["kernel", "gradients"]


def test_refuses_the_interpreter(monkeypatch):
    monkeypatch.setattr(static.knobs.runtime, "interpret", True)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        static.report()
