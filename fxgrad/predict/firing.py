"""Which hooks backward calls, how often and in which order: node by node as the engine runs, and at each node by kind.

At one node (torch/csrc/autograd/engine.cpp, ``evaluate_function`` and ``call_function``): tensor hooks, retain_grad,
prehooks, the node itself (for a leaf the post-accumulate hooks, torch/csrc/autograd/functions/accumulate_grad.cpp),
post-hooks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from fxgrad.graph import BackwardGraph, Gradient, Hook, HookSite, ModuleCall, Node
from fxgrad.graph.hook_kinds import HookMoment
from fxgrad.predict.entries import UNTOUCHED, make_target_entry, mark_unknown
from fxgrad.predict.formulas import NONE, UNKNOWN
from fxgrad.predict.reasons import explain_miscounting
from fxgrad.predict.simulation import Simulation


class HookCall(NamedTuple):
    """One call of a hook: of which site, by its number, and which call of it, from 0."""

    site: int
    nth: int


class HookCalls:
    """The calls of hooks in one backward.

    ``in_order``   the calls in order; a multi-grad hook may be called more than once
    ``counters``   for each multi-grad hook, by its site's number, what it counts
    ``by_others``  numbers of the sites whose hook this backward does not call, but one that starts inside it may
    ``raises``     whether a hook raises, which ends backward
    """

    def __init__(self, simulation: Simulation, sites: Sequence[HookSite]) -> None:
        self._simulation = simulation
        self._sites = sites
        self._hooks_at = group_by_node(simulation.graph, sites)
        undecided = {number for number, site in enumerate(sites) if site.node is None and site.fires is None}
        self._somewhere = {number for number in undecided if sites[number].hook.more_targets is not None}
        self._reduced = {number for number in undecided if sites[number].hook.is_called_by_fsdp}
        self._recomputed = undecided - self._somewhere - self._reduced
        self._miscounted = {number for number, site in enumerate(sites) if simulation.is_miscounted(site)}
        self.by_others: frozenset[int] = frozenset()
        self.raises = False
        self.counters = {
            number: MultiGradCounter(simulation, site.hook)
            for number, site in enumerate(sites)
            if site.hook.kind.on_several_tensors
        }
        called = list(self._run())
        self.by_others = frozenset(self._find_called_by_others(called))
        self.in_order = tuple(_number_calls([*called, *sorted(self.by_others)]))

    def find_site(self, call: HookCall) -> HookSite:
        """Return the site of a call: for a multi-grad hook the tensor whose gradient completes what it waits for."""
        site, counter = self._sites[call.site], self.counters.get(call.site)
        if counter is None or site.node is None:
            return site
        if call.site in self._miscounted:
            return replace(site, node=None, slot=None, reason=explain_miscounting(self._simulation))
        node, slot = counter.find_place(call.nth)
        return replace(site, node=node, slot=slot, reason=f"{site.reason}{counter.explain_call(call.nth)}")

    def _run(self) -> Iterator[int]:
        for node in self._simulation.schedule.order:
            yield from self._run_node(node)
            if self.raises:
                break
        # those of which the place is not known may be called before a hook raises
        yield from sorted(self._somewhere)
        yield from (number for number in sorted(self._reduced) if self._is_called_with_fsdp(self._sites[number].hook))

    def _is_called_with_fsdp(self, hook: Hook) -> bool:
        """Whether FSDP may call a hook, or autograd does, where the sharded parameter is in the graph as well."""
        reduces = hook.sharding is not None and self._simulation.reduces(hook.sharding) is not False
        return reduces or (hook.observed is not None and self._simulation.runs(hook.observed[0]))

    def _run_node(self, node: int) -> Iterator[int]:
        hooks = self._hooks_at.get(node) or NodeHooks()
        yield from self._run_tensor_hooks(hooks.tensor_hooks)
        if self.raises:
            return
        yield from hooks.at(HookMoment.RETAIN_GRAD)
        if self._simulation.schedule.runs[node]:
            yield from hooks.at(HookMoment.PRE_HOOK)
        # what a backward inside this one calls has no order of its own: it comes where the first of them starts
        if self._simulation.nesting and self._simulation.nesting[0].id == node:
            yield from sorted(self._recomputed)
            yield from sorted(self._miscounted)
        if self._simulation.runs(node):
            yield from hooks.at(HookMoment.POST_ACCUMULATE)
            for number in hooks.at(HookMoment.POST_HOOK):
                if not self._simulation.is_held_back(self._sites[number]):
                    yield number

    def _run_tensor_hooks(self, hooks: Sequence[TensorHook]) -> Iterator[int]:
        for hook in hooks:
            if hook.target is not None:
                counter = self.counters[hook.site]
                if counter.raises:
                    self.raises = True
                    return
                if not counter.visit(hook.target):
                    continue
            if not (hook.site in self._somewhere or hook.site in self._miscounted):
                yield hook.site

    def _find_called_by_others(self, called: Sequence[int]) -> Iterator[int]:
        simulation = self._simulation
        if simulation.nesting:
            for number in {*range(len(self._sites))} - {*called}:
                node = self._sites[number].node
                if node is not None and is_alive(self._sites[number]) and simulation.is_shared(node):
                    yield number


def _number_calls(sites: Iterable[int]) -> Iterator[HookCall]:
    counts: Counter[int] = Counter()
    for site in sites:
        yield HookCall(site, counts[site])
        counts[site] += 1


# Hooks at one node


@dataclass(frozen=True, slots=True)
class TensorHook:
    """A hook on one slot of a node, as site number ``site``; of a multi-grad hook that of its tensor ``target``."""

    site: int
    hook: int
    slot: int
    tensor: str
    target: int | None = None


@dataclass
class NodeHooks:
    """Numbers of the sites at one node, each list in the order in which its hooks are called."""

    tensor_hooks: list[TensorHook] = field(default_factory=list)
    others: dict[HookMoment, list[int]] = field(default_factory=dict)

    def at(self, moment: HookMoment) -> list[int]:
        """The sites whose hooks are called at a moment after the tensor hooks."""
        return self.others.get(moment, [])


def group_by_node(graph: BackwardGraph, sites: Sequence[HookSite]) -> dict[int, NodeHooks]:
    """Group the sites by the node at which they are called. Those of removed hooks are left out."""
    found: dict[int, NodeHooks] = {}
    tensor_hooks: dict[int, list[TensorHook]] = {}
    for number, site in enumerate(sites):
        for node, hook in _list_tensor_hooks(number, site):
            tensor_hooks.setdefault(node, []).append(hook)
        if site.node is not None and _is_called_as_a_whole(site, graph.nodes[site.node]):
            others = found.setdefault(site.node, NodeHooks()).others
            others.setdefault(site.hook.kind.moment, []).append(number)
    for node, on_tensors in tensor_hooks.items():
        found.setdefault(node, NodeHooks()).tensor_hooks = _group_by_tensor(on_tensors, sites)
    ends = {call.id: rank for rank, call in enumerate(_sort_by_end(graph.calls))}
    for node, hooks in found.items():
        hooks.at(HookMoment.POST_ACCUMULATE).sort(key=lambda number: sites[number].hook.id)
        listed = {HookMoment.PRE_HOOK: graph.nodes[node].prehooks, HookMoment.POST_HOOK: graph.nodes[node].hooks}
        for moment, hook_ids in listed.items():
            hooks.others[moment] = _sort_as_listed(hooks.at(moment), hook_ids, sites, ends)
    return found


def _is_called_as_a_whole(site: HookSite, node: Node) -> bool:
    """Whether the engine calls the hook once for the node. ``retain_grad`` returns at once for a leaf."""
    if site.hook.kind.skips_leaves and node.kind.is_leaf:
        return False
    return is_alive(site) and site.hook.kind.moment is not HookMoment.TENSOR_PRE_HOOK


def is_alive(site: HookSite) -> bool:
    """Whether the hook is called. A removed hook is not, unless it is a module hook that a module call captured."""
    return site.hook.active or site.hook.kind.is_module


def _list_tensor_hooks(number: int, site: HookSite) -> Iterator[tuple[int, TensorHook]]:
    hook = site.hook
    if hook.kind.on_several_tensors:
        for target, (node, slot) in enumerate(hook.target_slots):
            if node is not None:
                name = hook.targets[target] if target < len(hook.targets) else ""
                yield node, TensorHook(number, hook.id, slot, name, target)
    elif hook.kind.moment is HookMoment.TENSOR_PRE_HOOK and site.node is not None:
        yield site.node, TensorHook(number, hook.id, site.slot or 0, hook.owner)


def _group_by_tensor(hooks: Iterable[TensorHook], sites: Sequence[HookSite]) -> list[TensorHook]:
    """A tensor's hooks are called together, at the place of the first that was ever registered on it.

    Each Tensor object has one dict of hooks (torch/csrc/autograd/python_hook.cpp), added to the node once.
    """
    groups: dict[tuple[int, str], list[TensorHook]] = {}
    for hook in sorted(hooks, key=lambda hook: hook.hook):
        groups.setdefault((hook.slot, hook.tensor), []).append(hook)
    return [hook for group in groups.values() for hook in group if is_alive(sites[hook.site])]


def _sort_as_listed(
    numbers: list[int], listed: Sequence[int], sites: Sequence[HookSite], ends: dict[str, int]
) -> list[int]:
    """Sort sites as the node lists their hooks. If a hook is there twice, the call that ended first comes first."""
    waiting: dict[int, list[int]] = {}
    for number in sorted(numbers, key=lambda number: ends.get(sites[number].call or "", 0)):
        waiting.setdefault(sites[number].hook.id, []).append(number)
    ordered = [waiting[hook].pop(0) for hook in listed if waiting.get(hook)]
    return [*ordered, *[number for numbers in waiting.values() for number in numbers]]


def _sort_by_end(calls: Iterable[ModuleCall]) -> Iterator[ModuleCall]:
    """Sort module calls, which come in the order of their start, by their end: those inside a call before it."""
    running: list[ModuleCall] = []
    for call in calls:
        while running and running[-1].id != call.parent:
            yield running.pop()
        running.append(call)
    yield from reversed(running)


# Multi-grad hooks


class _CountedCall(NamedTuple):
    """One call of a multi-grad hook: at which target, and which targets came before, that one included."""

    target: int
    seen: frozenset[int]


class MultiGradCounter:
    """Follows one multi-grad hook through one backward: the counting that ``register_multi_grad_hook`` does.

    torch/autograd/graph.py: an "all" hook puts a hook on each tensor, counts their calls and compares with how many of
    the tensors' nodes ``torch._C._will_engine_execute_node`` names; an "any" hook lets the first call through.
    ``raises`` says whether the "all" hook raises instead, at its first call.
    """

    def __init__(self, simulation: Simulation, hook: Hook) -> None:
        self._simulation = simulation
        self._hook = hook
        self._seen: list[int] = []
        self._expected = simulation.count_awaited(hook)
        self.raises = simulation.refuses_leaf(hook)
        self._calls: list[_CountedCall] = []

    def visit(self, target: int) -> bool:
        """Call the hook on one target. Whether that calls the user's function."""
        self._seen.append(target)
        if not self._is_due():
            return False
        self._calls.append(_CountedCall(target, frozenset(self._seen)))
        if self._hook.mode == "all":
            self._seen.clear()
        return True

    def _is_due(self) -> bool:
        return len(self._seen) == self._expected

    def find_place(self, nth: int) -> tuple[int | None, int]:
        """Return the node and slot at which the hook is called: those of the tensor that completes it."""
        return self._hook.target_slots[self._calls[nth].target]

    def explain_call(self, nth: int) -> str:
        """Which of several calls this is, and why there are several; "" if there is one."""
        if len(self._calls) == 1:
            return ""
        enough = "1 gradient is" if self._expected == 1 else f"{self._expected} gradients are"
        counted = f"PyTorch counts {self._expected} of their nodes as executed, so {enough} enough"
        return f"; call {nth + 1} of {len(self._calls)}: {counted}"

    def list_entries(self, nth: int) -> tuple[Gradient, ...]:
        """Return what the user's function gets: one entry for each tensor; in an "any" hook that of the first one."""
        call = self._calls[nth]
        if self._hook.mode == "any":
            return (make_target_entry(self._simulation, self._hook, call.target, index=0),)
        earlier = frozenset[int]().union(*[before.seen for before in self._calls[:nth]])
        return tuple(
            [
                entry if entry.index in call.seen else _without_gradient(entry, earlier=entry.index in earlier)
                for entry in self._list_all_entries()
            ]
        )

    def list_undecided_entries(self, reason: str) -> tuple[Gradient, ...]:
        """Return what it gets if only backward decides when it is called."""
        if self._hook.mode == "any":
            return (Gradient(0, None, UNKNOWN, None, None, None, reason),)
        return mark_unknown(self._list_all_entries(), reason)

    def _list_all_entries(self) -> list[Gradient]:
        targets = range(len(self._hook.target_slots))
        return [make_target_entry(self._simulation, self._hook, target, index=target) for target in targets]


def _without_gradient(entry: Gradient, *, earlier: bool) -> Gradient:
    """The entry of a tensor whose gradient is not among those that the hook is called with."""
    waits = "an earlier call of the hook got it" if earlier else "backward reaches it after the hook was called"
    return replace(entry, status=NONE, reason=waits if entry.status != NONE else entry.reason or UNTOUCHED)
