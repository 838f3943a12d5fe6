"""``trace.forward_module``: the recorded forward run again, and what it leaves alone."""

from __future__ import annotations

import copy
import functools
import weakref

import pytest
import torch
from module_hooks import FromFunction
from recorded_forward import (
    described,
    differences,
    lint_problems,
    meta_problems,
    recorded_forward_problems,
    state_of,
)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import Function, forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
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


def test_two_modules_of_one_trace_know_nothing_of_each_other():
    model = nn.BatchNorm1d(3)
    x = torch.randn(4, 3)
    trace = fxgrad.trace(model, (x,))
    first, second = trace.forward_module(model), trace.forward_module(model)
    first(x)
    first(x)
    assert second.num_batches_tracked == 0
    assert first.num_batches_tracked == 2


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


# Memory


def two_buffers(self):
    self.register_buffer("all", torch.zeros(3))
    self.register_buffer("part", self.all[:2])


def a_buffer_in_a_parameter(self):
    self.all = nn.Parameter(torch.zeros(3))
    self.register_buffer("part", self.all.detach()[:2])


def two_parameters(self):
    memory = torch.zeros(3)
    self.all, self.part = nn.Parameter(memory), nn.Parameter(memory[:2])


def changes_a_part(self):
    before = self.weight * self.all
    with torch.no_grad():
        self.part.add_(1)
    return before, self.weight * self.all.detach()


@pytest.mark.parametrize("make", [two_buffers, a_buffer_in_a_parameter, two_parameters])
def test_what_is_written_through_one_tensor_is_read_through_another(make):
    model = FromFunction(changes_a_part)
    make(model)
    assert recorded_forward_problems(model, lambda: ((), {})) == []


def test_a_constant_is_the_tensor_itself_and_no_copy():
    constant = torch.ones(3)
    model = FromFunction(lambda self: self.weight * constant)
    again = fxgrad.trace(model).forward_module(model)
    assert [buffer.data_ptr() for buffer in again.buffers()] == [constant.data_ptr()]


def test_a_constant_that_is_changed_after_the_run_has_its_new_value():
    constant = torch.ones(3)
    model = FromFunction(lambda self: self.weight * constant)
    again = fxgrad.trace(model).forward_module(model)
    constant.add_(1)
    assert torch.equal(again(), model())


# What no graph can express


class Doubles(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {})) * 2


class Opaque:
    def __init__(self, value=None):
        self.value = value


class Uses(Function):
    @staticmethod
    def forward(ctx, x, used):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2, None


class AddsUnseen(Function):
    """Writes to a tensor that it is not given."""

    @staticmethod
    def forward(ctx, x):
        CONSTANT.add_(1)
        return x * 1

    @staticmethod
    def backward(ctx, grad):
        return grad


CONSTANT = torch.zeros(3)


def under(mode):
    def run(self):
        with mode():
            made = torch.sin(self.weight.detach())
        return self.weight * made.clone()

    return run


def forks_the_random_state(self):
    first = torch.rand(3)
    with torch.random.fork_rng(devices=[]):
        second = torch.rand(3)
    return self.weight * first + second


def seeds(self):
    torch.manual_seed(torch.initial_seed())
    return self.weight * torch.rand(3)


def sets_the_default_device(self):
    torch.set_default_device("cpu")
    made = torch.ones(3)
    torch.set_default_device(None)
    return self.weight * made


def sets_the_default_dtype(self):
    torch.set_default_dtype(torch.float64)
    made = torch.ones(3)
    torch.set_default_dtype(torch.float32)
    return self.weight * made


def draws_from_its_own_generator(self):
    return self.weight * torch.rand(3, generator=torch.Generator().manual_seed(1))


def calls_what_vjp_returned(self):
    out, vjp_fn = torch.func.vjp(torch.sin, self.weight)
    return vjp_fn(out)[0]


def calls_a_transform_with_a_closure(self):
    scale = self.weight * 2
    return torch.func.vmap(lambda row: row * scale)(torch.ones(2, 3))


def enters_a_dual_level(self):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(forward_ad.make_dual(self.weight, torch.ones(3)).sin()).tangent


def changes_a_constant(self):
    CONSTANT.add_(1)
    return self.weight * CONSTANT


def changes_a_part_of_a_constant(self):
    CONSTANT[:2].add_(1)
    return self.weight * CONSTANT


def changes_the_data_of_a_constant(self):
    CONSTANT.data.add_(1)
    return self.weight * CONSTANT


def changes_a_constant_unseen(self):
    return AddsUnseen.apply(self.weight * CONSTANT)


def uses_a_history(self):
    return self.weight * HISTORY


def reads_a_gradient(self):
    (self.weight * 1).sum().backward()
    return self.weight * self.weight.grad


HISTORY = torch.ones(3, requires_grad=True) * 2
NOT_PLAIN = "which is neither a tensor nor a plain value"
IN_PLACE = "it modifies in place a tensor that is not a parameter, buffer or argument of the model"
REFUSALS = {
    "a dispatch mode": (under(Doubles), "the dispatch mode Doubles may have changed the results of its operations"),
    "autocast": (under(lambda: torch.autocast("cpu", torch.bfloat16)), "it switches autocast"),
    "inference mode": (under(torch.inference_mode), "it switches inference mode"),
    "a default dtype": (sets_the_default_dtype, "it changes the default dtype"),
    "a default device": (sets_the_default_device, "it changes the default device"),
    "chosen kernels": (under(lambda: sdpa_kernel(SDPBackend.MATH)), "it selects kernels"),
    "a random state that is put back": (forks_the_random_state, "it sets the random state"),
    "the same seed again": (seeds, "it sets the random state"),
    "a generator": (draws_from_its_own_generator, f"it passes rand a Generator, {NOT_PLAIN}"),
    "a level of forward-mode AD": (enters_a_dual_level, "it enters a level of forward-mode AD"),
    "a function that vjp returned": (
        calls_what_vjp_returned,
        "it calls wrapper, a function that may hold tensors of the run",
    ),
    "a closure in a transform": (calls_a_transform_with_a_closure, f"it passes _flat_vmap a function, {NOT_PLAIN}"),
    "a module as an argument": (
        lambda self: Uses.apply(self.weight, nn.Linear(1, 1)),
        f"it passes Uses a Linear, {NOT_PLAIN}",
    ),
    "an object in the output": (lambda self: (self.weight * 2, Opaque()), f"its output holds a Opaque, {NOT_PLAIN}"),
    "a constant with a history": (uses_a_history, "it uses a tensor whose grad_fn no recorded operation made"),
    "a gradient": (reads_a_gradient, "it reads a .grad from an earlier backward"),
    "a constant that is changed": (changes_a_constant, IN_PLACE),
    "a part of a constant that is changed": (changes_a_part_of_a_constant, IN_PLACE),
    "the data of a constant that is changed": (changes_the_data_of_a_constant, IN_PLACE),
    "a constant that is changed unseen": (
        changes_a_constant_unseen,
        "it modifies a tensor in place outside of the recorded operations",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_run_that_operations_alone_do_not_tell_is_refused_with_the_reason(case):
    run, reason = REFUSALS[case]
    model = FromFunction(run)
    trace = fxgrad.trace(model)
    with pytest.raises(UsageError) as raised:
        trace.forward_module(model)
    assert raised.value.given == f"a forward that cannot be replayed: {reason}"
    assert lint_problems(trace.forward) + meta_problems(trace.forward) == []


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_module_is_refused_as_it_has_parameters_of_its_own():
    model = nn.Sequential(nn.Linear(3, 3), torch.jit.script(nn.Linear(3, 3)))
    with pytest.raises(UsageError, match="it calls the scripted method forward, which has parameters of its own"):
        fxgrad.trace(model, torch.randn(4, 3)).forward_module(model)


def test_an_argument_that_lies_in_the_memory_of_a_parameter_that_is_changed_is_refused():
    def run(self, x):
        with torch.no_grad():
            self.weight.add_(1)
        return self.weight * x

    model = FromFunction(run)
    with pytest.raises(UsageError, match="it modifies memory that an argument shares with a parameter or buffer"):
        fxgrad.trace(model, model.weight.detach()[:1]).forward_module(model)


def test_a_gradient_that_forward_computes_is_computed_again():
    def run(self, x):
        (slope,) = torch.autograd.grad((self.weight * x).pow(3).sum(), x, create_graph=True)
        return slope.norm()

    model = FromFunction(run)
    again = fxgrad.trace(model, torch.ones(3, requires_grad=True)).forward_module(model)
    other = torch.randn(3, requires_grad=True)
    assert torch.equal(again(other), model(other))


def test_dropout_sets_no_random_state_and_is_run_again():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    assert recorded_forward_problems(model, lambda: ((torch.ones(2, 3),), {})) == []


def test_modes_of_the_caller_are_the_callers_again():
    model, x = nn.Linear(3, 2), torch.ones(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        again = fxgrad.trace(model, x).forward_module(model)
        assert torch.equal(again(x), model(x))
    assert torch.equal(again(x), model(x))


def test_a_grad_mode_that_is_changed_by_cpp_code_does_not_stay():
    def run(self):
        inner = functools.partial(torch.utils.checkpoint.checkpoint, torch.sin, use_reentrant=False)
        return torch.utils.checkpoint.checkpoint(inner, self.weight * 1, use_reentrant=False)

    assert recorded_forward_problems(FromFunction(run), lambda: ((), {})) == []
    assert torch.is_grad_enabled()


def test_a_refused_run_keeps_no_tensor_alive():
    kept = []

    def run(self):
        scale = self.weight * 2
        kept.append(weakref.ref(scale))
        return Uses.apply(scale, Opaque(scale))

    trace = fxgrad.trace(FromFunction(run))
    assert trace.forward is not None
    assert [reference() for reference in kept] == [None]


def test_a_function_that_vjp_returned_works_after_the_run():
    kept = []

    def run(self):
        out, vjp_fn = torch.func.vjp(torch.sin, self.weight)
        kept.append(vjp_fn)
        return out

    fxgrad.trace(FromFunction(run))
    (grad,) = kept[0](torch.ones(3))
    assert grad.shape == (3,)


def test_a_model_that_was_made_under_a_dispatch_mode_runs_again_in_it():
    with FakeTensorMode():
        model = nn.Linear(3, 2)
        assert rerun(model, torch.empty(4, 3)).shape == (4, 2)


def test_a_recorded_forward_is_not_saved_with_the_trace(tmp_path):
    fxgrad.trace(nn.Linear(3, 2), (torch.ones(3),)).to_json(tmp_path / "trace.json")
    with pytest.raises(UsageError, match="forward_module of a trace without a recorded forward"):
        fxgrad.load(tmp_path / "trace.json").forward_module(nn.Linear(3, 2))
