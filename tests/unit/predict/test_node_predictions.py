"""What is said of nodes without any hook: records alone."""

import pytest
from msgspec.structs import replace

from fxgrad.graph import BackwardGraph, Edge, GraphInfo, Node, NodeKind, Root, TensorMeta
from fxgrad.predict import BackwardCall, NodePrediction, find_order_caveat, find_raising_nodes, predict, predict_nodes

INFO = GraphInfo(2, "0", "2.13.0", "3", "cpu", False, "the output of forward")


def node(number, *following, device="cpu", name="MulBackward0", kind=NodeKind.FUNCTION):
    edges = tuple(Edge("self", None, next_node, 0) for next_node in following)
    meta = (TensorMeta((3,), "float32", device),)
    return Node(number, f"{name}_{number}", name, kind, None, 100 - number, meta, ("result",), edges)


def graph(*nodes, roots=(0,)):
    return BackwardGraph(tuple(Root(root, 0, ()) for root in roots), nodes, (), (), (), (), (), (), INFO)


def test_a_node_that_runs_has_a_rank_and_a_status_per_entry():
    first, second = predict_nodes(graph(node(0, 1), node(1)))
    assert first == NodePrediction(True, 0, ("tensor",), ("tensor",), True)
    assert second == NodePrediction(True, 1, ("tensor",), (), True)


def test_a_node_that_the_engine_does_not_come_to_has_no_rank_and_gets_nothing():
    _, aside, _ = predict_nodes(graph(node(0, 1, 2), node(1), node(2)), BackwardCall(((2, 0),)))
    assert aside == NodePrediction(False, None, ("none",), (), True)


def test_a_node_that_grad_only_captures_has_a_rank_but_does_not_run():
    *_, captured = predict_nodes(graph(node(0, 1), node(1)), BackwardCall(((1, 0),), "grad"))
    assert captured == NodePrediction(False, 1, ("tensor",), (), True)


def test_inputs_that_are_not_in_the_graph_leave_the_lone_root_reached_but_not_run():
    first, second = predict_nodes(graph(node(0, 1), node(1)), BackwardCall(()))
    assert (first.runs, first.rank, second.rank) == (False, 0, None)


def test_a_graph_without_roots_has_nothing_to_run():
    (only,) = predict_nodes(graph(node(0), roots=()))
    assert only == NodePrediction(False, None, ("none",), (), False)


def test_a_graph_without_hooks_has_no_sites():
    assert predict(graph(node(0))).sites == ()


@pytest.mark.parametrize("kind", [NodeKind.OPAQUE, NodeKind.SCRIPTED, NodeKind.COMPILED, NodeKind.CHECKPOINT])
def test_what_nodes_of_unknown_code_return_is_unknown(kind):
    first, second = predict_nodes(graph(node(0, 1, kind=kind), node(1)))
    assert (first.grad_inputs, second.grad_outputs) == (("unknown",), ("unknown",))


def test_on_one_thread_the_order_is_certain():
    assert find_order_caveat(graph(node(0, 1), node(1), roots=(0, 1))) is None
    assert find_order_caveat(graph(node(0, 1, device="cuda:0"), node(1, device="cuda:0"))) is None


def test_between_two_devices_there_is_no_order():
    assert find_order_caveat(graph(node(0, 1, device="cuda:0"), node(1))) == (
        "each device (cuda:0, cpu) has its own thread, so there is no order between them"
    )


def test_with_several_roots_the_thread_of_an_accelerator_starts_early():
    several = graph(node(0, device="cuda:0"), node(1, device="cuda:0"), roots=(0, 1))
    assert find_order_caveat(several) == "the thread of cuda:0 starts while the 2 roots are still being queued"


# Nodes that can no longer read what they saved


def lost(number, *following, reads_saved=True):
    return replace(node(number, *following), freed=True, reads_saved=reads_saved)


def test_backward_ends_at_the_first_node_that_raises():
    first, raising, behind = predict_nodes(graph(node(0, 1), lost(1, 2), node(2)))
    assert (first.runs, raising.rank, behind.rank) == (True, 1, None)
    certain, possible = find_raising_nodes(graph(node(0, 1), lost(1, 2), node(2)))
    assert certain is not None
    assert (certain.id, possible) == (1, None)


def test_a_node_of_which_its_code_decides_ends_nothing():
    program = graph(node(0, 1), lost(1, 2, reads_saved=False), lost(2))
    assert [each.rank for each in predict_nodes(program)] == [0, 1, 2]
    assert [each and each.id for each in find_raising_nodes(program)] == [2, 1]


def test_a_node_that_is_not_executed_does_not_raise():
    program = replace(graph(node(0, 1, 2), lost(1), node(2)))
    program = replace(program, info=replace(INFO, backward=BackwardCall(((2, 0),))))
    assert find_raising_nodes(program) == (None, None)
