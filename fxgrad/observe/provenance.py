"""Where each node comes from: the module call and the function call in whose window its sequence number lies.

Sequence numbers count, per thread, the nodes that were made (torch/csrc/autograd/function.h), so the numbers before and
after a call bound exactly what the call made. The windows of module calls nest; those of function calls do not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import torch
from torch import fx
from torch.autograd.graph import Node as AutogradNode

from fxgrad.graph import Edge, Node, NodeKind, TensorMeta, Value
from fxgrad.observe.forward import ForwardRecorder
from fxgrad.observe.frames import source_of
from fxgrad.observe.metas import MetaTable
from fxgrad.observe.seen import SeenFunctionCall, SeenModuleCall
from fxgrad.observe.walk import ACCUMULATE_GRAD, NO_SEQUENCE_NR, Provenance, sequence_nr_of

LEAF = "a leaf's: made once, shared by every call that uses it"
EARLIER = "made before the forward that was recorded"
LATER = "made after the forward that was recorded"
IN_LOSS = "made by the loss function, after the model's forward"
OTHER_THREAD = "modules ran in other threads too, and sequence numbers count per thread"
OUTSIDE = "made by no recorded function call"
HOOK_FUNCTION = "put there by PyTorch for a full module hook; it stands for no operation of forward"
CHECKPOINT = "a reentrant checkpoint: the operations inside are recorded one by one"
NO_NUMBER = "the node has no sequence number"


class Timeline:
    """Looks up the module call and the function call that made a node."""

    def __init__(
        self,
        recorder: ForwardRecorder,
        call_ids: Mapping[SeenModuleCall, str],
        fx_nodes: Mapping[int, fx.Node],
    ) -> None:
        self._recorder = recorder
        self._call_ids = call_ids
        self._fx_nodes = fx_nodes
        self._module_starts = [call.start for call in recorder.module_calls]
        numbered = [
            (seen.window[0], number) for number, seen in enumerate(recorder.function_calls) if _made_nodes(seen)
        ]
        self._function_starts = [start for start, _ in numbered]
        self._function_numbers = [number for _, number in numbered]
        self._values: dict[tuple[AutogradNode, int], Value] = {}
        self._note_values()

    def _note_values(self) -> None:
        for number, seen in enumerate(self._recorder.function_calls):
            fx_node = self._fx_nodes.get(number)
            if fx_node is None:
                continue
            several = len(seen.results) > 1
            for node, slot, position in seen.origins:
                start, end = seen.window
                if start <= sequence_nr_of(node) < end:  # else it handed a tensor through
                    self._values.setdefault((node, slot), Value(fx_node.name, position if several else None))

    def provenance(self, node: AutogradNode, name: str) -> Provenance:
        """Module call, fx node, forward values and source line of one node; where one is missing, why."""
        if name == ACCUMULATE_GRAD:
            return Provenance(call_reason=LEAF, fx_reason=LEAF)
        sequence_nr = sequence_nr_of(node)
        if sequence_nr == NO_SEQUENCE_NR:
            return Provenance(call_reason=NO_NUMBER, fx_reason=NO_NUMBER)
        outside = self._outside(sequence_nr)
        if outside is not None:
            return Provenance(call_reason=outside, fx_reason=outside)
        call = self.module_call(sequence_nr)
        number = self.function_call(sequence_nr)
        seen = None if number is None else self._recorder.function_calls[number]
        fx_node = None if number is None else self._fx_nodes.get(number)
        slots = len(node._input_metadata)
        return Provenance(
            None if call is None else self._call_ids[call],
            _no_call_reason(seen) if call is None else None,
            None if fx_node is None else fx_node.name,
            None if fx_node is not None else _no_fx_reason(name, seen),
            tuple([self._values.get((node, slot)) for slot in range(slots)]),
            None if seen is None else source_of(seen.frames),
        )

    def _outside(self, sequence_nr: int) -> str | None:
        if self._recorder.other_threads:
            return OTHER_THREAD
        if sequence_nr < self._recorder.started:
            return EARLIER
        return LATER if sequence_nr >= self._recorder.ended else None

    def module_call(self, sequence_nr: int) -> SeenModuleCall | None:
        """The innermost module call that was running when the node of this number was made."""
        position = bisect_right(self._module_starts, sequence_nr) - 1
        call = self._recorder.module_calls[position] if position >= 0 else None
        while call is not None and sequence_nr >= call.end:
            call = call.parent
        return call

    def function_call(self, sequence_nr: int) -> int | None:
        """The number of the function call that made the node of this number."""
        position = bisect_right(self._function_starts, sequence_nr) - 1
        if position < 0:
            return None
        number = self._function_numbers[position]
        return number if sequence_nr < self._recorder.function_calls[number].window[1] else None


def _made_nodes(seen: SeenFunctionCall) -> bool:
    return seen.window[0] < seen.window[1]


def _no_call_reason(seen: SeenFunctionCall | None) -> str:
    return IN_LOSS if seen is not None and seen.in_loss else "made outside of every module call"


def _no_fx_reason(name: str, seen: SeenFunctionCall | None) -> str:
    if name == "BackwardHookFunctionBackward":
        return HOOK_FUNCTION
    if name == "CheckpointFunctionBackward":
        return CHECKPOINT
    return IN_LOSS if seen is not None and seen.in_loss else OUTSIDE


class Operands:
    """Says which recorded tensor stands behind a null edge, by what the node saved for backward.

    A tensor that a node saved shares its storage with the tensor that was passed. Reading it runs the unpack hook of
    ``saved_tensors_hooks`` where there is one, so there it is left alone (torch/csrc/autograd/saved_variable.cpp).
    """

    def __init__(self, metas: MetaTable) -> None:
        self._metas = metas
        self._values: dict[tuple[object, ...], Value] = {}

    def add(self, tensor: torch.Tensor, value: Value) -> None:
        """Make a tensor of the recorded forward known; of several with one memory the first stays."""
        key = _memory_of(tensor)
        if key is not None:
            self._values.setdefault(key, value)

    def with_operands(self, nodes: Sequence[Node], order: Sequence[AutogradNode]) -> tuple[Node, ...]:
        """The same nodes; edges that lead nowhere say what stands behind them, where the node saved that."""
        return tuple([self._with_operands(node, live) for node, live in zip(nodes, order, strict=True)])

    def _with_operands(self, node: Node, live: AutogradNode) -> Node:
        if node.kind is not NodeKind.FUNCTION or all(edge.next_node is not None for edge in node.edges):
            return node
        edges = [edge if edge.next_node is not None else self._with_operand(edge, live) for edge in node.edges]
        return node._replace(edges=tuple(edges))

    def _with_operand(self, edge: Edge, live: AutogradNode) -> Edge:
        raw = getattr(live, f"_raw_saved_{edge.argument}", None)
        if raw is None or isinstance(raw, tuple) or raw.unpack_hook is not None:
            return edge
        try:
            saved = getattr(live, f"_saved_{edge.argument}")
        except RuntimeError:  # freed by an earlier backward
            return edge
        if not isinstance(saved, torch.Tensor):
            return edge
        meta: TensorMeta = self._metas.of_tensor(saved)
        memory = _memory_of(saved)
        value = None if memory is None else self._values.get(memory)
        reason = edge.null_reason if saved.requires_grad else "it requires no grad"
        return edge._replace(operand=meta, value=value, null_reason=reason)


def _memory_of(tensor: torch.Tensor) -> tuple[object, ...] | None:
    try:
        storage = tensor.untyped_storage()._cdata
        return storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without a plain storage
        return None
