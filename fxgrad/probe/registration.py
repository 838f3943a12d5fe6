"""The records as they would be had the hook been registered before the forward ran, the nodes still as they are."""

from __future__ import annotations

from msgspec.structs import replace

from fxgrad.graph import BackwardGraph, Hook, HookKind, Module, ModuleCall
from fxgrad.probe.members import full_hook_setup

_RUN_ORDER = {
    HookKind.GLOBAL_FULL_BACKWARD_PRE: 0,
    HookKind.MODULE_FULL_BACKWARD_PRE: 1,
    HookKind.GLOBAL_BACKWARD: 2,
    HookKind.GLOBAL_FULL_BACKWARD: 2,
    HookKind.MODULE_BACKWARD: 3,
    HookKind.MODULE_FULL_BACKWARD: 3,
}
"""How a call sorts the hooks that it takes along (``Module._get_backward_pre_hooks`` and ``_get_backward_hooks``)."""


def supposed_hook(graph: BackwardGraph, path: str, kind: HookKind) -> Hook:
    """The record of the hook, registered after all others."""
    return Hook(len(graph.hooks), kind, "" if kind.is_global else path, "hook", may_return=False)


def registered(graph: BackwardGraph, hook: Hook) -> BackwardGraph:
    """Add the hook to the hooks, to its module and to each call that would take it along."""
    return replace(
        graph,
        modules=tuple([_with_hook(module, hook) for module in graph.modules]),
        calls=tuple([_taking_along(call, graph, hook) for call in graph.calls]),
        hooks=(*graph.hooks, hook),
        sites=(),
    )


def takes_along(call: ModuleCall, hook: Hook) -> bool:
    """Whether a call would take the hook along: a global hook goes with every call."""
    return hook.kind.is_global or call.path == hook.owner


def is_taken_by_no_call(graph: BackwardGraph, hook: Hook) -> bool:
    """Whether registering it sets the flag of another module than its own, as on what torch.compile returns.

    (torch/_dynamo/eval_frame.py, OptimizedModule.__setattr__.)
    """
    has_flag = not hook.kind.is_global and not hook.kind.is_full_pre
    return has_flag and graph.modules_by_path[hook.owner].wraps is not None


def gets_hook_functions(call: ModuleCall, hook: Hook) -> bool:
    """Whether the hook makes a call put BackwardHookFunction nodes on its inputs and outputs that are not there yet."""
    return not hook.kind.is_legacy and takes_along(call, hook) and call.full_hook is None


def _with_hook(module: Module, hook: Hook) -> Module:
    if hook.kind.is_global or module.path != hook.owner:
        return module
    sticky = module.full_backward_sticky if hook.kind.is_full_pre else hook.kind.is_full
    return replace(module, hooks=(*module.hooks, hook.id), full_backward_sticky=sticky)


def _taking_along(call: ModuleCall, graph: BackwardGraph, hook: Hook) -> ModuleCall:
    if not takes_along(call, hook):
        return call
    hooks = sorted([*call.hooks, hook.id], key=lambda number: _rank(graph, hook, number))
    setup = full_hook_setup(call) if gets_hook_functions(call, hook) else call.full_hook
    return replace(call, hooks=tuple(hooks), full_hook=setup)


def _rank(graph: BackwardGraph, hook: Hook, number: int) -> int:
    return _RUN_ORDER[hook.kind if number == hook.id else graph.hooks[number].kind]
