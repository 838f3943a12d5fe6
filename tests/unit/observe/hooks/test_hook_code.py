"""What is read from the code of a hook, and from what it holds."""

import functools

import pytest
import torch

from fxgrad.observe.hooks.hook_code import find_grad_reads, find_held_tensors


def reads_a_parameter(module, grad_input, grad_output):
    print(module.weight.grad)


def reads_through_a_variable(module, grad_input, grad_output):
    weight = module.linear.weight
    if weight.grad is not None:
        print(weight.grad.norm())


def reads_each_parameter(module, grad_input, grad_output):
    for parameter in module.parameters():
        print(parameter.grad)


def reads_each_named_parameter(module, grad_input, grad_output):
    for name, parameter in module.linear.named_parameters():
        print(name, parameter.grad)


def clears_the_gradient(module, grad_input, grad_output):
    module.weight.grad = None


def reads_of_another_module(module, grad_input, grad_output):
    module = torch.nn.Linear(3, 2)
    print(module.weight.grad)


def reads_after_the_variable_was_replaced(module, grad_input, grad_output):
    for parameter in module.parameters():
        weight = parameter
        weight = torch.ones(3)
        print(weight.grad)


def reads_of_the_gradients_themselves(module, grad_input, grad_output):
    print(grad_output[0].grad, grad_input[0].grad)


def has_a_parameter_called_grad(module, grad_input, grad_output):
    print(module.grad)


class Reader:
    def hook(self, module, grad_input, grad_output):
        print(module.weight.grad)

    def __call__(self, module, grad_input, grad_output):
        print(module.bias.grad)


def behind_its_own_argument(number, module, grad_input, grad_output):
    print(number, module.weight.grad)


@pytest.mark.parametrize(
    ("hook", "reads"),
    [
        (reads_a_parameter, ("weight",)),
        (reads_through_a_variable, ("linear.weight",)),
        (reads_each_parameter, ("parameters()",)),
        (reads_each_named_parameter, ("linear.parameters()",)),
        (Reader().hook, ("weight",)),
        (Reader(), ("bias",)),
        (functools.partial(behind_its_own_argument, 1), ("weight",)),
    ],
)
def test_a_read_of_a_parameters_grad_is_seen_as_a_path_from_the_module(hook, reads):
    assert find_grad_reads(hook) == reads


@pytest.mark.parametrize(
    "hook",
    [
        clears_the_gradient,
        reads_of_another_module,
        reads_after_the_variable_was_replaced,
        reads_of_the_gradients_themselves,
        has_a_parameter_called_grad,
        behind_its_own_argument,
        print,
        None,
    ],
)
def test_what_is_no_read_of_a_parameters_grad_is_not_taken_for_one(hook):
    assert find_grad_reads(hook) == ()


def test_a_tensor_with_a_graph_is_found_in_variables_around_defaults_and_arguments_of_a_partial():
    loss, seen = torch.ones(3, requires_grad=True).sum(), {"out": [torch.ones(3, requires_grad=True) * 2]}

    def hook(grad, first=loss, *, second=loss):
        print(loss, seen)

    assert [(name, inside) for name, _, inside in find_held_tensors(functools.partial(hook, loss))] == [
        ("argument 0 of partial", False),
        ("first", False),
        ("second", False),
        ("loss", False),
        ("seen", True),
    ]


def test_large_containers_and_objects_are_not_searched():
    class Holder(dict):
        def values(self):
            raise AssertionError("the user's code was called")

    held = [Holder(), list(range(1_000_000)), torch.nn.Linear(3, 2)]
    assert find_held_tensors(functools.partial(print, held)) == ()


def test_tensors_without_a_graph_and_what_is_not_assigned_yet_hold_nothing():
    weight, constant = torch.ones(3, requires_grad=True), torch.ones(3)

    def hook(grad):
        print(weight, constant, later)

    found = find_held_tensors(hook)
    later = weight.sum()
    assert found == ()
    assert [name for name, _, _ in find_held_tensors(hook)] == ["later"]
    assert later is not None
