from __future__ import annotations

import random
import textwrap

import pytest
import torch

from fxgrad.errors import TargetError, UsageError
from fxgrad.observe.target.loading import Target, load_target
from fxgrad.target_options import TargetOptions

HEAD = """
import torch
from torch import nn
from fxgrad.observe.target.loading import Target
class Net(nn.Module):
    def __init__(self, width=4, *, bias=True):
        super().__init__()
        self.linear = nn.Linear(width, 2, bias=bias)
    def forward(self, x, scale=1):
        return self.linear(x) * scale
x = torch.ones(3, 4)
"""


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="model.py"):
        file = tmp_path / name
        file.write_text(HEAD + textwrap.dedent(text))
        return str(file)

    return write_file


def load(text, **options):
    return load_target(TargetOptions(text, **options))


def usage_error(text, **options):
    with pytest.raises(UsageError) as caught:
        load(text, **options)
    return caught.value


def target_error(text, **options):
    with pytest.raises(TargetError) as caught:
        load(text, **options)
    return caught.value


# What a factory may return


def test_a_model_and_its_arguments(write):
    target = load(write("def build(): return Net(), (x,)"))
    assert target.model(*target.args).shape == (3, 2)
    assert (target.kwargs, target.loss) == (None, None)


def test_a_model_its_arguments_and_keywords(write):
    assert load(write("def build(): return Net(), (x,), {'scale': 2}")).kwargs == {"scale": 2}


def test_a_target_with_a_loss(write):
    target = load(write("def build(): return Target(Net(), (x,), loss=torch.sum)"))
    assert target.loss is torch.sum


def test_a_model_without_arguments(write):
    assert load(write("def build(): return Net(), ()")).args == ()


def test_another_factory_by_its_name(write):
    file = write("def small(): return Net(), (x,)\nclass Zoo:\n    @staticmethod\n    def large(): return Net(9), (x,)")
    assert load(f"{file}:small").model.linear.in_features == 4
    assert load(f"{file}:Zoo.large").model.linear.in_features == 9


def test_a_factory_whose_parameters_have_defaults(write):
    load(write("def build(width=4, *rest, bias=True, **more): return Net(width), (x,)"))


def test_a_factory_in_an_importable_module():
    found = load("torch.nn:Linear", init="4, 2", inputs=["f32[3,4]"])
    assert type(found.model) is torch.nn.Linear


# What a factory returns instead


@pytest.mark.parametrize("returned", ["Net(), x", "Target(Net(), x)"])
def test_a_tensor_alone_is_the_one_argument(write, returned):
    target = load_target(TargetOptions(write(f"def build(): return {returned}")))
    assert [type(each) for each in target.args] == [torch.Tensor]


@pytest.mark.parametrize(
    ("returned", "problem", "suggestion"),
    [
        (
            "Net()",
            "a Net",
            "return model, (x,) with the positional arguments of forward, or return model, () if it takes none",
        ),
        ("Net", "the class Net", "an instance: return Net(...), (x,)"),
        ("None", "None", "return model, (x,), the model first"),
        ("'abc'", "a str", "return model, (x,), the model first"),
        ("[Net(), (x,)]", "a list", "return model, (x,), the model first"),
        ("(Net(),)", "a tuple of 1", "return model, (x,), the model first"),
        ("(Net(), (x,), {}, torch.sum)", "a tuple of 4", "return model, (x,), the model first"),
        ("(Net, (x,))", "the class Net as the model", "an instance: return Net(...), (x,)"),
        ("((x,), Net())", "a tuple of 1 as the model", "return model, (x,), the model first"),
        ("(Net(), [x])", "a list as args", "return model, (x,): args is a tuple"),
        ("Target(Net(), {})", "a dict as args", "return model, (x,): args is a tuple"),
        ("(Net(), (x,), [1])", "a list as kwargs", "a dict of forward's keyword arguments"),
        ("(Net(), (x,), {1: x})", "a dict as kwargs", "a dict of forward's keyword arguments"),
        ("Target(Net(), (x,), None, 3)", "an int as loss", "a function of the model's output"),
    ],
)
def test_nonsense_is_named_with_what_to_return(write, returned, problem, suggestion):
    file = write(f"def build(): return {returned}")
    error = target_error(file)
    assert (error.given, error.suggestion) == (f"{file}:build returned {problem}", suggestion)
    assert error.allowed == (
        "a factory that returns (model, args), (model, args, kwargs) or fxgrad.Target(model, args, kwargs, loss)"
    )


def test_an_async_factory_is_told_to_be_plain(write):
    assert target_error(write("async def build(): ...")).suggestion == "a plain function: def, not async def"


def test_a_factory_that_raises_shows_the_users_frames(write):
    file = write("def build():\n    raise ValueError('no data here')")
    error = target_error(file)
    assert error.given == f"ValueError while calling {file}:build()"
    assert error.details.splitlines()[0] == "Traceback (most recent call last):"
    assert error.details.splitlines()[-1] == "ValueError: no data here"
    assert "loading.py" not in error.details


def test_a_factory_that_needs_arguments_is_told_to_give_defaults(write):
    file = write("def build(width, bias=True): ...")
    assert str(target_error(file)) == (
        f"{file}:build(width, [bias]): missing a required argument: 'width'\n  allowed: a factory that needs no "
        "arguments\n  try: give every parameter a default value"
    )


def test_a_file_without_the_default_factory_names_what_it_has(write):
    file = write("def make_model(): ...")
    assert str(usage_error(file)) == (
        f"no build in {file}\n  allowed: one of Net, make_model\n  try: define build in it, or name another one in it"
    )


@pytest.mark.parametrize(("name", "kind"), [("x", "a Tensor"), ("number", "an int"), ("model", "a Net")])
def test_a_name_that_is_no_factory_is_refused(write, name, kind):
    file = write("number = 3\nmodel = Net()")
    error = usage_error(f"{file}:{name}")
    assert (error.given, error.allowed) == (f"{file}:{name} is {kind}, not a factory", "one of Net")


# Module classes


def test_a_module_class_with_its_arguments():
    target = load("torch.nn:LSTMCell", init="8, 6, bias=False", inputs=["f32[9,8]", "(f32[9,6],f32[9,6])"])
    hidden, cell = target.model(*target.args)
    assert (hidden.shape, cell.shape, target.model.bias) == ((9, 6), (9, 6), False)


def test_a_module_class_of_a_file(write):
    target = load(write("") + ":Net", init="5", inputs=["f32[3,5]", "scale=f32[]"])
    assert (target.model.linear.in_features, list(target.kwargs)) == (5, ["scale"])


def test_a_module_class_that_needs_no_arguments():
    assert load("torch.nn:ReLU", inputs=["f32[3]"]).args[0].shape == (3,)


def test_init_that_the_constructor_does_not_take():
    assert str(usage_error("torch.nn:LSTMCell", init="1000")) == (
        "--init of torch.nn:LSTMCell: missing a required argument: 'hidden_size'\n"
        "  allowed: LSTMCell(input_size, hidden_size, [bias], [device], [dtype])\n"
        '  try: --init "1000, 1000"'
    )


def test_input_that_forward_does_not_take():
    assert str(usage_error("torch.nn:LSTMCell", init="8, 6")) == (
        "--input of torch.nn:LSTMCell: missing a required argument: 'input'\n  allowed: forward(input, [hx])\n  try: "
        "--input 'f32[9,1000]', once for each argument"
    )


def test_a_keyword_that_forward_does_not_have():
    error = usage_error("torch.nn:LSTMCell", init="8, 6", inputs=["f32[9,8]", "mask=bool[9]"])
    assert error.given == "--input of torch.nn:LSTMCell: got an unexpected keyword argument 'mask'"


def test_a_constructor_that_raises_is_an_error_of_the_target():
    error = target_error("torch.nn:Conv2d", init="3, 4, 5, groups=2")
    assert error.given == "ValueError while making torch.nn:Conv2d"
    assert error.details.splitlines()[-1] == "ValueError: in_channels must be divisible by groups"


def test_a_malformed_init_is_found_before_anything_is_imported(write):
    assert "bad --init" in usage_error(write("1 / 0"), init="1,,").given


def test_a_malformed_input_is_found_before_anything_is_imported(write):
    assert "bad --input" in usage_error(write("1 / 0"), inputs=["f32"]).given


def test_init_and_input_do_not_go_with_a_factory(write):
    file = write("def build(): return Net(), (x,)")
    assert str(usage_error(file, init="3", inputs=["f32[1]"])) == (
        f"--init and --input with {file}:build, which is not a module class\n  allowed: --init and --input with a "
        "module class, such as torch.nn:LSTMCell\n  try: omit --init and --input: a factory returns the model "
        "with its arguments"
    )


def test_an_empty_init_does_not_go_with_a_factory_either(write):
    assert usage_error(write("def build(): return Net(), (x,)"), init="").given.startswith("--init with ")


# Options that go with every target


def test_a_seed_makes_the_same_weights_inputs_and_random_numbers(write):
    file = write("import random\ndef build(): return Net(), (torch.randn(3, 4), random.random())")
    first, second = load(file, seed=7), load(file, seed=7)
    assert torch.equal(first.model.linear.weight, second.model.linear.weight)
    assert torch.equal(first.args[0], second.args[0])
    assert first.args[1] == second.args[1]


def test_without_a_seed_the_generators_are_left_alone(write):
    file = write("def build(): return nn.ReLU(), (x,)")
    torch_state, state = torch.get_rng_state(), random.getstate()
    load(file)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == state


@pytest.mark.parametrize(("mode", "training"), [("train", True), ("eval", False), (None, False)])
def test_a_mode_is_set_where_it_is_given(write, mode, training):
    target = load(write("def build(): return Net().eval(), (x,)"), mode=mode)
    assert (target.model.training, target.model.linear.training) == (training, training)


def test_a_model_whose_eval_raises_is_an_error_of_the_target(write):
    file = write("class Bad(Net):\n    def train(self, mode=True): raise OSError\ndef build(): return Bad(), (x,)")
    assert target_error(file, mode="eval").given == f"OSError while calling eval() of the model of {file}"


def test_the_model_is_built_on_the_device(write):
    target = load(write("def build(): return Net(), (x,)"), device="meta")
    assert (target.model.linear.weight.device.type, target.args[0].device.type) == ("meta", "meta")


def test_the_inputs_of_a_module_class_are_made_on_the_device():
    assert load("torch.nn:ReLU", inputs=["f32[3]"], device="meta").args[0].device.type == "meta"


@pytest.mark.parametrize("device", ["tpu", "", "cuda:-1"])
def test_a_device_that_torch_does_not_know_is_refused(device):
    assert usage_error("torch.nn:ReLU", device=device).given == f"no device {device!r}"


def test_a_loss_overrides_the_factorys(write):
    file = write("def build(): return Target(Net(), (x,), loss=torch.sum)\ndef mine(output): return output.mean()")
    assert load(file, loss=f"{file}:mine").loss.__name__ == "mine"
    assert load(file, loss="torch:mean").loss is torch.mean


def test_the_targets_own_file_does_not_run_twice_for_its_loss(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").touch()
    write("""
        import pathlib
        runs = pathlib.Path("runs")
        runs.write_text(runs.read_text() + ".")
        def build(): return Net(), (x,)
        def mine(output): ...
    """)
    load("model.py", loss="./model.py:mine")
    assert (tmp_path / "runs").read_text() == "."


def test_a_loss_from_another_file_sees_that_files_folder(write, tmp_path):
    other = tmp_path / "losses"
    other.mkdir()
    (other / "weights_beside_loss.py").write_text("weight = 3")
    (other / "loss.py").write_text("import weights_beside_loss as w\ndef loss(y): return y.sum() * w.weight")
    target = load(write("def build(): return nn.ReLU(), (x,)"), loss=f"{other / 'loss.py'}:loss")
    assert target.loss(torch.ones(2)) == 6


def test_a_loss_without_a_name_is_refused():
    assert usage_error("torch.nn:ReLU", inputs=["f32[3]"], loss="torch").given == "--loss torch names no function"


def test_a_loss_that_is_a_module_class_is_refused():
    error = usage_error("torch.nn:ReLU", inputs=["f32[3]"], loss="torch.nn:MSELoss")
    assert error.given == "--loss torch.nn:MSELoss is the class MSELoss"


def test_an_unknown_loss_gets_the_nearest():
    error = usage_error("torch.nn:ReLU", inputs=["f32[3]"], loss="torch.nn.functional:mse_los")
    assert error.suggestion.startswith("torch.nn.functional:mse_loss")


def test_targets_with_equal_tensors_are_compared_by_identity():
    one = Target(torch.nn.ReLU(), (torch.ones(2),))
    assert one != Target(one.model, one.args)
