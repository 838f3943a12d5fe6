"""Error messages of PyTorch that are explained, each raised by PyTorch itself."""

import warnings

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad.errors import TargetError
from fxgrad.rules import explain_error


def silent(*given):
    return None


def message_of(program):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError) as raised:
            program()
    return str(raised.value)


def change_the_result():
    linear = nn.Linear(3, 2)
    linear.register_full_backward_hook(silent)
    linear(torch.ones(4, 3)).relu_()


def change_a_view_of_the_result():
    linear = nn.Linear(3, 2)
    linear.register_full_backward_hook(silent)
    linear(torch.ones(4, 3))[:1].relu_()


def change_the_argument():
    activation = nn.ReLU(inplace=True)
    activation.register_full_backward_hook(silent)
    activation(torch.ones(4, 3, requires_grad=True) * 1)


def change_one_of_two_results():
    cell = nn.LSTMCell(3, 3)
    cell.register_full_backward_hook(silent)
    cell(torch.ones(4, 3))[0].relu_()


@pytest.mark.parametrize(
    "program", [change_the_result, change_a_view_of_the_result, change_the_argument, change_one_of_two_results]
)
def test_in_place_changes_of_what_a_full_hook_marks_are_recognised(program):
    found = explain_error(message_of(program))
    assert found is not None
    assert (found.code, found.severity) == ("FXG106", "error")


def test_a_view_of_the_result_is_not_blamed_on_a_full_hook_alone():
    found = explain_error(message_of(change_a_view_of_the_result))
    assert found is not None
    assert "output 0 of Slice" in found.because
    assert "A custom Function that returns an input unchanged" in found.because


def test_views_of_chunk_raise_a_similar_error_that_has_nothing_to_do_with_hooks():
    def program():
        torch.ones(4, 2, requires_grad=True).clone().chunk(2)[0].relu_()

    assert explain_error(message_of(program)) is None


def test_mixing_both_kinds_of_hooks_is_recognised():
    def program():
        linear = nn.Linear(3, 2)
        linear.register_full_backward_hook(silent).remove()
        linear.register_backward_hook(silent)

    found = explain_error(message_of(program))
    assert found is not None
    assert (found.code, found.severity) == ("FXG108", "error")


@pytest.mark.parametrize(
    ("register", "returned", "headline"),
    [
        ("register_backward_hook", (None,), "a hook returned 1 value where 3 are expected"),
        ("register_full_backward_hook", (None, None), "a hook returned 2 values where 1 are expected"),
        ("register_full_backward_pre_hook", (None, None), "a hook returned 2 values where 1 are expected"),
    ],
)
def test_a_wrong_number_of_values_is_recognised(register, returned, headline):
    def program():
        linear = nn.Linear(3, 2)
        getattr(linear, register)(lambda *given: returned)
        linear(torch.ones(4, 3, requires_grad=True)).sum().backward()

    found = explain_error(message_of(program))
    assert found is not None
    assert (found.code, found.headline) == ("FXG109", headline)


def test_other_messages_are_left_alone():
    assert explain_error("mat1 and mat2 shapes cannot be multiplied (8x3 and 4x2)") is None


class Changed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x).relu_()


def test_an_error_of_forward_that_a_rule_knows_says_why_and_what_to_do():
    model = Changed()
    model.linear.register_full_backward_hook(silent)
    with pytest.raises(TargetError) as raised:
        fxgrad.trace(model, torch.ones(4, 3))
    given = raised.value.given.splitlines()
    assert given[0].startswith("forward raised RuntimeError in the model (Changed), at ")
    assert given[1] == (
        "Full hooks and full pre-hooks pass a module's positional arguments and results through BackwardHookFunction, "
        "whose outputs are views of its inputs. Autograd refuses to modify such a view in place: here output 0 of "
        "BackwardHookFunction. (torch/utils/hooks.py, BackwardHook) (FXG106)"
    )
    assert raised.value.suggestion.startswith("make the operation that raised out-of-place")
    assert raised.value.details.startswith("Traceback")


def test_an_error_of_backward_that_a_rule_knows_says_what_to_return():
    model = nn.Linear(3, 2)
    model.register_full_backward_hook(lambda *given: (None, None))
    with pytest.raises(TargetError) as raised:
        fxgrad.verify(model, torch.ones(4, 3, requires_grad=True))
    assert raised.value.given.endswith("(FXG109)")
    assert raised.value.suggestion == "return None, or a tuple of 1 entry, with None where it got None"


def test_an_error_that_no_rule_knows_stays_as_it_is():
    with pytest.raises(TargetError) as raised:
        fxgrad.trace(nn.Linear(3, 2), torch.ones(4, 5))
    assert "FXG" not in str(raised.value)


def hook_without_grad():
    with torch.no_grad():
        nn.Linear(3, 2)(torch.ones(4, 3)).register_hook(silent)


def hook_inside_vmap():
    def hooked(x):
        hidden = x * 2
        hidden.register_hook(silent)
        return hidden

    torch.func.vmap(hooked)(torch.ones(4, 3, requires_grad=True))


@pytest.mark.parametrize("program", [hook_without_grad, hook_inside_vmap])
def test_a_hook_on_a_tensor_that_requires_no_grad_is_recognised(program):
    found = explain_error(message_of(program))
    assert found is not None
    assert (found.code, found.severity) == ("FXG104", "error")


class Output:
    def __init__(self, last):
        self.last = last


class ReturnsObject(nn.Module):
    def forward(self, x):
        return Output(x * 2)


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = ReturnsObject()

    def forward(self, x):
        return self.inner(x).last


def test_a_non_full_hook_on_a_module_that_returns_an_object_is_told_to_be_why_forward_raises():
    model, x = Around(), torch.ones(3, requires_grad=True)
    handle = model.inner.register_backward_hook(silent)
    with pytest.raises(TypeError, match="'Output' object is not subscriptable"):
        model(x)
    with pytest.raises(TargetError) as raised:
        fxgrad.trace(model, x)
    assert (
        ", where PyTorch looks in its result, an Output, for a tensor to put a non-full hook on: " in raised.value.given
    )
    assert "use Tensor.register_hook on the tensors in it" in raised.value.suggestion
    handle.remove()
    model.inner._is_full_backward_hook = None
    model.inner.register_full_backward_hook(silent)
    assert [site.fires for site in fxgrad.trace(model, x).sites] == [False]


def test_a_type_error_of_the_programs_own_is_not_blamed_on_a_hook():
    class Raises(nn.Module):
        def forward(self, x):
            result = var = Output(x)
            return var[0] if result else x

    model = Raises()
    model.register_backward_hook(silent)
    with pytest.raises(TargetError) as raised:
        fxgrad.trace(model, torch.ones(3, requires_grad=True))
    assert "non-full hook" not in raised.value.given
