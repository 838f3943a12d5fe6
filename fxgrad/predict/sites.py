"""How backward is called, and the prediction: which hooks it calls, in which order, how often, and what each receives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from msgspec.structs import replace

from fxgrad.collection import pause_collection
from fxgrad.errors import UsageError
from fxgrad.graph import BackwardCall, BackwardGraph, Gradient, HookSite, Sharding
from fxgrad.graph.hook_kinds import HookArguments
from fxgrad.graph.lookup import find_input, find_root
from fxgrad.graph.records import BACKWARD_APIS, EARLIER_CALLS
from fxgrad.graph.text import format_path
from fxgrad.predict.entries import (
    FullHookCall,
    NodeView,
    list_grad_inputs,
    list_grad_outputs,
    make_grad_output,
    mark_unknown,
)
from fxgrad.predict.firing import HookCall, HookCalls
from fxgrad.predict.formulas import UNKNOWN
from fxgrad.predict.places import find_places
from fxgrad.predict.reasons import (
    explain_leaf_without_grad,
    explain_nesting,
    explain_silence,
    explain_uncounted,
    explain_undecided,
    explain_undecided_reduction,
)
from fxgrad.predict.simulation import Simulation, simulate

_Choice = TypeVar("_Choice", bound=str | None)

# How backward is called


def set_backward_call(
    graph: BackwardGraph,
    *,
    inputs: Sequence[str] | None = None,
    api: str = "backward",
    roots: Sequence[str] | None = None,
    after: str | None = None,
) -> BackwardGraph:
    """Return the graph with the chosen roots and ``info.backward``; its sites must be predicted again.

    `inputs`, `roots` are names of tensors, `api` and `after` as in `BackwardCall`. Raises UsageError for what PyTorch
    refuses, and for unknown names.
    """
    called_as = _find_choice("api", api, BACKWARD_APIS)
    earlier = _find_choice("after", after, (None, *EARLIER_CALLS))
    _check_inputs(inputs, api)
    places = None if inputs is None else [find_input(graph, name) for name in inputs]
    started = graph if roots is None else _start_from(graph, roots)
    call = BackwardCall(
        None if places is None else tuple([(each.node, each.slot) for each in places if each.node is not None]),
        called_as,
        earlier,
        tuple([each.name for each in places or ()]),
        tuple([each.name for each in places or () if each.node is None]),
        graph.info.backward.roots if roots is None else tuple(roots),
    )
    return replace(started, info=replace(started.info, backward=call))


def _find_choice(name: str, given: str | None, allowed: Sequence[_Choice]) -> _Choice:
    for choice in allowed:
        if choice == given:
            return choice
    raise UsageError(f"{name}={given!r}", " or ".join(map(repr, allowed)), f"omit {name} for the usual call")


def _check_inputs(inputs: Sequence[str] | None, api: str) -> None:
    if inputs is not None and not inputs:
        raise UsageError(
            "empty inputs", "at least one: PyTorch raises for none", "omit inputs for a backward to every leaf"
        )
    if api == "grad" and inputs is None:
        raise UsageError("autograd.grad without inputs", "the tensors whose gradients it returns", "inputs=[names]")


def _start_from(graph: BackwardGraph, names: Sequence[str]) -> BackwardGraph:
    if not names:
        raise UsageError("empty roots", "at least one tensor that backward starts from", "omit roots for all of them")
    roots = tuple([find_root(graph, name) for name in names])
    rule = ", ".join(format_path(root.path) for root in roots) + ", as asked for"
    several = f": {len(roots)} tensors, as if backward(outputs, ones) were called" if len(roots) > 1 else ""
    return replace(graph, roots=roots, info=replace(graph.info, root_rule=rule + several))


# The prediction


def without_compiled_code(graph: BackwardGraph) -> BackwardGraph:
    """Return the graph of a run without torch.compile, which passes no hook by; its sites must be predicted again."""
    return replace(graph, calls=tuple([replace(call, compiled_before=()) for call in graph.calls]))


_Entries = tuple[tuple[Gradient, ...] | None, tuple[Gradient, ...] | None]
"""grad_input and grad_output; None where their number is not known."""


@pause_collection()
def predict(graph: BackwardGraph, backward: BackwardCall | None = None) -> BackwardGraph:
    """Predict what every hook will receive, how often and in which order, when backward is called from the roots.

    `backward` is how it will be called; None: as `graph.info` says. Returns the graph with its sites, found anew, in
    firing order; a multi-grad hook that is called again, with other gradients, has a site for each time. Hooks that are
    not called come last, by id, and receive nothing. The prediction holds if every hook returns None and none starts a
    backward of its own.
    """
    if backward is not None:
        graph = replace(graph, info=replace(graph.info, backward=backward))
    sites = find_places(graph)
    return replace(graph, sites=_sort_by_call(simulate(graph), sites) if sites else ())


def _sort_by_call(simulation: Simulation, sites: Sequence[HookSite]) -> tuple[HookSite, ...]:
    calls = HookCalls(simulation, sites)
    called = [_predict_call(simulation, calls, call, order) for order, call in enumerate(calls.in_order)]
    numbers = {call.site for call in calls.in_order}
    silent = [
        _silence(site, explain_silence(simulation, site, raises=calls.raises))
        for number, site in enumerate(sites)
        if number not in numbers
    ]
    return (*called, *sorted(silent, key=lambda site: site.hook.id))


def _silence(site: HookSite, reason: str) -> HookSite:
    return replace(site, grad_input=(), grad_output=(), fires=False, times=0, order=None, reason=reason)


def _predict_call(simulation: Simulation, calls: HookCalls, call: HookCall, order: int) -> HookSite:
    site = calls.find_site(call)
    if site.node is None and site.hook.is_called_by_fsdp and site.hook.sharding is not None:
        return _predict_call_by_fsdp(simulation, replace(site, order=order), site.hook.sharding)
    grad_input, grad_output = _list_entries(simulation, calls, call, site)
    site = replace(site, order=order, grad_input=grad_input, grad_output=grad_output)
    is_by_others = call.site in calls.by_others
    site = replace(site, reason=site.reason + explain_leaf_without_grad(simulation, site))
    undecided = explain_nesting(simulation) if is_by_others else explain_undecided(simulation, site)
    if undecided is not None:
        return replace(_mark_shared(simulation, site), fires=None, times=None, reason=undecided)
    uncounted = explain_uncounted(simulation, site)
    if uncounted is not None:
        reason = f"{site.reason}; {uncounted}"
        return replace(_mark_shared(simulation, site), fires=True, times=None, reason=reason)
    return replace(site, fires=True, times=1)


def _predict_call_by_fsdp(simulation: Simulation, site: HookSite, sharding: Sharding) -> HookSite:
    """FSDP calls a hook once for each time that it reduces a gradient; what waits from earlier may come first."""
    at, reduces = site.hook.observed, simulation.reduces(sharding)
    if reduces or (at is not None and simulation.runs(at[0])):
        is_counted = reduces and at is None and not sharding.has_waiting
        return replace(site, fires=True, times=1 if is_counted else None)
    return replace(site, reason=explain_undecided_reduction(simulation, sharding))


def _mark_shared(simulation: Simulation, site: HookSite) -> HookSite:
    """Make the entries unknown if another backward calls the hook as well: it may bring other gradients."""
    if site.node is None or not simulation.is_shared(site.node):
        return site
    reason = explain_nesting(simulation)
    return replace(
        site,
        grad_input=mark_unknown(site.grad_input or (), reason),
        grad_output=mark_unknown(site.grad_output or (), reason),
    )


def _list_entries(simulation: Simulation, calls: HookCalls, call: HookCall, site: HookSite) -> _Entries:
    gets = site.hook.kind.arguments
    if gets is HookArguments.GRADIENTS and site.hook.more_targets is None:
        counter = calls.counters[call.site]
        if site.node is None:
            return (), counter.list_undecided_entries(explain_nesting(simulation))
        return (), counter.list_entries(call.nth)
    if site.node is None:
        if gets is HookArguments.GRADIENT:
            return (), (Gradient(0, None, UNKNOWN, None, None, None, site.reason),)
        return site.grad_input, site.grad_output
    if gets is HookArguments.LEAF:
        return (), ()
    view = NodeView(simulation, simulation.graph.nodes[site.node], site.call)
    if gets is HookArguments.GRADIENT:
        return (), (make_grad_output(view, site.slot or 0),)
    if gets is HookArguments.NODE_GRAD_OUTPUT:
        return (), list_grad_outputs(view)
    if gets is HookArguments.NODE_GRADIENTS:
        return list_grad_inputs(view), list_grad_outputs(view)
    return _list_full_hook_entries(simulation, site)


def _list_full_hook_entries(simulation: Simulation, site: HookSite) -> _Entries:
    call = simulation.module_call(site)
    if call is None or call.full_hook is None:
        return (), ()  # nothing else says how many arguments and results the call had
    hooked = FullHookCall(simulation, call, call.full_hook)
    return (hooked.list_grad_inputs() if site.hook.kind.is_full else ()), hooked.list_grad_outputs()
