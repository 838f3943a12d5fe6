"""Hooks on what is changed, or run again, after they were registered: FXG112 and FXG115."""

import pytest
import torch
from ruled_programs import Program, found, show, tensor, texts
from torch.utils.checkpoint import checkpoint
from zoo_nested import ByHelper

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch warns of much that is done here

# FXG112: a hook that gets the gradient of what its tensor was before; held against PyTorch


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
        "`show` gets the gradient of its tensor's value before the in-place `relu_`",
        "At HERE, `return hidden.relu_()`, `relu_` modifies the tensor, or one that shares its memory, after the hook "
        "was registered, and the tensor gets a new grad_fn. The hook stays on AddmmBackward0_0, and gets the gradient "
        "of the value before the change. (torch/csrc/autograd/variable.cpp, rebase_history)",
        "register it after `relu_`, or use an out-of-place operation there",
    ]


def test_a_hook_that_stays_on_a_dead_node_is_told():
    def forward(model, x):
        hidden = model.linear(x)
        view = hidden[:1]
        view.register_hook(show)
        view.relu_()
        return hidden * 2

    assert found(Program(forward), "FXG104") == []
    (told,) = found(Program(forward), "FXG112")
    assert texts(told) == [
        "`show` never fires: it stays on the grad_fn that its tensor had before the in-place `relu_`",
        "At HERE, `view.relu_()`, `relu_` modifies the tensor, or one that shares its memory, after the hook was "
        "registered, and the tensor gets a new grad_fn. The hook stays on the node that it was on, which backward does "
        "not run. (torch/csrc/autograd/variable.cpp, rebase_history)",
        "register it after `relu_`, or use an out-of-place operation there",
    ]


# FXG115


def checkpointed(*, reentrant):
    def forward(model, x):
        for _ in range(2):
            x = checkpoint(model.linear, x, use_reentrant=reentrant)
        return x

    return Program(forward)


def test_without_reentrance_a_hook_fires_once_a_call_though_the_module_runs_twice():
    model, runs, fired = checkpointed(reentrant=False), [], []
    model.linear.register_forward_pre_hook(lambda *given: runs.append(1))
    model.linear.register_full_backward_hook(lambda *given: fired.append(1))
    model(tensor()).sum().backward()
    assert (len(runs), len(fired)) == (4, 2)


def test_a_hook_in_a_checkpoint_is_told():
    model = checkpointed(reentrant=False)
    model.linear.register_full_backward_hook(show)
    (told,) = found(model, "FXG115")
    assert told.severity == "info"
    assert texts(told) == [
        "`linear` runs twice, and `show` is called for the first run",
        "A checkpoint runs `linear` again in backward, forward hooks included, until it has the tensors that it did "
        "not save. The second run puts the hook on nodes that backward never runs. (torch/utils/checkpoint.py)",
        "nothing, unless a forward hook counts calls: do not count in forward hooks",
    ]


def test_in_a_reentrant_checkpoint_a_hook_is_called_inside_a_backward_of_its_own():
    model, depth = checkpointed(reentrant=True), []
    model.linear.register_full_backward_hook(
        lambda *given: depth.append(torch._C._current_graph_task_id())  # of the backward that runs
    )
    result = model(tensor()).sum()
    result.register_hook(lambda grad: depth.append(torch._C._current_graph_task_id()))
    result.backward()
    outermost, *inner = depth
    assert len({outermost, *inner}) == 3


def test_a_hook_in_a_reentrant_checkpoint_is_a_warning_that_the_advice_takes_away():
    model = checkpointed(reentrant=True)
    model.linear.register_full_backward_hook(show)
    (told,) = found(model, "FXG115")
    assert told.severity == "warning"
    assert texts(told) == [
        "`show` is attached only when backward runs the checkpoint again",
        "A reentrant checkpoint runs `linear` with gradients disabled in forward, so the hook has no node. Backward "
        "runs it again with gradients enabled; the hook is put on the nodes of that run and called in a nested "
        "backward. (torch/utils/checkpoint.py)",
        "checkpoint(..., use_reentrant=False), which puts the hook on the nodes of forward",
    ]
    mended = checkpointed(reentrant=False)
    mended.linear.register_full_backward_hook(show)
    assert [told.severity for told in found(mended, "FXG115")] == ["info"]


@pytest.mark.parametrize(("reentrant", "times"), [(True, 2), (False, 1)])
def test_a_parameters_hook_is_called_once_for_each_reentrant_checkpoint(reentrant, times):
    model, fired = checkpointed(reentrant=reentrant), []
    model.linear.weight.register_hook(lambda grad: fired.append(1))
    told = found(model, "FXG115")
    model(tensor()).sum().backward()
    assert (len(fired), bool(told)) == (times, reentrant)


def test_a_parameters_hook_under_a_reentrant_checkpoint_is_told():
    model = checkpointed(reentrant=True)
    model.linear.weight.register_hook(show)
    (told,) = found(model, "FXG115")
    assert told.severity == "info"
    assert texts(told) == [
        "`show` is called once more for each reentrant checkpoint that uses its tensor",
        (
            "CheckpointFunctionBackward_0 and _1 each run a nested backward for what it recomputes. If that uses "
            "`linear.weight`, it adds to its .grad and calls the hook with its part of the gradient. "
            "(torch/utils/checkpoint.py)"
        ),
        "checkpoint(..., use_reentrant=False), which calls the hook once, with the sum",
    ]


# Custom Functions that start a backward


def run_again_by_a_function():
    return Program(lambda model, x: ByHelper.apply(x, model.linear) * 2)


def run_again_by_a_checkpoint():
    return Program(lambda model, x: checkpoint(model.linear, x, use_reentrant=False) * 2)


def test_a_hook_in_a_function_that_runs_its_module_again_is_a_warning_that_the_advice_takes_away():
    model = run_again_by_a_function()
    model.linear.register_full_backward_hook(show)
    (told,) = found(model, "FXG115")
    assert told.severity == "warning"
    headline, because, fix = texts(told)
    assert headline == "`show` is attached only if a Function's backward runs `linear` again"
    assert because.startswith("The forward of a custom Function runs `linear`, called at ")
    assert because.endswith(
        ", and PyTorch records no graph there (torch/csrc/autograd/python_function.cpp, THPFunction_apply), so "
        "this backward calls no hook on what that forward makes. The Function's backward starts a nested "
        "backward, which calls the hooks that it reaches."
    )
    assert fix == (
        "torch.utils.checkpoint.checkpoint(..., use_reentrant=False) instead of the Function, which puts the hook "
        "on the nodes of forward"
    )
    mended = run_again_by_a_checkpoint()
    mended.linear.register_full_backward_hook(show)
    assert [told.severity for told in found(mended, "FXG115")] == ["info"]


def test_a_parameters_hook_under_a_function_that_starts_a_backward_is_told_and_the_advice_takes_it_away():
    model = run_again_by_a_function()
    model.linear.weight.register_hook(show)
    (told,) = found(model, "FXG115")
    assert told.severity == "info"
    assert texts(told) == [
        "`show` may be called once more by a nested backward",
        "The code behind ByHelperBackward_0 starts a nested backward. If that reaches `linear.weight`, it calls the "
        "hook with its part of the gradient, not with the sum. (torch/csrc/autograd/engine.cpp, Engine::execute: "
        "reentrant backward)",
        (
            "torch.utils.checkpoint.checkpoint(..., use_reentrant=False) instead of the Function, which calls the "
            "hook once, with the sum"
        ),
    ]
    mended = run_again_by_a_checkpoint()
    mended.linear.weight.register_hook(show)
    assert not found(mended, "FXG115")


@pytest.mark.parametrize("code", ["FXG105", "FXG201", "FXG204"])
def test_weights_that_only_a_nested_backward_uses_are_not_said_to_be_lost(code):
    model = run_again_by_a_function()
    model.linear.register_full_backward_hook(show)
    assert not found(model, code)
    model(tensor()).sum().backward()
    assert model.linear.weight.grad is not None
