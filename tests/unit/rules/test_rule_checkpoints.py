"""FXG115: when hooks in a checkpoint are called; held against PyTorch."""

import pytest
import torch
from ruled_programs import Program, found, show, tensor, texts
from torch.utils.checkpoint import checkpoint
from zoo_nested import ByHelper

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's, of full hooks on modules whose inputs require no grad


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
        "A checkpoint runs `linear` again in backward, with the hooks of its forward, until it has what it did not save. "
        "The second run puts the hook on nodes that backward never runs. (torch/utils/checkpoint.py)",
        "nothing, if it counts no runs of forward: do not count in forward hooks",
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
        "A reentrant checkpoint runs `linear` without gradients in forward: the hook finds no node. Backward runs it "
        "again, with gradients; the hook is put on the nodes of that run, and called in a backward inside of backward. "
        "(torch/utils/checkpoint.py)",
        "checkpoint(..., use_reentrant=False), where the hook is on the nodes of the forward",
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
        "CheckpointFunctionBackward_0 and _1 each run a backward of its own for what it recomputes. It adds into .grad of "
        "`linear.weight` if it uses that, and calls the hook with its part of the gradient. (torch/utils/checkpoint.py)",
        "checkpoint(..., use_reentrant=False), with which the hook is called once, with the sum",
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
        ", and PyTorch records no gradients there (torch/csrc/autograd/python_function.cpp, THPFunction_apply): on what "
        "forward makes no hook is called by this backward. The code of the Function's backward starts a backward of its "
        "own, which calls the hooks of what it comes to."
    )
    assert fix == (
        "torch.utils.checkpoint.checkpoint(..., use_reentrant=False) in place of the Function, where the hook is on the "
        "nodes of the forward"
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
        "`show` may be called once more by a backward that starts inside this one",
        "The code of what ByHelperBackward_0 stands for starts a backward of its own. That calls the hook with its part of "
        "the gradient if it comes to `linear.weight`, and the hook sees no sum. (torch/csrc/autograd/engine.cpp, "
        "Engine::execute: reentrant backward)",
        "torch.utils.checkpoint.checkpoint(..., use_reentrant=False) in place of the Function, with which the hook is "
        "called once, with the sum",
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
