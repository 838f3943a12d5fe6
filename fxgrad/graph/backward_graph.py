"""The backward graph as one immutable object: what a reader of a trace works with."""

from __future__ import annotations

from fxgrad.graph import lint, names, paths, printing
from fxgrad.graph.graph_records import GraphRecords
from fxgrad.graph.records import Edge


class BackwardGraph(GraphRecords, frozen=True, dict=True, gc=True):
    """Everything that is known of one backward graph: the records, the look-ups of `GraphRecords`, and what follows.

    ``nodes[i].id == i``, in a topological order from the roots (a node comes before the nodes that its gradients go
    to), and ``hooks[i].id == i``, in the order of registration. ``sites`` are in predicted firing order.
    ``unrecorded_calls`` are those of modules with full hooks that were over before anybody watched.
    """

    def __str__(self) -> str:
        """The whole graph as text, one node a line: see `printing.graph_text`."""
        return printing.graph_text(self)

    def lint(self) -> None:
        """Check that the records keep their own rules; raises `GraphLintError` where they do not: see `lint.lint`."""
        lint.lint(self)

    def path(self, a: int | str, b: int | str) -> tuple[int, ...] | None:
        """Which way a gradient takes from node `a` to node `b`, each an id or a label: see `paths.path`."""
        return paths.path(self, a, b)

    def expression(self, edge: Edge, depth: int = 2, width: int = 3, *, call: str | None = None) -> str | None:
        """What the gradient of an edge belongs to, in a few words: see `names.format_expression`."""
        return names.format_expression(self, edge, call=call, depth=depth, width=width)
