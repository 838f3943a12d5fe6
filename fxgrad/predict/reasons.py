"""Why an entry is None or unknown: sentences that are computed from the records, one function each."""

from __future__ import annotations

from fxgrad.graph import Node, NodeKind
from fxgrad.graph.text import escape, join_words, pluralize
from fxgrad.predict.flow import DECIDES_ALONE, special_verdict, wanted_edges
from fxgrad.predict.formulas import NONE, TENSOR, UNKNOWN
from fxgrad.predict.outlook import Outlook

UNUSED = "no root depends on it"
NOT_EXECUTED = "backward does not execute this node"
NOTHING_ARRIVES = "no gradient arrives at this node"
NOT_NEEDED = "none of the tensors in inputs= is behind it"
HANDED_ON = "no gradient arrives for it, and the hook on the module's outputs hands that on"
ELEMENT_UNUSED = "the same element of the result gets no gradient"
_MOST_LABELS = 3


def slot_reason(outlook: Outlook, node: Node, slot: int) -> str | None:
    """Why a grad_output entry is None or unknown; None where it is a Tensor."""
    status = outlook.flow.grad_outputs[node.id][slot]
    if status == UNKNOWN:
        return _arrival_reason(outlook, node, slot)
    return _no_arrival_reason(outlook, node, slot) if status == NONE else None


def _arrival_reason(outlook: Outlook, node: Node, slot: int) -> str:
    origin = outlook.flow.origins[node.id, slot]
    return f"{_decider(outlook.graph.nodes[origin])} whether a gradient arrives here"


def _no_arrival_reason(outlook: Outlook, node: Node, slot: int) -> str:
    users = outlook.users.get((node.id, slot), ())
    if not users:
        return UNUSED
    executed = [user for user in users if outlook.runs(user)]
    if not executed:
        return "nothing that backward executes uses it"
    labels = join_words(
        [escape(outlook.graph.nodes[node].label) for node in executed[:_MOST_LABELS]],
        most=_MOST_LABELS,
        total=len(executed),
    )
    return f"{labels} {pluralize(len(executed), 'returns', plural='return')} None for it"


def edge_reason(outlook: Outlook, node: Node, index: int) -> str | None:
    """Why a grad_input entry is None or unknown; None where it is a Tensor."""
    status = outlook.flow.grad_inputs[node.id][index]
    if status == TENSOR:
        return None
    if node.kind in DECIDES_ALONE and status == UNKNOWN:
        return f"{_decider(node)} whether this is a Tensor or None"
    if node.returned is not None and outlook.runs(node.id):
        return _returned_none(node.edges[index].null_reason)
    return _formula_reason(outlook, node, index) or _absence_reason(outlook, node, index)


def _returned_none(null_reason: str | None) -> str:
    """Where the code of a Python Function says so, whether or not the gradient would go anywhere."""
    told = "backward returns None for it"
    return told if null_reason is None else f"{null_reason}, and {told}"


def _formula_reason(outlook: Outlook, node: Node, index: int) -> str | None:
    """What is special about the node's own formula, where that is what makes the entry None or unknown."""
    received = outlook.flow.grad_outputs[node.id]
    special = special_verdict(outlook.graph, node, received)
    if special is None or special.statuses[index] == TENSOR or not wanted_edges(node, outlook.schedule.needed)[index]:
        return None
    return special.reason


def _absence_reason(outlook: Outlook, node: Node, index: int) -> str:
    if not outlook.runs(node.id):
        return NOT_EXECUTED
    if outlook.flow.grad_inputs[node.id][index] == UNKNOWN:
        return _unknown_arrival_reason(outlook, node)
    if node.kind is NodeKind.BACKWARD_HOOK:
        return HANDED_ON
    edge = node.edges[index]
    if edge.next_node is None:
        return edge.null_reason or "its gradient goes nowhere"
    if not outlook.schedule.needed[edge.next_node]:
        return NOT_NEEDED
    return ELEMENT_UNUSED if TENSOR in outlook.flow.grad_outputs[node.id] else NOTHING_ARRIVES


def _unknown_arrival_reason(outlook: Outlook, node: Node) -> str:
    slots = [slot for slot in range(len(node.grad_outputs)) if (node.id, slot) in outlook.flow.origins]
    if slots:
        return _arrival_reason(outlook, node, slots[0])
    return "only backward decides whether this is zeros or None"


def _decider(node: Node) -> str:
    if node.kind is NodeKind.CHECKPOINT:
        return f"the recomputation of {escape(node.label)} decides"
    if node.kind.is_python:
        return f"the backward of {escape(node.label)}, a Python function, decides"
    return f"{escape(node.label)} decides"


# Backward inside of backward


def nesting_reason(outlook: Outlook) -> str:
    """What a backward that starts inside this one does to the hooks that it comes to."""
    where = "the hooks on leaves" if outlook.intruder is None else "the hooks on leaves, and on what it comes to,"
    return f"{_nested(outlook)}, which calls {where} once more if it uses them"


def _nested(outlook: Outlook) -> str:
    node = outlook.nesting[0]
    runs = "runs" if node.kind is NodeKind.CHECKPOINT else "may run"
    return f"{escape(node.label)} {runs} a backward of its own"


def intrusion_reason(node: Node) -> str:
    """What a backward that starts inside this one does to the nodes that it comes to before this one."""
    return (
        f"{escape(node.label)} uses tensors of this graph that are not detached: a backward of its own may come to their "
        "nodes first, and free what these need"
    )


def counting_reason(outlook: Outlook) -> str:
    """What that does to a multi-grad hook, which counts the gradients of each backward by itself."""
    return (
        f"{_nested(outlook)}, which calls the hook as well for those of its tensors that it "
        "comes to: how often it is called, and with which gradients, only backward decides"
    )
