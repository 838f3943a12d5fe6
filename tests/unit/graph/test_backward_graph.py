import pytest
from msgspec.structs import replace

from fxgrad.errors import UsageError
from fxgrad.graph import BackwardGraph, Edge, GraphInfo, Node, NodeKind, TensorMeta

INFO = GraphInfo(2, "0.1.0", "2.13.0", "3.11.7", "cpu", False, "loss")
META = TensorMeta((), "float32", "cpu")


def graph_of(*targets):
    """A graph whose node i leads to targets[i]; None is a null edge."""
    nodes = [
        Node(
            i,
            f"AddBackward0_{i}",
            "AddBackward0",
            NodeKind.FUNCTION,
            None,
            i,
            (META,),
            ("result",),
            tuple(Edge(None, None, t, 0, "none" if t is None else None) for t in to),
        )
        for i, to in enumerate(targets)
    ]
    return BackwardGraph((), tuple(nodes), (), (), (), (), (), (), INFO)


def test_a_path_holds_both_ends():
    assert graph_of((1,), (2,), ()).path(0, 2) == (0, 1, 2)


def test_the_path_with_the_fewest_edges_is_taken():
    assert graph_of((1, 3), (2,), (3,), (4,), ()).path(0, 4) == (0, 3, 4)


def test_of_two_shortest_paths_the_first_in_the_order_of_the_edges_is_taken():
    assert graph_of((2, 1), (3,), (3,), ()).path(0, 3) == (0, 2, 3)


def test_a_node_leads_to_itself():
    assert graph_of((1,), ()).path(1, 1) == (1,)


def test_there_is_no_path_against_the_gradient():
    assert graph_of((1,), ()).path(1, 0) is None


def test_there_is_no_path_through_a_null_edge():
    assert graph_of((None, 2), (3,), (), ()).path(0, 3) is None


def test_nodes_may_be_given_by_label():
    assert graph_of((1,), (2,), ()).path("AddBackward0_0", "AddBackward0_2") == (0, 1, 2)


def test_a_chain_deeper_than_the_recursion_limit_has_a_path():
    graph = graph_of(*((i + 1,) for i in range(20_000)), ())
    assert graph.path(0, 20_000) == tuple(range(20_001))


def test_an_unknown_label_is_refused_with_the_nearest_ones():
    with pytest.raises(UsageError) as refused:
        graph_of((1,), ()).path("AddBackward_0", 1)
    assert str(refused.value) == (
        'no node is labelled "AddBackward_0"\n'
        "  allowed: a label of the graph; the nearest are AddBackward0_0 to AddBackward0_1\n"
        "  try: print(graph) shows every node with its id and label"
    )


def test_an_unknown_label_like_no_other_is_refused_on_one_line():
    with pytest.raises(UsageError) as refused:
        graph_of(()).path(0, "\n\ud800")
    assert refused.value.given == 'no node is labelled "\\n\\ud800"'
    assert refused.value.allowed == "a label of the graph"


@pytest.mark.parametrize("wanted", [-1, 2])
def test_an_id_out_of_range_is_refused(wanted):
    with pytest.raises(UsageError) as refused:
        graph_of((1,), ()).path(0, wanted)
    assert refused.value.given == f"node {wanted} is not in the graph"
    assert refused.value.allowed == "an id from 0 to 1, or a label"


def test_a_graph_without_nodes_has_no_ids():
    with pytest.raises(UsageError, match="nothing: the graph has no nodes"):
        graph_of().path(0, 0)


def test_what_a_layer_above_makes_of_a_graph_is_made_once_and_anew_for_a_changed_one():
    asked = []

    def count_nodes(graph):
        asked.append(graph)
        return len(graph.nodes)

    graph = graph_of((1,), ())
    changed = replace(graph, nodes=graph.nodes[:1])
    assert [graph.remember(count_nodes), graph.remember(count_nodes), changed.remember(count_nodes)] == [2, 2, 1]
    assert len(asked) == 2
    assert changed != graph
    assert graph == graph_of((1,), ())
