"""FXG115: when hooks in a checkpoint are called; held against PyTorch."""

import pytest
import torch
from ruled_programs import Program, found, show, tensor, texts
from torch.utils.checkpoint import checkpoint

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
        "CheckpointFunctionBackward_0 and _1 runs a backward of its own for what it recomputes. It adds into .grad of "
        "`linear.weight` if it uses that, and calls the hook with its part of the gradient. (torch/utils/checkpoint.py)",
        "checkpoint(..., use_reentrant=False), with which the hook is called once, with the sum",
    ]
