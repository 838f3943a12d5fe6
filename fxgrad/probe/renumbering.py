"""Numbers and labels the nodes of a changed graph as `fxgrad.observe` does those of a real one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from fxgrad.graph import BackwardGraph, Hook, ModuleCall, Node, TensorRef, UnrecordedCall, Variable

NOT_REACHED = "its node BackwardHookFunctionBackward is not reached from the roots"

Ids = dict[int, int]
"""The new id of each node that the roots reach, by its id before."""

_Placed = TypeVar("_Placed", TensorRef, Variable)


def renumbered(graph: BackwardGraph, before: BackwardGraph) -> tuple[BackwardGraph, Ids]:
    """Put the nodes that the roots reach into topological order, and make every reference follow.

    A reference to any other node becomes None: such a node is not in the graph. `before` is the graph that was changed:
    its labels are in the names of what has no other name.
    """
    order = _order(graph)
    ids = {node: rank for rank, node in enumerate(order)}
    labels = _labels([graph.nodes[node].name for node in order])
    nodes = tuple([_numbered(graph.nodes[node], ids, label) for node, label in zip(order, labels, strict=True)])
    changed = replace(
        graph,
        roots=tuple([replace(root, node=ids[root.node]) for root in graph.roots]),
        nodes=nodes,
        calls=tuple([_call(call, ids) for call in graph.calls]),
        variables=tuple([_placed(variable, ids) for variable in graph.variables]),
        hooks=tuple([_hook(hook, before, ids, nodes) for hook in graph.hooks]),
        unrecorded_calls=tuple([_unrecorded(call, ids) for call in graph.unrecorded_calls]),
    )
    return changed, ids


def _order(graph: BackwardGraph) -> list[int]:
    """The order of `fxgrad.observe.walk`: it depends on the roots and on the order of the edges alone."""
    starts = list(dict.fromkeys(root.node for root in graph.roots))
    waiting = _uses(graph.nodes, starts)
    reached = len(waiting)
    ready = [node for node in reversed(starts) if waiting[node] == 0]
    order = []
    while ready:
        node = ready.pop()
        order.append(node)
        for edge in reversed(graph.nodes[node].edges):
            if edge.next_node is not None:
                waiting[edge.next_node] -= 1
                if waiting[edge.next_node] == 0:
                    ready.append(edge.next_node)
    assert len(order) == reached, "the nodes put in have made a circle"
    return order


def _uses(nodes: Sequence[Node], starts: list[int]) -> dict[int, int]:
    """How many edges lead to each node that the starts reach."""
    uses = dict.fromkeys(starts, 0)
    stack = starts[::-1]
    while stack:
        for edge in nodes[stack.pop()].edges:
            if edge.next_node is None:
                continue
            if edge.next_node not in uses:
                uses[edge.next_node] = 0
                stack.append(edge.next_node)
            uses[edge.next_node] += 1
    return uses


def _labels(names: Iterable[str]) -> list[str]:
    """A unique label for each node name.

    >>> _labels(["AddBackward0", "torch::autograd::AccumulateGrad", "AddBackward0"])
    ['AddBackward0_0', 'AccumulateGrad_0', 'AddBackward0_1']
    """
    counts: dict[str, int] = {}
    labels = []
    for name in names:
        short_name = name.rpartition("::")[2]
        labels.append(f"{short_name}_{counts.get(short_name, 0)}")
        counts[short_name] = counts.get(short_name, 0) + 1
    return labels


def _numbered(node: Node, ids: Ids, label: str) -> Node:
    edges = tuple(
        [edge if edge.next_node is None else replace(edge, next_node=ids[edge.next_node]) for edge in node.edges]
    )
    entries = node.nested_backward
    if entries is not None:
        entries = tuple([_place(ids, number, slot) for number, slot in entries])
    return replace(node, id=ids[node.id], label=label, edges=edges, nested_backward=entries)


def _call(call: ModuleCall, ids: Ids) -> ModuleCall:
    return replace(
        call,
        inputs=tuple([_placed(ref, ids) for ref in call.inputs]),
        outputs=tuple([_placed(ref, ids) for ref in call.outputs]),
        legacy_tensor=None if call.legacy_tensor is None else _placed(call.legacy_tensor, ids),
        input_hook_node=_id(ids, call.input_hook_node),
        output_hook_node=_id(ids, call.output_hook_node),
    )


def _unrecorded(call: UnrecordedCall, ids: Ids) -> UnrecordedCall:
    inputs, outputs = _id(ids, call.input_hook_node), _id(ids, call.output_hook_node)
    return replace(call, input_hook_node=inputs, output_hook_node=outputs)


def _placed(record: _Placed, ids: Ids) -> _Placed:
    return record if record.node is None else replace(record, node=ids.get(record.node))


def _id(ids: Ids, node: int | None) -> int | None:
    return None if node is None else ids.get(node)


def _place(ids: Ids, node: int | None, slot: int) -> tuple[int | None, int]:
    number = _id(ids, node)
    return (None, 0) if number is None else (number, slot)


def _hook(hook: Hook, before: BackwardGraph, ids: Ids, nodes: Sequence[Node]) -> Hook:
    if hook.id >= len(before.hooks) or (hook.observed is None and not hook.target_slots):
        return hook
    known = before.hooks[hook.id]
    targets = tuple([_place(ids, node, slot) for node, slot in hook.target_slots])
    places = zip(hook.targets, known.target_slots, targets, strict=False)
    names = tuple([_name(name, before, old, new, nodes) for name, old, new in places])
    hook = replace(hook, targets=names, target_slots=targets)
    if hook.observed is None:
        return hook
    node, slot = ids.get(hook.observed[0]), hook.observed[1]
    if node is None:
        return replace(hook, observed=None, unplaced=NOT_REACHED)
    owner = _name(hook.owner, before, known.observed or (None, None), (node, slot), nodes)
    return replace(hook, observed=(node, slot), owner=owner)


def _name(
    name: str,
    before: BackwardGraph,
    old: tuple[int | None, int | None],
    new: tuple[int | None, int | None],
    nodes: Sequence[Node],
) -> str:
    """What has no name of its own is called by its node's label, a tensor ``MulBackward0_1[0]``."""
    if old[0] is None or new[0] is None:
        return name
    label = before.nodes[old[0]].label
    if name == label:
        return nodes[new[0]].label
    return f"{nodes[new[0]].label}[{new[1]}]" if name == f"{label}[{old[1]}]" else name
