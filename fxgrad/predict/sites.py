"""Puts what was worked out into the sites: contents, whether and how often each hook is called, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fxgrad.graph import BackwardCall, BackwardGraph, Gradient, HookKind, HookSite
from fxgrad.predict import multi_grad
from fxgrad.predict.entries import View, grad_input_entries, grad_output_entries, grad_output_entry
from fxgrad.predict.firing import Firing
from fxgrad.predict.full_hooks import FullHookCall
from fxgrad.predict.outlook import Outlook
from fxgrad.predict.silence import silence_reason, uncounted_reason, undecided_reason
from fxgrad.resolve import resolve

Contents = tuple[tuple[Gradient, ...], tuple[Gradient, ...]]
"""grad_input and grad_output."""


def predict(graph: BackwardGraph, backward: BackwardCall | None = None) -> BackwardGraph:
    """Say what every hook will receive, how often and in which order, when backward is called from the roots.

    `backward` is how it will be called; None: as `graph.info` says. Returns the graph with its sites, found anew, in
    firing order; those that are not called come last, by hook, and receive nothing. Right given that every hook returns
    None and none starts a backward of its own.
    """
    if backward is not None:
        graph = replace(graph, info=replace(graph.info, backward=backward))
    sites = resolve(graph)
    if not sites:
        return replace(graph, sites=())
    outlook = Outlook.of(graph, graph.info.backward)
    firing = Firing(outlook, sites)
    times = Counter(firing.calls)
    predicted = [_predicted(outlook, firing, number, site, times[number]) for number, site in enumerate(sites)]
    return replace(graph, sites=_in_firing_order(predicted, firing))


def hook_calls(graph: BackwardGraph) -> tuple[HookSite, ...]:
    """The sites of a predicted graph as their hooks are called: a multi-grad hook that is called again comes again."""
    sites = resolve(graph)
    calls = Firing(Outlook.of(graph, graph.info.backward), sites).calls if sites else ()
    ranks = {number: rank for rank, number in enumerate(dict.fromkeys(calls))}
    return tuple([graph.sites[ranks[number]] for number in calls])


def _in_firing_order(sites: Sequence[HookSite], firing: Firing) -> tuple[HookSite, ...]:
    called = dict.fromkeys(firing.calls)
    ranked = [replace(sites[number], order=rank) for rank, number in enumerate(called)]
    silent = [site for number, site in enumerate(sites) if number not in called]
    return (*ranked, *sorted(silent, key=lambda site: site.hook.id))


def _predicted(outlook: Outlook, firing: Firing, number: int, site: HookSite, times: int) -> HookSite:
    if not times:
        reason = silence_reason(outlook, firing, site)
        return replace(site, grad_input=(), grad_output=(), fires=False, times=0, order=None, reason=reason)
    placed = _where_it_is_called(firing, number, site)
    grad_input, grad_output = _contents(outlook, firing, number, placed)
    placed = replace(placed, grad_input=grad_input, grad_output=grad_output)
    undecided = undecided_reason(outlook, placed)
    if undecided is not None:
        return replace(placed, fires=None, times=None, reason=undecided)
    uncounted = uncounted_reason(outlook, placed)
    if uncounted is not None:
        return replace(placed, fires=True, times=None, reason=f"{placed.reason}; {uncounted}")
    return replace(placed, fires=True, times=times)


def _where_it_is_called(firing: Firing, number: int, site: HookSite) -> HookSite:
    """A multi-grad hook is called at the tensor whose gradient completes it."""
    if site.hook.kind is not HookKind.MULTI_GRAD or site.node is None:
        return site
    node, slot = site.hook.target_slots[firing.counters[number].calls[0].target]
    return replace(site, node=node, slot=slot)


def _contents(outlook: Outlook, firing: Firing, number: int, site: HookSite) -> Contents:
    kind = site.hook.kind
    if site.node is None or kind is HookKind.POST_ACCUMULATE_GRAD:
        return (), ()
    if kind is HookKind.MULTI_GRAD:
        return (), multi_grad.entries(outlook, site.hook, firing.counters[number].calls)
    view = View(outlook, outlook.graph.nodes[site.node], site.call)
    if kind in (HookKind.TENSOR, HookKind.RETAIN_GRAD):
        return (), (grad_output_entry(view, site.slot or 0),)
    if kind is HookKind.NODE_PRE:
        return (), grad_output_entries(view)
    if kind.is_full or kind.is_full_pre:
        return _contents_of_full_hook(outlook, site)
    return grad_input_entries(view), grad_output_entries(view)


def _contents_of_full_hook(outlook: Outlook, site: HookSite) -> Contents:
    """() where nothing is known of the call: nothing else tells how many arguments and results it had."""
    call = outlook.module_call(site)
    if call is None or call.full_hook is None:
        return (), ()
    hooked = FullHookCall(outlook, call, call.full_hook)
    return (hooked.grad_input() if site.hook.kind.is_full else ()), hooked.grad_output()
