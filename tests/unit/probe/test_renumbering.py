"""Ids and labels are those that observing the graph would give; a test that the comparison in tests/support can fail."""

import pytest
from hooked_programs import PROGRAMS
from module_hooks import Notebook
from msgspec.structs import replace
from supposed_hooks import graph_differences

from fxgrad.graph import HookKind
from fxgrad.observe.tracing import observe_forward
from fxgrad.predict import predict
from fxgrad.probe import hypothesis
from fxgrad.probe.renumbering import renumbered


def observed(name):
    notebook = Notebook()
    model, args, kwargs = PROGRAMS[name](notebook)
    graph = observe_forward(model, tuple(args), kwargs).graph
    notebook.close()
    return graph


def shuffled(graph):
    """The same graph with its nodes the other way round."""
    last = len(graph.nodes) - 1
    edges = [
        [edge if edge.next_node is None else replace(edge, next_node=last - edge.next_node) for edge in node.edges]
        for node in graph.nodes
    ]
    turned = [replace(node, id=last - node.id, edges=tuple(edges[node.id])) for node in graph.nodes]
    roots = [replace(root, node=last - root.node) for root in graph.roots]
    return replace(graph, nodes=tuple(turned[::-1]), roots=tuple(roots), calls=(), variables=(), hooks=())


@pytest.mark.parametrize("name", ["sequential", "lstm_cell_three_times", "attention", "chunks", "unused_second_result"])
def test_the_order_of_the_nodes_and_their_labels_depend_on_the_graph_alone(name):
    graph = observed(name)
    again, ids = renumbered(shuffled(graph), graph)
    assert [(node.id, node.label, node.edges) for node in again.nodes] == [
        (node.id, node.label, node.edges) for node in graph.nodes
    ]
    assert sorted(ids.values()) == list(range(len(graph.nodes)))


def test_a_graph_that_goes_in_a_circle_is_an_error():
    graph = observed("sequential")
    first = graph.nodes[0]
    leads_back = replace(first.edges[0], next_node=0, input_nr=0)
    inside = first.edges[0].next_node
    nodes = [replace(node, edges=(leads_back,)) if node.id == inside else node for node in graph.nodes]
    with pytest.raises(AssertionError, match="circle"):
        renumbered(replace(graph, nodes=tuple(nodes)), graph)


def test_the_comparison_with_reality_sees_a_wrong_edge_a_wrong_entry_and_a_missing_node():
    right = hypothesis(observed("sequential"), "0", HookKind.MODULE_FULL_BACKWARD).graph
    node = replace(right.nodes[1], edges=(replace(right.nodes[1].edges[0], input_nr=1), *right.nodes[1].edges[1:]))
    site = replace(right.sites[0], times=7)
    assert not list(graph_differences(right, right))
    assert list(graph_differences(right, replace(right, nodes=(right.nodes[0], node, *right.nodes[2:]))))
    assert list(graph_differences(right, replace(right, sites=(site, *right.sites[1:]))))
    assert list(graph_differences(right, predict(observed("sequential"))))
