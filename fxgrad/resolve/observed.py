"""Hooks on tensors and nodes: they are where they were seen."""

from __future__ import annotations

from fxgrad.graph import Hook, HookKind, HookSite, Node
from fxgrad.graph.text import escape
from fxgrad.resolve.surroundings import Surroundings, placed, undecided, unplaced

_IN_CHECKPOINT = "a reentrant checkpoint recomputes during backward, and calls the hooks of every leaf that it uses"
_BY_FUNCTION = "a custom Function may start a backward of its own, which calls the hooks of every leaf that it uses"
_NOWHERE = "it is on nothing that the roots depend on"
_ON_LEAVES = (HookKind.TENSOR, HookKind.POST_ACCUMULATE_GRAD, HookKind.MULTI_GRAD, HookKind.NODE, HookKind.NODE_PRE)


def observed_site(surroundings: Surroundings, hook: Hook) -> HookSite:
    """The one site of a hook on a tensor, on several tensors or on a node."""
    if hook.kind is HookKind.MULTI_GRAD:
        return _multi_grad_site(surroundings, hook)
    if hook.observed is None:
        return _site_without_place(surroundings, hook)
    node, slot = hook.observed
    record = surroundings.graph.nodes[node]
    on_node = hook.kind in (HookKind.NODE, HookKind.NODE_PRE)
    reason = _node_reason(record) if on_node else _tensor_reason(record, slot or 0)
    slot = None if on_node or hook.kind is HookKind.POST_ACCUMULATE_GRAD else slot or 0
    return placed(hook, call=None, node=node, slot=slot, reason=reason)


def _node_reason(node: Node) -> str:
    return f"it was registered on {escape(node.label)} itself"


def _tensor_reason(node: Node, slot: int) -> str:
    if node.variable is not None:
        return f"{escape(node.label)} adds into the leaf {escape(node.variable)}"
    if len(node.grad_outputs) == 1:
        return f"the tensor's gradient goes into {escape(node.label)}"
    return f"the tensor's gradient goes into {escape(node.label)}, slot {slot}"


def _multi_grad_site(surroundings: Surroundings, hook: Hook) -> HookSite:
    places = [(node, slot) for node, slot in hook.target_slots if node is not None]
    if hook.active and hook.more_targets is not None:
        return undecided(hook, hook.more_targets)
    if not places:
        return _site_without_place(surroundings, hook)
    node, slot = places[0]
    first = "with the first gradient that arrives"
    waits = first if hook.mode == "any" else "once the gradients of all have arrived"
    several = f"in the graph: {len(places)} of its {len(hook.target_slots)} tensors"
    return placed(hook, call=None, node=node, slot=slot, reason=f"{several}; it is called {waits}")


def _site_without_place(surroundings: Surroundings, hook: Hook) -> HookSite:
    if hook.active and surroundings.graph.nesting and _may_be_on_leaf(surroundings, hook):
        in_checkpoint = surroundings.graph.nests_in_checkpoints
        return undecided(hook, _IN_CHECKPOINT if in_checkpoint else _BY_FUNCTION)
    if hook.active and surroundings.nested_elsewhere is not None:
        return undecided(hook, f"{hook.unplaced or _NOWHERE}; {surroundings.nested_elsewhere}")
    return unplaced(hook, hook.unplaced or _NOWHERE if hook.active else "its handle was removed")


def _may_be_on_leaf(surroundings: Surroundings, hook: Hook) -> bool:
    """Whether the hook may be on a leaf that requires grad: what is known of its owners does not say otherwise."""
    variables = surroundings.graph.variables_by_name
    owners = [variables.get(name) for name in hook.targets or (hook.owner,)]
    return hook.kind in _ON_LEAVES and any(owner is None or (owner.is_leaf and owner.requires_grad) for owner in owners)
