"""The way a gradient takes from one node to another."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterable

from fxgrad.errors import UsageError
from fxgrad.graph.graph_records import GraphRecords
from fxgrad.graph.text import escape

NEAR_NAMES = 3


def path(graph: GraphRecords, a: int | str, b: int | str) -> tuple[int, ...] | None:
    """Answer which way a gradient takes from node `a` to node `b`, each an id or a label.

    The result holds the ids of a path with the fewest edges, `a` and `b` included, along `Node.edges` (PyTorch's
    ``next_functions``, torch/csrc/autograd/python_cpp_function.cpp); of several, the first in the order of the edges.
    None where no gradient of `a` can reach `b`.

    Raises `UsageError` for a node that is not in the graph, with the nearest labels.
    """
    start, end = _node_id(graph, a), _node_id(graph, b)
    found = _came_from(graph, start, end)
    return _steps(found, end) if end in found else None


def _came_from(graph: GraphRecords, start: int, end: int) -> dict[int, int | None]:
    """Breadth first: for each node reached, the node before it."""
    came_from: dict[int, int | None] = {start: None}
    queue = deque([start])
    while queue and end not in came_from:
        node = queue.popleft()
        for edge in graph.nodes[node].edges:
            next_node = edge.next_node
            # ids are in topological order: nothing behind `end` leads back to it
            if next_node is not None and next_node <= end and next_node not in came_from:
                came_from[next_node] = node
                queue.append(next_node)
    return came_from


def _steps(came_from: dict[int, int | None], end: int) -> tuple[int, ...]:
    steps = []
    step: int | None = end
    while step is not None:
        steps.append(step)
        step = came_from[step]
    return tuple(reversed(steps))


def _node_id(graph: GraphRecords, wanted: int | str) -> int:
    if isinstance(wanted, str):
        node = graph.nodes_by_label.get(wanted)
        if node is None:
            raise _unknown_label(graph, wanted)
        return node.id
    if not 0 <= wanted < len(graph.nodes):
        raise _unknown_id(graph, wanted)
    return wanted


def _unknown_id(graph: GraphRecords, wanted: int) -> UsageError:
    last = len(graph.nodes) - 1
    return UsageError(
        f"node {wanted} is not in the graph",
        f"an id from 0 to {last}, or a label" if graph.nodes else "nothing: the graph has no nodes",
        "print(graph) shows every node with its id and label",
    )


def _unknown_label(graph: GraphRecords, wanted: str) -> UsageError:
    near = nearest_labels((node.label for node in graph.nodes), wanted)
    return UsageError(
        f'no node is labelled "{escape(wanted)}"',
        "a label of the graph" + (f"; the nearest are {', '.join(map(escape, near))}" if near else ""),
        "print(graph) shows every node with its id and label",
    )


def nearest_labels(labels: Iterable[str], wanted: str) -> list[str]:
    """Find the labels most like `wanted`, those of one name as a range: a graph may have a million of them.

    >>> nearest_labels(["MmBackward0_0", "TBackward0_0", "TBackward0_1", "TBackward0_2"], "TBackward_0")
    ['TBackward0_0 to TBackward0_2', 'MmBackward0_0']
    """
    ranges: dict[str, tuple[str, str]] = {}
    for label in labels:
        name = label.rpartition("_")[0]
        ranges[name] = (ranges.get(name, (label, ""))[0], label)
    near = difflib.get_close_matches(wanted.rpartition("_")[0] or wanted, ranges, n=NEAR_NAMES)
    return [first if first == last else f"{first} to {last}" for first, last in map(ranges.__getitem__, near)]
