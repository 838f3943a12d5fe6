"""Gathers every hook of one graph, numbers them in the order of registration and says which nodes they are on."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import Node as AutogradNode
from torch.nn.modules import module as module_hooks
from torch.utils.hooks import BackwardHook

from fxgrad.graph import Hook, HookKind, Node
from fxgrad.observe.frames import definition_of, source_of
from fxgrad.observe.hooks import (
    LiveHook,
    Registration,
    RegistrationWatch,
    backward_hook_of,
    hooks_on_modules,
    hooks_on_node,
    hooks_on_tensor,
    may_return_a_value,
    multi_grad_mode,
    post_hooks_of,
    prehooks_of,
    with_multi_grad_hooks,
)
from fxgrad.observe.seen import Origin, SeenModuleCall
from fxgrad.observe.walk import ACCUMULATE_GRAD, name_of, sequence_nr_of

if TYPE_CHECKING:
    from fxgrad.observe.observation import Observation

_LEGACY = frozenset(kind for kind in HookKind if kind.is_legacy)
_FULL = frozenset(kind for kind in HookKind if kind.is_full)
_FULL_PRE = frozenset(kind for kind in HookKind if kind.is_full_pre)

NOT_REACHED = "its node {name} is not reached from the roots"


def existing_hooks(modules: Iterable[nn.Module], tensors: Iterable[torch.Tensor]) -> list[LiveHook]:
    """The hooks on modules and tensors, and the global ones, as they are now."""
    found = list(hooks_on_modules(modules))
    for tensor in tensors:
        if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None) or tensor.retains_grad:
            found.extend(hooks_on_tensor(tensor))
    return found


class Place(NamedTuple):
    """Where backward will find the function of a hook: ``table[key]``; the call whose snapshot that belongs to."""

    table: Any
    key: Any
    hook: int
    kind: HookKind
    call: str | None


class HookCollector:
    """All hooks of one observation. `earlier` are those that were there before the forward ran."""

    def __init__(
        self,
        observation: Observation,
        *,
        earlier: Sequence[LiveHook] = (),
        watch: RegistrationWatch | None = None,
        every_node: bool = False,
    ) -> None:
        self._observation = observation
        self._registrations: dict[Any, Registration] = {} if watch is None else watch.registrations
        self._nodes_looked_at: list[AutogradNode] = []
        self._every_node = every_node
        found = self._find(earlier)
        self.hooks = _in_order_of_registration(with_multi_grad_hooks(found.values()))
        self._rank = {hook.key: rank for rank, hook in enumerate(self.hooks)}

    # Finding

    def _find(self, earlier: Sequence[LiveHook]) -> dict[Any, LiveHook]:
        observation = self._observation
        found = {hook.key: hook for hook in earlier}
        now = {hook.key: hook for hook in hooks_on_modules(observation.module_names.modules.values())}
        for hook in found.values():
            hook.active = self._is_still_there(hook, now)
        for hook in (*now.values(), *self._in_snapshots(), *self._on_tensors()):
            found.setdefault(hook.key, hook)
        for node in self._nodes_to_look_at():
            for hook in hooks_on_node(node):
                found.setdefault(hook.key, hook)
        for hook in self._registered_elsewhere(found):
            found.setdefault(hook.key, hook)
        for key, hook in found.items():
            if key in self._registrations:
                hook.frames = self._registrations[key].frames
                hook.sequence_nr = self._registrations[key].sequence_nr
                hook.call = self._registrations[key].call
            elif hook.kind is HookKind.RETAIN_GRAD and observation.recorder is not None:
                hook.call, hook.sequence_nr = observation.recorder.retained.get(id(hook.tensor), (None, None))
        return found

    def _is_still_there(self, hook: LiveHook, now: dict[Any, LiveHook]) -> bool:
        """A hook that was there before the forward may have been removed in it."""
        if hook.kind.is_module:
            return hook.key in now
        if hook.kind not in (HookKind.TENSOR, HookKind.POST_ACCUMULATE_GRAD) or hook.table is None:
            return True
        return hook.key in hook.table

    def _in_snapshots(self) -> Iterator[LiveHook]:
        """Hooks that were removed again, but that a call took along."""
        for call in self._calls():
            for kind, key, function in call.hooks:
                module = None if kind.is_global else call.module
                yield LiveHook(key, kind, function, module=module, active=False)

    def _calls(self) -> list[SeenModuleCall]:
        recorder = self._observation.recorder
        return [] if recorder is None else recorder.module_calls

    def _on_tensors(self) -> Iterator[LiveHook]:
        recorder = self._observation.recorder
        tensors = {key: named.tensor for key, named in self._observation.named.items()}
        for seen in () if recorder is None else recorder.function_calls:
            tensors.update((id(tensor), tensor) for _, tensor in seen.results)
        for call in self._calls():
            tensors.update((id(seen.tensor), seen.tensor) for seen in (*call.inputs, *call.outputs))
        tensors.update((id(tensor), tensor) for tensor in self._observation.root_tensors)
        for tensor in tensors.values():
            if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None) or tensor.retains_grad:
                yield from hooks_on_tensor(tensor)
        for registration in self._registrations.values():
            if registration.tensor is not None and registration.key in registration.table:
                yield _hook_of_tensor(registration)

    def _nodes_to_look_at(self) -> list[AutogradNode]:
        """Nodes that may carry hooks: of leaves, of hooked calls, and those older than the recorded forward."""
        walked, recorder = self._observation.walked, self._observation.recorder
        if self._every_node or self._unmatched():
            self._nodes_looked_at = list(walked.order)
            return self._nodes_looked_at
        wanted = {node for node in walked.order if name_of(node) == ACCUMULATE_GRAD}
        if recorder is not None:
            wanted.update(node for node in walked.order if sequence_nr_of(node) < recorder.started)
        for call in self._calls():
            if call.hooks:
                wanted.update(node for node in self._hooked_nodes(call) if node in walked.ids)
        self._nodes_looked_at = [node for node in walked.order if node in wanted]
        return self._nodes_looked_at

    def _hooked_nodes(self, call: SeenModuleCall) -> Iterator[AutogradNode]:
        origin = legacy_origin(call)
        for node in (None if origin is None else origin[0], call.input_hook_node, call.output_hook_node):
            if node is not None:
                yield node

    def _unmatched(self) -> bool:
        """Whether a hook was registered while recording on something else than a tensor or a module: on a node."""
        tables = {id(module._backward_hooks) for module in self._observation.module_names.modules.values()}
        tables |= {id(module._backward_pre_hooks) for module in self._observation.module_names.modules.values()}
        tables |= {id(table) for name, table in vars(module_hooks).items() if name.startswith("_global_")}
        return any(
            registration.tensor is None
            and registration.by_user
            and id(registration.table) not in tables
            and registration.key in registration.table
            for registration in self._registrations.values()
        )

    def _registered_elsewhere(self, found: dict[Any, LiveHook]) -> Iterator[LiveHook]:
        """Hooks on nodes that the roots do not reach."""
        if not self._unmatched():
            return
        modules = {id(table) for module in self._observation.module_names.modules.values() for table in _tables(module)}
        for key, registration in self._registrations.items():
            if key in found or not registration.by_user or id(registration.table) in modules:
                continue
            if registration.tensor is None and key in registration.table:
                function = registration.table[key]
                yield LiveHook(key, HookKind.NODE, function)

    # Records

    def records(self) -> tuple[Hook, ...]:
        """One Hook for each, in order of registration."""
        return tuple([self._record(rank, hook) for rank, hook in enumerate(self.hooks)])

    def _record(self, rank: int, hook: LiveHook) -> Hook:
        parts = [self._slot(part) for part in hook.parts]
        observed = None if hook.parts else self._observed(hook)
        return Hook(
            id=rank,
            kind=hook.kind,
            owner=self._owner(hook),
            function=function_name(hook.function),
            source=None if hook.function is None else definition_of(hook.function),
            registered=source_of(hook.frames),
            prepend=hook.prepend,
            targets=tuple([self._owner(part) for part in hook.parts]),
            mode=multi_grad_mode(hook.parts[0].function) if hook.parts else None,
            observed=observed,
            active=hook.active,
            unplaced=self._unplaced(hook, observed),
            may_return=False if hook.function is None else may_return_a_value(hook.function),
            target_slots=tuple(parts),
            registered_nr=hook.sequence_nr,
            registered_in=None if hook.call is None else self._observation.call_ids[hook.call],
        )

    def _observed(self, hook: LiveHook) -> tuple[int, int | None] | None:
        if hook.node is not None:
            rank = self._observation.walked.ids.get(hook.node)
            return None if rank is None else (rank, None)
        if hook.tensor is None:
            return None
        rank, slot = self._slot(hook)
        return None if rank is None else (rank, slot)

    def _slot(self, hook: LiveHook) -> tuple[int | None, int]:
        tensor = hook.tensor
        if hook.origin is not None:
            return self._observation.walked.ids.get(hook.origin[0]), hook.origin[1]
        leaf = self._observation.leaves.get(id(tensor))
        return (None, 0) if leaf is None else (self._observation.walked.ids[leaf], 0)

    def _unplaced(self, hook: LiveHook, observed: tuple[int, int | None] | None) -> str | None:
        if hook.kind.is_module or hook.parts or observed is not None:
            return None
        if hook.origin is not None:
            return NOT_REACHED.format(name=name_of(hook.origin[0]))
        if hook.tensor is not None and not hook.tensor.requires_grad:
            return "its tensor requires no grad"
        return NOT_REACHED.format(name="" if hook.tensor is None else "AccumulateGrad").replace("  ", " ")

    def _owner(self, hook: LiveHook) -> str:
        if hook.module is not None:
            return self._observation.module_names.path_of(hook.module)
        if hook.tensor is not None:
            return self._observation.tensor_name(hook.tensor, hook.origin)
        if hook.node is not None:
            return self._observation.node_name(hook.node)
        return ""

    def ids_on_module(self, module: nn.Module) -> tuple[int, ...]:
        """Ids of the hooks registered on a module, in order of registration."""
        return tuple([rank for rank, hook in enumerate(self.hooks) if hook.module is module])

    def ids_of_call(self, call: SeenModuleCall) -> tuple[int, ...]:
        """Ids of the hooks that a call took along, in run order."""
        return tuple([self._rank[key] for _, key, _ in call.hooks])

    # Hooks on nodes

    def placed_on(self, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        """The same nodes, with the ids of the hooks that are on them."""
        placed = list(nodes)
        for live in self._nodes_looked_at:
            rank = self._observation.walked.ids[live]
            hooks = tuple([place.hook for place in self._post_hooks[live]])
            prehooks = tuple([place.hook for place in self._prehooks[live]])
            if hooks or prehooks:
                placed[rank] = placed[rank]._replace(hooks=hooks, prehooks=prehooks)
        return tuple(placed)

    def places(self) -> Iterator[Place]:
        """Where backward will look up each hook's function. retain_grad has none, multi-grad hooks theirs in a closure."""
        for live in self._nodes_looked_at:
            yield from self._prehooks[live]
            yield from self._post_hooks[live]
        for rank, hook in enumerate(self.hooks):
            table = self._tensor_table(hook)
            if table is not None and hook.key in table:
                yield Place(table, hook.key, rank, hook.kind, None)

    def _tensor_table(self, hook: LiveHook) -> Any:
        if hook.key in self._registrations and self._registrations[hook.key].tensor is not None:
            return self._registrations[hook.key].table
        if hook.kind is HookKind.TENSOR and hook.tensor is not None:
            return hook.tensor._backward_hooks
        if hook.kind is HookKind.POST_ACCUMULATE_GRAD and hook.tensor is not None:
            return hook.tensor._post_accumulate_grad_hooks
        return None

    @cached_property
    def _prehooks(self) -> dict[AutogradNode, list[Place]]:
        found: dict[AutogradNode, list[Place]] = {}
        for live in self._nodes_looked_at:
            table = prehooks_of(live)
            found[live] = [Place(table, key, self._rank[key], HookKind.NODE_PRE, None) for key in table]
        return found

    @cached_property
    def _post_hooks(self) -> dict[AutogradNode, list[Place]]:
        legacy = self._legacy_expected()
        return {live: list(self._post_hooks_on(live, legacy.get(live, []))) for live in self._nodes_looked_at}

    def _legacy_expected(self) -> dict[AutogradNode, list[tuple[int, Any, str]]]:
        """The legacy hooks (id, function, call id) on each node, in the order in which the calls that put them ended."""
        expected: dict[AutogradNode, list[tuple[int, Any, str]]] = {}
        for call in sorted(self._calls(), key=lambda call: call.finished):
            origin = legacy_origin(call)
            for kind, key, function in call.hooks:
                if kind.is_legacy and origin is not None:
                    entry = (self._rank[key], function, self._observation.call_ids[call])
                    expected.setdefault(origin[0], []).append(entry)
        return expected

    def _post_hooks_on(self, live: AutogradNode, legacy: list[tuple[int, Any, str]]) -> Iterator[Place]:
        table = post_hooks_of(live)
        for key, function in table.items():
            backward_hook = backward_hook_of(function)
            if isinstance(function, module_hooks._WrappedHook):
                yield self._legacy_place(table, key, function, legacy)
            elif backward_hook is not None:
                yield from self._full_places(*backward_hook)
            else:
                yield Place(table, key, self._rank[key], HookKind.NODE, None)

    def _legacy_place(self, table: Any, key: Any, wrapped: Any, legacy: list[tuple[int, Any, str]]) -> Place:
        for position, (rank, function, call) in enumerate(legacy):
            if function is wrapped.hook:
                del legacy[position]
                return Place(table, key, rank, self.hooks[rank].kind, call)
        rank = self._by_function(wrapped.hook, wrapped.module() if wrapped.with_module else None, _LEGACY)
        return Place(table, key, rank, self.hooks[rank].kind, None)

    def _full_places(self, hook: BackwardHook, side: str) -> Iterator[Place]:
        call = self._call_of_backward_hook.get(id(hook))
        groups: list[tuple[Any, frozenset[HookKind]]] = []
        if side == "output":
            groups.append((hook.user_pre_hooks, _FULL_PRE))
        if side == "input" or hook.input_tensors_index is None:
            groups.append((hook.user_hooks, _FULL))
        for functions, kinds in groups:
            for position, function in enumerate(functions):
                rank = self._by_function(function, hook.module, kinds)
                yield Place(functions, position, rank, self.hooks[rank].kind, call)

    @cached_property
    def _call_of_backward_hook(self) -> dict[int, str]:
        ids = self._observation.call_ids
        return {id(call.backward_hook): ids[call] for call in self._calls() if call.backward_hook is not None}

    def _by_function(self, function: Any, module: Any, kinds: frozenset[HookKind]) -> int:
        for rank, hook in enumerate(self.hooks):
            if hook.function is function and hook.kind in kinds and hook.module in (None, module):
                return rank
        raise LookupError(f"no registered hook is {function_name(function)}")


def legacy_origin(call: SeenModuleCall) -> Origin | None:
    """Where the legacy hooks of a call are: the grad_fn that the first tensor of its result had when it ended."""
    return next((seen.origin for seen in call.outputs if seen.tensor is call.legacy_tensor), None)


def function_name(function: Any) -> str:
    """The qualified name of a hook; "" for retain_grad, which has none.

    >>> function_name(functools.partial(print, 1))
    'partial(print)'
    """
    if function is None:
        return ""
    if isinstance(function, functools.partial):
        return f"partial({function_name(function.func)})"
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def _hook_of_tensor(registration: Registration) -> LiveHook:
    tensor = registration.tensor
    assert tensor is not None
    after_accumulation = registration.table is getattr(tensor, "_post_accumulate_grad_hooks", None)
    kind = HookKind.POST_ACCUMULATE_GRAD if after_accumulation else HookKind.TENSOR
    function = registration.table[registration.key]
    return LiveHook(registration.key, kind, function, tensor=tensor, origin=registration.origin)


def _tables(module: nn.Module) -> tuple[Any, Any]:
    return module._backward_hooks, module._backward_pre_hooks


def _in_order_of_registration(hooks: list[LiveHook]) -> list[LiveHook]:
    """By handle id, which counts registrations; retain_grad makes no handle and comes last."""
    return sorted(hooks, key=lambda hook: hook.key if isinstance(hook.key, int) else float("inf"))
