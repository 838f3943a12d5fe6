"""The sites at each node, grouped by when the engine calls them there and sorted as it does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from fxgrad.graph import BackwardGraph, HookKind, HookSite, ModuleCall, Node, NodeKind


@dataclass(frozen=True, slots=True)
class TensorHook:
    """A hook on one slot of a node, as site number ``site``; of a multi-grad hook that of its tensor ``target``."""

    site: int
    hook: int
    slot: int
    tensor: str
    target: int | None = None


@dataclass
class Place:
    """Numbers of the sites at one node, each list in the order in which its hooks are called."""

    tensor_hooks: list[TensorHook] = field(default_factory=list)
    retain_grad: list[int] = field(default_factory=list)
    prehooks: list[int] = field(default_factory=list)
    post_accumulate: list[int] = field(default_factory=list)
    post_hooks: list[int] = field(default_factory=list)


def places(graph: BackwardGraph, sites: Sequence[HookSite]) -> dict[int, Place]:
    """Where each of the sites is called. Those of hooks that were removed are not."""
    found: dict[int, Place] = {}
    by_kind = {
        HookKind.RETAIN_GRAD: lambda place: place.retain_grad,
        HookKind.NODE_PRE: lambda place: place.prehooks,
        HookKind.POST_ACCUMULATE_GRAD: lambda place: place.post_accumulate,
    }
    tensor_hooks: dict[int, list[TensorHook]] = {}
    for number, site in enumerate(sites):
        for node, hook in _tensor_hooks(number, site):
            tensor_hooks.setdefault(node, []).append(hook)
        if site.node is not None and _is_called_as_a_whole(site, graph.nodes[site.node]):
            place = found.setdefault(site.node, Place())
            by_kind.get(site.hook.kind, lambda place: place.post_hooks)(place).append(number)
    for node, hooks in tensor_hooks.items():
        found.setdefault(node, Place()).tensor_hooks = _grouped_by_tensor(hooks, sites)
    finished = {call.id: rank for rank, call in enumerate(in_order_of_end(graph.calls))}
    for node, place in found.items():
        _sort(place, graph, node, sites, finished)
    return found


def _is_called_as_a_whole(site: HookSite, node: Node) -> bool:
    """Whether the engine calls the hook once for the node. ``retain_grad`` returns at once for a leaf."""
    if site.hook.kind is HookKind.RETAIN_GRAD and node.kind is NodeKind.ACCUMULATE_GRAD:
        return False
    return is_alive(site) and site.hook.kind not in (HookKind.TENSOR, HookKind.MULTI_GRAD)


def is_alive(site: HookSite) -> bool:
    """A module hook that was removed is still called where a module call took it along; other hooks are not."""
    return site.hook.active or site.hook.kind.is_module


def _tensor_hooks(number: int, site: HookSite) -> Iterator[tuple[int, TensorHook]]:
    hook = site.hook
    if hook.kind is HookKind.TENSOR and site.node is not None:
        yield site.node, TensorHook(number, hook.id, site.slot or 0, hook.owner)
    if hook.kind is HookKind.MULTI_GRAD:
        for target, (node, slot) in enumerate(hook.target_slots):
            if node is not None:
                name = hook.targets[target] if target < len(hook.targets) else ""
                yield node, TensorHook(number, hook.id, slot, name, target)


def _grouped_by_tensor(hooks: Iterable[TensorHook], sites: Sequence[HookSite]) -> list[TensorHook]:
    """A tensor's hooks are called together, at the place of the first that was ever registered on it.

    Each Tensor object has one dict of hooks (torch/csrc/autograd/python_hook.cpp), added to the node once.
    """
    groups: dict[tuple[int, str], list[TensorHook]] = {}
    for hook in sorted(hooks, key=lambda hook: hook.hook):
        groups.setdefault((hook.slot, hook.tensor), []).append(hook)
    return [hook for group in groups.values() for hook in group if is_alive(sites[hook.site])]


def _sort(place: Place, graph: BackwardGraph, node: int, sites: Sequence[HookSite], finished: dict[str, int]) -> None:
    record = graph.nodes[node]
    place.post_accumulate.sort(key=lambda number: sites[number].hook.id)
    place.prehooks = _in_list_order(place.prehooks, record.prehooks, sites, finished)
    place.post_hooks = _in_list_order(place.post_hooks, record.hooks, sites, finished)


def _in_list_order(
    numbers: list[int], listed: Sequence[int], sites: Sequence[HookSite], finished: dict[str, int]
) -> list[int]:
    """Sort sites as the node lists their hooks. Of a hook that is there twice, that of the call that ended first."""
    waiting: dict[int, list[int]] = {}
    for number in sorted(numbers, key=lambda number: finished.get(sites[number].call or "", 0)):
        waiting.setdefault(sites[number].hook.id, []).append(number)
    ordered = [waiting[hook].pop(0) for hook in listed if waiting.get(hook)]
    return [*ordered, *[number for numbers in waiting.values() for number in numbers]]


def in_order_of_end(calls: Iterable[ModuleCall]) -> Iterator[ModuleCall]:
    """Sort module calls, which come in the order of their start, by their end: those inside a call before it."""
    running: list[ModuleCall] = []
    for call in calls:
        while running and running[-1].id != call.parent:
            yield running.pop()
        running.append(call)
    yield from reversed(running)
