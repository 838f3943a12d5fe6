"""A backward graph as a networkx graph, for its algorithms and its file formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from fxgrad.collection import pause_collection
from fxgrad.graph import BackwardGraph

if TYPE_CHECKING:
    import networkx


@pause_collection()
def to_networkx(graph: BackwardGraph) -> networkx.MultiDiGraph[int]:
    """Answer with a ``networkx.MultiDiGraph`` of the autograd nodes; edges point the way that gradients flow.

    ================  ==============================================================================================
    nodes             keyed by id; the fields of `Node` by name, and ``sites`` where hooks sit on the node
    edges             keyed by their index in ``next_functions``; the fields of `Edge` by name. An edge that carries
                      no gradient leads to no node, so it is only in its node's ``edges``
    ``graph.graph``   the fields of `GraphInfo`, and the graph's other records: ``roots``, ``modules``, ``calls``,
                      ``variables``, ``hooks``, ``sites``, ``forward``, ``unrecorded_calls``
    ================  ==============================================================================================

    Attributes hold fxgrad's immutable records, not copies.
    """
    import networkx

    exchanged: networkx.MultiDiGraph[int] = networkx.MultiDiGraph()
    exchanged.graph.update(_graph_attributes(graph))
    exchanged.add_nodes_from((node.id, asdict(node)) for node in graph.nodes)
    for node, its_sites in graph.sites_by_node.items():
        exchanged.nodes[node]["sites"] = its_sites
    exchanged.add_edges_from(  # the stubs know no edges with a key and attributes
        (node.id, edge.next_node, key, asdict(edge))  # type: ignore[misc]
        for node in graph.nodes
        for key, edge in enumerate(node.edges)
        if edge.next_node is not None
    )
    return exchanged


def _graph_attributes(graph: BackwardGraph) -> dict[str, Any]:
    return asdict(graph.info) | {name: value for name, value in asdict(graph).items() if name not in ("nodes", "info")}
