"""Finds every backward hook that is registered, and which node it sits on.

Three ways, because no single one sees them all: the tables of modules, of tensors and the global ones; the hook dict of
a node, which PyTorch shows to whoever registers a hook there; and, while a forward is recorded, the making of each
``RemovableHandle``, through which every registering function goes.

Sources relied on: torch/utils/hooks.py, torch/_tensor.py (register_hook), torch/nn/modules/module.py,
torch/autograd/graph.py (register_multi_grad_hook), torch/csrc/autograd/python_hook.cpp.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.autograd.function import _HookMixin
from torch.autograd.graph import Node as AutogradNode
from torch.nn.modules import module as module_hooks
from torch.utils.hooks import BackwardHook, RemovableHandle

from fxgrad.graph import HookKind
from fxgrad.observe.frames import Frame, user_frames
from fxgrad.observe.seen import (
    Origin,
    SeenModuleCall,
    backward_kind,
    global_backward_kind,
    next_sequence_nr,
    origin_of,
)

_SET_USER_HOOK = "BackwardHook._set_user_hook.<locals>.hook"
_OUTPUT_HOOK = "BackwardHook.setup_output_hook.<locals>.fn.<locals>.hook"
_MULTI_GRAD_ALL = "register_multi_grad_hook.<locals>.get_inner_hook.<locals>.inner_hook"
_OWN_REGISTRATIONS = ("torch.utils.hooks", "torch.nn.modules.module")
_MULTI_GRAD_ANY = ("fn", "lock", "ran_hook")


@dataclass
class LiveHook:
    """A hook as it was found. ``key`` is its handle's id, which counts registrations in the whole process."""

    key: Any
    kind: HookKind
    function: Any
    module: nn.Module | None = None
    tensor: torch.Tensor | None = None
    origin: Origin | None = None
    node: AutogradNode | None = None
    frames: tuple[Frame, ...] = ()
    prepend: bool = False
    active: bool = True
    table: Any = None
    sequence_nr: int | None = None
    call: SeenModuleCall | None = None
    parts: list[LiveHook] = field(default_factory=list)
    """Of a multi-grad hook: the tensor hook on each of its tensors."""


@dataclass
class Registration:
    """A RemovableHandle that was made while recording: for the tensor or module of the call that made it."""

    key: Any
    table: Any
    frames: tuple[Frame, ...]
    tensor: torch.Tensor | None
    origin: Origin | None
    call: SeenModuleCall | None
    sequence_nr: int
    by_user: bool
    """False for the hooks that torch/utils/hooks.py and torch/nn/modules/module.py put on nodes by themselves."""


class RegistrationWatch:
    """Sees every registration while `watching` is entered."""

    def __init__(self) -> None:
        self.registrations: dict[Any, Registration] = {}
        self.running: Callable[[], tuple[SeenModuleCall | None, int]] = lambda: (None, next_sequence_nr())

    @contextmanager
    def watching(self) -> Iterator[RegistrationWatch]:
        """Wrap ``RemovableHandle.__init__``, which every registering function calls, C++ ones included."""
        init = RemovableHandle.__init__

        def watched(handle: RemovableHandle, hooks_dict: Any, *, extra_dict: Any = None) -> None:
            init(handle, hooks_dict, extra_dict=extra_dict)
            caller = sys._getframe(1)
            tensor = caller.f_locals.get("self")
            if caller.f_code is _HookMixin._register_hook.__code__ and caller.f_back is not None:
                caller = caller.f_back  # Node.register_hook is C++, and calls this to make the handle
            by_user = caller.f_globals.get("__name__") not in _OWN_REGISTRATIONS
            with torch._C.DisableTorchFunction():
                tensor = tensor if isinstance(tensor, torch.Tensor) else None
                origin = None if tensor is None else origin_of(tensor)
            self.registrations[handle.id] = Registration(
                handle.id, hooks_dict, user_frames(None), tensor, origin, *self.running(), by_user
            )

        RemovableHandle.__init__ = watched  # type: ignore[assignment]
        try:
            yield self
        finally:
            RemovableHandle.__init__ = init  # type: ignore[method-assign]

    def forget(self, known: frozenset[Any]) -> None:
        """Take away the hooks that were registered since `known`: on nodes and tensors that outlive the run, they would
        fire in the user's own backward."""
        for key, registration in self.registrations.items():
            if key not in known:
                registration.table.pop(key, None)


def _nothing(*_: object) -> None:
    return None


def post_hooks_of(node: AutogradNode) -> dict[Any, Any]:
    """The table of hooks that run after the node. Looking leaves an empty table on a node that had none."""
    return _table(node.register_hook(_nothing))


def prehooks_of(node: AutogradNode) -> dict[Any, Any]:
    """The table of ``Node.register_prehook``; looking leaves an empty table on a node that had none."""
    return _table(node.register_prehook(_nothing))


def _table(handle: RemovableHandle) -> dict[Any, Any]:
    table = handle.hooks_dict_ref()
    handle.remove()
    assert table is not None  # the node holds it
    found: dict[Any, Any] = table
    return found


def hooks_on_modules(modules: Iterable[nn.Module]) -> Iterator[LiveHook]:
    """The backward hooks in the modules' own tables and in the global ones."""
    kind = global_backward_kind()
    if kind is not None:
        yield from _in_table(module_hooks._global_backward_hooks, kind)
    yield from _in_table(module_hooks._global_backward_pre_hooks, HookKind.GLOBAL_FULL_BACKWARD_PRE)
    for module in modules:
        kind = backward_kind(module)
        if kind is not None:
            yield from _in_table(module._backward_hooks, kind, module=module)
        yield from _in_table(module._backward_pre_hooks, HookKind.MODULE_FULL_BACKWARD_PRE, module=module)


def _in_table(table: dict[Any, Any], kind: HookKind, *, module: nn.Module | None = None) -> Iterator[LiveHook]:
    keys = list(table)
    for position, (key, function) in enumerate(table.items()):
        prepend = any(isinstance(later, int) and later < key for later in keys[position + 1 :])
        yield LiveHook(key, kind, function, module=module, prepend=prepend)


def hooks_on_tensor(tensor: torch.Tensor) -> Iterator[LiveHook]:
    """The hooks in a tensor's own tables, and retain_grad. Reads ``grad_fn`` first: a stale view shows its old hooks."""
    origin = origin_of(tensor)
    for table, kind in (
        (tensor._backward_hooks, HookKind.TENSOR),
        (getattr(tensor, "_post_accumulate_grad_hooks", None), HookKind.POST_ACCUMULATE_GRAD),
    ):
        for key, function in (table or {}).items():
            yield LiveHook(key, kind, function, tensor=tensor, origin=origin, table=table)
    if tensor.retains_grad:
        yield LiveHook(("retain_grad", id(tensor)), HookKind.RETAIN_GRAD, None, tensor=tensor, origin=origin)


def hooks_on_node(node: AutogradNode) -> Iterator[LiveHook]:
    """The hooks that the user registered on a node, without what module hooks put there."""
    for key, function in post_hooks_of(node).items():
        if isinstance(function, module_hooks._WrappedHook) or backward_hook_of(function) is not None:
            continue
        yield LiveHook(key, HookKind.NODE, function, node=node)
    for key, function in prehooks_of(node).items():
        yield LiveHook(key, HookKind.NODE_PRE, function, node=node)


def backward_hook_of(function: Any) -> tuple[BackwardHook, str] | None:
    """The BackwardHook behind a post-hook that a full module hook put on a node, and its side: "input" or "output"."""
    name = getattr(function, "__qualname__", "")
    if name not in (_SET_USER_HOOK, _OUTPUT_HOOK) or getattr(function, "__module__", "") != BackwardHook.__module__:
        return None
    (hook,) = [cell.cell_contents for cell in function.__closure__ if isinstance(cell.cell_contents, BackwardHook)]
    return hook, "output" if name == _OUTPUT_HOOK else "input"


def with_multi_grad_hooks(hooks: Iterable[LiveHook]) -> list[LiveHook]:
    """The same hooks, with the tensor hooks that one multi-grad hook put on its tensors gathered into one."""
    found: list[LiveHook] = []
    groups: dict[int, LiveHook] = {}
    for hook in hooks:
        group = _multi_grad_group(hook)
        if group is None:
            found.append(hook)
        elif group in groups:
            groups[group].parts.append(hook)
        else:
            whole = LiveHook(hook.key, HookKind.MULTI_GRAD, _closure(hook.function)["fn"], frames=hook.frames)
            whole.sequence_nr, whole.call = hook.sequence_nr, hook.call
            whole.parts.append(hook)
            groups[group] = whole
            found.append(whole)
    return found


def _multi_grad_group(hook: LiveHook) -> int | None:
    """What the inner hooks of one multi-grad hook share: the buffer of an "all" hook, the flags of an "any" hook."""
    if hook.kind is not HookKind.TENSOR or multi_grad_mode(hook.function) is None:
        return None
    cells = _closure(hook.function)
    return id(cells["buffer"] if "buffer" in cells else cells["ran_hook"])


def multi_grad_mode(function: Any) -> str | None:
    """Which mode of ``register_multi_grad_hook`` made this tensor hook: "all", "any", or None for no such hook."""
    code = getattr(function, "__code__", None)
    if getattr(function, "__qualname__", "") == _MULTI_GRAD_ALL:
        return "all"
    # the wrapper of an "any" hook carries the user's name (functools.wraps), but its own code
    if code is not None and tuple(sorted(code.co_freevars)) == _MULTI_GRAD_ANY and code.co_name == "wrapped_fn":
        return "any"
    return None


def _closure(function: Any) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__, strict=True)
    return {name: cell.cell_contents for name, cell in cells}


def may_return_a_value(function: Any) -> bool | None:
    """Whether the code of a hook can return something else than None; None where there is no code to look at."""
    import dis

    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        call = getattr(type(function), "__call__", None)  # noqa: B004
        code = getattr(call, "__code__", None)
    if code is None:
        return None
    if code.co_flags & 0x20:  # a generator function returns a generator
        return True
    instructions = [
        entry for entry in dis.get_instructions(code) if entry.opname not in ("EXTENDED_ARG", "CACHE", "NOP")
    ]
    for before, entry in zip([None, *instructions], instructions, strict=False):
        if entry.opname == "RETURN_CONST" and entry.argval is not None:
            return True
        if entry.opname == "RETURN_VALUE":
            returns_none = before is not None and before.opname == "LOAD_CONST" and before.argval is None
            if not returns_none:
                return True
    return False
