"""Hooks whose code starts a backward, as those of implicit layers: what that may come to is left open, and nothing else is."""

import pytest
import torch
from nested_programs import verified
from torch import nn
from zoo_nested import Around

import fxgrad

pytestmark = pytest.mark.filterwarnings("ignore:Using .*non-full backward hook", "ignore:Full backward hook is firing")
SEEDS = range(12)


def leaf(*shape):
    return torch.randn(shape or (3, 4), requires_grad=True)


def implicit_layer(model, hidden):
    """Its gradient is that of a fixed point, found by several backwards through one more step."""
    result = model.inside(hidden).tanh()
    before = result.detach().requires_grad_()
    step = model.inside(before).tanh()

    def solve(grad):
        for _ in range(3):
            torch.autograd.grad(step, before, grad, retain_graph=True)

    result.register_hook(solve)
    return result


def backward_of_a_side(model, hidden):
    side = model.inside(hidden).sum()
    result = hidden * 3
    result.register_hook(lambda grad: side.backward(retain_graph=True))
    return result


def run_again_in_a_node_hook(model, hidden):
    kept = hidden.detach()
    result = model.inside(hidden) * 2

    def again(grad_input, grad_output):
        with torch.enable_grad():
            model.inside(kept.clone().requires_grad_()).sum().backward()

    result.grad_fn.register_hook(again)
    return result


def view_that_is_held(model, hidden):
    side = model.inside(hidden)[0]
    result = hidden * 3
    result.register_hook(lambda grad: side.backward(torch.ones_like(side), retain_graph=True))
    return result


@pytest.mark.parametrize("way", [implicit_layer, backward_of_a_side, run_again_in_a_node_hook, view_that_is_held])
def test_no_hook_is_predicted_wrongly_where_a_hook_starts_a_backward(way):
    for seed in SEEDS:
        found = verified(way, seed)
        assert found is None or found.ok, f"seed {seed}: {found}"


def trace_and_count(way, hook_owner):
    """The sites of a full hook on a module, and how often it is called for real."""
    model, calls = Around(way), []
    getattr(model, hook_owner).register_full_backward_hook(lambda *given: calls.append(1))
    graph = fxgrad.trace(model, leaf()).graph
    model(leaf()).sum().backward()
    return [site for site in graph.sites if site.hook.owner == hook_owner], len(calls)


def test_a_module_that_the_hook_differentiates_may_have_its_hooks_called():
    sites, count = trace_and_count(implicit_layer, "inside")
    assert [site.call for site in sites if site.fires] == ["inside#1"]
    undecided = [site for site in sites if site.fires is None]
    assert "inside#2" in {site.call for site in undecided}
    assert all("solve`, a hook " in site.reason for site in undecided)
    assert count == 4


def test_what_comes_before_the_hook_is_known():
    sites, count = trace_and_count(implicit_layer, "after")
    assert [(site.fires, site.times) for site in sites if site.fires is not None] == [(True, 1)]
    assert count == 1


def test_verify_sees_a_full_hook_that_a_backward_reaches_of_which_the_code_does_not_tell():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = nn.Linear(4, 4)

        def forward(self, x):
            result = self.inside(x).tanh()
            before = result.detach().requires_grad_()
            step, solvers = self.inside(before).tanh(), [torch.autograd.grad]

            def solve(grad):
                solvers[0](step, before, grad, retain_graph=True)

            result.register_hook(solve)
            return result

    model = Hidden()
    model.inside.register_full_backward_hook(lambda *given: None)
    found = fxgrad.verify(model, leaf())
    assert not found.ok
    assert ("does not fire", "once") in [(wrong.predicted, wrong.got) for wrong in found.differences]
