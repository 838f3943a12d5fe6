"""What one more module hook changes: which other hooks it moves, and which gradients it makes zeros.

A full hook passes a module's tensors through BackwardHookFunction (torch/utils/hooks.py). Other hooks may then sit on its
node, and a gradient may be zeros that is None without it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest

from msgspec import structs

from fxgrad.graph import BackwardGraph, Gradient, Hook, HookSite, Shape, Variable
from fxgrad.predict.simulation import predict_nodes

_NOT_CALLED = "backward does not call the hook there"


def find_moved_sites(before: BackwardGraph, after: BackwardGraph, added: Hook) -> tuple[tuple[HookSite, HookSite], ...]:
    """The sites (before, after) of other hooks that `added`, a hook of `after`, changes. Both graphs have their sites.

    They are on another node, get something else, or are called another number of times; a site that only comes earlier
    or later in the firing order is not one of them. A call that only one of the graphs has gets a silent site for the
    other.
    """
    nodes = match_nodes(before, after)
    hooks = _match_hooks(before, after, nodes)
    ours = _by_call(before.sites, hooks)
    theirs = _by_call([site for site in after.sites if site.hook.id != added.id], {})
    return tuple(
        (site or _silent(other), other or _silent(site))
        for key in dict.fromkeys((*ours, *theirs))
        for site, other in zip_longest(ours.get(key, ()), theirs.get(key, ()))
        if site is None or other is None or _is_changed(site, other, nodes)
    )


def _by_call(sites: Iterable[HookSite], hooks: Mapping[int, int]) -> dict[tuple[int, str | None], list[HookSite]]:
    """A multi-grad hook has a site for each time that backward calls it."""
    found: dict[tuple[int, str | None], list[HookSite]] = defaultdict(list)
    for site in sites:
        found[hooks.get(site.hook.id, site.hook.id), site.call].append(site)
    return found


def _silent(site: HookSite) -> HookSite:
    silent = structs.replace(site, node=None, slot=None, grad_input=(), grad_output=())
    return structs.replace(silent, fires=False, times=0, order=None, reason=_NOT_CALLED)


def _is_changed(before: HookSite, after: HookSite, nodes: Mapping[int, int]) -> bool:
    node = None if before.node is None else nodes.get(before.node)
    return (
        (node, before.slot, before.fires, before.times) != (after.node, after.slot, after.fires, after.times)
        or _contents(before.grad_input) != _contents(after.grad_input)
        or _contents(before.grad_output) != _contents(after.grad_output)
    )


def _contents(gradients: Iterable[Gradient] | None) -> list[object] | None:
    if gradients is None:
        return None
    return [(gradient.status, _sizes(gradient.shape), gradient.dtype) for gradient in gradients]


def _sizes(shape: Shape | None) -> list[int | None] | None:
    """Symbolic sizes get other names in each run: those of jagged tensors are numbered as they are made."""
    return None if shape is None else [size if isinstance(size, int) else None for size in shape]


def match_nodes(before: BackwardGraph, after: BackwardGraph) -> dict[int, int]:
    """For each node of `before` the node of `after` that the same operation made.

    Both graphs are walked from their roots at once. The nodes of full hooks that only `after` has are passed: each is an
    identity, so what leaves it for edge ``i`` is what came in for result ``i``. A node has no match where forward does
    something else with the hook: MultiheadAttention asks whether ``query is key``, and a full hook makes these two
    tensors. Leaves are matched by name, too.
    """
    added = _nodes_of_added_hooks(before, after)
    matched: dict[int, int] = {}
    waiting: list[tuple[int | None, int | None, int]] = [
        (root.node, other.node, other.slot) for root, other in zip(before.roots, after.roots, strict=False)
    ]
    while waiting:
        node, other, slot = waiting.pop()
        while other is not None and other in added:
            edge = after.nodes[other].edges[slot]
            other, slot = edge.next_node, edge.input_nr
        if node is None or other is None or node in matched or before.nodes[node].name != after.nodes[other].name:
            continue
        matched[node] = other
        for ours, theirs in zip(before.nodes[node].edges, after.nodes[other].edges, strict=False):
            waiting.append((ours.next_node, theirs.next_node, theirs.input_nr))
    leaves = {node.variable: node.id for node in after.nodes if _is_named(node.variable)}
    for each in before.nodes:
        if each.variable in leaves:
            matched[each.id] = leaves[each.variable]
    return matched


def _is_named(variable: str | None) -> bool:
    """Whether a leaf has the same name in both graphs; those without one are numbered as they are found."""
    return variable is not None and not variable.startswith("leaf ")


def _nodes_of_added_hooks(before: BackwardGraph, after: BackwardGraph) -> set[int]:
    had = {call.id for call in before.calls if call.full_hook is not None}
    calls = [call for call in after.calls if call.id not in had]
    return {node for call in calls for node in (call.input_hook_node, call.output_hook_node) if node is not None}


def _match_hooks(before: BackwardGraph, after: BackwardGraph, nodes: Mapping[int, int]) -> dict[int, int]:
    """For each hook of `before` the same hook in `after`; a negative number where `after` has none.

    Hooks that nothing else tells apart are matched in order of registration.
    """
    waiting: dict[object, list[int]] = defaultdict(list)
    for hook in reversed(after.hooks):
        waiting[_identity(after, hook, hook.observed)].append(hook.id)
    matched = {}
    for hook in before.hooks:
        observed = hook.observed and (nodes.get(hook.observed[0]), hook.observed[1])
        same = waiting[_identity(before, hook, observed)]
        matched[hook.id] = same.pop() if same else -1 - hook.id
    return matched


def _identity(graph: BackwardGraph, hook: Hook, observed: tuple[int | None, int | None] | None) -> object:
    """What a hook has in both graphs. A label, and the number of a leaf without a name, may be others there."""
    place: object = None
    if hook.registered_nr is None:  # it was there before forward, so it stays on its tensor or node
        is_named = hook.owner in graph.variables_by_name and _is_named(hook.owner)
        place = hook.owner if hook.kind.is_module or is_named else observed
    return hook.function, hook.source, hook.registered, hook.registered_in, place


def find_zero_gradients(before: BackwardGraph, after: BackwardGraph) -> tuple[str, ...]:
    """The names of the leaves that get a gradient of zeros in `after`, and None in `before`."""
    nodes = match_nodes(before, after)
    status: dict[object, str] = {}
    for leaf, gradient in _gradients_of_leaves(before):
        status[leaf.name if leaf.node is None else nodes.get(leaf.node)] = gradient
    return tuple(
        leaf.name
        for leaf, gradient in _gradients_of_leaves(after)
        if gradient == "tensor" and status.get(leaf.node, status.get(leaf.name)) == "none"
    )


def _gradients_of_leaves(graph: BackwardGraph) -> Iterator[tuple[Variable, str]]:
    """Each leaf that requires grad, and whether it gets a gradient: "tensor", "none" or "unknown"."""
    nodes = predict_nodes(graph)
    for leaf in graph.variables:
        if leaf.is_leaf and leaf.requires_grad:
            if leaf.node is None:
                yield leaf, "none"
            elif graph.nodes[leaf.node].kind.is_leaf:
                yield leaf, nodes[leaf.node].grad_outputs[leaf.slot]
