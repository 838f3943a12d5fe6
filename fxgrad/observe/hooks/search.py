"""Finds every hook that is registered: in tables, in what calls took along, on nodes, and as it was being registered.

No single place shows them all. The tables of modules and tensors hold what is registered now; a call keeps what was
registered when it began; nodes have tables of their own, of which only those are asked for that may hold hooks, as that
takes time; and what was registered while recording was seen as it happened.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import Node as AutogradNode
from torch.autograd.graph import get_gradient_edge
from torch.utils.hooks import BackwardHook, RemovableHandle

from fxgrad.graph import FullHookSetup, HookKind, UnrecordedCall
from fxgrad.observe.autograd.walk import ACCUMULATE_GRAD
from fxgrad.observe.hooks.nearby import Nearby, search_nearby
from fxgrad.observe.hooks.registrations import Key, RegistrationWatch
from fxgrad.observe.hooks.tables import (
    LAST,
    LiveHook,
    NodeTables,
    find_backward_hook,
    find_hooks_on_module,
    find_hooks_on_modules,
    find_hooks_on_tensor,
    find_legacy_hook,
    gather_multi_grad_hooks,
    has_hooks,
)
from fxgrad.observe.observed_graph import ObservedGraph
from fxgrad.observe.record.events import ModuleEvent, find_backward_kind, find_global_backward_kind
from fxgrad.observe.record.names import ModuleNames, list_argument_names
from fxgrad.observe.record.tensors import Origin, is_leaf, read_origin

_OFTEN_HOOKED = (ACCUMULATE_GRAD, "BackwardHookFunctionBackward")
"""Nodes to look at in any case: leaves', and those of full hooks."""


_ON_TENSORS = (
    "hooks on tensors of an existing graph are found only if the graph, or a variable of a running function, "
    "holds the tensor; fxgrad.record around forward finds all"
)
_ON_NODES = "hooks of Node.register_hook on nodes other than leaves' are found only with node_hooks=True"


def list_hooks(modules: Iterable[nn.Module], tensors: Iterable[torch.Tensor]) -> list[LiveHook]:
    """The hooks on modules and tensors, and the global ones, as they are now."""
    found = list(find_hooks_on_modules(modules))
    for tensor in tensors:
        if has_hooks(tensor):
            found.extend(find_hooks_on_tensor(tensor))
    return found


@dataclass
class _Sides:
    hook: BackwardHook
    nodes: dict[str, AutogradNode] = field(default_factory=dict)


class UnrecordedCalls:
    """Module calls with full hooks that were not recorded, in the order in which their first node was found.

    The post-hooks that a ``BackwardHook`` (torch/utils/hooks.py) put on nodes lead to it. It knows how many arguments and
    results the call had and which of them are tensors, but not the tensors.
    """

    def __init__(self) -> None:
        self._found: dict[int, _Sides] = {}

    def add(self, hook: BackwardHook, side: str, node: AutogradNode) -> None:
        """Note a node that a BackwardHook has put its post-hook on, on the "input" or the "output" side."""
        self._found.setdefault(id(hook), _Sides(hook)).nodes[side] = node

    def make_records(self, modules: ModuleNames, ids: Mapping[AutogradNode, int]) -> tuple[UnrecordedCall, ...]:
        """One record for each; `ids` are those of the nodes in the graph."""
        return tuple([_make_record(sides, modules, ids) for sides in self._found.values()])


def _make_record(sides: _Sides, modules: ModuleNames, ids: Mapping[AutogradNode, int]) -> UnrecordedCall:
    hook = sides.hook
    nodes = {side: ids.get(node) for side, node in sides.nodes.items()}
    return UnrecordedCall(
        path=modules.path_of(hook.module),
        full_hook=describe_full_hook(hook),
        input_hook_node=nodes.get("input"),
        output_hook_node=nodes.get("output"),
        argument_names=list_argument_names(hook.module, max(hook.n_inputs, 0)),
        has_waiting=hook.grad_outputs is not None,
    )


def describe_full_hook(hook: BackwardHook) -> FullHookSetup:
    """What a BackwardHook did at its call."""
    return FullHookSetup(
        n_inputs=hook.n_inputs,
        input_positions=None if hook.input_tensors_index is None else tuple(hook.input_tensors_index),
        n_outputs=hook.n_outputs,
        output_positions=None if hook.output_tensors_index is None else tuple(hook.output_tensors_index),
    )


class HookSlot(NamedTuple):
    """Where backward will find the function of a hook: ``table[key]``; the call whose snapshot that belongs to."""

    table: Any
    key: Any
    hook: LiveHook
    call: ModuleEvent | None = None


class HookSearch:
    """All hooks on one graph. `earlier` are those that were there before the forward ran.

    ``post_hooks`` and ``pre_hooks`` are those on the nodes that were searched, in run order; ``unrecorded_calls`` are the
    calls that were not recorded, but whose full hooks are on these nodes.
    """

    def __init__(
        self,
        observed: ObservedGraph,
        *,
        earlier: Sequence[LiveHook] = (),
        watch: RegistrationWatch | None = None,
        every_node: bool = False,
    ) -> None:
        self._observed = observed
        self._every_node = every_node
        self._registrations = {} if watch is None else watch.registrations
        self._found: dict[Key, LiveHook] = {}
        self.post_hooks: dict[AutogradNode, list[HookSlot]] = {}
        self.pre_hooks: dict[AutogradNode, list[HookSlot]] = {}
        self.unrecorded_calls = UnrecordedCalls()
        self._tables: dict[int, tuple[HookKind, AutogradNode]] = {}
        self._add_all(earlier)
        self._add_all([] if observed.recorder is None else observed.recorder.log.hooks)
        self._add_all(find_hooks_on_modules(observed.module_names.modules.values()))
        self._add_all(self._list_carried())
        self._add_all(self._list_registered_on_tensors())
        self._add_all(self._list_on_tensors())
        self._look_at_nodes()
        self._add_all(self._list_on_nodes_out_of_reach())
        self._add_all(self._list_registered_on_other_nodes())
        self.hooks = self._finish()

    @property
    def notes(self) -> tuple[str, ...]:
        """Which hooks may not have been found, and what finds them."""
        if self._observed.upstream == set():  # all of the graph was recorded
            return ()
        return (_ON_TENSORS,) if self._every_node or self._observed.recorder is not None else (_ON_TENSORS, _ON_NODES)

    def _add_all(self, hooks: Iterable[LiveHook]) -> None:
        for hook in hooks:
            self._add(hook)

    def _add(self, hook: LiveHook) -> LiveHook:
        return self._found.setdefault(hook.key, hook)

    def _finish(self) -> list[LiveHook]:
        """In the order of registration; retain_grad makes no handle and comes last."""
        for hook in self._found.values():
            hook.active = hook.kind is HookKind.RETAIN_GRAD or hook.number in hook.table
            made = self._registrations.get(hook.key)
            if made is not None:
                hook.stack, hook.sequence_nr, hook.call = made.stack, made.sequence_nr, made.call
                hook.compiled = made.compiled
            if hook.kind is HookKind.RETAIN_GRAD and hook.tensor is not None:
                self._settle_retained(hook, hook.tensor)
        ordered = sorted(self._found.values(), key=lambda hook: hook.number)
        return gather_multi_grad_hooks(ordered, self._nearby.tensors, may_be_on_more=self._observed.upstream != set())

    def _settle_retained(self, hook: LiveHook, tensor: torch.Tensor) -> None:
        """retain_grad follows its tensor when that is changed in place."""
        hook.origin = read_origin(tensor)
        if self._observed.recorder is not None:
            retained = self._observed.recorder.ops.retained
            hook.call, hook.sequence_nr = retained.get(id(tensor), (None, None))

    # Modules and tensors

    def _list_carried(self) -> Iterator[LiveHook]:
        """Hooks that were removed again, but that a call took along."""
        for call in self._observed.call_ids:
            for kind, number, function, table in call.hooks:
                yield LiveHook(kind, number, table, function, module=None if kind.is_global else call.module)

    def _list_registered_on_tensors(self) -> Iterator[LiveHook]:
        for made in self._registrations.values():
            if made.tensor is not None and made.function is not None:
                after = made.table is getattr(made.tensor, "_post_accumulate_grad_hooks", None)
                kind = HookKind.POST_ACCUMULATE_GRAD if after else HookKind.TENSOR
                origin = made.origin or self._find_origin(made.table, made.tensor)
                yield LiveHook(kind, made.number, made.table, made.function, tensor=made.tensor, origin=origin)

    def _find_origin(self, table: Any, tensor: torch.Tensor) -> Origin | None:
        """The node that a table of hooks is on. A view whose base was changed has a new node; the table stays on the old one."""
        for made in self._registrations.values():
            if made.table is table and made.origin is not None:
                return made.origin
        origin = read_origin(tensor)
        return origin if tensor._backward_hooks is table else None

    def _list_on_tensors(self) -> Iterator[LiveHook]:
        for tensor in self._observed.known_tensors():
            if has_hooks(tensor):
                yield from find_hooks_on_tensor(tensor)
        for tensor in self._nearby.tensors:
            if _belongs_to(tensor, self._observed.walked.ids):
                yield from find_hooks_on_tensor(tensor)

    @cached_property
    def _nearby(self) -> Nearby:
        """Tensors and modules near the part of the graph that was not recorded; they may have hooks.

        A process without any handle has no hooks, unless the user retains gradients alone.
        """
        upstream = self._observed.upstream
        if upstream is None and RemovableHandle.next_id > 0:
            return search_nearby(self._observed.walked.order)
        return search_nearby(list(upstream)) if upstream else Nearby([], [])

    # Nodes

    def _look_at_nodes(self) -> None:
        legacy = self._expect_legacy()
        full = {id(call.backward_hook): call for call in self._observed.call_ids if call.backward_hook is not None}
        if RemovableHandle.next_id == 0:  # this process has never registered a hook
            return
        every_node = self._every_node or self._is_on_unknown_nodes()
        nodes = self._observed.walked.order if every_node else self._list_likely_nodes()
        for node, table, pre_table in _read_tables(nodes):
            if table is not None:
                self._tables[id(table)] = HookKind.NODE, node
            if pre_table is not None:
                self._tables[id(pre_table)] = HookKind.NODE_PRE, node
            self.post_hooks[node] = list(self._find_post_hooks(node, table or {}, legacy.get(node, []), full))
            self.pre_hooks[node] = [self._make_slot(HookKind.NODE_PRE, node, pre_table, key) for key in pre_table or ()]

    def _list_on_nodes_out_of_reach(self) -> Iterator[LiveHook]:
        """Hooks on the nodes of parameters and inputs that the roots do not reach, if the node is still alive."""
        if RemovableHandle.next_id == 0:
            return
        nodes = [*self._list_nodes_of_named_tensors(), *self._list_nodes_at_first_use()]
        outside = [node for node in dict.fromkeys(nodes) if node not in self._observed.walked.ids]
        for node, after, before in _read_tables(outside):
            for kind, table in ((HookKind.NODE, after), (HookKind.NODE_PRE, before)):
                for key, function in (table or {}).items():
                    if find_legacy_hook(function) is None and find_backward_hook(function) is None:
                        yield LiveHook(kind, key, table, function, node=node)

    def _list_nodes_of_named_tensors(self) -> Iterator[AutogradNode]:
        all_tensors = self._every_node or self._observed.recorder is not None
        for named in self._observed.tensor_names.named.values():
            node = _find_node(named.tensor) if all_tensors or is_leaf(named.tensor) else None
            if node is not None:
                yield node

    def _list_nodes_at_first_use(self) -> Iterator[AutogradNode]:
        """The nodes that inputs had when forward received them: it may have changed them in place since."""
        recorder = self._observed.recorder
        for seen in () if recorder is None else (*recorder.log.inputs, *recorder.log.foreign):
            if seen.origin is not None:
                yield seen.origin[0]

    def _list_likely_nodes(self) -> list[AutogradNode]:
        """Nodes that may have hooks: of leaves, of full hooks, of calls with hooks, and those made before the recording."""
        observed = self._observed
        hooked = {node for call in self._observed.call_ids if call.hooks for node in _list_hooked_nodes(call)}
        hooked |= observed.upstream or set()
        named = zip(observed.walked.order, observed.walked.names, strict=True)
        return [node for node, name in named if name in _OFTEN_HOOKED or node in hooked]

    def _is_on_unknown_nodes(self) -> bool:
        """Whether a hook may be on any node: one was registered on a node while recording, or an earlier call left a
        legacy hook. The flag of a module stays set when its legacy hooks are removed."""
        modules = [*self._observed.module_names.modules.values(), *self._nearby.modules]
        legacy_before = self._observed.upstream != set() and (
            find_global_backward_kind() is HookKind.GLOBAL_BACKWARD
            or any(find_backward_kind(module) is HookKind.MODULE_BACKWARD for module in modules)
        )
        return legacy_before or any(made.on_node for made in self._registrations.values())

    def _expect_legacy(self) -> dict[AutogradNode, list[tuple[LiveHook, ModuleEvent]]]:
        """The legacy hooks on each node, in the order in which the calls that put them there ended."""
        expected: dict[AutogradNode, list[tuple[LiveHook, ModuleEvent]]] = {}
        for call in sorted(self._observed.call_ids, key=lambda call: call.finished):
            origin = None if call.legacy is None else call.legacy.origin
            for carried in call.hooks if origin is not None else ():
                if carried.kind.is_legacy and origin is not None:
                    hook = self._found[carried.number, id(carried.table)]
                    expected.setdefault(origin[0], []).append((hook, call))
        return expected

    def _find_post_hooks(
        self,
        node: AutogradNode,
        table: Any,
        legacy: list[tuple[LiveHook, ModuleEvent]],
        full: dict[int, ModuleEvent],
    ) -> Iterator[HookSlot]:
        for key, function in table.items():
            wrapped, behind = find_legacy_hook(function), find_backward_hook(function)
            if wrapped is not None:
                yield self._find_legacy_slot(table, key, wrapped, legacy)
            elif behind is not None:
                call = full.get(id(behind[0]))
                if call is None:
                    self.unrecorded_calls.add(*behind, node)
                yield from self._find_full_slots(*behind, call)
            else:
                yield self._make_slot(HookKind.NODE, node, table, key)

    def _make_slot(self, kind: HookKind, node: AutogradNode, table: Any, key: Any) -> HookSlot:
        return HookSlot(table, key, self._add(LiveHook(kind, key, table, table[key], node=node)))

    def _find_legacy_slot(
        self, table: Any, key: Any, wrapped: tuple[nn.Module | None, Any], legacy: list[tuple[LiveHook, ModuleEvent]]
    ) -> HookSlot:
        module, function = wrapped
        for position, (hook, call) in enumerate(legacy):
            if hook.function is function:
                del legacy[position]
                return HookSlot(table, key, hook, call)
        return HookSlot(table, key, self._find_earlier(function, module, HookKind.MODULE_BACKWARD, table, key))

    def _find_full_slots(self, hook: BackwardHook, side: str, call: ModuleEvent | None) -> Iterator[HookSlot]:
        """A BackwardHook keeps the user's functions in lists, in the order of the call's snapshot."""
        if side == "output":
            yield from self._find_full_slots_in(hook.user_pre_hooks, hook, call, HookKind.MODULE_FULL_BACKWARD_PRE)
        if side == "input" or hook.input_tensors_index is None:
            yield from self._find_full_slots_in(hook.user_hooks, hook, call, HookKind.MODULE_FULL_BACKWARD)

    def list_full_slots_out_of_reach(self) -> Iterator[HookSlot]:
        """The slots of full hooks on nodes that the roots do not reach, though another backward may."""
        for call in self._observed.call_ids:
            hook = call.backward_hook
            for side, node in (("input", call.input_hook_node), ("output", call.output_hook_node)):
                if hook is not None and node is not None and node not in self._observed.walked.ids:
                    yield from self._find_full_slots(hook, side, call)

    def _find_full_slots_in(
        self, functions: list[Any], hook: BackwardHook, call: ModuleEvent | None, kind: HookKind
    ) -> Iterator[HookSlot]:
        is_pre = kind.is_full_pre
        carried = [one for one in call.hooks if (one.kind.is_full_pre if is_pre else one.kind.is_full)] if call else []
        for position, function in enumerate(functions):
            if position < len(carried):
                found = self._found[carried[position].number, id(carried[position].table)]
            else:
                found = self._find_earlier(function, hook.module, kind, functions, position)
            yield HookSlot(functions, position, found, call)

    def _find_earlier(self, function: Any, module: nn.Module | None, kind: HookKind, place: Any, key: Any) -> LiveHook:
        """The registration of a hook that a call before the recording put on a node."""
        registered = [*(() if module is None else find_hooks_on_module(module)), *find_hooks_on_modules(())]
        same = [hook for hook in registered if hook.function is function and _is_same_sort(hook.kind, kind)]
        if not same:
            return self._add(LiveHook(kind, LAST, _Unseen(place, key), function, module=module))
        return self._add(same[_count_equals_before(place, key) % len(same)])

    def _list_registered_on_other_nodes(self) -> Iterator[LiveHook]:
        """Hooks on nodes that the roots do not reach, and those that were removed again."""
        registered = [made for made in self._registrations.values() if made.on_node and made.function is not None]
        if any(id(made.table) not in self._tables for made in registered):
            self._tables = {**_find_tables_of_leaves(), **self._tables}
        for made in registered:
            kind, node = self._tables.get(id(made.table), (HookKind.NODE, None))
            yield LiveHook(kind, made.number, made.table, made.function, node=node)


def _find_node(tensor: torch.Tensor) -> AutogradNode | None:
    """The node that a tensor's gradient goes to; None if it requires no grad.

    None also for a sparse or mkldnn leaf: ``get_gradient_edge`` takes a view of a leaf, which they do not have; and for
    one made in inference mode, whose view has no grad_fn.
    """
    if not tensor.requires_grad:
        return None
    origin = read_origin(tensor)
    if origin is not None or not is_leaf(tensor):
        return None if origin is None else origin[0]
    with torch._C.DisableTorchFunctionSubclass():  # the user's own code is not asked
        try:
            return get_gradient_edge(tensor).node
        except (AttributeError, RuntimeError):
            return None


def _count_equals_before(place: Any, key: Any) -> int:
    """How many entries before ``place[key]`` hold the same function: one may be registered more than once."""
    if isinstance(place, list):
        return place[:key].count(place[key])
    keys = list(place)
    wrapped = find_legacy_hook(place[key])
    return sum(find_legacy_hook(place[earlier]) == wrapped for earlier in keys[: keys.index(key)])


class _Unseen(dict[Any, Any]):
    """Stands for the table of a registration that cannot be found any more."""

    def __init__(self, place: Any, key: Any) -> None:
        super().__init__()
        self.place = place, key


def _is_same_sort(kind: HookKind, other: HookKind) -> bool:
    return (kind.is_legacy, kind.is_full, kind.is_full_pre) == (other.is_legacy, other.is_full, other.is_full_pre)


def _list_hooked_nodes(call: ModuleEvent) -> Iterator[AutogradNode]:
    legacy = None if call.legacy is None or call.legacy.origin is None else call.legacy.origin[0]
    for node in (legacy, call.input_hook_node, call.output_hook_node):
        if node is not None:
            yield node


def _read_tables(nodes: Iterable[AutogradNode]) -> list[tuple[AutogradNode, Any, Any]]:
    """Each node with its tables of hooks after it and before it, None where it has none."""
    with NodeTables() as tables:
        return [(node, tables.after(node), tables.before(node)) for node in nodes]


def _find_tables_of_leaves() -> dict[int, tuple[HookKind, AutogradNode]]:
    """By the identities of tables, what they belong to: those on each AccumulateGrad that somebody holds, as who keeps its
    hooks does. A leaf does not lead to one that it had before."""
    accumulate_grad: type[AutogradNode] = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]
    nodes: list[Any] = [each for each in gc.get_objects() if type(each) is accumulate_grad]
    found: dict[int, tuple[HookKind, AutogradNode]] = {}
    for node, after, before in _read_tables(nodes):
        found.update((id(table), (kind, node)) for kind, table in ((HookKind.NODE, after), (HookKind.NODE_PRE, before)))
    return found


def _belongs_to(tensor: torch.Tensor, nodes: dict[AutogradNode, int]) -> bool:
    """Whether a tensor with hooks is of the graph.

    Reading ``grad_fn`` or ``is_leaf`` of a view whose base is not in the graph could make a node, or raise.
    """
    if not tensor.requires_grad:
        return False
    base = tensor._base
    if base is not None and not is_leaf(base) and not _has_node_in(base, nodes):
        return False
    return _has_node_in(tensor, nodes) and has_hooks(tensor)


def _has_node_in(tensor: torch.Tensor, nodes: dict[AutogradNode, int]) -> bool:
    origin = read_origin(tensor)
    return origin is not None and origin[0] in nodes
