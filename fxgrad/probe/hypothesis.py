"""Supposes a module hook: makes the graph that there would be with it, and predicts what it would get there."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from fxgrad.errors import UsageError
from fxgrad.graph import BackwardCall, BackwardGraph, Hook, HookKind, HookSite
from fxgrad.graph.lookup import find_module_path
from fxgrad.predict import predict
from fxgrad.probe.caveats import caveats, flag_inside
from fxgrad.probe.changes import Refusal, refused_change
from fxgrad.probe.comparison import moved_sites
from fxgrad.probe.hook_lists import relisted
from fxgrad.probe.refusals import refused_forward, refused_registration
from fxgrad.probe.registration import gets_hook_functions, is_taken_by_no_call, registered, supposed_hook, takes_along
from fxgrad.probe.renumbering import renumbered
from fxgrad.probe.splicing import spliced
from fxgrad.probe.supposition import Supposition
from fxgrad.probe.undecided import decided_sites


@dataclass(frozen=True)
class Hypothesis:
    """What there would be, had a hook been registered before the forward ran.

    ``graph``    the graph with the hook, its sites predicted; where it is refused, the graph without it
    ``hook``     its id in that graph
    ``sites``    the sites of the hook, one a call, in firing order
    ``moved``    the sites (before, after) of other hooks that it would change: another node, other entries, called or
                 not, another number of times; not a mere shift in the order
    ``refused``  why registering it, or the forward after that, would raise, with the line; ``sites`` is then ()
    ``caveats``  what is not certain, and what else it would change: a sentence each
    """

    graph: BackwardGraph
    hook: int
    sites: tuple[HookSite, ...]
    moved: tuple[tuple[HookSite, HookSite], ...]
    refused: str | None
    caveats: tuple[str, ...]


def hypothesis(graph: BackwardGraph, module: str, kind: HookKind) -> Hypothesis:
    """Say what a hook of `kind` would get at a module, and what it would change, as if it had been registered last.

    `module` is the path of a module; with a global kind every call of every module takes the hook along. Right given
    that every hook returns None, and that what follows a call uses what the call returned, and not the same tensor
    kept aside by forward or by a forward hook. Sources: torch/nn/modules/module.py (``_call_impl``),
    torch/utils/hooks.py (``BackwardHook``).

    Raises UsageError for a kind that is not registered on modules, for an unknown module, and for a graph whose module
    calls are not known, or not which nodes they made.
    """
    _check(graph, kind)
    hook = supposed_hook(graph, find_module_path(graph, module), kind)
    if is_taken_by_no_call(graph, hook):
        return _never_taken(graph, hook)
    before = registered(graph, hook)
    changed = [before.calls_by_id[call.id] for call in graph.calls if gets_hook_functions(call, hook)]
    reason = refused_registration(graph, hook) or refused_forward(before, hook, changed)
    if reason is not None:
        return _refused(graph, hook, Refusal(reason))
    return _supposed(graph, before, hook, changed=tuple([call.id for call in changed]))


def _supposed(graph: BackwardGraph, before: BackwardGraph, hook: Hook, *, changed: tuple[str, ...]) -> Hypothesis:
    legacy_calls = [call.id for call in before.calls if hook.kind.is_legacy and takes_along(call, hook)]
    splice = spliced(before, frozenset(changed), legacy_calls=frozenset(legacy_calls))
    after, ids = renumbered(replace(splice.graph, nodes=relisted(before, splice.graph)), graph)
    refusal = refused_change(after, [after.calls_by_id[call] for call in changed])
    if refusal is not None:
        return _refused(graph, hook, refusal)
    supposed = Supposition(before, predict(after), hook, changed, splice.late, splice.untimed)
    sites = decided_sites(supposed)
    return Hypothesis(
        graph=replace(after, sites=sites),
        hook=hook.id,
        sites=tuple([site for site in sites if site.hook.id == hook.id]),
        moved=tuple(moved_sites(_predicted(graph).sites, sites, ids)),
        refused=None,
        caveats=caveats(supposed),
    )


def _never_taken(graph: BackwardGraph, hook: Hook) -> Hypothesis:
    after = _predicted(replace(graph, hooks=(*graph.hooks, hook)))
    return Hypothesis(
        graph=after,
        hook=hook.id,
        sites=tuple([site for site in after.sites if site.hook.id == hook.id]),
        moved=(),
        refused=None,
        caveats=tuple(flag_inside(graph, hook)),
    )


def _predicted(graph: BackwardGraph) -> BackwardGraph:
    return predict(replace(graph, sites=()))


def _refused(graph: BackwardGraph, hook: Hook, refusal: Refusal) -> Hypothesis:
    plain = _predicted(graph)
    site = HookSite(hook, None, None, None, (), (), fires=False, times=0, order=None, reason=refusal.reason)
    shown = replace(plain, hooks=(*plain.hooks, hook), sites=(*plain.sites, site))
    unless = () if refusal.unless is None else (refusal.unless,)
    return Hypothesis(shown, hook.id, (), (), refusal.reason, unless)


def _check(graph: BackwardGraph, kind: HookKind) -> None:
    if not kind.is_module:
        allowed = ", ".join(known.value for known in HookKind if known.is_module)
        raise UsageError(
            f"what {kind.value} would get",
            f"a hook that is registered on modules: {allowed}",
            "register it, and trace again: it is on the tensor or node that you register it on",
        )
    if graph.info.calls_reason is not None:
        raise UsageError(
            f"a module hook on a graph whose module calls are not known: {graph.info.calls_reason}",
            "a graph whose forward was recorded",
            "trace the model: fxgrad.trace(model, args)",
        )
    if graph.info.backward != BackwardCall():
        raise UsageError(
            "a supposed hook in a trace that is predicted for another call than a plain backward",
            "the trace as it was made",
            "ask the trace that predict was called on",
        )
    if not _numbers_tell_calls(graph):
        raise UsageError(
            "a module hook on a graph whose modules ran in several threads",
            "one thread: in which order the nodes of several were made is not recorded",
            "run forward in one thread, and trace that",
        )


def _numbers_tell_calls(graph: BackwardGraph) -> bool:
    """Whether every node that was made during a call is known to be the call's: sequence numbers count per thread."""
    windows = [call.sequence_window for call in graph.calls if call.parent is None]
    return not any(
        start <= node.sequence_nr < end
        for start, end in windows
        for node in graph.nodes
        if node.call is None and node.sequence_nr is not None
    )
