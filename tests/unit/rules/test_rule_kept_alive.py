"""FXG116: a hook that keeps a graph alive; held against PyTorch."""

import functools
import gc
import weakref

import pytest
from ruled_programs import found, show, tensor, texts
from torch import nn

import fxgrad
from fxgrad.rules import explain_graph

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's, of full hooks on modules whose inputs require no grad


class Token:
    """Something that a graph keeps alive."""


def lives_on(register, *, mend=False):
    """Whether a graph lives on when nothing but a hook refers to it; and what is told of it meanwhile."""
    model, token = nn.Linear(3, 3), Token()
    output = model(tensor())
    output.grad_fn.metadata["token"] = token
    loss = output * 2
    register(model, output.detach() if mend else output, output, loss.detach() if mend else loss, loss)
    told = [
        each
        for each in explain_graph(fxgrad.capture(loss.sum(), model, node_hooks=True).graph)
        if each.code == "FXG116"
    ]
    reference = weakref.ref(token)
    del token, output, loss
    gc.collect()
    return reference() is not None, told, model


def on_the_module(model, held, output, held_loss, loss):
    model.register_full_backward_hook(functools.partial(show, held))


def on_a_parameter(model, held, output, held_loss, loss):
    def hook(grad):
        print(held)

    model.weight.register_hook(hook)


def on_a_parameter_when_accumulated(model, held, output, held_loss, loss):
    def hook(parameter, held=held):
        print(held)

    model.weight.register_post_accumulate_grad_hook(hook)


def on_itself(model, held, output, held_loss, loss):
    output.register_hook(lambda grad: print(held))


def on_what_it_is_made_of(model, held, output, held_loss, loss):
    output.register_hook(lambda grad: print(held_loss))


def on_its_node(model, held, output, held_loss, loss):
    output.grad_fn.register_hook(lambda grad_input, grad_output: print(held_loss))


def on_what_is_made_of_it(model, held, output, held_loss, loss):
    loss.register_hook(lambda grad: print(held))


LONG = [on_the_module, on_a_parameter, on_a_parameter_when_accumulated]
CIRCLES = [on_itself, on_what_it_is_made_of, on_its_node]


@pytest.mark.parametrize("register", [*LONG, *CIRCLES])
def test_a_graph_that_a_hook_keeps_alive_is_told(register):
    alive, told, _ = lives_on(register)
    assert alive
    assert [each.severity for each in told] == ["warning"]


@pytest.mark.parametrize("register", [*LONG, *CIRCLES])
def test_holding_a_detached_tensor_frees_the_graph_and_takes_the_finding_away(register):
    alive, told, _ = lives_on(register, mend=True)
    assert (alive, told) == (False, [])


def test_a_hook_that_holds_what_is_behind_its_tensor_keeps_nothing_alive():
    alive, told, _ = lives_on(on_what_is_made_of_it)
    assert (alive, told) == (False, [])


def test_a_hook_on_a_module_that_holds_a_graph_is_told_with_what_it_holds():
    (told,) = lives_on(on_the_module)[1]
    assert texts(told) == [
        "`partial(show)` keeps a graph alive by `argument 0 of partial`",
        "Its function refers to `argument 0 of partial`, with a graph and its saved tensors behind. The hook is on the "
        "model, which lives on: so does the graph, until the handle is removed. (torch/utils/hooks.py)",
        "let the function hold `argument 0 of partial` detached, or what it needs of it; or remove the handle after "
        "backward",
    ]


def test_a_hook_in_a_circle_is_told_with_its_node():
    (told,) = lives_on(on_its_node)[1]
    headline, because, fix = texts(told)
    assert headline.endswith(" keeps its own graph alive by `held_loss`")
    assert because == (
        "Its function refers to `held_loss`, whose graph has the node that the hook is on, AddmmBackward0_0. The node "
        "holds the hook, in C++: no garbage collector sees this circle, and the graph is not freed before the handle is "
        "removed. (torch/csrc/autograd/python_hook.cpp)"
    )
    assert (
        fix == "let the function hold `held_loss` detached, or what it needs of it; or remove the handle after backward"
    )


def test_a_list_of_tensors_is_no_warning_as_it_may_be_emptied():
    model, kept = nn.Linear(3, 3), []
    model.register_forward_hook(lambda module, args, output: kept.append(output))
    model.register_full_backward_hook(lambda module, grad_input, grad_output: print(len(kept)))
    (told,) = found(model, "FXG116")
    assert told.severity == "info"
    assert ", until the handle is removed, or what it holds is emptied." in told.because
