"""FXG112: a hook that gets the gradient of what its tensor was before; held against PyTorch."""

import pytest
import torch
from ruled_programs import Program, found, show, tensor, texts

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's, of full hooks on modules whose inputs require no grad


def program_112(change, *, after=False, view=False):
    """A tensor hook and a change; the result is three times the tensor. Returns the gradients that the hook gets too."""
    seen = []

    def forward(model, x):
        hidden = model.linear(x)
        hooked = hidden[:1] if view else hidden
        if after:
            change(hooked, hidden)
        hooked.register_hook(lambda grad: seen.append(grad[0, 0].item()) or None)
        if not after:
            change(hooked, hidden)
        return hidden * 3

    return Program(forward), seen


def multiply(hooked, hidden):
    hooked.mul_(2)


def assign(hooked, hidden):
    hooked[0] = 0


def change_a_view(hooked, hidden):
    hidden[:1].mul_(2)


def change_nothing(hooked, hidden):
    hooked.mul(2)


def change_unseen_by_autograd(hooked, hidden):
    with torch.no_grad():
        hooked.mul_(2)
    hooked.detach().mul_(2)


@pytest.mark.parametrize(("change", "gradient"), [(multiply, 6), (assign, 0), (change_a_view, 6)])
def test_a_hook_gets_the_gradient_of_the_old_value_where_told(change, gradient):
    model, seen = program_112(change)
    (told,) = found(model, "FXG112")
    model(tensor()).sum().backward()
    assert (seen, told.site.fires) == ([gradient], True)


def test_a_hook_on_a_view_is_never_called_where_told():
    model, seen = program_112(multiply, view=True)
    (told,) = found(model, "FXG112")
    model(tensor()).sum().backward()
    assert (seen, told.site.fires) == ([], False)


@pytest.mark.parametrize("view", [False, True])
def test_registering_after_the_change_takes_the_finding_away_and_gives_the_gradient_of_the_new_value(view):
    model, seen = program_112(multiply, after=True)
    assert found(model, "FXG112") == []
    model(tensor()).sum().backward()
    assert seen == [3]


@pytest.mark.parametrize("change", [change_nothing, change_unseen_by_autograd])
def test_what_leaves_the_grad_fn_as_it_is_is_no_finding(change):
    model, seen = program_112(change)
    assert found(model, "FXG112") == []
    model(tensor()).sum().backward()
    assert seen == [3]


def test_a_hook_that_gets_an_old_gradient_is_told_with_the_change_and_its_node():
    def forward(model, x):
        hidden = model.linear(x)
        hidden.register_hook(show)
        return hidden.relu_()

    (told,) = found(Program(forward), "FXG112")
    assert told.severity == "warning"
    assert texts(told) == [
        "`show` gets the gradient of what its tensor was before `relu_` in place",
        "At HERE, `return hidden.relu_()`, `relu_` changes the tensor, or one that shares its memory, after the hook was "
        "registered, and the tensor gets a new grad_fn. The hook stays on AddmmBackward0_0, and sees the gradient there, "
        "before the change. (torch/csrc/autograd/variable.cpp, rebase_history)",
        "register it after `relu_`, or use an operation that is not in place there",
    ]


def test_a_hook_that_stays_on_a_dead_node_is_told():
    def forward(model, x):
        hidden = model.linear(x)
        view = hidden[:1]
        view.register_hook(show)
        view.relu_()
        return hidden * 2

    (told,) = found(Program(forward), "FXG112")
    assert texts(told) == [
        "`show` stays on the node that its tensor had before `relu_` in place",
        "At HERE, `view.relu_()`, `relu_` changes the tensor, or one that shares its memory, after the hook was "
        "registered, and the tensor gets a new grad_fn. The hook stays on the node that it was on, which backward does "
        "not run. (torch/csrc/autograd/variable.cpp, rebase_history)",
        "register it after `relu_`, or use an operation that is not in place there",
    ]
