"""Numbers the hooks of one graph in the order of registration, and makes their records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import FunctionType

import torch
from torch import nn
from torch.autograd.graph import Node as AutogradNode

from fxgrad.graph import CompiledBefore, Held, Hook, HookKind, Sharding, UnrecordedCall
from fxgrad.observe.autograd.nested_backward import function_starts_backward
from fxgrad.observe.autograd.node_records import HookIds
from fxgrad.observe.autograd.python_code import find_source, may_return_a_value
from fxgrad.observe.autograd.walk import ACCUMULATE_GRAD, name_of, sequence_nr_of
from fxgrad.observe.hooks.hook_code import find_grad_reads, find_held_tensors, is_made_by_torch
from fxgrad.observe.hooks.hook_returns import changes_leaf, find_returns
from fxgrad.observe.hooks.search import HookSearch, HookSlot
from fxgrad.observe.hooks.tables import LiveHook, find_multi_grad_mode, function_name
from fxgrad.observe.observed_graph import ObservedGraph
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.events import ModuleEvent
from fxgrad.observe.record.frames import find_stack_source, name_code
from fxgrad.observe.record.tensors import read_origin
from fxgrad.observe.sharding import find_original

_MOST_FOREIGN_NODES = 2_000
"""Of a graph that a hook holds: deeper ones may crash when Python has seen their nodes (CPython frees them recursively)."""

NOT_REACHED = "its node {name} is not reached from the roots"
NOT_REACHED_LEAF = "its tensor is not reached from the roots"
SEVERAL_NODES = "{name} has another AccumulateGrad since, and only PyTorch's count of both decides"
NOT_OF_MODEL = "its tensor, which is no parameter of the model, is not reached from the roots"
LEFT = (
    "{name} has another AccumulateGrad since: set_, and a .data of another dtype or device, make PyTorch drop the one that "
    "it has"
)
IN_TRANSFORM = "its tensor is one inside a transform of torch.func: only a backward of that transform may reach it"
NO_GRAD = "its tensor does not require grad"


class HookRecords:
    """The hooks that a search has found, as records. The id of a hook is its position in ``hooks``."""

    def __init__(self, observed: ObservedGraph, search: HookSearch) -> None:
        self._observed = observed
        self._search = search
        self.hooks = search.hooks
        self.notes = search.notes
        self._ids = {hook.key: number for number, hook in enumerate(self.hooks)}
        self._sharded = {id(each.sharded): each for each in observed.tensor_names.sharded}
        self._replaced = {each.original: each for each in observed.tensor_names.sharded}
        self._on_module: dict[int, list[int]] = {}
        for number, hook in enumerate(self.hooks):
            self._on_module.setdefault(id(hook.module), []).append(number)

    def make_records(self) -> tuple[Hook, ...]:
        """One Hook for each, in order of registration."""
        return tuple([self._make_record(number, hook) for number, hook in enumerate(self.hooks)])

    def _make_record(self, number: int, hook: LiveHook) -> Hook:
        found = None if hook.parts else self._find_slot(hook)
        slots = tuple([self._observed.find_slot(part.tensor, part.origin) for part in hook.parts])
        returns = () if hook.function is None else find_returns(hook.function, hook.kind)
        may_return = False if hook.function is None else may_return_a_value(hook.function)
        if returns and all(value.kind == "none" for value in returns):
            may_return = False
        return Hook(
            id=number,
            kind=hook.kind,
            owner=self._name_owner(hook),
            left_by=self._find_leaving_leaf(hook),
            function=function_name(hook.function),
            source=None if hook.function is None else find_source(hook.function),
            registered=find_stack_source(hook.stack),
            prepend=hook.prepend,
            targets=tuple([self._name_owner(part) for part in hook.parts]),
            mode=find_multi_grad_mode(hook.inner),
            observed=found,
            active=hook.active,
            unplaced=self._explain_unplaced(hook, found),
            computed_from=tuple(self._list_leaves_behind(hook)) if found is None else (),
            outside_model=found is None and self._is_outside_model(hook),
            by_torch=is_made_by_torch(hook.function),
            sharding=self._find_sharding(hook, in_graph=found is not None),
            may_return=may_return,
            returns=returns,
            changes_leaf=changes_leaf(hook.function, hook.kind),
            target_slots=slots,
            uncounted=self._find_uncounted(hook, slots),
            registered_nr=hook.sequence_nr,
            registered_in=self._observed.call_id(hook.call),
            grad_reads=find_grad_reads(hook.function) if hook.kind.is_module else (),
            nested_backward=self._find_nested_slots(hook),
            more_targets=hook.more_parts or self._find_repeated_part(hook),
            holds=tuple(
                [
                    Held(name, self._find_node_id(tensor), inside)
                    for name, tensor, inside in find_held_tensors(hook.function)
                ]
            ),
        )

    def _find_nested_slots(self, hook: LiveHook) -> tuple[tuple[int | None, int], ...] | None:
        """Where the backward that a hook's code starts may enter the graph: from the tensors that the hook holds. What else it
        may get at is not known for a method, or a hook that is called with its module: then it may enter anywhere."""
        if hook.function is None or is_made_by_torch(hook.function) or not function_starts_backward(hook.function):
            return None
        held = [tensor for _, tensor, _ in find_held_tensors(hook.function)]
        origins = [None if tensor._is_view() else read_origin(tensor) for tensor in held]
        found = self._list_entered([origin[0] for origin in origins if origin is not None])
        if hook.kind.is_module or not is_a(hook.function, FunctionType) or None in origins or found is None:
            found = [(root.node, root.slot) for root in self._observed.roots]
        return ((None, 0), *dict.fromkeys(found))

    def _list_entered(self, nodes: list[AutogradNode]) -> list[tuple[int, int]] | None:
        """Where a backward that starts at some nodes enters this graph, besides leaves; None where what lies before it is large."""
        ids, seen = self._observed.walked.ids, set(nodes)
        found = [(ids[node], 0) for node in nodes if node in ids and node.next_functions]
        waiting = [node for node in nodes if node not in ids]
        while waiting:
            for after, slot in waiting.pop().next_functions:
                if after in ids:
                    found += [(ids[after], slot)] if after.next_functions else []
                elif after is not None and after not in seen:
                    seen.add(after)
                    waiting.append(after)
            if len(seen) > _MOST_FOREIGN_NODES:
                return None
        return found

    def _find_node_id(self, tensor: torch.Tensor) -> int | None:
        """The id of a tensor's node. A view is not asked: reading its grad_fn may create a node."""
        origin = None if tensor._is_view() else read_origin(tensor)
        return None if origin is None else self._observed.node_id(origin[0])

    def _find_slot(self, hook: LiveHook) -> tuple[int, int | None] | None:
        """The node, and for a hook on a tensor the slot, that it was found on."""
        if hook.node is not None:
            number = self._observed.node_id(hook.node)
            return None if number is None else (number, None)
        number, slot = self._observed.find_slot(hook.tensor, hook.origin)
        return None if number is None else (number, slot)

    def _find_repeated_part(self, hook: LiveHook) -> str | None:
        """That one of a multi-grad hook's tensors is a leaf with several AccumulateGrad nodes: it may count each."""
        repeated = (part.tensor for part in hook.parts if id(part.tensor) in self._observed.earlier)
        first = next(repeated, None)
        return None if first is None else SEVERAL_NODES.format(name=self._observed.tensor_name(first, None))

    def _find_uncounted(self, hook: LiveHook, slots: Sequence[tuple[int | None, int]]) -> tuple[int, ...]:
        """``_get_grad_fn_or_grad_acc`` (torch/autograd/graph.py) takes a view of a leaf to find its node. Where the leaf is
        of a class of its own, the view may have another node in between, and that is what it takes."""
        ids = [self._observed.walked.ids.get(node) for node in hook.counted]
        pairs = zip(ids, slots, strict=False)
        return tuple([index for index, (counted, (node, _)) in enumerate(pairs) if counted != node])

    def _find_sharding(self, hook: LiveHook, *, in_graph: bool) -> Sharding | None:
        """What ``fully_shard`` did with the parameter that a hook is registered on; None where that decides nothing."""
        tensor, is_post_accumulate = hook.tensor, hook.kind is HookKind.POST_ACCUMULATE_GRAD
        if tensor is None or not (is_post_accumulate or (hook.kind is HookKind.TENSOR and not in_graph)):
            return None
        original = None if in_graph else find_original(tensor)
        replacement = None if original is None else self._replaced.get(original)
        managed = replacement or self._sharded.get(id(tensor))
        if managed is None:
            return None
        return Sharding(
            parameter=self._observed.tensor_name(managed.sharded, None),
            is_replaced=replacement is not None,
            leaf=self._observed.node_id(self._observed.leaves.get(id(managed.unsharded))),
            refusal=managed.refusal,
            has_waiting=managed.waits,
        )

    def _explain_unplaced(self, hook: LiveHook, found: tuple[int, int | None] | None) -> str | None:
        if hook.kind.is_module or hook.parts or found is not None:
            return None
        if hook.tensor is not None and torch._C._functorch.is_functorch_wrapped_tensor(hook.tensor):
            return IN_TRANSFORM
        left_by = self._find_leaving_leaf(hook)
        if left_by is not None:
            return LEFT.format(name=left_by)
        if hook.origin is not None:
            return NOT_REACHED.format(name=name_of(hook.origin[0]))
        if hook.tensor is None:
            return NOT_REACHED.format(name="" if hook.node is None else name_of(hook.node)).replace("  ", " ")
        if not hook.tensor.requires_grad:
            return NO_GRAD
        return NOT_OF_MODEL if self._is_outside_model(hook) else NOT_REACHED_LEAF

    def _list_leaves_behind(self, hook: LiveHook) -> Iterator[str]:
        """The named leaves that a tensor was computed from, if that was before the recorded forward began."""
        recorder = self._observed.recorder
        if hook.origin is None or recorder is None or sequence_nr_of(hook.origin[0]) >= recorder.started:
            return
        waiting, seen = [hook.origin[0]], {hook.origin[0]}
        while waiting and len(seen) < _MOST_FOREIGN_NODES:
            node = waiting.pop()
            if name_of(node) == ACCUMULATE_GRAD:
                name = self._observed.variable_name(node.variable)  # type: ignore[attr-defined]
                yield from () if name is None else (name,)
            found = [after for after, _ in reversed(node.next_functions) if after is not None and after not in seen]
            seen.update(found)
            waiting += found

    def _is_outside_model(self, hook: LiveHook) -> bool:
        is_leaf = hook.tensor is None and hook.node is not None and name_of(hook.node) == ACCUMULATE_GRAD
        tensor = hook.node.variable if is_leaf else hook.tensor  # type: ignore[union-attr]
        is_unknown = is_a(tensor, nn.Parameter) and id(tensor) not in self._observed.tensor_names.named
        return is_unknown and bool(self._observed.module_names.modules)

    def _find_leaving_leaf(self, hook: LiveHook) -> str | None:
        """The leaf of a hook on an AccumulateGrad that it had before: it has another one in the graph."""
        if hook.node is None or name_of(hook.node) != ACCUMULATE_GRAD or hook.node in self._observed.walked.ids:
            return None
        leaf: torch.Tensor = hook.node.variable  # type: ignore[attr-defined]
        return self._observed.variable_name(leaf) if id(leaf) in self._observed.leaves else None

    def _name_owner(self, hook: LiveHook) -> str:
        if hook.module is not None:
            return self._observed.module_names.path_of(hook.module)
        if hook.tensor is not None or hook.origin is not None:
            sharding = self._find_sharding(hook, in_graph=False)
            return self._observed.tensor_name(hook.tensor, hook.origin) if sharding is None else sharding.parameter
        if hook.node is not None:
            left_by = self._find_leaving_leaf(hook)
            return self._observed.node_name(hook.node) if left_by is None else f"earlier AccumulateGrad of {left_by}"
        return ""

    def ids_on_module(self, module: nn.Module) -> tuple[int, ...]:
        """Ids of the hooks registered on a module, in order of registration."""
        return tuple(self._on_module.get(id(module), ()))

    def ids_of_call(self, call: ModuleEvent) -> tuple[int, ...]:
        """Ids of the hooks that a call took along, in run order."""
        return tuple([self._ids[carried.number, id(carried.table)] for carried in call.hooks])

    def list_compiled_before(self, call: ModuleEvent) -> tuple[CompiledBefore, ...]:
        """The hooks of a call that code around it may pass by: Dynamo compiled it before they were registered, or may have.

        What a hook that forward registers meets is not known: Dynamo may have compiled its registration as well.
        """
        hooks = [(number, self.hooks[number]) for number in (self.ids_of_call(call) if call.compiled else ())]
        return tuple([found for number, hook in hooks for found in _find_compiled_before(number, hook, call)])

    def make_unrecorded_calls(self) -> tuple[UnrecordedCall, ...]:
        """The calls that were not recorded, and whose full hooks are on nodes of the graph."""
        return self._search.unrecorded_calls.make_records(self._observed.module_names, self._observed.walked.ids)

    # Hooks on nodes

    def ids_on_nodes(self) -> dict[int, HookIds]:
        """Of each node that has hooks, by its id, the ids of the hooks and of the prehooks, in order."""
        found: dict[int, HookIds] = {}
        for node, slots in self._search.post_hooks.items():
            hooks = tuple([self.id_of(slot.hook) for slot in slots])
            prehooks = tuple([self.id_of(slot.hook) for slot in self._search.pre_hooks[node]])
            if hooks or prehooks:
                found[self._observed.walked.ids[node]] = hooks, prehooks
        return found

    def id_of(self, hook: LiveHook) -> int:
        """The id of a hook that the search has found."""
        return self._ids[hook.key]

    def list_slots(self) -> Iterator[HookSlot]:
        """Where backward looks up each hook's function. retain_grad has none, multi-grad hooks theirs in a closure."""
        for node, slots in self._search.post_hooks.items():
            yield from self._search.pre_hooks[node]
            yield from slots
        yield from self._search.list_full_slots_out_of_reach()
        for hook in self.hooks:
            if hook.kind in (HookKind.TENSOR, HookKind.POST_ACCUMULATE_GRAD) and hook.active:
                yield HookSlot(hook.table, hook.number, hook)


def _find_compiled_before(number: int, hook: LiveHook, call: ModuleEvent) -> Iterator[CompiledBefore]:
    """The innermost function around a call that was compiled before the hook was registered, or may have been."""
    if hook.compiled is None or hook.call is not None:
        yield CompiledBefore(number, name_code(call.compiled[0][0]), certain=False)
        return
    for code, compiled in call.compiled:
        if any(id(made) in hook.compiled for made in compiled):
            yield CompiledBefore(number, name_code(code), certain=True)
            return
