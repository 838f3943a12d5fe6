"""The entries of the grad_input and grad_output tuples that a hook gets.

Shapes and dtypes are those that the next node expects of the gradient (``validate_outputs`` in
torch/csrc/autograd/engine.cpp reduces and casts to them), so they are known before backward.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from fxgrad.graph import (
    FullHookSetup,
    Gradient,
    Hook,
    ModuleCall,
    Node,
    NodeKind,
    Path,
    TensorMeta,
    TensorRef,
    UnrecordedCall,
)
from fxgrad.graph.names import format_expression, name_grad_output
from fxgrad.predict.formulas import NONE, TENSOR, UNKNOWN, find_own_slots, torch_version
from fxgrad.predict.reasons import explain_grad_input, explain_grad_output
from fxgrad.predict.simulation import Simulation

UNTOUCHED = "backward does not reach it"
_UNREADABLE = TensorMeta(None, "", "")
_SETS_GRAD_DTYPE = (2, 14)
"""The first torch whose custom Functions can choose the dtype of a gradient (``Function.set_output_grad_dtype``)."""


def mark_unknown(entries: Iterable[Gradient], reason: str) -> tuple[Gradient, ...]:
    """Make entries unknown, for a hook that may be called with something else as well."""
    return tuple(
        [entry if entry.status == UNKNOWN else replace(entry, status=UNKNOWN, reason=reason) for entry in entries]
    )


# A hook on a node or a tensor


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node as a hook sees it. Names are given as seen from the module call ``call``."""

    simulation: Simulation
    node: Node
    call: str | None = None


def list_grad_outputs(view: NodeView) -> tuple[Gradient, ...]:
    """Return what the node receives, one entry for each slot."""
    return tuple(make_grad_output(view, slot, index=slot) for slot in range(len(view.node.grad_outputs)))


def make_grad_output(view: NodeView, slot: int, *, index: int = 0, argument: str | None = None) -> Gradient:
    """Return what the node receives in one slot, as entry `index` of a hook's tuple."""
    simulation, node = view.simulation, view.node
    status = simulation.grad_outputs[node.id][slot]
    meta = _slot_meta(simulation, node, slot, status)
    return Gradient(
        index=index,
        argument=node.output_names[slot] if argument is None else argument,
        status=status,
        shape=meta.shape,
        dtype=meta.dtype or None,
        expression=name_grad_output(simulation.graph, node.id, slot, call=view.call),
        reason=explain_grad_output(simulation, node, slot),
    )


def list_grad_inputs(view: NodeView) -> tuple[Gradient, ...]:
    """Return what the node returns, one entry for each edge."""
    return tuple(_make_grad_input(view, index) for index in range(len(view.node.edges)))


def _make_grad_input(view: NodeView, index: int) -> Gradient:
    simulation, node = view.simulation, view.node
    edge = node.edges[index]
    status = simulation.grad_inputs[node.id][index]
    meta = _edge_meta(simulation, node, index, status)
    return Gradient(
        index=index,
        argument=edge.argument,
        status=status,
        shape=meta.shape,
        dtype=meta.dtype or None,
        expression=format_expression(simulation.graph, edge, call=view.call),
        reason=explain_grad_input(simulation, node, index),
    )


def _slot_meta(simulation: Simulation, node: Node, slot: int, status: str) -> TensorMeta:
    meta = node.grad_outputs[slot]
    # Python nodes have slots for results that are no differentiable tensors too; their metadata says ().
    if status == NONE and node.kind.is_python and meta.shape == ():
        return _UNREADABLE
    return _without_chosen_dtype(simulation, node, meta)


def _edge_meta(simulation: Simulation, node: Node, index: int, status: str) -> TensorMeta:
    edge = node.edges[index]
    if edge.next_node is not None:
        following = simulation.graph.nodes[edge.next_node]
        return _without_chosen_dtype(simulation, following, following.grad_outputs[edge.input_nr])
    # Nothing validates what is returned for an edge that leads nowhere.
    if status == UNKNOWN or edge.operand is None or (status == TENSOR and node.kind.decides_alone):
        return _UNREADABLE
    return _unvalidated_meta(node, index, edge.operand) if status == TENSOR else edge.operand


def _unvalidated_meta(node: Node, index: int, operand: TensorMeta) -> TensorMeta:
    """What a formula computes for a tensor that requires no grad: of its shape, and of its dtype if all are of one.

    Formulas of foreach functions over several lists leave it to the engine to reduce what was broadcast.
    """
    slot = find_own_slots(node)[index]
    received = node.grad_outputs[slot or 0]
    several = slot is not None and len({edge.group for edge in node.edges}) > 1
    shape = None if several and operand.shape != received.shape else operand.shape
    return TensorMeta(shape, operand.dtype if operand.dtype == received.dtype else "", "")


def _without_chosen_dtype(simulation: Simulation, node: Node, meta: TensorMeta) -> TensorMeta:
    if node.kind is NodeKind.CUSTOM_FUNCTION and torch_version(simulation.graph) >= _SETS_GRAD_DTYPE:
        return TensorMeta(meta.shape, "", meta.device)
    return meta


# A hook on several tensors


def make_target_entry(simulation: Simulation, hook: Hook, target: int, *, index: int) -> Gradient:
    """Return the gradient of one tensor of a multi-grad hook, as entry `index` of what the hook gets."""
    node, slot = hook.target_slots[target]
    name = hook.targets[target] if target < len(hook.targets) else f"tensors[{target}]"
    if node is None or node not in simulation.ranks:
        return Gradient(index, name, NONE, None, None, None, UNTOUCHED)
    return make_grad_output(NodeView(simulation, simulation.graph.nodes[node]), slot, index=index, argument=name)


# A full module hook

_NO_TENSOR = "it is not a tensor"
_NO_TENSOR_OR_CONTAINER = "it is not a tensor; if it is a container, a full hook does not see the tensors inside it"
_CONTAINER = "a full hook does not see the tensors inside it"
_NO_ARGUMENT_NEEDS_GRAD = "no positional argument requires grad"
_NOT_DIFFERENTIABLE = "it does not require grad"
_ZEROS = "zeros: no gradient arrives here"
_ZEROS_WITHOUT_GRAD = "zeros: this argument does not require grad"
_INSIDE = 2
"""The length of a path like ("args", 0); a longer one leads into a container."""


@dataclass(frozen=True, slots=True)
class FullHookCall:
    """One call of a module with full hooks, and what PyTorch set up for them there.

    ``torch.utils.hooks.BackwardHook`` packs what its two BackwardHookFunction nodes see into tuples that are as long as
    the call's positional arguments and results (``_pack_with_none``); what is no tensor there is None. Of a call that
    was not recorded the tensors are not known: what is said of them comes from the nodes.
    """

    simulation: Simulation
    call: ModuleCall | UnrecordedCall
    setup: FullHookSetup

    @property
    def _id(self) -> str | None:
        return self.call.id if isinstance(self.call, ModuleCall) else None

    @property
    def _inputs(self) -> tuple[TensorRef, ...]:
        return self.call.inputs if isinstance(self.call, ModuleCall) else ()

    @property
    def _outputs(self) -> tuple[TensorRef, ...]:
        return self.call.outputs if isinstance(self.call, ModuleCall) else ()

    def list_grad_outputs(self) -> tuple[Gradient, ...]:
        """Return one entry for each result of the call: what arrives at the node on the outputs."""
        slots = {position: slot for slot, position in enumerate(self.setup.output_positions or ())}
        return tuple(self._make_grad_output(index, slots.get(index)) for index in range(self.setup.n_outputs))

    def _make_grad_output(self, index: int, slot: int | None) -> Gradient:
        path = self._result_path(index)
        name = "result" if path == ("result",) else f"result {index}"
        if slot is None or self.call.output_hook_node is None:
            return Gradient(index, name, NONE, None, None, None, self._explain_no_tensor())
        node = self.simulation.graph.nodes[self.call.output_hook_node]
        entry = make_grad_output(NodeView(self.simulation, node, self._id), slot, index=index, argument=name)
        ref = _ref_at(self._outputs, path)
        if ref is None:
            return entry
        reason = _NOT_DIFFERENTIABLE if entry.status == NONE and not ref.requires_grad else entry.reason
        return replace(entry, shape=ref.meta.shape, dtype=ref.meta.dtype, reason=reason)

    def _result_path(self, index: int) -> Path:
        """A lone tensor is at ("result",), that of a tuple at ("result", 0)."""
        if isinstance(self.call, ModuleCall):
            alone = any(ref.path == ("result",) for ref in self.call.outputs)
        else:
            alone = self.setup.n_outputs == 1
        return ("result",) if alone else ("result", index)

    def list_grad_inputs(self) -> tuple[Gradient, ...]:
        """Return one entry for each positional argument: a Tensor for each tensor, zeros if no gradient arrives."""
        slots = {position: slot for slot, position in enumerate(self.setup.input_positions or ())}
        return tuple(self._make_grad_input(index, slots.get(index)) for index in range(self.setup.n_inputs))

    def _make_grad_input(self, index: int, slot: int | None) -> Gradient:
        names = self.call.argument_names
        name = names[index] if index < len(names) else f"args[{index}]"
        node = self.call.input_hook_node
        if slot is None or node is None:
            return Gradient(index, name, NONE, None, None, None, self._explain_no_grad_input(index))
        edge = self.simulation.graph.nodes[node].edges[slot]
        ref = _ref_at(self._inputs, ("args", index))
        meta = self._expected_meta(node, slot) if ref is None else ref.meta
        value = format_expression(self.simulation.graph, edge, call=self._id)
        return Gradient(index, name, TENSOR, meta.shape, meta.dtype or None, value, self._explain_zeros(node, slot))

    def _explain_no_grad_input(self, index: int) -> str:
        if self.setup.input_positions is None and isinstance(self.call, UnrecordedCall):
            return _NO_ARGUMENT_NEEDS_GRAD
        if any(ref.path[:_INSIDE] == ("args", index) and len(ref.path) > _INSIDE for ref in self._inputs):
            return _CONTAINER
        return self._explain_no_tensor() if _ref_at(self._inputs, ("args", index)) is None else _NO_ARGUMENT_NEEDS_GRAD

    def _explain_no_tensor(self) -> str:
        return _NO_TENSOR if isinstance(self.call, ModuleCall) else _NO_TENSOR_OR_CONTAINER

    def _explain_zeros(self, node: int, slot: int) -> str | None:
        if self.simulation.graph.nodes[node].edges[slot].next_node is None:
            return _ZEROS_WITHOUT_GRAD
        return _ZEROS if self.simulation.grad_outputs[node][slot] == NONE else None

    def _expected_meta(self, node: int, slot: int) -> TensorMeta:
        edge = self.simulation.graph.nodes[node].edges[slot]
        if edge.next_node is None:  # a result that is not differentiable has no metadata of its own
            return _UNREADABLE
        return self.simulation.graph.nodes[edge.next_node].grad_outputs[edge.input_nr]


def _ref_at(refs: tuple[TensorRef, ...], path: Path) -> TensorRef | None:
    return next((ref for ref in refs if ref.path == path), None)
