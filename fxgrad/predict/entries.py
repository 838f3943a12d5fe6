"""The entries of the grad_input and grad_output tuples that a hook on a node gets.

Shapes and dtypes are those that the next node expects of the gradient (``validate_outputs`` in
torch/csrc/autograd/engine.cpp reduces and casts to them), so they are known before backward.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fxgrad.graph import Gradient, Node, NodeKind, TensorMeta
from fxgrad.graph.names import format_expression, name_grad_output
from fxgrad.predict.flow import DECIDES_ALONE
from fxgrad.predict.formulas import NONE, TENSOR, UNKNOWN, own_slots
from fxgrad.predict.outlook import Outlook
from fxgrad.predict.reasons import edge_reason, slot_reason

_UNREADABLE = TensorMeta(None, "", "")
_SETS_GRAD_DTYPE = (2, 14)
"""The first torch whose custom Functions can choose the dtype of a gradient (``Function.set_output_grad_dtype``)."""


@dataclass(frozen=True, slots=True)
class View:
    """One node as a hook sees it. Names are given as seen from the module call ``call``."""

    outlook: Outlook
    node: Node
    call: str | None = None


def grad_output_entries(view: View) -> tuple[Gradient, ...]:
    """What the node receives, one entry per slot."""
    return tuple(grad_output_entry(view, slot, index=slot) for slot in range(len(view.node.grad_outputs)))


def grad_output_entry(view: View, slot: int, *, index: int = 0, argument: str | None = None) -> Gradient:
    """What the node receives in one slot, as entry `index` of a hook's tuple."""
    outlook, node = view.outlook, view.node
    status = outlook.flow.grad_outputs[node.id][slot]
    meta = _slot_meta(outlook, node, slot, status)
    return Gradient(
        index=index,
        argument=node.output_names[slot] if argument is None else argument,
        status=status,
        shape=meta.shape,
        dtype=meta.dtype or None,
        expression=name_grad_output(outlook.graph, node.id, slot, call=view.call),
        reason=slot_reason(outlook, node, slot),
    )


def left_open(entries: Iterable[Gradient], reason: str) -> tuple[Gradient, ...]:
    """The same entries, where the hook may be called with something else as well."""
    return tuple(
        [entry if entry.status == UNKNOWN else replace(entry, status=UNKNOWN, reason=reason) for entry in entries]
    )


def grad_input_entries(view: View) -> tuple[Gradient, ...]:
    """What the node returns, one entry per edge."""
    return tuple(_grad_input_entry(view, index) for index in range(len(view.node.edges)))


def _grad_input_entry(view: View, index: int) -> Gradient:
    outlook, node = view.outlook, view.node
    edge = node.edges[index]
    status = outlook.flow.grad_inputs[node.id][index]
    meta = _edge_meta(outlook, node, index, status)
    return Gradient(
        index=index,
        argument=edge.argument,
        status=status,
        shape=meta.shape,
        dtype=meta.dtype or None,
        expression=format_expression(outlook.graph, edge, call=view.call),
        reason=edge_reason(outlook, node, index),
    )


def _slot_meta(outlook: Outlook, node: Node, slot: int, status: str) -> TensorMeta:
    """Python nodes have slots for results that are no differentiable tensors, of which metadata says ``()``."""
    meta = node.grad_outputs[slot]
    if status == NONE and node.kind.is_python and meta.shape == ():
        return _UNREADABLE
    return _without_chosen_dtype(outlook, node, meta)


def _edge_meta(outlook: Outlook, node: Node, index: int, status: str) -> TensorMeta:
    """Nothing validates what is returned for an edge that leads nowhere."""
    edge = node.edges[index]
    if edge.next_node is not None:
        following = outlook.graph.nodes[edge.next_node]
        return _without_chosen_dtype(outlook, following, following.grad_outputs[edge.input_nr])
    if status == UNKNOWN or edge.operand is None or (status == TENSOR and node.kind in DECIDES_ALONE):
        return _UNREADABLE
    return _unvalidated_meta(node, own_slots(node)[index], edge.operand) if status == TENSOR else edge.operand


def _unvalidated_meta(node: Node, slot: int | None, operand: TensorMeta) -> TensorMeta:
    """What a formula computes for a tensor that requires no grad: of its shape, and of its dtype if all are of one.

    Those of foreach functions over several lists leave it to the engine to reduce what was broadcast.
    """
    received = node.grad_outputs[slot or 0]
    several = slot is not None and len({edge.group for edge in node.edges}) > 1
    shape = None if several and operand.shape != received.shape else operand.shape
    return TensorMeta(shape, operand.dtype if operand.dtype == received.dtype else "", "")


def _without_chosen_dtype(outlook: Outlook, node: Node, meta: TensorMeta) -> TensorMeta:
    if node.kind is NodeKind.CUSTOM_FUNCTION and _torch_version(outlook.graph.info.torch) >= _SETS_GRAD_DTYPE:
        return TensorMeta(meta.shape, "", meta.device)
    return meta


def _torch_version(text: str) -> tuple[int, int]:
    """The first two numbers of a version.

    >>> _torch_version("2.13.0+cpu"), _torch_version("2.14.0a0+git1234")
    ((2, 13), (2, 14))
    """
    major, minor = text.split(".")[:2]
    return int(major), int(minor)
