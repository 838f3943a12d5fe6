"""What ``backward(inputs=...)`` and ``autograd.grad`` run, held against the real thing."""

import torch
from real_backward import Bench, assert_as_predicted

from fxgrad.graph import HookKind


def leaf():
    return torch.randn(3, requires_grad=True)


def hooked(output, *tensors):
    """Every kind of hook on every node, and tensor hooks on the given tensors."""
    bench = Bench(output).on_every_node()
    for node in range(len(bench.walked.order)):
        bench.before_node(node)
    for tensor in tensors:
        if bench.place(tensor)[0] is None:
            continue
        bench.on_tensor(tensor)
        if tensor.is_leaf:
            bench.after_accumulation(tensor)
        else:
            bench.retain(tensor)
    return bench


def kinds_at(predicted, bench, tensor):
    node, _ = bench.place(tensor)
    return {site.hook.kind for site in predicted.sites if site.node == node and site.fires}


def silent_reason(predicted, bench, tensor, kind):
    node, _ = bench.place(tensor)
    (site,) = [site for site in predicted.sites if site.node == node and site.hook.kind is kind]
    assert site.fires is False
    return site.reason


def test_backward_inputs_runs_only_what_leads_to_them():
    x, w = leaf(), leaf()
    y = x * w
    bench = hooked(y.sum(), x, w, y)
    predicted = assert_as_predicted(lambda: bench, [x])
    assert kinds_at(predicted, bench, w) == set()
    assert silent_reason(predicted, bench, w, HookKind.TENSOR) == (
        "backward does not reach AccumulateGrad_1: none of the tensors in inputs= is there or behind it"
    )


def test_backward_inputs_runs_every_hook_of_a_listed_leaf():
    x = leaf()
    bench = hooked((x * 2).sum(), x)
    predicted = assert_as_predicted(lambda: bench, [x])
    assert kinds_at(predicted, bench, x) == {
        HookKind.TENSOR,
        HookKind.NODE_PRE,
        HookKind.POST_ACCUMULATE_GRAD,
        HookKind.NODE,
    }


def test_backward_inputs_executes_a_listed_tensor_that_is_no_leaf_but_nothing_behind_it():
    x = leaf()
    y = x * 2
    bench = hooked(y.sum(), x, y)
    predicted = assert_as_predicted(lambda: bench, [y])
    assert HookKind.NODE in kinds_at(predicted, bench, y)
    assert kinds_at(predicted, bench, x) == set()


def test_grad_calls_only_the_tensor_hooks_of_a_listed_leaf():
    x = leaf()
    bench = hooked((x * 2).sum(), x)
    predicted = assert_as_predicted(lambda: bench, [x], "grad")
    assert kinds_at(predicted, bench, x) == {HookKind.TENSOR}
    assert silent_reason(predicted, bench, x, HookKind.POST_ACCUMULATE_GRAD) == (
        "autograd.grad takes the gradient at AccumulateGrad_0 and does not execute it: only hooks on tensors are called"
    )


def test_grad_executes_a_listed_tensor_that_has_another_listed_one_behind_it():
    x = leaf()
    y = x * 2
    bench = hooked(y.sum(), x, y)
    predicted = assert_as_predicted(lambda: bench, [x, y], "grad")
    assert HookKind.NODE in kinds_at(predicted, bench, y)


def test_grad_for_the_root_itself_executes_nothing():
    x = leaf()
    y = (x * 2).sum()
    bench = hooked(y, x, y)
    predicted = assert_as_predicted(lambda: bench, [y], "grad")
    assert kinds_at(predicted, bench, y) == {HookKind.TENSOR, HookKind.RETAIN_GRAD}


def test_a_lone_root_that_leads_to_no_input_still_runs_its_tensor_hooks():
    x, other = leaf(), leaf()
    y = (x * 2).sum()
    bench = hooked(y, x, y)
    predicted = assert_as_predicted(lambda: bench, [other])
    assert kinds_at(predicted, bench, y) == {HookKind.TENSOR, HookKind.RETAIN_GRAD}
    assert silent_reason(predicted, bench, y, HookKind.NODE_PRE) == (
        "SumBackward0_0 is the root, and none of the tensors in inputs= is behind it: only hooks on tensors are called"
    )


def test_of_several_roots_that_lead_to_no_input_nothing_runs():
    x, other = leaf(), leaf()
    y = x * 2
    predicted = assert_as_predicted(lambda: hooked([y.sum(), y.mean()], x, y), [other])
    assert not any(site.fires for site in predicted.sites)


def test_of_several_roots_those_that_lead_to_no_input_are_passed_over():
    x, w = leaf(), leaf()
    y, z = x * 2, w * 2
    bench = hooked([y, z], x, w, y, z)
    predicted = assert_as_predicted(lambda: bench, [w])
    assert kinds_at(predicted, bench, y) == set()


def test_python_functions_compute_everything_also_under_inputs():
    class Both(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            return x + y

        @staticmethod
        def backward(ctx, grad):
            return grad, grad

    x, w = leaf(), leaf()
    bench = hooked(Both.apply(x, w), x, w)
    predicted = assert_as_predicted(lambda: bench, [x])
    assert kinds_at(predicted, bench, w) == set()
    (site,) = [site for site in predicted.sites if site.node == 0 and site.hook.kind is HookKind.NODE]
    assert [gradient.status for gradient in site.grad_input] == ["tensor", "tensor"]


def test_an_inplace_copy_into_a_view_passes_nothing_to_what_leads_to_no_input():
    x, w = leaf(), leaf()
    base = x * 1
    base[:2] = w[:2] * 3
    assert_as_predicted(lambda: hooked(base.sum(), x, w), [x])
