"""Hooks inside ``torch.utils.checkpoint``: known without recomputation, open with it."""

import pytest
import torch
from module_hooks import FromFunction, assert_as_predicted, compared, site_of
from same_graph import ids_in
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxgrad
from fxgrad.predict import BackwardCall, predict

pytestmark = pytest.mark.filterwarnings(
    "ignore:None of the inputs have requires_grad", "ignore:Using .*non-full backward hook"
)


def leaf(*shape):
    return torch.randn(shape or (4, 3), requires_grad=True)


def checkpointed(*, reentrant):
    model = FromFunction(lambda m, a: checkpoint(m.inside, a, use_reentrant=reentrant) * 2)
    model.inside = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    return model


def hook_all(notebook, model):
    notebook.legacy(model.inside[0], "legacy")
    notebook.full(model.inside[1], "full")
    notebook.full_pre(model.inside[1], "pre")
    model.inside[0].weight.register_hook(notebook.tensor("weight"))


def test_a_non_reentrant_checkpoint_changes_nothing(notebook):
    model = checkpointed(reentrant=False)
    hook_all(notebook, model)
    graph = assert_as_predicted(notebook, model, [leaf()])
    assert [site.fires for site in graph.sites] == [True] * 4


def test_inside_a_reentrant_checkpoint_only_backward_decides(notebook):
    model = checkpointed(reentrant=True)
    hook_all(notebook, model)
    graph = assert_as_predicted(notebook, model, [leaf()])
    assert [(site.fires, site.times) for site in graph.sites] == [(None, None)] * 4
    assert site_of(graph, "legacy").reason == (
        "a reentrant checkpoint runs this call again during backward, and its hooks are attached and called then"
    )
    assert {called.hook for called in notebook.log} == {"legacy", "full", "pre", "weight"}


def test_a_reentrant_checkpoint_without_an_input_that_requires_grad_is_silent(notebook):
    model = checkpointed(reentrant=True)
    notebook.legacy(model.inside[0], "legacy")
    graph = assert_as_predicted(
        notebook, model, [torch.randn(4, 3)], loss=lambda result: result.sum() + model.weight.sum()
    )
    assert site_of(graph, "legacy").fires is False
    assert notebook.log == []


def test_how_often_hooks_of_a_leaf_are_called_is_open_where_a_reentrant_checkpoint_runs(notebook):
    model = FromFunction(lambda m, a: checkpoint(lambda b: b * m.weight, a, use_reentrant=True) + m.weight)
    model.weight.register_hook(notebook.tensor("weight"))
    graph = assert_as_predicted(notebook, model, [leaf()])
    site = site_of(graph, "weight")
    assert (site.fires, site.times) == (True, None)
    assert len(notebook.log) == 2


def test_under_inputs_backward_ends_at_a_reentrant_checkpoint(notebook):
    model = checkpointed(reentrant=True)
    model.inside[0].weight.register_hook(notebook.tensor("weight"))
    x = leaf()
    with fxgrad.record(model) as recording:
        result = model(x)
        result.grad_fn.register_hook(notebook.on_node("multiplied"))
        result.grad_fn.next_functions[0][0].register_hook(notebook.on_node("checkpoint"))
        loss = result.sum()
    graph = recording.trace(loss).graph
    (accumulate,) = [node.id for node in graph.nodes if node.short_name == "AccumulateGrad"]
    predicted = predict(graph, BackwardCall(((accumulate, 0),)))
    with pytest.raises(RuntimeError, match="incompatible with"):
        loss.backward(inputs=[x])
    assert not compared(predicted, notebook.log, ids_in(predicted, [loss])).wrong
    assert [called.hook for called in notebook.log] == ["multiplied"]
    assert site_of(predicted, "checkpoint").reason == "CheckpointFunctionBackward_0 raises when backward executes it"
    assert site_of(predicted, "weight").reason == "this backward does not run the node that would start a nested one"


class PassesThroughInCheckpoint(nn.Module):
    def __init__(self):
        super().__init__()
        self.same, self.linear = nn.Identity(), nn.Linear(3, 3)

    def forward(self, x):
        return checkpoint(lambda x: self.linear(self.same(x)).tanh(), x * 2, use_reentrant=False)


def passing_through(notebook):
    model = PassesThroughInCheckpoint()
    notebook.legacy(model.same, "passed through")
    notebook.legacy(model.linear, "made inside")
    return model


def test_how_often_a_hook_on_what_a_checkpointed_module_passes_through_is_called_is_open(notebook):
    """Backward runs the module again on an argument that still has its grad_fn, and attaches the hook there once more."""
    model, x = passing_through(notebook), torch.ones(2, 3, requires_grad=True)
    trace = fxgrad.trace(model, x)
    passed, made = site_of(trace.graph, "passed through"), site_of(trace.graph, "made inside")
    assert (passed.fires, passed.times, made.times) == (True, None, 1)
    assert passed.reason.endswith(
        "the checkpoint around runs this call again during backward, which may attach the hook to MulBackward0_0 once more"
    )
    model(x).sum().backward()
    assert sorted(called.hook for called in notebook.log) == ["made inside", "passed through", "passed through"]
    assert fxgrad.verify(model, x).ok


@pytest.mark.skipif(not hasattr(torch._C._autograd.SavedTensor, "unpack_hook"), reason="this torch hides unpack hooks")
def test_how_often_a_captured_hook_is_called_is_open_where_a_checkpoint_runs_forward_again(notebook):
    """Which calls the checkpoint runs again was not seen."""
    model = passing_through(notebook)  # the hook calls it
    result = model(torch.ones(2, 3, requires_grad=True))
    graph = fxgrad.capture(result.sum(), node_hooks=True).graph
    assert {node.name: node.recomputed for node in graph.nodes if node.recomputed} == {
        "TanhBackward0": True,
        "AddmmBackward0": True,
    }
    passed = site_of(graph, "passed through")
    assert (passed.fires, passed.times) == (True, None)
    assert passed.reason.endswith(
        "a checkpoint around runs forward again during backward, which may attach the hook to MulBackward0_0 once more"
    )
    result.sum().backward()
    assert [called.hook for called in notebook.log].count("passed through") == 2
