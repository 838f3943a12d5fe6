"""What the records leave open about the sites: entries that are unknown, and hooks that may be called or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from fxgrad.graph import Gradient, HookSite, ModuleCall
from fxgrad.probe.members import (
    argument_members,
    hidden_arguments,
    identity,
    result_members,
    results_inside,
    unreadable_members,
)
from fxgrad.probe.supposition import Supposition

ONE_RESULT = "these results are one tensor, and the graph does not show which of them is used"
ONE_ARGUMENT = (
    "an argument is a keyword argument, or in a container, as well, and the graph does not show which is used"
)
UNREADABLE = "it is not known which node stands for a view whose base was changed in place"
NOT_RECORDED = "but by way of what was not recorded it may be reached"


def decided_sites(supposed: Supposition) -> tuple[HookSite, ...]:
    """The sites of the graph with the hook, as far as the records decide what they get and whether they are called."""
    sites = list(supposed.after.sites)
    for before, after in supposed.calls:
        repeated = supposed.repeated_results(before, after)
        if repeated:
            sites = [_with_repeated_results(supposed, site, before, after, repeated) for site in sites]
        if not _certainly_uses_arguments(supposed, before, after):
            sites = [_maybe_silent(site, ONE_ARGUMENT) if _is_at_inputs(site, after) else site for site in sites]
    unreadable = {call.id for call in supposed.taking if unreadable_members(call)}
    sites = [_maybe(site, UNREADABLE) if site.call in unreadable else site for site in sites]
    if supposed.unexplored:
        sites = [_maybe_reached(supposed, site) for site in sites]
    return _in_order(sites)


# Results that are one tensor


def _with_repeated_results(
    supposed: Supposition, site: HookSite, before: ModuleCall, after: ModuleCall, repeated: Sequence[int]
) -> HookSite:
    at_inputs = _is_at_inputs(site, after) and site.hook.kind.is_full
    if not site.fires or not (at_inputs or site.node == after.output_hook_node):
        return site
    entries = _entries_of(site, after, repeated)
    grad_input = site.grad_input if at_inputs else _with_unknown(site.grad_input, entries)
    site = replace(site, grad_input=grad_input, grad_output=_with_unknown(site.grad_output, entries))
    return site if _certainly_uses_results(supposed, before, after) else _maybe_silent(site, ONE_RESULT)


def _entries_of(site: HookSite, call: ModuleCall, slots: Sequence[int]) -> list[int]:
    """Which entries of a site's tuples belong to slots of the node on the outputs."""
    if site.slot is not None:
        return [0] if site.slot in slots else []
    if site.hook.kind.is_full or site.hook.kind.is_full_pre:
        positions = [member.position for member in result_members(call)]
        return [positions[slot] for slot in slots]
    return list(slots)


def _with_unknown(entries: tuple[Gradient, ...], indexes: Sequence[int]) -> tuple[Gradient, ...]:
    return tuple(
        [replace(entry, status="unknown", reason=ONE_RESULT) if entry.index in indexes else entry for entry in entries]
    )


def _certainly_uses_results(supposed: Supposition, before: ModuleCall, after: ModuleCall) -> bool:
    """Whether the node on the outputs is reached, whichever of the tensors that are one is meant."""
    inside = results_inside(before)
    for slot, (_, ref) in enumerate(result_members(before)):
        place = (after.output_hook_node, slot)
        if place in supposed.roots and (after.parent is None or identity(ref) not in inside):
            return True
        if place in supposed.used and identity(ref) not in inside:
            return True
    return False


# Arguments that are given twice


def _certainly_uses_arguments(supposed: Supposition, before: ModuleCall, after: ModuleCall) -> bool:
    """Whether the node on the inputs is reached, should what is hidden from the hook be what is used of an argument."""
    hidden = {identity(ref) for ref in hidden_arguments(before)}
    return not hidden or any(
        (after.input_hook_node, slot) in supposed.used and identity(ref) not in hidden
        for slot, (_, ref) in enumerate(argument_members(before))
    )


def _is_at_inputs(site: HookSite, call: ModuleCall) -> bool:
    return site.node is not None and site.node == call.input_hook_node


def _maybe(site: HookSite, reason: str) -> HookSite:
    return replace(site, fires=None, times=None, reason=f"{site.reason}; {reason}")


def _maybe_silent(site: HookSite, reason: str) -> HookSite:
    return _maybe(site, reason) if site.fires else site


# What lies behind nodes that were not recorded


def _maybe_reached(supposed: Supposition, site: HookSite) -> HookSite:
    if site.fires is not False or not _may_be_behind(supposed, site):
        return site
    return _maybe(site, NOT_RECORDED)


def _may_be_behind(supposed: Supposition, site: HookSite) -> bool:
    """Whether the hook is on a node that no recorded edge leads to."""
    if not site.hook.kind.is_module:
        owner = supposed.after.variables_by_name.get(site.hook.owner)
        return site.hook.active and site.node is None and (owner is None or owner.requires_grad)
    call = None if site.call is None else supposed.after.calls_by_id[site.call]
    if call is None or not call.completed:
        return False
    if site.hook.kind.is_legacy:
        tensor = call.legacy_tensor
        return tensor is not None and tensor.node is None and tensor.requires_grad and not tensor.is_leaf
    setup = call.full_hook
    if setup is None or setup.output_positions is None:
        return False
    waits_for_input = site.hook.kind.is_full and setup.input_positions is not None
    return call.output_hook_node is None or (waits_for_input and call.input_hook_node is None)


def _in_order(sites: Iterable[HookSite]) -> tuple[HookSite, ...]:
    """Hooks of which nothing tells when they would be called come after those that are; silent ones last."""
    known = sorted([site for site in sites if site.order is not None], key=lambda site: site.order or 0)
    maybe = [site for site in sites if site.order is None and site.fires is None]
    silent = [site for site in sites if site.order is None and site.fires is False]
    return (*[replace(site, order=rank) for rank, site in enumerate((*known, *maybe))], *silent)
