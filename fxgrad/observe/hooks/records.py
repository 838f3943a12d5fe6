"""Numbers the hooks of one graph in the order of registration, and makes their records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from msgspec.structs import replace
from torch import nn

from fxgrad.graph import Held, Hook, HookKind, Node, UnrecordedCall
from fxgrad.observe.autograd.python_code import find_source, may_return_a_value
from fxgrad.observe.autograd.walk import name_of
from fxgrad.observe.hooks.hook_code import grad_reads, holds
from fxgrad.observe.hooks.search import HookSearch, Spot
from fxgrad.observe.hooks.tables import LiveHook, function_name, multi_grad_mode
from fxgrad.observe.record.events import ModuleEvent
from fxgrad.observe.record.frames import source_of
from fxgrad.observe.record.tensors import origin_of

if TYPE_CHECKING:
    from fxgrad.observe.observation import Observation

NOT_REACHED = "its node {name} is not reached from the roots"
NOT_REACHED_LEAF = "its tensor is not reached from the roots"
NO_GRAD = "its tensor requires no grad"


class Place(NamedTuple):
    """Where backward will find the function of a hook: ``table[key]``; the call whose snapshot that belongs to."""

    table: Any
    key: Any
    hook: int
    kind: HookKind
    call: str | None


class HookCollector:
    """The hooks that a search has found, as records."""

    def __init__(self, observation: Observation, search: HookSearch) -> None:
        self._observation = observation
        self._search = search
        self.hooks = search.hooks
        self.notes = search.notes
        self._rank = {hook.key: rank for rank, hook in enumerate(self.hooks)}
        self._on_module: dict[int, list[int]] = {}
        for rank, hook in enumerate(self.hooks):
            self._on_module.setdefault(id(hook.module), []).append(rank)

    def records(self) -> tuple[Hook, ...]:
        """One Hook for each, in order of registration."""
        return tuple([self._record(rank, hook) for rank, hook in enumerate(self.hooks)])

    def _record(self, rank: int, hook: LiveHook) -> Hook:
        observed = None if hook.parts else self._observed(hook)
        slots = tuple([self._slot(part) for part in hook.parts])
        return Hook(
            id=rank,
            kind=hook.kind,
            owner=self._owner(hook),
            function=function_name(hook.function),
            source=None if hook.function is None else find_source(hook.function),
            registered=source_of(hook.stack),
            prepend=hook.prepend,
            targets=tuple([self._owner(part) for part in hook.parts]),
            mode=multi_grad_mode(hook.inner),
            observed=observed,
            active=hook.active,
            unplaced=self._unplaced(hook, observed),
            may_return=False if hook.function is None else may_return_a_value(hook.function),
            target_slots=slots,
            uncounted=self._uncounted(hook, slots),
            registered_nr=hook.sequence_nr,
            registered_in=None if hook.call is None else self._observation.call_ids[hook.call],
            grad_reads=grad_reads(hook.function) if hook.kind.is_module else (),
            more_targets=hook.more_parts,
            holds=tuple([Held(name, self._node(tensor), inside) for name, tensor, inside in holds(hook.function)]),
        )

    def _node(self, tensor: torch.Tensor) -> int | None:
        """The id of a tensor's node. That of a view is not looked at: PyTorch might make one for that."""
        origin = None if tensor._is_view() else origin_of(tensor)
        return None if origin is None else self._observation.walked.ids.get(origin[0])

    def _observed(self, hook: LiveHook) -> tuple[int, int | None] | None:
        if hook.node is not None:
            rank = self._observation.walked.ids.get(hook.node)
            return None if rank is None else (rank, None)
        rank, slot = self._slot(hook)
        return None if rank is None else (rank, slot)

    def _slot(self, hook: LiveHook) -> tuple[int | None, int]:
        if hook.origin is not None:
            rank = self._observation.walked.ids.get(hook.origin[0])
            return (None, 0) if rank is None else (rank, hook.origin[1])
        leaf = self._observation.leaves.get(id(hook.tensor))
        return (None, 0) if leaf is None else (self._observation.walked.ids[leaf], 0)

    def _uncounted(self, hook: LiveHook, slots: Sequence[tuple[int | None, int]]) -> tuple[int, ...]:
        """``_get_grad_fn_or_grad_acc`` (torch/autograd/graph.py) takes a view of a leaf to find its node. Where the leaf is
        of a class of its own, the view may have another node in between, and that is what it takes."""
        ids = [self._observation.walked.ids.get(node) for node in hook.counted]
        pairs = zip(ids, slots, strict=False)
        return tuple([index for index, (counted, (node, _)) in enumerate(pairs) if counted != node])

    def _unplaced(self, hook: LiveHook, observed: tuple[int, int | None] | None) -> str | None:
        if hook.kind.is_module or hook.parts or observed is not None:
            return None
        if hook.origin is not None:
            return NOT_REACHED.format(name=name_of(hook.origin[0]))
        if hook.tensor is None:
            return NOT_REACHED.format(name="" if hook.node is None else name_of(hook.node)).replace("  ", " ")
        return NOT_REACHED_LEAF if hook.tensor.requires_grad else NO_GRAD

    def _owner(self, hook: LiveHook) -> str:
        if hook.module is not None:
            return self._observation.module_names.path_of(hook.module)
        if hook.tensor is not None or hook.origin is not None:
            return self._observation.tensor_name(hook.tensor, hook.origin)
        if hook.node is not None:
            return self._observation.node_name(hook.node)
        return ""

    def ids_on_module(self, module: nn.Module) -> tuple[int, ...]:
        """Ids of the hooks registered on a module, in order of registration."""
        return tuple(self._on_module.get(id(module), ()))

    def ids_of_call(self, call: ModuleEvent) -> tuple[int, ...]:
        """Ids of the hooks that a call took along, in run order."""
        return tuple([self._rank[carried.number, id(carried.table)] for carried in call.hooks])

    def unrecorded_calls(self) -> tuple[UnrecordedCall, ...]:
        """The calls that nobody watched, and whose full hooks are on nodes of the graph."""
        return self._search.unrecorded_calls.records(self._observation.module_names, self._observation.walked.ids)

    # Hooks on nodes

    def placed_on(self, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        """The same nodes, with the ids of the hooks that are on them."""
        placed = list(nodes)
        for live, spots in self._search.posts.items():
            hooks = tuple([self._rank[spot.hook.key] for spot in spots])
            prehooks = tuple([self._rank[spot.hook.key] for spot in self._search.pres[live]])
            if hooks or prehooks:
                rank = self._observation.walked.ids[live]
                placed[rank] = replace(placed[rank], hooks=hooks, prehooks=prehooks)
        return tuple(placed)

    def places(self) -> Iterator[Place]:
        """Where backward looks up each hook's function. retain_grad has none, multi-grad hooks theirs in a closure."""
        for live, spots in self._search.posts.items():
            for spot in (*self._search.pres[live], *spots):
                yield self._place(spot)
        for rank, hook in enumerate(self.hooks):
            if hook.kind.is_called_for_leaf and hook.active:
                yield Place(hook.table, hook.number, rank, hook.kind, None)

    def _place(self, spot: Spot) -> Place:
        call = None if spot.call is None else self._observation.call_ids[spot.call]
        return Place(spot.table, spot.key, self._rank[spot.hook.key], spot.hook.kind, call)
