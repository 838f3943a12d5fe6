"""In which order nodes run and hooks are called, held against a real backward."""

import threading

import pytest
import torch
from real_backward import INFO, Bench, assert_as_predicted

from fxgrad.graph import BackwardGraph, Edge, HookKind, Node, NodeKind, Root, TensorMeta
from fxgrad.predict import predict_nodes


def leaf(*shape):
    return torch.randn(shape or (3,), requires_grad=True)


def kinds_in_order(bench):
    predicted = assert_as_predicted(lambda: bench)
    return [site.hook.kind for site in predicted.sites if site.fires]


def test_at_a_node_tensor_hooks_come_first_then_retain_grad_prehooks_and_post_hooks():
    x = leaf()
    y = x * 2
    bench = Bench(y.sum())
    node = bench.node_id(y.grad_fn)
    bench.on_node(node)
    bench.before_node(node)
    bench.retain(y)
    bench.on_tensor(y)
    assert kinds_in_order(bench) == [HookKind.TENSOR, HookKind.RETAIN_GRAD, HookKind.NODE_PRE, HookKind.NODE]


def test_at_a_leaf_the_post_accumulate_hook_comes_between_prehook_and_post_hook():
    x = leaf()
    bench = Bench((x * 2).sum())
    node, _ = bench.place(x)
    bench.on_node(node)
    bench.after_accumulation(x)
    bench.before_node(node)
    bench.on_tensor(x)
    assert kinds_in_order(bench) == [
        HookKind.TENSOR,
        HookKind.NODE_PRE,
        HookKind.POST_ACCUMULATE_GRAD,
        HookKind.NODE,
    ]


def test_tensor_hooks_of_one_node_are_called_tensor_by_tensor_from_the_first_registered_on():
    u, v, w = leaf(3, 2).unbind(0)
    bench = Bench([u, v, w])
    ids = [bench.on_tensor(tensor) for tensor in (v, u, v, w, u)]
    predicted = assert_as_predicted(lambda: bench)
    assert [site.hook.id for site in predicted.sites] == [ids[0], ids[2], ids[1], ids[4], ids[3]]


def test_two_tensor_objects_on_one_slot_have_a_group_each():
    y = leaf().exp()
    again = y.grad_fn._saved_result
    bench = Bench(y.sum())
    for tensor in (y, again, y):
        bench.on_tensor(tensor)
    assert again is not y
    predicted = assert_as_predicted(lambda: bench)
    assert [site.hook.id for site in predicted.sites] == [0, 2, 1]


def test_leaves_run_as_soon_as_they_are_ready():
    x, y = leaf(), leaf()
    predicted = assert_as_predicted(lambda: Bench((x * y).sin().sum()).on_every_node())
    labels = [predicted.nodes[site.node].label for site in predicted.sites]
    assert labels == ["SumBackward0_0", "SinBackward0_0", "MulBackward0_0", "AccumulateGrad_0", "AccumulateGrad_1"]


def test_many_leaves_that_are_ready_at_once_run_in_the_order_of_the_engines_heap():
    leaves = [leaf() for _ in range(12)]
    predicted = assert_as_predicted(lambda: Bench(torch.stack(leaves)).on_every_node())
    ids = [site.node for site in predicted.sites]
    assert ids != sorted(ids)


def test_the_node_made_last_runs_first():
    x = leaf()
    early, late = x.sin(), x.cos()
    predicted = assert_as_predicted(lambda: Bench(late + early).on_every_node())
    labels = [predicted.nodes[site.node].label for site in predicted.sites]
    assert labels == ["AddBackward0_0", "CosBackward0_0", "SinBackward0_0", "AccumulateGrad_0"]


def test_several_roots_start_together():
    x = leaf()
    assert_as_predicted(lambda: Bench([x.sin(), x.cos(), x * x]).on_every_node())


def test_a_root_in_the_middle_of_the_graph_runs_once_when_all_its_gradients_are_there():
    x = leaf()
    y = x.sin()
    predicted = assert_as_predicted(lambda: Bench([y, y.cos()]).on_every_node())
    assert [site.times for site in predicted.sites] == [1, 1, 1]


def test_the_same_root_twice_counts_twice():
    y = leaf().sin()
    assert_as_predicted(lambda: Bench([y, y]).on_every_node())


def test_a_leaf_can_be_a_root():
    x = leaf()
    predicted = assert_as_predicted(lambda: Bench([x, x * 2]).on_every_node())
    assert [predicted.nodes[site.node].label for site in predicted.sites] == ["MulBackward0_0", "AccumulateGrad_0"]


def test_a_lone_leaf_can_be_the_root():
    assert_as_predicted(lambda: Bench(leaf()).on_every_node())


def test_nodes_made_in_another_thread_count_for_themselves():
    x = leaf()
    made = []

    def work():
        made.append(x.sin().cos())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert_as_predicted(lambda: Bench(made[0] + x.exp()).on_every_node())


def test_hooks_of_nodes_that_share_a_sequence_number_run_as_the_heap_leaves_them():
    x = leaf()
    results = []

    def work(function):
        results.append(function(x))

    for function in (torch.sin, torch.cos, torch.exp, torch.tanh):
        thread = threading.Thread(target=work, args=(function,))
        thread.start()
        thread.join()
    assert len({result.grad_fn._sequence_nr() for result in results}) == 1
    assert_as_predicted(lambda: Bench(torch.stack(results)).on_every_node())


def test_backward_ends_at_a_node_that_raises():
    x = leaf()
    y = torch._C._functions.DelayedError("stop", 1)(x * 2)
    bench = Bench(y + leaf()).on_every_node()
    (error,) = [node for node, live in enumerate(bench.walked.order) if "Error" in live.name()]
    bench.before_node(error)
    predicted = bench.predicted()
    with pytest.raises(RuntimeError, match="stop"):
        bench.run()
    called = {called.hook for called in bench.log}
    assert {site.hook.id for site in predicted.sites if site.fires} == called
    assert {site.reason for site in predicted.sites if site.node == error and not site.fires} == {
        "Error_0 raises when backward executes it"
    }


def test_a_hook_whose_handle_was_removed_is_not_called():
    y = leaf() * 2
    bench = Bench(y.sum())
    bench.remove(bench.on_tensor(y))
    predicted = assert_as_predicted(lambda: bench)
    (site,) = predicted.sites
    assert (site.fires, site.order, site.reason) == (False, None, "its handle was removed")


def test_a_removed_first_hook_still_decides_the_place_of_its_tensors_group():
    u, v = leaf(2, 2).unbind(0)
    bench = Bench([u, v])
    removed = bench.on_tensor(v)
    bench.on_tensor(u)
    bench.on_tensor(v)
    bench.remove(removed)
    predicted = assert_as_predicted(lambda: bench)
    assert [site.hook.id for site in predicted.sites if site.fires] == [2, 1]


def test_retain_grad_does_nothing_on_a_leaf():
    x = leaf()
    bench = Bench(x * 2)
    bench.retain(x)
    (site,) = bench.predicted().sites
    assert (site.fires, site.reason) == (False, "retain_grad does nothing on a leaf")


def chain(length):
    """A graph of `length` multiplications in a row, made of records alone."""
    meta = (TensorMeta((3,), "float32", "cpu"),)
    nodes = [
        Node(
            i,
            f"M_{i}",
            "MulBackward0",
            NodeKind.FUNCTION,
            None,
            length - i,
            meta,
            ("result",),
            (Edge("self", None, i + 1, 0),),
        )
        for i in range(length)
    ]
    end = Node(
        length, "A", "torch::autograd::AccumulateGrad", NodeKind.ACCUMULATE_GRAD, None, None, meta, ("grad",), ()
    )
    return BackwardGraph((Root(0, 0, ()),), (*nodes, end), (), (), (), (), (), (), INFO)


def test_a_deep_graph_needs_no_recursion():
    predictions = predict_nodes(chain(50_000))
    assert [prediction.rank for prediction in predictions] == list(range(50_001))
    assert predictions[-1].grad_outputs == ("tensor",)
