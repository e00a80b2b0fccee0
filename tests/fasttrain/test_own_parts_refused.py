"""Own parts that do not do: one line each, before anything trains."""

import pytest

from .own_parts import TOML

BAD = {
    "network raises": (
        "Net",
        "raise RuntimeError('no\\nluck')",
        "raised RuntimeError: no luck",
    ),
    "network, none": ("Net", "return None", "returned None; a torch.nn.Module is needed"),
    "network, text": ("Net", "return 'x'", "returned a str; a torch.nn.Module is needed"),
    "network trains nothing": (
        "Net",
        "return Net(shape, outputs).requires_grad_(False)",
        "trains nothing: no parameter has requires_grad",
    ),
    "network, shape": (
        "Net",
        "return Net(shape, outputs + 1)",
        "of shape (8, 3) for 8 images",
    ),
    "network, channels": (
        "Net",
        "return Net((3, 8, 8), outputs)",
        "in training mode it raised",
    ),
    "network, name": (
        "Net",
        "return Net(shape, outputs, names=['conv.wieght'])",
        "'conv.wieght', which is no parameter that trains (did you mean 'conv.weight'?)",
    ),
    "network, unseeded": (
        "Net",
        "net = Net(shape, outputs); net.head.bias.data.fill_(np.random.rand()); return net",
        "it gets another 'head.bias' each time",
    ),
    "network, unused": (
        "Net",
        "net = Net(shape, outputs); net.more = nn.Linear(2, 2); return net",
        "parameters without a gradient, which nothing trains: more.weight, more.bias",
    ),
    "network, options": ("Net", None, "raised TypeError"),
    "optimizer raises": ("Lion", "raise ValueError('bad lr')", "raised ValueError: bad lr"),
    "optimizer, none": ("Lion", "return None", "returned None; a torch.optim.Optimizer is needed"),
    "optimizer takes some": (
        "Lion",
        "return Lion(parameters[1:], lr)",
        "parameters that train, and no optimiser takes them: conv.weight",
    ),
    "optimizer trains nothing": (
        "Lion",
        "return Lion(parameters, 0.0)",
        "trains nothing: steps",
    ),
    "optimizer forgets": (
        "Lion",
        "made = Lion(parameters, lr); made.load_state_dict = lambda state: None; return made",
        "does not bring back what state_dict gave, bit for bit",
    ),
    "optimizer needs more": (
        "Lion",
        "return torch.optim.LBFGS(parameters, lr)",
        "a step raised",
    ),
    "data raises": ("stripes", "raise OSError('no disk')", "raised OSError: no disk"),
    "data, none": (
        "stripes",
        "return None",
        "returned None; an ImageData, or a dict of train_images",
    ),
    "data, keys": ("stripes", "return {'train_images': 3}", "there is no train_labels among"),
    "data, shape": (
        "stripes",
        "return stripes() | {'test_images': np.zeros((32, 4, 4), np.uint8)}",
        "test_images are (4, 4, 1)",
    ),
    "data, text labels": (
        "stripes",
        "return stripes() | {'train_labels': np.array(['a'] * 64)}",
        "train_labels is text ('a')",
    ),
}
SIGNATURES = {"Net": "shape, outputs, width=6", "Lion": "parameters, lr, beta=0.8", "stripes": ""}


@pytest.mark.parametrize("case", BAD)
def test_a_factory_that_does_not_do_is_one_line_before_anything_trains(fasttrain, own, case):
    name, body, message = BAD[case]
    signature = SIGNATURES[name] if body is not None else "shape"
    (own / "own_too.py").write_text(
        f"from own import *\nfrom own import np, torch, nn\n"
        f"def made({signature}):\n    {body or 'return None'}\n"
    )
    (own / "own.toml").write_text(TOML.replace(f"own:{name}", "own_too:made"))
    outcome = fasttrain("sweep", "own.toml")
    assert outcome.code == 2 and outcome.err.count("\n") == 1, outcome.err
    part = {"Net": "network", "Lion": "optimizer", "stripes": "data"}[name]
    assert f"{part}.factory = 'own_too:made'" in outcome.err and message in outcome.err
    assert not (own / "runs").exists()


NAMES = {
    "own:Nte": "own has no 'Nte' (did you mean 'Net'?)",
    "onw:Net": "there is no module 'onw' here",
    "torch.optmi:SGD": "there is no module 'torch.optmi' in torch (did you mean 'optim'?)",
    "own": "must be package.module:function",
    "own:SMALL": "own has no 'SMALL'",
    "own:Net.forwrad": "has no 'forwrad' (did you mean 'forward'?)",
    "broken:Net": "importing broken raised SyntaxError",
    "lacking:Net": "importing lacking raised ModuleNotFoundError: No module named 'nothing_such'",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_none_has_the_nearest(fasttrain, own, name):
    (own / "broken.py").write_text("def Net(:\n")
    (own / "lacking.py").write_text("import nothing_such\n")
    (own / "own.toml").write_text(TOML.replace("own:Net", name))
    outcome = fasttrain("sweep", "own.toml")
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert NAMES[name] in outcome.err and "network.factory" in outcome.err
    assert not (own / "runs").exists()


def test_parameters_beside_the_sphere_need_a_rate(fasttrain, own):
    text = TOML.replace(
        'kind = "custom"\nfactory = "own:Lion"\n[optimizer.options]\nbeta = 0.8', ""
    )
    (own / "own.toml").write_text(text)
    outcome = fasttrain("sweep", "own.toml")
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert "no optimiser takes them: norm.weight, norm.bias, head.weight, head.bias" in outcome.err
    assert "give optimizer.free_lr" in outcome.err
