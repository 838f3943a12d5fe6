"""Which gradients are Tensors, which are None, and which only backward decides: for every slot and every edge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fxgrad.graph import BackwardGraph, ModuleCall, Node, NodeKind, UnrecordedCall
from fxgrad.predict import formulas
from fxgrad.predict.engine import Schedule
from fxgrad.predict.formulas import NONE, TENSOR, UNKNOWN, Verdict

Statuses = tuple[str, ...]
"""One of "tensor", "none", "unknown" per entry."""

INPUT_SIDE, OUTPUT_SIDE = "input", "output"

DECIDES_ALONE = frozenset(
    {
        NodeKind.CUSTOM_FUNCTION,
        NodeKind.COMPILED,
        NodeKind.CHECKPOINT,
        NodeKind.SCRIPTED,
        NodeKind.OPAQUE,
        NodeKind.ERROR,
    }
)
"""Nodes whose own code, which the graph does not show, says None or Tensor for each entry."""


@dataclass(frozen=True, slots=True)
class Flow:
    """The statuses of what each node receives and returns, as post-hooks see them, by node id.

    ``grad_outputs``  one per slot; ``grad_inputs`` one per edge; all "none" where the engine does not come
    ``origins``       for an unknown slot, the node whose own code decides
    """

    grad_outputs: tuple[Statuses, ...]
    grad_inputs: tuple[Statuses, ...]
    origins: dict[tuple[int, int], int] = field(default_factory=dict)


def flow(graph: BackwardGraph, schedule: Schedule) -> Flow:
    """Follow the gradients through every node that the engine reaches. Ids are in topological order."""
    received: list[list[str] | None] = [None] * len(graph.nodes)
    for reached in schedule.order:
        received[reached] = [NONE] * len(graph.nodes[reached].grad_outputs)
    for root in graph.roots:
        slots = received[root.node]
        if slots is not None:
            slots[root.slot] = TENSOR
    sides = hook_sides(graph)
    grad_outputs: list[Statuses] = []
    grad_inputs: list[Statuses] = []
    origins: dict[tuple[int, int], int] = {}
    intern: dict[Statuses, Statuses] = {}
    for node, slots in zip(graph.nodes, received, strict=True):
        into = (NONE,) * len(node.grad_outputs) if slots is None else tuple(slots)
        out = grad_inputs_of(graph, node, into, schedule, sides.get(node.id))
        grad_outputs.append(intern.setdefault(into, into))
        grad_inputs.append(intern.setdefault(out, out))
        _deliver(node, out, received, origins)
    return Flow(tuple(grad_outputs), tuple(grad_inputs), origins)


def _deliver(
    node: Node, statuses: Statuses, received: list[list[str] | None], origins: dict[tuple[int, int], int]
) -> None:
    """Add each gradient to the slot that its edge leads to: a Tensor for certain if any of them is."""
    for edge, status in zip(node.edges, statuses, strict=True):
        if edge.next_node is None or status == NONE:
            continue
        slots = received[edge.next_node]
        if slots is None or slots[edge.input_nr] == TENSOR:
            continue
        slots[edge.input_nr] = status
        if status == UNKNOWN:
            origins.setdefault((edge.next_node, edge.input_nr), _origin(node, origins))
        else:
            origins.pop((edge.next_node, edge.input_nr), None)


def _origin(node: Node, origins: dict[tuple[int, int], int]) -> int:
    """Whose code decides about what the node returns: its own, or that of a node before it."""
    if node.kind in DECIDES_ALONE:
        return node.id
    slots = range(len(node.grad_outputs))
    return next((origins[node.id, slot] for slot in slots if (node.id, slot) in origins), node.id)


def grad_inputs_of(
    graph: BackwardGraph, node: Node, received: Statuses, schedule: Schedule, side: str | None
) -> Statuses:
    """What the node returns, one status per edge, given what it receives."""
    if not schedule.runs[node.id]:
        return (NONE,) * len(node.edges)
    if node.kind in DECIDES_ALONE:
        return _returned_by_code(node, received)
    if node.kind is NodeKind.BACKWARD_HOOK:
        return tuple(_hook_function(received, len(node.edges), side))
    if TENSOR not in received and UNKNOWN not in received:
        return (NONE,) * len(node.edges)
    special = formulas.verdict(graph, node, received)
    computed = special.statuses if special is not None else _computed(node, received)
    wanted = wanted_edges(node, schedule.needed)
    return tuple([status if want else NONE for status, want in zip(computed, wanted, strict=True)])


def _returned_by_code(node: Node, received: Statuses) -> Statuses:
    """What the node's own code returns, as far as it tells: whatever is needed, it returns the same."""
    returned = node.returned
    if returned is None:
        return (UNKNOWN,) * len(node.edges)
    arrived = all([received[slot] == TENSOR for slot in returned.slots])
    return returned.if_arrived if arrived else returned.whenever


def special_verdict(graph: BackwardGraph, node: Node, received: Statuses) -> Verdict | None:
    """The exception that decides about the node's gradients, where there is one."""
    if node.kind in DECIDES_ALONE or (TENSOR not in received and UNKNOWN not in received):
        return None
    return formulas.verdict(graph, node, received)


def _computed(node: Node, received: Statuses) -> Statuses:
    """One defined gradient is enough for all that the node computes (``any_grad_defined`` in Functions.cpp)."""
    whole = TENSOR if TENSOR in received else UNKNOWN
    return tuple([whole if slot is None else received[slot] for slot in formulas.own_slots(node)])


def wanted_edges(node: Node, needed: Sequence[int]) -> list[bool]:
    """Which gradients the node computes: those that go somewhere, and with one of a list argument the whole list.

    ``task_should_compute_output`` (torch/csrc/autograd/function.h) asks for a list argument as a whole.
    """
    wanted = [edge.next_node is not None and bool(needed[edge.next_node]) for edge in node.edges]
    groups = {edge.group for edge, want in zip(node.edges, wanted, strict=True) if want and edge.group is not None}
    if not groups:
        return wanted
    return [want or edge.group in groups for edge, want in zip(node.edges, wanted, strict=True)]


def _hook_function(received: Statuses, edges: int, side: str | None) -> Iterator[str]:
    """BackwardHookFunction (torch/nn/modules/_functions.py) is the identity, with zeros for what is undefined.

    On the output side ``BackwardHook.setup_output_hook`` (torch/utils/hooks.py) turns those zeros back into None.
    """
    for index in range(edges):
        status = received[index] if index < len(received) else UNKNOWN
        if side == INPUT_SIDE or status == TENSOR:
            yield TENSOR
        else:
            yield status if side == OUTPUT_SIDE else UNKNOWN


def hook_sides(graph: BackwardGraph) -> dict[int, str]:
    """Which BackwardHookFunction nodes are on a module's inputs and which on its outputs, where that is known."""
    calls: tuple[ModuleCall | UnrecordedCall, ...] = (*graph.calls, *graph.unrecorded_calls)
    inputs = {call.input_hook_node: INPUT_SIDE for call in calls if call.input_hook_node is not None}
    outputs = {call.output_hook_node: OUTPUT_SIDE for call in calls if call.output_hook_node is not None}
    return {**inputs, **outputs}
