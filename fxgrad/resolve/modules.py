"""Module hooks: where each call of a module put the hooks that it took along.

Sources: torch/nn/modules/module.py (``_call_impl``) and torch/utils/hooks.py (``BackwardHook``).
"""

from __future__ import annotations

from collections.abc import Iterator

from fxgrad.graph import Hook, HookSite, ModuleCall, Node, UnrecordedCall
from fxgrad.graph.text import escape, format_path
from fxgrad.resolve.surroundings import Surroundings, placed, undecided, unplaced

_RECOMPUTED = "a reentrant checkpoint runs this call again during backward, and its hooks attach and fire then"
_RUN_AGAIN = (
    "a custom Function made this call, and the backward of that Function may run it again: its hooks attach and fire "
    "then"
)
_RAISED = "the call raised before its hooks were attached"
_UNREACHED = "no root depends on it"
_TOP_LEVEL = 2
"""The length of a path like ("result", 0)."""


def module_sites(surroundings: Surroundings, hook: Hook) -> Iterator[HookSite]:
    """One site for each call that took the hook along, watched or not; one with the reason where none did."""
    calls = surroundings.calls_by_hook.get(hook.id, [])
    at_calls = [site for call in calls for site in _sites_at_call(surroundings, hook, call)]
    nodes = _left_before(surroundings, hook, [site.node for site in at_calls])
    yield from at_calls
    for node in nodes:
        yield placed(hook, call=None, node=node.id, slot=None, reason=_found_reason(surroundings, node))
    unseen = surroundings.unseen_calls if hook.active else None
    if unseen is not None:
        yield undecided(
            hook, unseen if at_calls or nodes else f"{_never_taken_reason(surroundings, hook)}, and {unseen}"
        )
    elif not at_calls and not nodes:
        yield _site_without_call(surroundings, hook)


def _left_before(surroundings: Surroundings, hook: Hook, known: list[int | None]) -> list[Node]:
    """The nodes that carry the hook from calls that nobody watched; `known` are those of the calls that were."""
    found = []
    for node in surroundings.nodes_by_hook.get(hook.id, []):
        if node.id in known:
            known.remove(node.id)
        elif hook.kind.is_legacy or node.id in surroundings.graph.unrecorded_calls_by_node:
            found.append(node)
    return found


def _found_reason(surroundings: Surroundings, node: Node) -> str:
    unrecorded = surroundings.graph.unrecorded_calls_by_node.get(node.id)
    if unrecorded is None:
        return f"it was found on {escape(node.label)}"
    module = escape(unrecorded.path) or "the model"
    return f"it was found on the node that PyTorch put on {_side(unrecorded, node)} of {module}"


def _side(call: UnrecordedCall, node: Node) -> str:
    return "the inputs" if node.id == call.input_hook_node else "the outputs"


def _site_without_call(surroundings: Surroundings, hook: Hook) -> HookSite:
    reason = _never_taken_reason(surroundings, hook)
    if hook.active and surroundings.may_run_anything is not None and not _calls_of_owner(surroundings, hook):
        return undecided(hook, f"{reason}, and {surroundings.may_run_anything}")
    return unplaced(hook, reason)


def _never_taken_reason(surroundings: Surroundings, hook: Hook) -> str:
    if surroundings.graph.info.calls_reason is not None:
        return f"it was found on no node; {surroundings.graph.info.calls_reason}"
    calls = len(surroundings.graph.calls if hook.kind.is_global else _calls_of_owner(surroundings, hook))
    if not calls:
        return "no module was called" if hook.kind.is_global else _not_called_reason(surroundings, hook)
    unflagged = _unflagged_reason(surroundings, hook)
    if unflagged is not None:
        return unflagged
    took = "the module's call did not take" if calls == 1 else f"none of the {calls:,} calls took"
    removed = "" if hook.active else ", and its handle was removed since"
    return f"{took} it along: a call takes what is registered when it starts{removed}"


def _unflagged_reason(surroundings: Surroundings, hook: Hook) -> str | None:
    """Why no call takes a registered hook along: a flag tells which kind a table of hooks is, and here tells none."""
    if hook.kind.is_full_pre or not hook.active:
        return None
    if hook.kind.is_global:
        known, flag = surroundings.graph.info.global_backward_sticky, "_global_is_full_backward_hook"
        return None if known is not None else f"{flag} is None, and calls take neither full nor non-full hooks along"
    module = surroundings.graph.modules_by_path.get(hook.owner)
    if module is None or module.full_backward_sticky is not None:
        return None
    if module.wraps is None:
        return "its _is_full_backward_hook is None, and its calls take neither full nor non-full hooks along"
    inside = escape(module.wraps)
    return (
        f"torch.compile returned this module, and registering on it sets the flag of {inside}, the module inside, that "
        "tells which kind of hooks it has; of its own hooks no call takes any along"
    )


def _not_called_reason(surroundings: Surroundings, hook: Hook) -> str:
    module = surroundings.graph.modules_by_path.get(hook.owner)
    named = surroundings.graph.variables_by_name
    variables = [named[name] for name in (module.parameters if module else ()) if name in named]
    used = any(variable.node is not None for variable in variables)
    return f"the module was never called{', though backward reaches its parameters' if used else ''}"


def _calls_of_owner(surroundings: Surroundings, hook: Hook) -> list[ModuleCall]:
    module = surroundings.graph.modules_by_path.get(hook.owner)
    return surroundings.calls_by_path.get(module.path if module else hook.owner, [])


def _sites_at_call(surroundings: Surroundings, hook: Hook, call: ModuleCall) -> Iterator[HookSite]:
    site = _site_at_call(surroundings, hook, call)
    if call.checkpointed == "function" or (call.checkpointed == "reentrant" and not call.grad_enabled):
        if site.node is not None:  # a tensor of the graph around has passed through
            yield site
        yield _site_in_rerun(surroundings, hook, call)
    else:
        yield site


def _site_at_call(surroundings: Surroundings, hook: Hook, call: ModuleCall) -> HookSite:
    if not call.completed:
        return unplaced(hook, _RAISED, call=call.id)
    if hook.kind.is_legacy:
        return _legacy_site(surroundings, hook, call)
    return _full_site(surroundings, hook, call)


def _site_in_rerun(surroundings: Surroundings, hook: Hook, call: ModuleCall) -> HookSite:
    is_checkpoint = call.checkpointed == "reentrant"
    if surroundings.graph.nesting:
        return undecided(hook, _RECOMPUTED if is_checkpoint else _RUN_AGAIN, call=call.id)
    around = "a reentrant checkpoint" if is_checkpoint else "a custom Function"
    reason = f"it ran in {around} that no root depends on, or that got no tensor that requires grad"
    return unplaced(hook, reason, call=call.id)


def _not_reached(surroundings: Surroundings, hook: Hook, call: ModuleCall, reason: str) -> HookSite:
    """A site on a node that the roots do not lead to, but something else may."""
    elsewhere = surroundings.nested_elsewhere
    if elsewhere is None:
        return unplaced(hook, reason, call=call.id)
    return undecided(hook, f"{reason}; {elsewhere}", call=call.id)


# Legacy hooks


def _legacy_site(surroundings: Surroundings, hook: Hook, call: ModuleCall) -> HookSite:
    tensor = call.legacy_tensor
    if tensor is None:
        return unplaced(hook, call.legacy_reason or "there is no tensor in the result", call=call.id)
    where = format_path(tensor.path)
    if not tensor.requires_grad:
        return unplaced(hook, f"{where} requires no grad{_no_grad_text(call)}, so it has no grad_fn", call=call.id)
    if tensor.is_leaf:
        return unplaced(hook, f"{where} is a leaf, which has no grad_fn", call=call.id)
    if tensor.node is None:
        reason = f"it is on {escape(tensor.node_name or 'the grad_fn')}, the grad_fn of {where}: {_UNREACHED}"
        return _not_reached(surroundings, hook, call, reason)
    reason = f"the grad_fn of {_first_tensor_text(call, where)}"
    return placed(hook, call=call.id, node=tensor.node, slot=None, reason=reason)


def _no_grad_text(call: ModuleCall) -> str:
    return "" if call.grad_enabled else " (gradients are disabled)"


def _first_tensor_text(call: ModuleCall, where: str) -> str:
    tensors = len(call.outputs)
    type_name = escape(call.type_name)
    return f"what {type_name} returns" if tensors == 1 else f"the first tensor {type_name} returns, {where}"


# Full hooks


def _full_site(surroundings: Surroundings, hook: Hook, call: ModuleCall) -> HookSite:
    setup = call.full_hook
    if setup is None:
        return unplaced(hook, "PyTorch set up no hook for this call", call=call.id)
    if hook.kind.is_full and setup.output_positions is None:
        return unplaced(hook, f"it waits for the gradients of the results, and {_no_output_reason(call)}", call=call.id)
    if setup.output_positions is None:
        return unplaced(hook, _no_output_reason(call), call=call.id)
    if hook.kind.is_full and setup.input_positions is not None:
        return _input_site(surroundings, hook, call)
    return _output_site(surroundings, hook, call)


def _no_output_reason(call: ModuleCall) -> str:
    if not call.grad_enabled:
        return "gradients are disabled"
    grads = [ref.path for ref in call.outputs if ref.requires_grad]
    if not grads:
        return "no tensor in the result requires grad"
    if all(len(path) > _TOP_LEVEL for path in grads):
        return "the tensors in the result that require grad are nested: only those at its top level are hooked"
    return f"the result is a {escape(call.result_type)}: only a tensor, or the tensors of a tuple, are hooked"


def _input_site(surroundings: Surroundings, hook: Hook, call: ModuleCall) -> HookSite:
    node = call.input_hook_node
    if node is None:
        reason = "it is on the node that PyTorch put on the module's inputs, and no root depends on that node"
        return _not_reached(surroundings, hook, call, reason)
    return placed(hook, call=call.id, node=node, slot=None, reason="the node that PyTorch put on the module's inputs")


def _output_site(surroundings: Surroundings, hook: Hook, call: ModuleCall) -> HookSite:
    node = call.output_hook_node
    why = "" if hook.kind.is_full_pre else ", as no positional input requires grad"
    where = f"the node that PyTorch put on the module's outputs{why}"
    if node is None:
        return _not_reached(surroundings, hook, call, f"it is on {where}, and no root depends on that node")
    return placed(hook, call=call.id, node=node, slot=None, reason=where)
