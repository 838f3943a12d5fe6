"""When hooks on several tensors are called, held against a real backward."""

import pytest
import torch
from module_hooks import site_of
from real_backward import Bench, assert_as_predicted
from torch import nn
from torch.autograd.graph import register_multi_grad_hook

import fxgrad


def leaf():
    return torch.randn(3, requires_grad=True)


def the_site(predicted):
    (site,) = predicted.sites
    return site


def statuses(site):
    return [gradient.status for gradient in site.grad_output]


def test_an_all_hook_is_called_at_the_tensor_that_backward_comes_to_last():
    x, w = leaf(), leaf()
    y = x * w
    bench = Bench(y.sin())
    bench.on_several([x, y, w])
    site = the_site(assert_as_predicted(lambda: bench))
    assert site.node == bench.place(w)[0]
    assert statuses(site) == ["tensor"] * 3


def test_an_any_hook_is_called_at_the_tensor_that_backward_comes_to_first_with_its_gradient_alone():
    x = leaf()
    y = x * 2
    bench = Bench(y.sin())
    bench.on_several([x, y], "any")
    site = the_site(assert_as_predicted(lambda: bench))
    assert site.node == bench.place(y)[0]
    assert statuses(site) == ["tensor"]


def test_an_all_hook_gets_none_for_a_tensor_that_backward_does_not_come_to():
    x, apart = leaf(), leaf()
    bench = Bench(x * 2)
    bench.on_several([x, apart * 2])
    site = the_site(assert_as_predicted(lambda: bench))
    assert [(gradient.status, gradient.reason) for gradient in site.grad_output] == [
        ("tensor", None),
        ("none", "backward does not reach it"),
    ]


def test_an_all_hook_does_not_wait_for_what_leads_to_no_input():
    x, w = leaf(), leaf()
    y = x * w
    bench = Bench(y.sum())
    bench.on_several([y, w])
    site = the_site(assert_as_predicted(lambda: bench, [x]))
    assert statuses(site) == ["tensor", "none"]


def test_the_same_tensor_twice_counts_twice():
    y = leaf() * 2
    bench = Bench(y.sum())
    bench.on_several([y, y])
    assert statuses(the_site(assert_as_predicted(lambda: bench))) == ["tensor", "tensor"]


def test_an_all_hook_on_the_lone_root_alone_is_never_called():
    y = leaf().sum()
    bench = Bench(y)
    bench.on_several([y])
    site = the_site(assert_as_predicted(lambda: bench))
    assert site.fires is False
    assert "the root that backward starts from does not count" in site.reason


def test_an_all_hook_on_the_lone_root_and_another_tensor_is_called_for_each():
    x = leaf()
    y = (x * 2).sum()
    bench = Bench(y)
    bench.on_several([y, x])
    first, second = assert_as_predicted(lambda: bench).sites
    assert (first.times, second.times) == (1, 1)
    assert [statuses(first), statuses(second)] == [["tensor", "none"], ["none", "tensor"]]
    assert first.grad_output[1].reason == "backward reaches it after the hook was called"
    assert second.grad_output[0].reason == "an earlier call of the hook got it"
    assert first.reason.endswith("; call 1 of 2: PyTorch counts 1 of their nodes as executed, so 1 gradient is enough")


def test_an_all_hook_that_is_called_for_every_gradient_is_verified_call_by_call():
    class Model(nn.Module):
        def forward(self, x):
            doubled = x * 2
            loss = doubled.sum()
            register_multi_grad_hook([x, doubled, loss], lambda gradients: None)
            register_multi_grad_hook([loss, doubled], lambda gradients: None)
            return loss

    verified = fxgrad.verify(Model(), (leaf(),))
    assert (verified.differences, verified.unknown) == ((), ())
    assert [(site.hook.id, site.node) for site in verified.graph.sites] == [(1, 0), (0, 1), (1, 1)]


def test_one_of_several_roots_is_counted():
    x = leaf()
    y = x.sum()
    bench = Bench([y, x.mean()])
    bench.on_several([y, x])
    assert the_site(assert_as_predicted(lambda: bench)).times == 1


def test_an_all_hook_has_its_place_among_the_hooks_of_the_last_tensor():
    x = leaf()
    y = x * 2
    bench = Bench(y.sum())
    bench.on_tensor(x)
    bench.on_several([y, x])
    bench.on_tensor(x)
    predicted = assert_as_predicted(lambda: bench)
    assert [site.hook.id for site in predicted.sites] == [0, 1, 2]


def test_grad_raises_where_an_all_hook_is_on_a_listed_leaf_and_nothing_is_called_after_that():
    x = leaf()
    y = x * 2
    bench = Bench(y.sum()).on_every_node()
    bench.on_several([y, x])
    predicted = bench.predicted([x], "grad")
    with pytest.raises(RuntimeError, match="A leaf node was passed"):
        bench.run([x], "grad")
    assert not bench.compared(predicted).wrong
    assert [site.reason for site in predicted.sites if site.hook.mode] == [
        "autograd.grad raises: one of the hook's tensors is a leaf in inputs="
    ]


def test_a_hook_on_tensors_that_are_all_elsewhere_has_a_site_that_never_fires():
    bench = Bench(leaf() * 2)
    bench.on_several([leaf() * 3])
    site = the_site(bench.predicted())
    assert (site.node, site.fires) == (None, False)


# Tensors that nobody holds any more


def hooked_and_dropped(notebook, mode, tensors):
    """A loss, and a hook on tensors inside its graph of which only nodes are left."""
    leaf = torch.ones(3, requires_grad=True)
    hooked = tensors(leaf * 2)
    register_multi_grad_hook(hooked, notebook.several("several", mode), mode=mode)
    return sum(tensor.sum() for tensor in hooked) + leaf.sum()


def test_an_any_hook_on_tensors_that_are_gone_is_left_open(notebook):
    kept = nn.Parameter(torch.ones(3))
    loss = hooked_and_dropped(notebook, "any", lambda made: [made * 1, made * 3, kept])
    site = site_of(fxgrad.capture(loss, nn.ParameterList([kept])).graph, "several")
    assert (site.fires, site.times, site.node) == (None, None, None)
    assert site.reason == "it may also be registered on tensors that fxgrad could not find"


def test_an_any_hook_whose_tensors_are_all_held_is_predicted(notebook):
    model = nn.Linear(2, 3)
    register_multi_grad_hook(list(model.parameters()), notebook.several("several", "any"), mode="any")
    output = model(torch.ones(4, 2))
    site = site_of(fxgrad.capture(output, model).graph, "several")
    output.sum().backward()
    assert site.fires is True
    assert [called.hook for called in notebook.log] == ["several"]


def test_an_any_hook_that_was_removed_is_not_called(notebook):
    kept = nn.Parameter(torch.ones(3))
    inner = kept * 2
    handle = register_multi_grad_hook([inner, kept], notebook.several("several", "any"), mode="any")
    loss = (inner * 3).sum()
    del inner
    handle.remove()
    assert all(site.fires is False for site in fxgrad.capture(loss, nn.ParameterList([kept])).graph.sites)


def test_an_all_hook_knows_the_nodes_of_tensors_that_are_gone(notebook):
    kept = nn.Parameter(torch.ones(3))
    loss = hooked_and_dropped(notebook, "all", lambda made: [made * 1, made * 3, kept])
    site = site_of(fxgrad.capture(loss, nn.ParameterList([kept])).graph, "several")
    loss.backward()
    assert (site.fires, site.times) == (True, 1)
    assert [called.hook for called in notebook.log] == ["several"]


def test_an_all_hook_on_one_of_several_results_that_is_gone_is_left_open(notebook):
    kept = nn.Parameter(torch.ones(3))
    loss = hooked_and_dropped(notebook, "all", lambda made: [made.unbind()[2], kept])
    site = site_of(fxgrad.capture(loss, nn.ParameterList([kept])).graph, "several")
    assert site.fires is None
    assert site.reason == (
        "one of its tensors is gone, and the hook keeps only that tensor's node, which has several gradients"
    )


@pytest.mark.parametrize("verb", ["trace", "capture"])
def test_tensors_of_an_any_hook_that_the_graph_has_nothing_to_do_with_leave_nothing_open(notebook, verb):
    model, other = nn.Linear(3, 2), leaf()
    inner = other * 2
    register_multi_grad_hook([other, inner, model.weight], notebook.several("several", "any"), mode="any")
    output = model(torch.ones(4, 3))
    answer = fxgrad.trace(model, torch.ones(4, 3)) if verb == "trace" else fxgrad.capture(output, model)
    site = site_of(answer.graph, "several")
    output.sum().backward()
    assert (site.fires, site.times) == (True, 1)
    assert [called.hook for called in notebook.log] == ["several"]


def test_a_hook_on_a_tensor_that_was_not_found_may_be_called_before_another_hook_raises(notebook):
    """An "all" hook raises for a leaf that autograd.grad captures; what comes before that is called."""
    x, w = leaf(), leaf()
    hidden = [x * 1]
    register_multi_grad_hook([*hidden, w], notebook.several("several", "any"), mode="any")
    register_multi_grad_hook([x], notebook.several("raises", "all"))
    result = (hidden.pop() * 2).sum() + w.sum()  # capture finds the hook on w alone
    predicted = fxgrad.capture(result).predict(inputs=[x], api="grad").graph
    with pytest.raises(RuntimeError, match="A leaf node was passed"):
        torch.autograd.grad(result, x)
    assert "several" in [called.hook for called in notebook.log]
    assert site_of(predicted, "several").fires is None


# Leaves of a class of their own


class Plain(torch.Tensor):
    """Has PyTorch's own __torch_function__, which makes a view of a leaf by two operations."""


def test_an_all_hook_does_not_wait_for_a_leaf_of_which_it_took_another_node(notebook):
    """``view_as`` of such a leaf has a node between itself and AccumulateGrad, which no backward executes."""
    model = nn.Linear(3, 3)
    model.weight = nn.Parameter(torch.randn(3, 3).as_subclass(Plain))
    register_multi_grad_hook([model.weight, model.bias], notebook.several("several", "all"))
    trace = fxgrad.trace(model, torch.ones(2, 3))
    assert trace.graph.hooks[0].uncounted == (0,)
    model(torch.ones(2, 3)).sum().backward()
    assert len(notebook.log) == len(trace.sites) == 2
    received = [[entry is not None for entry in called.grad_output] for called in notebook.log]
    assert [[status == "tensor" for status in statuses(site)] for site in trace.sites] == received
    assert fxgrad.verify(model, torch.ones(2, 3)).ok
