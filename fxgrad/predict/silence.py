"""Why a hook that has a place is not called, or why only backward decides: sentences, one function each."""

from __future__ import annotations

from fxgrad.graph import HookKind, HookSite, NodeKind
from fxgrad.graph.text import escape
from fxgrad.predict import multi_grad
from fxgrad.predict.firing import Firing, finds_earlier, is_held_back, waits_for_output
from fxgrad.predict.outlook import Outlook
from fxgrad.predict.reasons import UNUSED, intrusion_reason, nesting_reason

_BEFORE_EXECUTION = (HookKind.TENSOR, HookKind.RETAIN_GRAD, HookKind.MULTI_GRAD)
_ONCE_BEFORE_EXECUTION = (HookKind.TENSOR, HookKind.RETAIN_GRAD, HookKind.NODE_PRE)


def silence_reason(outlook: Outlook, firing: Firing, site: HookSite) -> str:
    """Why backward does not call the hook."""
    if site.node is None:
        return site.reason if site.fires is False else "this backward does not run the node that would start another"
    if not site.hook.active and not site.hook.kind.is_module:
        return "its handle was removed"
    if site.hook.kind is HookKind.RETAIN_GRAD and outlook.graph.nodes[site.node].kind is NodeKind.ACCUMULATE_GRAD:
        return "retain_grad does nothing on a leaf"
    if site.hook.kind is HookKind.MULTI_GRAD and any(node in outlook.ranks for node, _ in site.hook.target_slots):
        return multi_grad.silence(outlook, site.hook)
    if firing.raised_by is not None and _would_be_called(outlook, site, site.node):
        return "backward ends before it: an 'all' hook on several tensors raises"
    return _node_silence(outlook, site, site.node)


def _would_be_called(outlook: Outlook, site: HookSite, node: int) -> bool:
    """Whether the engine would come to the hook if no hook raised before."""
    if site.hook.kind in _BEFORE_EXECUTION:
        return node in outlook.ranks
    return outlook.runs(node) and not is_held_back(outlook, site)


def _node_silence(outlook: Outlook, site: HookSite, node: int) -> str:
    label = escape(outlook.graph.nodes[node].label)
    if node not in outlook.ranks:
        return unreached_reason(outlook, node)
    if outlook.schedule.raises_at == node:
        return f"{label} raises when backward executes it"
    if not outlook.schedule.runs[node]:
        return _unexecuted_reason(outlook, label)
    return _held_back_reason(outlook, site)


def unreached_reason(outlook: Outlook, node: int) -> str:
    """Why backward does not come to a node."""
    label = escape(outlook.graph.nodes[node].label)
    if not outlook.schedule.behind[node]:
        return f"backward does not come to {label}: {UNUSED}"
    raises_at = outlook.schedule.raises_at
    if raises_at is not None:
        return f"backward ends before {label}: {escape(outlook.graph.nodes[raises_at].label)} raises"
    return f"backward does not come to {label}: none of the tensors in inputs= is there or behind it"


def _unexecuted_reason(outlook: Outlook, label: str) -> str:
    if outlook.call.api == "grad":
        return f"autograd.grad takes the gradient at {label} and does not execute it: only hooks on tensors are called"
    return f"{label} is the root, and none of the tensors in inputs= is behind it: only hooks on tensors are called"


def _held_back_reason(outlook: Outlook, site: HookSite) -> str:
    call = outlook.module_call(site)
    output = None if call is None else call.output_hook_node
    if output is None:
        return "the gradient comes to the module's inputs, but no root depends on what the module returned"
    return (
        "the gradient comes to the module's inputs by a way around its outputs: "
        f"{escape(outlook.graph.nodes[output].label)}, on the outputs, has not run before"
    )


def undecided_reason(outlook: Outlook, site: HookSite) -> str | None:
    """Why only backward decides whether the hook is called; None where the records do."""
    if site.node is None:
        return site.reason
    if waits_for_output(outlook, site) and finds_earlier(outlook, site):
        return (
            "an earlier backward came to the module's outputs alone, and what it left for the hook may still be there"
        )
    if outlook.call.after == "freed" and not _precedes_every_execution(outlook, site):
        return "the same call before freed the graph: this one raises at the first node that needs what was freed"
    if outlook.intruder is not None and outlook.ranks[site.node] > outlook.ranks[outlook.intruder.id]:
        return intrusion_reason(outlook.intruder)
    return None


def _precedes_every_execution(outlook: Outlook, site: HookSite) -> bool:
    """Whether the hook is called, for sure and once, before the first node is executed."""
    is_early = site.hook.kind in _ONCE_BEFORE_EXECUTION or site.hook.mode == "any"
    return is_early and outlook.schedule.order[0] == site.node


def uncounted_reason(outlook: Outlook, site: HookSite) -> str | None:
    """Why the number of calls is not known; None where it is."""
    return None if site.node is None or not outlook.is_shared(site.node) else nesting_reason(outlook)
