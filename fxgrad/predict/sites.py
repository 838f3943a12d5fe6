"""Puts what was worked out into the sites: contents, whether and how often each hook is called, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fxgrad.graph import BackwardCall, BackwardGraph, Gradient, HookKind, HookSite
from fxgrad.predict.entries import View, grad_input_entries, grad_output_entries, grad_output_entry, left_open
from fxgrad.predict.firing import Firing, HookCall
from fxgrad.predict.full_hooks import FullHookCall
from fxgrad.predict.outlook import Outlook
from fxgrad.predict.reasons import nesting_reason
from fxgrad.predict.silence import silence_reason, uncounted_reason, undecided_reason
from fxgrad.resolve import resolve

Contents = tuple[tuple[Gradient, ...], tuple[Gradient, ...]]
"""grad_input and grad_output."""


def predict(graph: BackwardGraph, backward: BackwardCall | None = None) -> BackwardGraph:
    """Say what every hook will receive, how often and in which order, when backward is called from the roots.

    `backward` is how it will be called; None: as `graph.info` says. Returns the graph with its sites, found anew, in
    firing order; a multi-grad hook that is called again, with other gradients, has a site for each time. Those that are
    not called come last, by hook, and receive nothing. Right given that every hook returns None and none starts a
    backward of its own.
    """
    if backward is not None:
        graph = replace(graph, info=replace(graph.info, backward=backward))
    sites = resolve(graph)
    if not sites:
        return replace(graph, sites=())
    outlook = Outlook.of(graph, graph.info.backward)
    return replace(graph, sites=_in_firing_order(outlook, sites))


def _in_firing_order(outlook: Outlook, sites: Sequence[HookSite]) -> tuple[HookSite, ...]:
    firing = Firing(outlook, sites)
    called = [_called(outlook, firing, call, order) for order, call in enumerate(firing.calls)]
    numbers = {call.site for call in firing.calls}
    silent = [_silent(outlook, firing, site) for number, site in enumerate(sites) if number not in numbers]
    return (*called, *sorted(silent, key=lambda site: site.hook.id))


def _silent(outlook: Outlook, firing: Firing, site: HookSite) -> HookSite:
    reason = silence_reason(outlook, firing, site)
    return replace(site, grad_input=(), grad_output=(), fires=False, times=0, order=None, reason=reason)


def _called(outlook: Outlook, firing: Firing, call: HookCall, order: int) -> HookSite:
    site = replace(firing.where(call), order=order)
    grad_input, grad_output = _contents(outlook, firing, call, site)
    site = replace(site, grad_input=grad_input, grad_output=grad_output)
    undecided = nesting_reason(outlook) if call.site in firing.by_others else undecided_reason(outlook, site)
    if undecided is not None:
        return replace(_with_any_gradients(outlook, site), fires=None, times=None, reason=undecided)
    uncounted = uncounted_reason(outlook, site)
    if uncounted is not None:
        reason = f"{site.reason}; {uncounted}"
        return replace(_with_any_gradients(outlook, site), fires=True, times=None, reason=reason)
    return replace(site, fires=True, times=1)


def _with_any_gradients(outlook: Outlook, site: HookSite) -> HookSite:
    """Where another backward calls the hook as well, it may bring a gradient where this one brings None, or none."""
    if site.node is None or not outlook.is_shared(site.node):
        return site
    reason = nesting_reason(outlook)
    given = (left_open(site.grad_input, reason), left_open(site.grad_output, reason))
    return replace(site, grad_input=given[0], grad_output=given[1])


def _contents(outlook: Outlook, firing: Firing, call: HookCall, site: HookSite) -> Contents:
    kind = site.hook.kind
    if kind is HookKind.MULTI_GRAD and site.hook.more_targets is None:
        counter = firing.counters[call.site]
        return (), counter.entries(call.nth) if site.node is not None else counter.any_entries(nesting_reason(outlook))
    if site.node is None or kind is HookKind.POST_ACCUMULATE_GRAD:
        return (), ()
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
