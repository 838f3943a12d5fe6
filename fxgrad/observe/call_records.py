"""Makes the records of module calls, and of the tensors in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxgrad.graph import ModuleCall, TensorRef
from fxgrad.observe.autograd.walk import ACCUMULATE_GRAD, NO_SEQUENCE_NR, name_of, sequence_nr_of
from fxgrad.observe.hooks.records import HookCollector
from fxgrad.observe.hooks.search import full_hook_setup
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.events import ModuleEvent, TensorSnapshot
from fxgrad.observe.record.frames import source_of
from fxgrad.observe.record.names import argument_names

if TYPE_CHECKING:
    from torch.autograd.graph import Node as AutogradNode

    from fxgrad.observe.observation import Observation


class CallRecords:
    """The records of the module calls of one observation."""

    def __init__(self, observation: Observation, hooks: HookCollector) -> None:
        self._observation = observation
        self._hooks = hooks

    def record(self, call: ModuleEvent) -> ModuleCall:
        """The record of one call."""
        observation = self._observation
        call_id = observation.call_ids[call]
        path, _, index = call_id.rpartition("#")
        return ModuleCall(
            id=call_id,
            path=path,
            type_name=type(call.module).__name__,
            index=int(index),
            parent=None if call.parent is None else observation.call_ids[call.parent],
            sequence_window=(call.start, call.end),
            inputs=tuple([self.reference(seen) for seen in call.inputs]),
            outputs=tuple([self.reference(seen) for seen in call.outputs]),
            n_args=len(call.args),
            n_results=len(call.result) if is_a(call.result, tuple) else 1,
            result_type=type(call.result).__name__,
            grad_enabled=call.grad_enabled,
            completed=call.completed,
            training=call.training,
            hooks=self._hooks.ids_of_call(call),
            legacy_tensor=None if call.legacy is None else self.reference(call.legacy),
            legacy_reason=call.legacy_reason,
            input_hook_node=self._number(call.input_hook_node),
            output_hook_node=self._number(call.output_hook_node),
            full_hook=None if call.backward_hook is None else full_hook_setup(call.backward_hook),
            checkpointed=call.checkpointed,
            argument_names=argument_names(call.module, len(call.args)),
            source=source_of(call.stack),
            on_source_line=call.stack.direct,
        )

    def _number(self, node: AutogradNode | None) -> int | None:
        return None if node is None else self._observation.walked.ids.get(node)

    def reference(self, seen: TensorSnapshot) -> TensorRef:
        """The record of a tensor as it was at one moment of the run."""
        observation = self._observation
        seen.settle()
        node, slot, node_name, sequence_nr = None, 0, None, None
        if seen.origin is not None:
            live, slot = seen.origin
            node, node_name = self._number(live), name_of(live)
            sequence_nr = sequence_nr_of(live) if node is None else None
        elif seen.requires_grad and seen.is_leaf:
            node_name = ACCUMULATE_GRAD
            node = self._number(observation.leaves.get(id(seen.tensor)))
        named = observation.listed(seen.tensor)
        value = None if observation.forward is None else observation.forward.value_of(seen)
        return TensorRef(
            path=seen.path,
            meta=seen.meta,
            requires_grad=seen.requires_grad,
            is_leaf=seen.is_leaf,
            node=node,
            slot=slot,
            node_name=node_name,
            name=None if named is None else named.name,
            fx_node=None if value is None else value.fx_node,
            fx_index=None if value is None else value.index,
            sequence_nr=None if sequence_nr == NO_SEQUENCE_NR else sequence_nr,
        )
