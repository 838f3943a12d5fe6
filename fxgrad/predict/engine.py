"""What the engine does with one graph: which nodes it reaches, which it runs, and in which order.

Simulates torch/csrc/autograd/engine.cpp (``Engine::execute``, ``compute_dependencies``, ``init_to_execute``,
``evaluate_function``) for one backward on one device thread, on the records alone. No recursion; time is proportional
to the size of the graph, but for the heap's logarithm.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from fxgrad.graph import BackwardCall, BackwardGraph, Node, NodeKind, Root

_LAST_SEQUENCE_NR = 2**64 - 1
"""The sequence number of nodes that take none: they run as soon as they are ready (function.h: UINT64_MAX)."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What the engine does with each node, by node id.

    ``order``      the nodes that it reaches, in that order
    ``behind``     whether the node is a root or behind one
    ``runs``       whether the node is executed; one that is reached but not executed runs only its tensor hooks
    ``needed``     whether gradients are computed for the node: always, or because an input is there or behind it
    ``will_run``   what ``torch._C._will_engine_execute_node`` returns for the node
    ``raises_at``  the node that raises when it is executed, where ``order`` ends; None if no node raises
    ``may_raise_at``  the first node of which only its own code decides whether it raises
    """

    order: tuple[int, ...]
    behind: bytearray
    runs: bytearray
    needed: bytearray
    will_run: bytearray
    raises_at: int | None
    may_raise_at: int | None


class _Ready:
    """A node in the ready queue. None is less than another: the heap decides about ties, as it does in the engine."""

    __slots__ = ("node",)

    def __init__(self, node: int) -> None:
        self.node = node

    def __lt__(self, other: object) -> bool:
        return False


def schedule_nodes(graph: BackwardGraph, call: BackwardCall) -> Schedule:
    """Compute which nodes one backward from the roots reaches and executes, and in which order."""
    dependencies, reached, behind = _count_dependencies(graph)
    needed, executed = _find_executed(graph.nodes, call)
    queue = _Queue(graph.nodes, dependencies, needed)
    order, raises_at = _run(graph, queue, executed, _find_raising(graph.nodes, call))
    doubtful = (node for node in order if executed[node] and _may_raise(graph.nodes[node]))
    runs = bytearray(len(graph.nodes))
    for node in order:
        runs[node] = executed[node]
    will_run = bytearray(a and b for a, b in zip(reached, needed, strict=True))
    return Schedule(tuple(order), behind, runs, needed, will_run, raises_at, next(doubtful, None))


def _count_dependencies(graph: BackwardGraph) -> tuple[list[int], bytearray, bytearray]:
    """Return for each node how many edges lead to it, whether an edge does, and whether it is a root or behind one.

    Only edges of nodes that the roots lead to count. A single root is started without an edge, so the engine does not
    count it among the nodes of the graph (``skip_dummy_node`` in ``Engine::execute``).
    """
    dependencies = [0] * len(graph.nodes)
    reached = bytearray(len(graph.nodes))
    behind = bytearray(len(graph.nodes))
    for root in graph.roots:
        behind[root.node] = True
    for node in graph.nodes:  # in topological order: what leads to a node comes before it
        if behind[node.id]:
            for edge in node.edges:
                if edge.next_node is not None:
                    dependencies[edge.next_node] += 1
                    reached[edge.next_node] = behind[edge.next_node] = True
    if len(graph.roots) > 1:
        for root in graph.roots:
            dependencies[root.node] += 1
            reached[root.node] = True
    return dependencies, reached, behind


def _find_executed(nodes: tuple[Node, ...], call: BackwardCall) -> tuple[bytearray, bytearray]:
    """Return for each node whether its gradients are needed, and whether it is executed.

    ``autograd.grad`` only captures the gradient at an input that has no other input behind it; ``backward`` executes
    the node there (``init_to_execute``).
    """
    if call.inputs is None:
        every = bytearray(b"\x01") * len(nodes)
        return every, every
    needed = bytearray(len(nodes))
    leads_on = bytearray(len(nodes))
    for node, _ in call.inputs:
        needed[node] = True
    for record in reversed(nodes):
        if any(needed[edge.next_node] for edge in record.edges if edge.next_node is not None):
            leads_on[record.id] = needed[record.id] = True
    return needed, leads_on if call.api == "grad" else needed


def _find_raising(nodes: tuple[Node, ...], call: BackwardCall) -> frozenset[int]:
    """The nodes that raise when they are executed: those that read what was changed or freed, and those of some kinds.

    And Python Functions whose backward returns another number of values than forward has arguments, or always raises.

    With ``inputs=`` reentrant checkpoints raise: torch/utils/checkpoint.py asks ``torch.autograd._is_checkpoint_valid``.
    """
    refuses = call.inputs is not None
    return frozenset(
        [node.id for node in nodes if node.always_raises or (refuses and node.kind is NodeKind.CHECKPOINT)]
    )


def _may_raise(node: Node) -> bool:
    return node.has_lost_saved and not node.reads_saved


class _Queue:
    """The nodes that are ready to run, and how many gradients each of the others waits for."""

    def __init__(self, nodes: tuple[Node, ...], dependencies: list[int], needed: bytearray) -> None:
        self._nodes = nodes
        self._dependencies = dependencies
        self._needed = needed
        self._heap: list[tuple[int, _Ready]] = []

    def push(self, node: int) -> None:
        """Add a node. The engine takes the largest sequence number first, heapq the smallest key."""
        sequence_nr = self._nodes[node].sequence_nr
        heapq.heappush(self._heap, (-(_LAST_SEQUENCE_NR if sequence_nr is None else sequence_nr), _Ready(node)))

    def deliver(self, node: int) -> None:
        """Count one gradient, None or not, that arrives at a node; the last one makes the node ready."""
        self._dependencies[node] -= 1
        if self._dependencies[node] == 0 and self._needed[node]:
            self.push(node)

    def drain(self) -> Iterator[Node]:
        """Yield the nodes one after the other until none is ready."""
        while self._heap:
            yield self._nodes[heapq.heappop(self._heap)[1].node]


def _run(
    graph: BackwardGraph, queue: _Queue, executed: bytearray, raising: frozenset[int]
) -> tuple[list[int], int | None]:
    _start(graph.roots, queue)
    order = []
    for node in queue.drain():
        order.append(node.id)
        if executed[node.id] and node.id in raising:
            return order, node.id
        for edge in node.edges if executed[node.id] else ():
            if edge.next_node is not None:
                queue.deliver(edge.next_node)
    return order, None


def _start(roots: tuple[Root, ...], queue: _Queue) -> None:
    """Start a single root whatever it leads to. Several are edges of a GraphRoot, which runs if one of them is needed."""
    if len(roots) == 1:
        queue.push(roots[0].node)
        return
    for root in roots:
        queue.deliver(root.node)
