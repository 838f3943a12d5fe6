"""``trace.forward_module``: the recorded forward run again, and what it leaves alone."""

from __future__ import annotations

import copy

import pytest
import torch
from module_hooks import FromFunction
from recorded_forward import described, differences, state_of
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fxgrad
from fxgrad.errors import UsageError


def rerun(model, *args, **kwargs):
    """The result of the recorded forward on the same arguments, once the model has been traced."""
    return fxgrad.trace(model, args, kwargs).forward_module(model)(*args, **kwargs)


def test_it_gives_other_results_for_other_inputs():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    again = fxgrad.trace(model, (torch.ones(2, 3),)).forward_module(model)
    other = torch.randn(5, 3)
    assert torch.equal(again(other), model(other))


def test_it_runs_with_the_parameters_that_the_model_has_then():
    model = nn.Linear(3, 4)
    trace = fxgrad.trace(model, (torch.ones(3),))
    with torch.no_grad():
        model.weight.mul_(2)
    assert torch.equal(trace.forward_module(model)(torch.ones(3)), model(torch.ones(3)))


def test_it_runs_with_another_model_of_the_same_parameters():
    model, other = nn.Linear(3, 4), nn.Linear(3, 4)
    trace = fxgrad.trace(model, (torch.ones(3),))
    assert torch.equal(trace.forward_module(other)(torch.ones(3)), other(torch.ones(3)))


def test_it_is_trained_without_the_model():
    model = nn.Linear(3, 1)
    again = fxgrad.trace(model, (torch.ones(3),)).forward_module(model)
    again(torch.ones(3)).backward()
    assert model.weight.grad is None
    assert {name: parameter.grad.shape for name, parameter in again.named_parameters()} == {
        "weight": (1, 3),
        "bias": (1,),
    }


def test_its_gradients_are_those_of_the_model():
    model = nn.LSTM(3, 4)
    x = torch.randn(5, 2, 3)
    again = fxgrad.trace(model, (x,)).forward_module(model)
    again(x)[0].sum().backward()
    model(x)[0].sum().backward()
    ours = dict(again.named_parameters())
    assert all(torch.equal(parameter.grad, ours[name].grad) for name, parameter in model.named_parameters())


def _with_generator():
    model = FromFunction(lambda self, x: self.weight * torch.rand(3, generator=self.source))
    model.source = torch.Generator().manual_seed(1)
    return model


def _appends():
    model = FromFunction(lambda self, x: (self.seen.append(x * self.weight), torch.stack(self.seen).sum(0))[1])
    model.seen = []
    return model


CHANGES = {
    "a buffer that is written": lambda: nn.BatchNorm1d(3),
    "a parameter that is written": lambda: FromFunction(
        lambda self, x: nn.functional.embedding(x.long(), self.weight[:, None].detach(), max_norm=0.1) * self.weight
    ),
    "buffers of a power iteration": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)),
    "a parameter that is written through its data": lambda: FromFunction(
        lambda self, x: (self.weight.data.add_(1), self.weight * x)[1]
    ),
    "a generator of its own": _with_generator,
    "a list that is appended to": _appends,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_forward_changes_is_changed_in_a_copy(change):
    model = CHANGES[change]()
    x = torch.ones(2, 3)
    trace = fxgrad.trace(model, (x,))
    before = state_of(model)
    again = trace.forward_module(model)
    first = again(x)
    assert differences(before, state_of(model)) == []
    torch.manual_seed(0)
    assert torch.equal(first, model(x))


def test_the_model_is_changed_by_the_same_forward_so_the_comparison_means_something():
    model = nn.BatchNorm1d(3)
    before = state_of(model)
    model(torch.ones(2, 3))
    assert differences(before, state_of(model))


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_module_that_writes_to_its_buffers_is_run_as_a_copy():
    class Has(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))

        def forward(self, x):
            return self.inner(self.inner(x)) * 2

    model, x = Has(), torch.randn(4, 3)
    again = fxgrad.trace(model, (x,)).forward_module(model)
    before = [buffer.clone() for buffer in model.buffers()]
    result = again(x)
    assert all(map(torch.equal, before, model.buffers()))
    assert torch.equal(result, model(x))
    assert not all(map(torch.equal, before, model.buffers()))


def test_two_modules_of_one_trace_know_nothing_of_each_other():
    model = nn.BatchNorm1d(3)
    x = torch.randn(4, 3)
    trace = fxgrad.trace(model, (x,))
    first, second = trace.forward_module(model), trace.forward_module(model)
    first(x)
    first(x)
    assert second.num_batches_tracked == 0
    assert first.num_batches_tracked == 2


def test_a_module_that_is_an_argument_does_not_become_a_part_of_the_rerun():
    class Uses(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, module):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2, None

    used = nn.Linear(1, 1)
    model = FromFunction(lambda self: Uses.apply(self.weight, used))
    again = fxgrad.trace(model).forward_module(model).eval()
    assert used.training
    assert [name for name, _ in again.named_parameters()] == ["weight"]


@pytest.mark.parametrize("name", ["graph", "code", "meta", "recompile", "_graph"])
def test_a_parameter_may_have_a_name_that_a_graph_module_uses(name):
    model = nn.Module()
    model.register_parameter(name, nn.Parameter(torch.ones(2)))
    model.forward = lambda: getattr(model, name) * 2
    assert torch.equal(fxgrad.trace(model).forward_module(model)(), torch.full((2,), 2.0))


def test_a_module_may_have_a_name_that_a_graph_module_uses():
    class Graphs(nn.Module):
        def __init__(self):
            super().__init__()
            self.graph = nn.Linear(2, 2)

        def forward(self, x):
            return self.graph(x)

    model = Graphs()
    assert torch.equal(rerun(model, torch.ones(2)), model(torch.ones(2)))


def test_hooks_of_the_model_are_not_run():
    model = nn.Linear(3, 2)
    ran = []
    model.register_full_backward_hook(lambda *_: ran.append("full"))
    model.weight.register_hook(lambda _: ran.append("tensor"))
    again = fxgrad.trace(model, (torch.ones(3),)).forward_module(model)
    again(torch.ones(3)).sum().backward()
    assert ran == []


def test_a_generator_that_is_an_argument_is_advanced():
    model = FromFunction(lambda self, source: self.weight * torch.rand(3, generator=source))
    source = torch.Generator().manual_seed(1)
    again = fxgrad.trace(model, (source,)).forward_module(model)
    twin = copy.copy(source.clone_state())
    first, second = again(source), again(source)
    assert torch.equal(first, model(twin))
    assert torch.equal(second, model(twin))
    assert described(source) == described(twin)


def test_keywords_that_are_no_names_are_passed_as_they_are():
    model = FromFunction(lambda self, **given: self.weight * given["not a name"] + given["class"] * given["plain"])
    given = {"not a name": torch.randn(3), "class": torch.randn(3), "plain": torch.randn(3)}
    assert torch.equal(rerun(model, **given), model(**given))


def test_a_model_without_a_parameter_is_refused_by_its_name():
    trace = fxgrad.trace(nn.Linear(3, 2), (torch.ones(3),))
    with pytest.raises(UsageError) as raised:
        trace.forward_module(nn.Linear(3, 2, bias=False))
    assert str(raised.value).splitlines() == [
        "a model without the parameter or buffer bias, which the recorded forward uses",
        "  allowed: the model that was traced, or one with the same parameters and buffers",
        "  try: pass the model that was traced",
    ]


def test_an_output_that_cannot_be_copied_is_refused_with_the_reason():
    class Sealed:
        def __deepcopy__(self, memo):
            raise ValueError("sealed")

    model = FromFunction(lambda self: (self.weight * 2, Sealed()))
    with pytest.raises(UsageError, match=r"its output holds what cannot be copied \(ValueError: sealed\)"):
        fxgrad.trace(model).forward_module(model)


def test_a_forward_under_a_dispatch_mode_is_refused_as_the_mode_decides_what_operations_give():
    class Doubles(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {})) * 2

    def run(self):
        with Doubles():
            return self.weight.sin()

    model = FromFunction(run)
    with pytest.raises(UsageError, match="the dispatch mode Doubles had a hand in what its operations gave"):
        fxgrad.trace(model).forward_module(model)


def test_a_model_that_was_made_under_a_dispatch_mode_runs_again_in_it():
    with FakeTensorMode():
        model = nn.Linear(3, 2)
        assert rerun(model, torch.empty(4, 3)).shape == (4, 2)


def test_a_recorded_forward_is_not_saved_with_the_trace(tmp_path):
    fxgrad.trace(nn.Linear(3, 2), (torch.ones(3),)).to_json(tmp_path / "trace.json")
    with pytest.raises(UsageError, match="forward_module of a trace without a recorded forward"):
        fxgrad.load(tmp_path / "trace.json").forward_module(nn.Linear(3, 2))
