"""The backward graph as one immutable object: what a reader of a trace works with."""

from __future__ import annotations

from fxgrad.graph import check, names, printing
from fxgrad.graph.graph_records import GraphRecords
from fxgrad.graph.lookup import find_node
from fxgrad.graph.records import Edge


class BackwardGraph(GraphRecords, frozen=True, dict=True, gc=True):
    """Everything that is known of one backward graph: the records, the look-ups of `GraphRecords`, and what follows.

    ``nodes[i].id == i``, in a topological order from the roots (a node comes before the nodes that its gradients go
    to), and ``hooks[i].id == i``, in the order of registration. ``sites`` are in predicted firing order.
    ``unrecorded_calls`` are those of modules with full hooks that were over before anybody watched.
    """

    def __str__(self) -> str:
        """The whole graph as text, one node a line: see `printing.format_graph`."""
        return printing.format_graph(self)

    def lint(self) -> None:
        """Check that the records keep their own rules; raises `GraphLintError` where they do not: see `check.lint`."""
        check.lint(self)

    def expression(self, edge: Edge, depth: int = 2, width: int = 3, *, call: str | None = None) -> str | None:
        """What the gradient of an edge belongs to, in a few words: see `names.format_expression`."""
        return names.format_expression(self, edge, call=call, depth=depth, width=width)

    def path(self, a: int | str, b: int | str) -> tuple[int, ...] | None:
        """Which way a gradient takes from node `a` to node `b`, each an id or a label.

        The result holds the ids of a path with the fewest edges, `a` and `b` included, along `Node.edges` (PyTorch's
        ``next_functions``, torch/csrc/autograd/python_cpp_function.cpp); of several, the first in the order of the
        edges. None where no gradient of `a` can reach `b`.

        Raises `UsageError` for a node that is not in the graph, with the nearest labels.
        """
        import networkx

        start, end = find_node(self, a).id, find_node(self, b).id
        # ids are in topological order: what lies between has an id between
        between: networkx.DiGraph[int] = networkx.DiGraph()
        between.add_node(start)
        between.add_edges_from(
            (node.id, edge.next_node)
            for node in self.nodes[start:end]
            for edge in node.edges
            if edge.next_node is not None and edge.next_node <= end
        )
        came_from = dict(networkx.bfs_predecessors(between, start))
        steps = [end]
        while steps[-1] in came_from:
            steps.append(came_from[steps[-1]])
        return tuple(reversed(steps)) if steps[-1] == start else None
