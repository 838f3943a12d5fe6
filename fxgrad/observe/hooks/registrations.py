"""Sees every hook being registered and removed while a program runs, and can take all of it back.

Every registering function makes a ``torch.utils.hooks.RemovableHandle``, so there is one place to look: no scan of every
node is needed, and the line that registered a hook is known.

Sources relied on: torch/utils/hooks.py, torch/_tensor.py (register_hook), torch/autograd/function.py (_HookMixin),
torch/csrc/autograd/python_cpp_function.cpp (register_hook of a C++ node).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch
from torch.autograd.function import _HookMixin
from torch.utils.hooks import RemovableHandle

from fxgrad.observe.record.compiled_code import list_compiled_code
from fxgrad.observe.record.events import ModuleEvent, next_sequence_nr
from fxgrad.observe.record.frames import Stack, read_stack
from fxgrad.observe.record.tensors import Origin, read_origin

Key = tuple[Any, int]
"""The number of a handle, and the identity of its table: copies of a module have the same numbers."""

_ON_NODE = _HookMixin._register_hook.__code__
"""What ``register_hook`` of every node calls, C++ ones too."""
_OF_MODULE_HOOKS = ("torch.utils.hooks", "torch.nn.modules.module")
_ON_TENSORS = (torch.Tensor.register_hook.__code__, torch.Tensor.register_post_accumulate_grad_hook.__code__)


@dataclass
class Registration:
    """A handle that was made. ``removed`` is the hook, where the handle was removed again.

    ``tensor`` and its ``origin`` at that moment are there where it was a tensor's; the origin is missing where reading it
    may have changed the tensor. ``on_node``: it is on a node, and no module hook put it there.
    ``call`` is the module call that was running. ``compiled`` is what Dynamo had compiled by then, if it was a module's.
    """

    number: int
    table: Any
    stack: Stack
    tensor: torch.Tensor | None
    origin: Origin | None
    on_node: bool
    call: ModuleEvent | None
    sequence_nr: int
    compiled: dict[int, CodeType]
    removed: Any = None

    @property
    def key(self) -> Key:
        """Tells it from all others."""
        return self.number, id(self.table)

    @property
    def function(self) -> Any:
        """The hook; None where the table never held one."""
        return self.table.get(self.number, self.removed)


class RegistrationWatch:
    """Sees every registration and removal of one thread while `watching` is entered.

    Other threads pass: what they register is not the watched program's, and is not to be taken back.
    """

    def __init__(self) -> None:
        self.registrations: dict[Key, Registration] = {}
        self.paused = False
        self._thread: int | None = None
        self.running: Callable[[], tuple[ModuleEvent | None, int]] = lambda: (None, next_sequence_nr())
        self._before: dict[int, tuple[Any, list[tuple[Any, Any]]]] = {}

    def copy(self) -> RegistrationWatch:
        """A watch that has seen the same registrations, for a run of its own."""
        watch = RegistrationWatch()
        watch.registrations = dict(self.registrations)
        return watch

    @contextmanager
    def watching(self, *, every_thread: bool = False) -> Iterator[RegistrationWatch]:
        """Wrap what every registering and removing function calls, C++ ones included. ``every_thread``: as backward on
        an accelerator calls hooks in a thread of its own."""
        self._thread = None if every_thread else threading.get_ident()
        init, remove = RemovableHandle.__init__, RemovableHandle.remove
        RemovableHandle.__init__ = self._wrap_init(init)  # type: ignore[method-assign]
        RemovableHandle.remove = self._wrap_remove(remove)  # type: ignore[method-assign]
        try:
            yield self
        finally:
            RemovableHandle.__init__ = init  # type: ignore[method-assign]
            RemovableHandle.remove = remove  # type: ignore[method-assign]

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Inside it nothing is seen."""
        was_paused, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = was_paused

    @contextmanager
    def undo_on_exit(self) -> Iterator[None]:
        """Afterwards every table that was touched inside holds what it held before."""
        self._before.clear()
        try:
            yield
        finally:
            for table, items in self._before.values():
                table.clear()
                table.update(items)
            self._before.clear()

    def _wrap_init(self, init: Callable[..., None]) -> Callable[..., None]:
        def watched(handle: RemovableHandle, hooks_dict: Any, *, extra_dict: Any = None) -> None:
            if self._passes():
                init(handle, hooks_dict, extra_dict=extra_dict)
            else:
                self.remember(hooks_dict)
                init(handle, hooks_dict, extra_dict=extra_dict)
                made = _make_registration(handle, hooks_dict, sys._getframe(1), self.running())
                self.registrations[made.key] = made

        return watched

    def _wrap_remove(self, remove: Callable[..., None]) -> Callable[..., None]:
        def watched(handle: RemovableHandle) -> None:
            table = handle.hooks_dict_ref()
            if table is not None and not self._passes():
                self.remember(table)
                made = self.registrations.get((handle.id, id(table)))
                if made is not None:
                    made.removed = made.function
            remove(handle)

        return watched

    def _passes(self) -> bool:
        return self.paused or self._thread not in (None, threading.get_ident())

    def remember(self, table: Any) -> None:
        """Note what a table holds, if this is the first time that it is touched."""
        if id(table) not in self._before:
            self._before[id(table)] = table, list(table.items())


def _make_registration(
    handle: RemovableHandle, table: Any, caller: FrameType, running_then: tuple[ModuleEvent | None, int]
) -> Registration:
    tensor = origin = None
    on_node = caller.f_code is _ON_NODE
    if caller.f_code in _ON_TENSORS:
        tensor = caller.f_locals["self"]
        with torch._C.DisableTorchFunction():
            # Where the tensor had hooks, `register_hook` has not read its grad_fn. That of a view whose base has changed
            # is made when it is read, and the hooks stay behind: what register_hook is about to write to is gone then.
            origin = None if table and tensor._is_view() else read_origin(tensor)
    elif on_node and caller.f_back is not None:
        on_node = caller.f_back.f_globals.get("__name__") not in _OF_MODULE_HOOKS
    compiled = list_compiled_code() if caller.f_globals.get("__name__") in _OF_MODULE_HOOKS else {}
    return Registration(handle.id, table, read_stack(caller, None), tensor, origin, on_node, *running_then, compiled)
