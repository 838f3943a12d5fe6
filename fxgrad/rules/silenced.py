"""Which hooks are silent only because no gradient reaches some parameters: the finding about these tells of the hooks as well."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

from fxgrad.graph import BackwardGraph, ModuleCall
from fxgrad.graph.backward_graph import HookSites, group_sites
from fxgrad.graph.lookup import is_used_outside, list_parent_paths


class SilencedHook(NamedTuple):
    """A hook at one owner, and the parameters without gradient for the same reason: its own, or those of its module."""

    subject: HookSites
    parameters: frozenset[str]


def find_silenced(graph: BackwardGraph, reasons: Mapping[str, Hashable]) -> tuple[SilencedHook, ...]:
    """The hooks that would fire if gradients reached some parameters, by the reasons why none reaches each, by its name.

    Those are the hooks on such a parameter, and those on a module whose parameters that require grad are all among these,
    for one reason, if backward uses nothing of what its calls return or it has no call.
    """
    if not reasons:
        return ()
    within: dict[str, list[str]] = {}
    for name in [variable.name for variable in graph.parameters if variable.requires_grad]:
        for path in list_parent_paths(name):
            within.setdefault(path, []).append(name)
    silent = (subject for subject in group_sites(graph) if subject.hook.active and not subject.hook.by_torch)
    found = (
        SilencedHook(subject, _list_parameters(subject, within))
        for subject in silent
        if not any(site.fires is not False for site in subject.sites)
    )
    return tuple(each for each in found if each.parameters and _have_one_reason(each.parameters, reasons))


def _have_one_reason(parameters: frozenset[str], reasons: Mapping[str, Hashable]) -> bool:
    return parameters <= reasons.keys() and len({reasons[name] for name in parameters}) == 1


def _list_parameters(subject: HookSites, within: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The parameters with which the hook is silent; none where it is silent by itself."""
    graph, module = subject.graph, subject.module
    if subject.hook.kind.is_called_for_leaf:
        variable = graph.variables_by_name.get(subject.path)
        return frozenset((variable.name,)) if variable is not None and variable.kind == "parameter" else frozenset()
    if module is None or module.wraps is not None or any(_gives_gradient(subject, call) for call in subject.calls):
        return frozenset()
    return frozenset(within.get(module.path, ()))


def _gives_gradient(subject: HookSites, call: ModuleCall) -> bool:
    """Whether backward uses a result of the call, or may: the hook is then silent for another reason."""
    if call.is_opaque or call.transforms or not call.completed:
        return True
    return any(ref.requires_grad and is_used_outside(subject.graph, call, ref) for ref in call.outputs)
