"""What full module hooks get: one grad_input entry per positional argument, one grad_output entry per result.

``torch.utils.hooks.BackwardHook`` packs what its two BackwardHookFunction nodes see into tuples as long as the call's
arguments and results (``_pack_with_none``); everything that is no tensor there is None.
"""

from __future__ import annotations

from collections.abc import Iterator

from fxgrad.graph import FullHookSetup, Gradient, ModuleCall, Node, Path, TensorMeta, TensorRef
from fxgrad.predict import naming
from fxgrad.predict.entries import grad_output_entry
from fxgrad.predict.formulas import NONE, TENSOR
from fxgrad.predict.outlook import Outlook

_NO_TENSOR = "it is no tensor"
_CONTAINER = "the tensors inside it are invisible to a full hook"
_NO_INPUT_NEEDS_GRAD = "no tensor among the positional arguments requires grad"
_NOT_DIFFERENTIABLE = "it requires no grad"
_ZEROS = "zeros: no gradient arrives here"
_ZEROS_WITHOUT_GRAD = "zeros: this argument requires no grad"
_ALONE = 1
_INSIDE = 2


def full_grad_output(outlook: Outlook, call: ModuleCall, setup: FullHookSetup) -> tuple[Gradient, ...]:
    """One entry per result of the call: what arrives at the output-side node, None for what is no tensor."""
    slots = {position: slot for slot, position in enumerate(setup.output_positions or ())}
    node = None if call.output_hook_node is None else outlook.graph.nodes[call.output_hook_node]
    return tuple(_result_entry(outlook, call, node, index, slots.get(index)) for index in range(setup.n_outputs))


def _result_entry(outlook: Outlook, call: ModuleCall, node: Node | None, index: int, slot: int | None) -> Gradient:
    argument = _result_name(call, index)
    if node is None or slot is None:
        return Gradient(index, argument, NONE, None, None, None, _NO_TENSOR)
    ref = _ref_at(call.outputs, _result_path(call, index))
    entry = grad_output_entry(outlook, node, slot, index=index, argument=argument)
    if ref is None:
        return entry
    reason = _NOT_DIFFERENTIABLE if entry.status == NONE and not ref.requires_grad else entry.reason
    meta = ref.meta
    return Gradient(index, argument, entry.status, meta.shape, meta.dtype, entry.expression, reason)


def _result_name(call: ModuleCall, index: int) -> str:
    return "result" if _result_path(call, index) == ("result",) else f"result {index}"


def _result_path(call: ModuleCall, index: int) -> Path:
    """A tuple's tensors are found at ("result", 0), a lone tensor at ("result",)."""
    alone = call.n_results == _ALONE and any(ref.path == ("result",) for ref in call.outputs)
    return ("result",) if alone else ("result", index)


def _ref_at(refs: tuple[TensorRef, ...], path: Path) -> TensorRef | None:
    return next((ref for ref in refs if ref.path == path), None)


def full_grad_input(outlook: Outlook, call: ModuleCall, setup: FullHookSetup) -> tuple[Gradient, ...]:
    """One entry per positional argument of the call: a Tensor for every tensor, zeros where no gradient arrives."""
    return tuple(_argument_entries(outlook, call, setup))


def _argument_entries(outlook: Outlook, call: ModuleCall, setup: FullHookSetup) -> Iterator[Gradient]:
    slots = {position: slot for slot, position in enumerate(setup.input_positions or ())}
    node = None if call.input_hook_node is None else outlook.graph.nodes[call.input_hook_node]
    for index in range(setup.n_inputs):
        argument = call.argument_names[index] if index < len(call.argument_names) else f"args[{index}]"
        slot = slots.get(index)
        if slot is not None and node is not None:
            yield _argument_entry(outlook, call, node, slot, index, argument)
        else:
            yield Gradient(index, argument, NONE, None, None, None, _absence_reason(call, setup, index))


def _absence_reason(call: ModuleCall, setup: FullHookSetup, index: int) -> str:
    if any(ref.path[:_INSIDE] == ("args", index) and len(ref.path) > _INSIDE for ref in call.inputs):
        return _CONTAINER
    if _ref_at(call.inputs, ("args", index)) is None:
        return _NO_TENSOR
    return _NO_INPUT_NEEDS_GRAD if setup.input_positions is None else _NO_TENSOR


def _argument_entry(
    outlook: Outlook, call: ModuleCall, node: Node, slot: int, index: int, argument: str
) -> Gradient:
    edge = node.edges[slot]
    ref = _ref_at(call.inputs, ("args", index))
    meta = _input_meta(outlook, node, slot) if ref is None else ref.meta
    reason = _ZEROS_WITHOUT_GRAD if edge.next_node is None else _zeros_reason(outlook, node, slot)
    expression = naming.edge_expression(outlook.graph, edge)
    return Gradient(index, argument, TENSOR, meta.shape, meta.dtype, expression, reason)


def _zeros_reason(outlook: Outlook, node: Node, slot: int) -> str | None:
    return _ZEROS if outlook.flow.grad_outputs[node.id][slot] == NONE else None


def _input_meta(outlook: Outlook, node: Node, slot: int) -> TensorMeta:
    edge = node.edges[slot]
    if edge.next_node is None:
        return node.grad_outputs[slot]
    return outlook.graph.nodes[edge.next_node].grad_outputs[edge.input_nr]
