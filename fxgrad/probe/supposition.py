"""A supposed hook, with all that its consequences are told from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from fxgrad.graph import BackwardGraph, Hook, ModuleCall, TensorRef
from fxgrad.probe.members import argument_members, identity, repeated_results, result_members
from fxgrad.probe.outside import NOT_RECORDED
from fxgrad.probe.splicing import was_made_since


@dataclass(frozen=True)
class Supposition:
    """What there is without the hook's nodes, and with them.

    ``before``   the hook is in the records, its nodes are not
    ``after``    the graph with the hook, predicted
    ``changed``  ids of the calls that got BackwardHookFunctions
    ``late``, ``untimed``  as in `Spliced`, ids of `before`
    """

    before: BackwardGraph
    after: BackwardGraph
    hook: Hook
    changed: tuple[str, ...]
    late: tuple[int, ...]
    untimed: tuple[int, ...]

    @cached_property
    def calls(self) -> list[tuple[ModuleCall, ModuleCall]]:
        """Each call that got BackwardHookFunctions, before and after."""
        return [(self.before.calls_by_id[call], self.after.calls_by_id[call]) for call in self.changed]

    @cached_property
    def taking(self) -> list[ModuleCall]:
        """The calls that take the hook along and get to its nodes, or to the node that it goes to, as they were."""
        return [call for call in self.before.calls if self.hook.id in call.hooks and call.completed]

    @cached_property
    def used(self) -> set[tuple[int | None, int]]:
        """The places that edges lead to."""
        return {(edge.next_node, edge.input_nr) for node in self.after.nodes for edge in node.edges}

    @cached_property
    def roots(self) -> set[tuple[int | None, int]]:
        """The places of the roots."""
        return {(root.node, root.slot) for root in self.after.roots}

    @cached_property
    def unexplored(self) -> list[str]:
        """Names of nodes that backward comes to only with the hook, and behind which nothing was recorded."""
        return [node.name for node in self.after.nodes if node.call_reason == NOT_RECORDED]

    def repeated_results(self, before: ModuleCall, after: ModuleCall) -> list[int]:
        """Slots of the node on a call's outputs whose tensors are in the result more than once, and used after it.

        Of the roots it is known which of the results they are, where the whole model returned them.
        """
        if after.output_hook_node is None:
            return []
        members = [identity(ref) for _, ref in result_members(before)]
        slots = repeated_results(before)
        used = {members[slot] for slot in slots if self._is_used(after, slot)}
        return [slot for slot in slots if members[slot] in used]

    def _is_used(self, call: ModuleCall, slot: int) -> bool:
        place = (call.output_hook_node, slot)
        return place in self.used or (call.parent is not None and place in self.roots)

    def returned_older(self, before: ModuleCall, after: ModuleCall) -> bool:
        """Whether a tensor that was there before the call, and that the hook replaces by another, is in its result."""
        replaced = [identity(ref) for _, ref in argument_members(before)] if after.input_hook_node is not None else []
        if after.output_hook_node is not None:
            replaced += [identity(ref) for _, ref in result_members(before)]
        return any(ref.requires_grad and identity(ref) in replaced for ref in self._older(before))

    def _older(self, call: ModuleCall) -> Iterator[TensorRef]:
        for ref in call.outputs:
            number = ref.sequence_nr
            made = number is not None and number >= call.sequence_window[0]
            if not (made if ref.node is None else was_made_since(self.before.nodes[ref.node], call)):
                yield ref
