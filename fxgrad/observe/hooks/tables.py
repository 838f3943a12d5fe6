"""The places where PyTorch keeps backward hooks, and what is found there.

Sources relied on: torch/utils/hooks.py, torch/_tensor.py (register_hook), torch/nn/modules/module.py,
torch/autograd/graph.py (register_multi_grad_hook), torch/csrc/autograd/python_hook.cpp.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.graph import Node as AutogradNode
from torch.nn.modules import module as module_hooks
from torch.utils.hooks import BackwardHook

from fxgrad.graph import HookKind
from fxgrad.graph.records import MultiGradMode
from fxgrad.observe.hooks.registrations import Key
from fxgrad.observe.real_types import is_a, is_optimized
from fxgrad.observe.record.events import ModuleEvent, find_backward_kind, find_global_backward_kind
from fxgrad.observe.record.frames import NO_STACK, Stack
from fxgrad.observe.record.tensors import Origin, is_leaf, read_origin

_SET_USER_HOOK = "BackwardHook._set_user_hook.<locals>.hook"
_OUTPUT_HOOK = "BackwardHook.setup_output_hook.<locals>.fn.<locals>.hook"
_MULTI_GRAD_ALL = "register_multi_grad_hook.<locals>.get_inner_hook.<locals>.inner_hook"
_MULTI_GRAD_ANY = ("fn", "lock", "ran_hook")
UNSEEN = "it may also be registered on tensors that fxgrad could not find"
SLOT_UNSEEN = "one of its tensors is gone, and the hook keeps only that tensor's node, which has several gradients"


@dataclass(eq=False)
class LiveHook:
    """A hook as it was found: ``table[number]`` is ``function``, or was. The number counts registrations.

    ``call`` and ``sequence_nr`` say when it was registered, where that was seen, and ``compiled`` what Dynamo had compiled
    by then.
    """

    kind: HookKind
    number: int
    table: Any
    function: Any
    module: nn.Module | None = None
    tensor: torch.Tensor | None = None
    origin: Origin | None = None
    node: AutogradNode | None = None
    stack: Stack = NO_STACK
    prepend: bool = False
    active: bool = True
    sequence_nr: int | None = None
    call: ModuleEvent | None = None
    compiled: dict[int, CodeType] | None = None
    parts: list[LiveHook] = field(default_factory=list)
    """Of a multi-grad hook: the tensor hook on each of its tensors."""
    more_parts: str | None = None
    """Of a multi-grad hook: why there may be more."""
    counted: tuple[AutogradNode, ...] = ()
    """Of an "all" hook: the nodes that it took for those of its parts, and of which it counts those that will run."""

    @property
    def key(self) -> Key:
        """Tells it from all others."""
        return self.number, id(self.table)

    @property
    def inner(self) -> Any:
        """Of a multi-grad hook: the function that it put on one of its tensors."""
        return next((part.function for part in self.parts if part.function is not None), None)


LAST = 2**62
"""The number of what has no handle: retain_grad, and hooks whose registration was not seen."""


# Tables of modules and tensors


def find_hooks_on_modules(modules: Iterable[nn.Module]) -> Iterator[LiveHook]:
    """The backward hooks in the global tables and in the modules' own."""
    yield from _read_table(
        module_hooks._global_backward_hooks, find_global_backward_kind() or HookKind.GLOBAL_FULL_BACKWARD
    )
    yield from _read_table(module_hooks._global_backward_pre_hooks, HookKind.GLOBAL_FULL_BACKWARD_PRE)
    for module in modules:
        yield from find_hooks_on_module(module)


def find_hooks_on_module(module: nn.Module) -> Iterator[LiveHook]:
    """The backward hooks in a module's own tables."""
    yield from _read_table(module._backward_hooks, find_registered_kind(module), module=module)
    yield from _read_table(module._backward_pre_hooks, HookKind.MODULE_FULL_BACKWARD_PRE, module=module)


def find_registered_kind(module: nn.Module) -> HookKind:
    """The kind of the hooks in ``module._backward_hooks``, those that no call takes along, too.

    On what torch.compile returns, a registering function sets the flag of the module inside
    (torch/_dynamo/eval_frame.py, OptimizedModule.__setattr__). Without a flag, the hook counts as a full one.
    """
    flagged = module
    while find_backward_kind(flagged) is None and is_optimized(flagged):
        flagged = flagged._orig_mod
    return find_backward_kind(flagged) or HookKind.MODULE_FULL_BACKWARD


def _read_table(table: dict[Any, Any], kind: HookKind, *, module: nn.Module | None = None) -> list[LiveHook]:
    """One LiveHook per entry. An entry before one that was registered earlier was prepended."""
    found: list[LiveHook] = []
    earliest = LAST
    for number, function in reversed(table.items()):
        found.append(LiveHook(kind, number, table, function, module=module, prepend=number > earliest))
        earliest = min(earliest, number)
    return found[::-1]


def has_hooks(tensor: torch.Tensor) -> bool:
    """Whether a tensor's own tables hold hooks, or it retains its gradient."""
    return bool(tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None) or tensor.retains_grad)


def find_hooks_on_tensor(tensor: torch.Tensor) -> Iterator[LiveHook]:
    """The hooks in a tensor's own tables, and retain_grad. Reads ``grad_fn`` first: a stale view shows its old hooks."""
    origin = read_origin(tensor)
    for kind, table in (
        (HookKind.TENSOR, tensor._backward_hooks),
        (HookKind.POST_ACCUMULATE_GRAD, getattr(tensor, "_post_accumulate_grad_hooks", None)),
    ):
        for number, function in (table or {}).items():
            yield LiveHook(kind, number, table, function, tensor=tensor, origin=origin)
    if tensor.retains_grad and not is_leaf(tensor):
        yield LiveHook(HookKind.RETAIN_GRAD, LAST, tensor, None, tensor=tensor, origin=origin)


# What PyTorch wraps around the user's functions


def find_legacy_hook(function: Any) -> tuple[nn.Module | None, Any] | None:
    """The module and the user's function behind what a legacy module hook put on a node; None for anything else."""
    if not is_a(function, module_hooks._WrappedHook):
        return None
    return (function.module() if function.with_module else None), function.hook


def find_backward_hook(function: Any) -> tuple[BackwardHook, str] | None:
    """The BackwardHook behind a post-hook that a full module hook put on a node, and its side: "input" or "output"."""
    if not is_a(function, FunctionType) or function.__module__ != BackwardHook.__module__:
        return None
    name = function.__qualname__
    if name not in (_SET_USER_HOOK, _OUTPUT_HOOK):
        return None
    cells = function.__closure__ or ()
    (hook,) = [cell.cell_contents for cell in cells if is_a(cell.cell_contents, BackwardHook)]
    return hook, "output" if name == _OUTPUT_HOOK else "input"


def gather_multi_grad_hooks(
    hooks: Iterable[LiveHook], others: Sequence[torch.Tensor] = (), *, may_be_on_more: bool = False
) -> list[LiveHook]:
    """The same hooks, with the tensor hooks that one multi-grad hook put on its tensors gathered into one.

    `others` may have more of them. ``may_be_on_more``: the graph may have tensors that were not found.
    """
    found: list[LiveHook] = []
    groups: dict[int, LiveHook] = {}
    for hook in hooks:
        group = _find_multi_grad_group(hook)
        if group is None:
            found.append(hook)
        elif group in groups:
            groups[group].parts.append(hook)
        else:
            function = _read_closure(hook.function)["fn"]
            groups[group] = LiveHook(HookKind.MULTI_GRAD, hook.number, hook.table, function, stack=hook.stack)
            groups[group].sequence_nr, groups[group].call = hook.sequence_nr, hook.call
            groups[group].parts.append(hook)
            found.append(groups[group])
    for whole in groups.values():
        whole.active = any(part.active for part in whole.parts)
        if find_multi_grad_mode(whole.inner) == "all":
            _complete_all(whole)
        else:
            _complete_any(whole, others, may_be_on_more=may_be_on_more)
    return found


def _find_multi_grad_group(hook: LiveHook) -> int | None:
    """What the inner hooks of one multi-grad hook share: the buffer of an "all" hook, the flags of an "any" hook."""
    if hook.kind is not HookKind.TENSOR or find_multi_grad_mode(hook.function) is None:
        return None
    cells = _read_closure(hook.function)
    return id(cells["buffer"] if "buffer" in cells else cells["ran_hook"])


def _complete_all(whole: LiveHook) -> None:
    """Add the tensors that were not seen: an "all" hook holds the nodes of those that are gone, and is active on all or
    none."""
    cells = _read_closure(whole.inner)
    parts = {_read_closure(part.function)["idx"]: part for part in whole.parts}
    for index, node in enumerate(cells["grad_fns"]):
        if index not in parts:
            parts[index] = LiveHook(HookKind.TENSOR, LAST, None, None, origin=(node, 0))
            whole.more_parts = SLOT_UNSEEN if len(node._input_metadata) > 1 else whole.more_parts
    whole.parts = [parts[index] for index in sorted(parts)]
    whole.counted = tuple(cells["grad_fns"])


def _complete_any(whole: LiveHook, others: Sequence[torch.Tensor], *, may_be_on_more: bool) -> None:
    """Add the tensors that are not of the graph, as far as they were found. An "any" hook holds nothing, but is one
    function in the tables of all its tensors."""
    known = {id(part.table) for part in whole.parts}
    for tensor in others:
        table = tensor._backward_hooks
        if table and id(table) not in known and not tensor._is_view():  # PyTorch might make a node for a view
            known.add(id(table))
            numbers = [number for number, function in table.items() if function is whole.inner]
            origin = read_origin(tensor) if numbers else None
            for number in numbers:
                whole.parts.append(LiveHook(HookKind.TENSOR, number, table, whole.inner, tensor=tensor, origin=origin))
    if may_be_on_more and _is_in_more_tables(whole):
        whole.more_parts = UNSEEN


def _is_in_more_tables(whole: LiveHook) -> bool:
    """Whether the function has more references than one from each part and from each of their tables."""
    function, compared = whole.inner, object()
    known = sum((part.function is function) + (part.table.get(part.number) is function) for part in whole.parts)
    return sys.getrefcount(function) > sys.getrefcount(compared) + known


def find_multi_grad_mode(function: Any) -> MultiGradMode | None:
    """Which mode of ``register_multi_grad_hook`` made this tensor hook: "all", "any", or None for no such hook."""
    if not is_a(function, FunctionType):
        return None
    if function.__qualname__ == _MULTI_GRAD_ALL:
        return "all"
    code = function.__code__  # the wrapper of an "any" hook carries the user's name (functools.wraps), but its own code
    if tuple(sorted(code.co_freevars)) == _MULTI_GRAD_ANY and code.co_name == "wrapped_fn":
        return "any"
    return None


def _read_closure(function: Any) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__, strict=True)
    return {name: cell.cell_contents for name, cell in cells}


# The user's functions


def function_name(function: Any) -> str:
    """The qualified name of a hook; "" for retain_grad, which has none.

    >>> function_name(functools.partial(print, 1))
    'partial(print)'
    """
    if function is None:
        return ""
    if is_a(function, functools.partial):
        return f"partial({function_name(function.func)})"
    try:
        name = getattr(function, "__qualname__", None)
    except Exception:  # the user's own class
        name = None
    return name if is_a(name, str) else type(function).__qualname__


# Tables on nodes

Table = dict[Any, Any]


class _Shown(Exception):
    """Ends a registration that was only made to see the table."""


def _marker(*_: object) -> None:
    """Is never registered for good."""


class NodeTables:
    """A context in which nodes can be asked for their tables; hooks that others register meanwhile are registered.

    PyTorch has no function that returns a node's table. When a hook is registered, C++ passes the table (or None) to
    ``torch.autograd.Function._register_hook`` and keeps the table that this returns (``registerFunctionHook`` in
    torch/csrc/autograd/python_cpp_function.cpp). If it raises, the node is unchanged.
    """

    def __enter__(self) -> NodeTables:
        """Stand in for the function that C++ calls."""
        self._own = vars(Function).get("_register_hook")
        self._original: Callable[..., Any] = Function._register_hook
        self._table: Table | None = None
        Function._register_hook = staticmethod(self._register)  # type: ignore[method-assign]
        return self

    def __exit__(self, *raised: object) -> None:
        """Put the function back."""
        if self._own is None:
            del Function._register_hook
        else:
            Function._register_hook = self._own  # type: ignore[method-assign]

    def _register(self, table: Table | None, hook: Any) -> Any:
        if hook is not _marker:
            return self._original(table, hook)
        self._table = table
        raise _Shown

    def after(self, node: AutogradNode) -> Table | None:
        """The table of ``Node.register_hook``; None where no hook was ever registered there."""
        return self._read(node.register_hook)

    def before(self, node: AutogradNode) -> Table | None:
        """The table of ``Node.register_prehook``; None where no hook was ever registered there."""
        return self._read(node.register_prehook)

    def _read(self, register: Callable[[Any], Any]) -> Table | None:
        try:
            handle = register(_marker)
        except _Shown:
            return self._table
        shown: Table | None = handle.hooks_dict_ref()  # a torch that asks another function: it has made a table
        handle.remove()
        return shown
