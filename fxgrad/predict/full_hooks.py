"""What full module hooks get: one grad_input entry per positional argument, one grad_output entry per result.

``torch.utils.hooks.BackwardHook`` packs what its two BackwardHookFunction nodes see into tuples as long as the call's
arguments and results (``_pack_with_none``); everything that is no tensor there is None.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fxgrad.graph import FullHookSetup, Gradient, ModuleCall, Path, TensorMeta, TensorRef, UnrecordedCall
from fxgrad.graph.names import format_expression
from fxgrad.predict.entries import View, grad_output_entry
from fxgrad.predict.formulas import NONE, TENSOR
from fxgrad.predict.outlook import Outlook

_NO_TENSOR = "it is no tensor"
_NO_TENSOR_OR_CONTAINER = "it is no tensor; if it is a container, the tensors inside it are invisible to a full hook"
_CONTAINER = "the tensors inside it are invisible to a full hook"
_NO_ARGUMENT_NEEDS_GRAD = "no tensor among the positional arguments requires grad"
_NOT_DIFFERENTIABLE = "it requires no grad"
_ZEROS = "zeros: no gradient arrives here"
_ZEROS_WITHOUT_GRAD = "zeros: this argument requires no grad"
_NOT_KNOWN = TensorMeta(None, "", "")
_INSIDE = 2
"""The length of a path like ("args", 0); a longer one leads into a container."""


@dataclass(frozen=True, slots=True)
class FullHookCall:
    """One call of a module with full hooks, and what PyTorch set up for them there.

    Of a call that was not watched the tensors are not known: what is told of them comes from the nodes.
    """

    outlook: Outlook
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

    def grad_output(self) -> tuple[Gradient, ...]:
        """One entry per result of the call: what arrives at the output-side node, None for what is no tensor."""
        slots = {position: slot for slot, position in enumerate(self.setup.output_positions or ())}
        return tuple(self._result(index, slots.get(index)) for index in range(self.setup.n_outputs))

    def _result(self, index: int, slot: int | None) -> Gradient:
        path = self._result_path(index)
        name = "result" if path == ("result",) else f"result {index}"
        if slot is None or self.call.output_hook_node is None:
            return Gradient(index, name, NONE, None, None, None, self._why_nothing())
        node = self.outlook.graph.nodes[self.call.output_hook_node]
        entry = grad_output_entry(View(self.outlook, node, self._id), slot, index=index, argument=name)
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

    def grad_input(self) -> tuple[Gradient, ...]:
        """One entry per positional argument: a Tensor for every tensor, zeros where no gradient arrives."""
        slots = {position: slot for slot, position in enumerate(self.setup.input_positions or ())}
        return tuple(self._argument(index, slots.get(index)) for index in range(self.setup.n_inputs))

    def _argument(self, index: int, slot: int | None) -> Gradient:
        names = self.call.argument_names
        name = names[index] if index < len(names) else f"args[{index}]"
        node = self.call.input_hook_node
        if slot is None or node is None:
            return Gradient(index, name, NONE, None, None, None, self._why_no_tensor(index))
        edge = self.outlook.graph.nodes[node].edges[slot]
        ref = _ref_at(self._inputs, ("args", index))
        meta = self._expected_meta(node, slot) if ref is None else ref.meta
        value = format_expression(self.outlook.graph, edge, call=self._id)
        return Gradient(index, name, TENSOR, meta.shape, meta.dtype or None, value, self._why_zeros(node, slot))

    def _why_no_tensor(self, index: int) -> str:
        if self.setup.input_positions is None and isinstance(self.call, UnrecordedCall):
            return _NO_ARGUMENT_NEEDS_GRAD
        if any(ref.path[:_INSIDE] == ("args", index) and len(ref.path) > _INSIDE for ref in self._inputs):
            return _CONTAINER
        return self._why_nothing() if _ref_at(self._inputs, ("args", index)) is None else _NO_ARGUMENT_NEEDS_GRAD

    def _why_nothing(self) -> str:
        return _NO_TENSOR if isinstance(self.call, ModuleCall) else _NO_TENSOR_OR_CONTAINER

    def _why_zeros(self, node: int, slot: int) -> str | None:
        if self.outlook.graph.nodes[node].edges[slot].next_node is None:
            return _ZEROS_WITHOUT_GRAD
        return _ZEROS if self.outlook.flow.grad_outputs[node][slot] == NONE else None

    def _expected_meta(self, node: int, slot: int) -> TensorMeta:
        edge = self.outlook.graph.nodes[node].edges[slot]
        if edge.next_node is None:  # a result that is not differentiable has no metadata of its own
            return _NOT_KNOWN
        return self.outlook.graph.nodes[edge.next_node].grad_outputs[edge.input_nr]


def _ref_at(refs: tuple[TensorRef, ...], path: Path) -> TensorRef | None:
    return next((ref for ref in refs if ref.path == path), None)
