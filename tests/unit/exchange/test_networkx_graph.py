import networkx
from msgspec.structs import asdict

from fxgrad.exchange.networkx_graph import to_networkx
from fxgrad.graph import (
    BackwardGraph,
    Edge,
    GraphInfo,
    Hook,
    HookKind,
    HookSite,
    Node,
    NodeKind,
    Root,
    TensorMeta,
)

META = TensorMeta((3,), "float32", "cpu")
HOOK = Hook(0, HookKind.NODE, "MulBackward0_0", "print_sizes")
SITE = HookSite(HOOK, None, 0, None, (), (), None, None, 0, "it was registered there")
NOWHERE = HookSite(HOOK, None, None, None, (), (), False, 0, None, "not in the graph")


def node(number, name, *edges):
    return Node(number, f"{name}_{number}", name, NodeKind.FUNCTION, None, number, (META,), ("result",), edges)


# x * x: both edges of the product lead to one node
SQUARE = BackwardGraph(
    (Root(0, 0, ("result",)),),
    (
        node(0, "MulBackward0", Edge("self", None, 1, 0), Edge("other", None, 1, 0)),
        node(1, "SinBackward0", Edge("self", None, None, 0, "this argument requires no grad")),
    ),
    (),
    (),
    (),
    (HOOK,),
    (SITE, NOWHERE),
    (),
    GraphInfo(2, "0.1.0", "2.13.0", "3.11.7", "cpu", False, "the output of forward", notes=("a note",)),
)


def test_nodes_are_keyed_by_id_and_hold_the_fields_of_their_record():
    exchanged = to_networkx(SQUARE)
    assert list(exchanged) == [0, 1]
    assert exchanged.nodes[1] == asdict(SQUARE.nodes[1])


def test_edges_are_keyed_by_their_index_and_hold_the_fields_of_their_record():
    assert list(to_networkx(SQUARE).edges(keys=True, data=True)) == [
        (0, 1, 0, asdict(SQUARE.nodes[0].edges[0])),
        (0, 1, 1, asdict(SQUARE.nodes[0].edges[1])),
    ]


def test_null_edges_are_kept_in_the_edges_of_their_node():
    exchanged = to_networkx(SQUARE)
    assert exchanged.out_degree(1) == 0
    assert exchanged.nodes[1]["edges"][0].null_reason == "this argument requires no grad"


def test_only_a_node_with_hooks_has_sites():
    exchanged = to_networkx(SQUARE)
    assert exchanged.nodes[0]["sites"] == (SITE,)
    assert "sites" not in exchanged.nodes[1]


def test_the_graph_holds_how_it_was_made_and_its_other_records():
    attributes = to_networkx(SQUARE).graph
    assert attributes["torch"] == "2.13.0"
    assert attributes["notes"] == ("a note",)
    assert attributes["roots"] == SQUARE.roots
    assert attributes["sites"] == (SITE, NOWHERE)
    assert {"modules", "calls", "variables", "hooks", "forward"} < attributes.keys()
    assert not {"nodes", "info"} & attributes.keys()


def test_its_algorithms_work():
    exchanged = to_networkx(SQUARE)
    assert networkx.is_directed_acyclic_graph(exchanged)
    assert networkx.shortest_path(exchanged, 0, 1) == list(SQUARE.path(0, 1))
