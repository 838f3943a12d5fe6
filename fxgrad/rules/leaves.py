"""Which leaves get their gradient from a node, directly or through others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from fxgrad.graph import BackwardGraph, Node


class LeavesBehind:
    """Of each node of `wanted`, what lies behind it, all found in one pass over the graph.

    Leaves are the bits of an int, so that a node costs one operation for each edge; what the nodes before no longer need
    is let go.
    """

    def __init__(self, graph: BackwardGraph, wanted: set[int]) -> None:
        self._leaves = [node for node in graph.nodes if node.variable is not None]
        self._bits = {node.id: 1 << rank for rank, node in enumerate(self._leaves)}
        self._nesting = 1 << len(self._leaves)
        self._behind: dict[int, int] = {}
        users = Counter(edge.next_node for node in graph.nodes for edge in node.edges)
        for node in reversed(graph.nodes):  # a node comes before those that its gradients go to
            found = self._own(node)
            for after in [edge.next_node for edge in node.edges if edge.next_node is not None]:
                found |= self._behind[after]
                users[after] -= 1
                if not users[after] and after not in wanted:
                    del self._behind[after]
            self._behind[node.id] = found

    def _own(self, node: Node) -> int:
        return self._nesting if node.nested_backward is not None else self._bits.get(node.id, 0)

    def _all(self, starts: Iterable[int]) -> int:
        found = 0
        for start in starts:
            found |= self._behind[start]
        return found

    def of(self, starts: Iterable[int]) -> tuple[int, Iterator[str]]:
        """How many leaves get gradients from these nodes, or are these, and their names in the order of the nodes."""
        leaves = self._all(starts) & ~self._nesting
        return leaves.bit_count(), self._names(leaves)

    def _names(self, leaves: int) -> Iterator[str]:
        while leaves:
            lowest = leaves & -leaves
            yield self._leaves[lowest.bit_length() - 1].variable or ""
            leaves ^= lowest

    def lead_to_nesting(self, starts: Iterable[int]) -> bool:
        """Whether a node that starts a backward of its own is among these or behind them: it uses what no edge shows."""
        return bool(self._all(starts) & self._nesting)
