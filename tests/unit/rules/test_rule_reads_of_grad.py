"""FXG113: a hook that reads .grad before backward adds to it; held against PyTorch."""

import re

import pytest
from ruled_programs import found, tensor
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's, of full hooks on modules whose inputs require no grad


class Reader:
    """Notes whether .grad was there. The reads are plain to see in the code of the hooks."""

    def __init__(self):
        self.missing = []

    def weight(self, module, grad_input, grad_output):
        self.missing.append(module.weight.grad is None)

    def each(self, module, grad_input, grad_output):
        for parameter in module.parameters():
            self.missing.append(parameter.grad is None)


MODULES = {
    "linear": lambda: nn.Linear(3, 3),
    "layer norm": lambda: nn.LayerNorm(3),
    "batch norm": lambda: nn.BatchNorm1d(3),
    "linear without bias": lambda: nn.Linear(3, 3, bias=False),
}


class Around(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.inner = module

    def forward(self, x):
        return self.inner(x) * 2


@pytest.mark.parametrize("hook", ["weight", "each"])
@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_backward_hook"])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("make", MODULES)
def test_a_parameters_grad_is_missing_in_a_module_hook_exactly_where_told(make, grad, kind, hook):
    model, reader = Around(MODULES[make]()), Reader()
    getattr(model.inner, kind)(getattr(reader, hook))
    told = found(model, "FXG113", tensor(grad=grad))
    model(tensor(grad=grad)).sum().backward()
    assert bool(told) == any(reader.missing)
    if told and hook == "each":
        assert len(re.findall(r"`inner\.\w+`", told[0].headline)) == sum(reader.missing)


def test_a_read_before_backward_adds_is_told_with_both_nodes():
    model = Around(nn.Linear(3, 3))

    def hook(module, grad_input, grad_output):
        print(module.weight.grad)

    model.inner.register_full_backward_hook(hook)
    (told,) = found(model, "FXG113", tensor(grad=False))
    assert told.severity == "warning"
    assert told.headline.endswith("hook` reads .grad of `inner.weight` before backward adds to it")
    assert told.because == (
        "Its code reads `module.weight.grad`. The hook is called at BackwardHookFunctionBackward_0; AccumulateGrad_1, "
        "which adds into .grad, runs later. So it sees what was there before this backward: None at first. "
        "(torch/csrc/autograd/functions/accumulate_grad.cpp)"
    )
    assert told.fix == ("register_post_accumulate_grad_hook on `inner.weight`, which is called when .grad is there")


def test_the_hook_that_is_advised_finds_the_gradient():
    model, seen = Around(nn.Linear(3, 3)), []
    model.inner.weight.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter.grad is None))
    assert found(model, "FXG113", tensor(grad=False)) == []
    model(tensor(grad=False)).sum().backward()
    assert seen == [False]


def test_a_hook_that_reads_no_grad_is_no_finding():
    model = Around(nn.Linear(3, 3))
    model.inner.register_full_backward_hook(lambda module, grad_input, grad_output: print(module.weight.shape))
    assert found(model, "FXG113", tensor(grad=False)) == []
