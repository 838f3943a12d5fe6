"""Finds tensors and modules near a graph that was there before, as hooks are on those and no node leads to its tensors.

Looked through are what the nodes have saved for backward, what the contexts of custom Functions hold, and the variables
of the functions that are running, with what these hold in turn. That is a bounded number of objects; a search of all
that are alive takes the longer the more the program holds.
"""

from __future__ import annotations

import functools
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from inspect import CO_OPTIMIZED
from itertools import islice
from types import FrameType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import Node as AutogradNode

from fxgrad.observe.autograd.operands import may_run_unpack_hook
from fxgrad.observe.real_types import is_a

_MOST_OBJECTS = 50_000
_MOST_AT_ONCE = 5_000
_MOST_MEMBERS = 1_000
"""How many objects are visited in all, from one function's variables, and in one container."""


_WayIn = Callable[[Any], Iterable[Any]]


class Nearby(NamedTuple):
    """What was found; some of it has nothing to do with the graph."""

    tensors: list[torch.Tensor]
    modules: list[nn.Module]


def search_nearby(nodes: Sequence[AutogradNode]) -> Nearby:
    """Search what the nodes, and the functions that call fxgrad, hold."""
    search = _Search()
    search.enter(_list_saved(nodes))
    search.enter([vars(node) for node in nodes if hasattr(node, "__dict__")])
    for variables in _list_variables():
        search.enter(variables)
    return Nearby(search.tensors, search.modules)


class _Search:
    """Enters objects, breadth first from each start, so that what is near comes before what is far away."""

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self.modules: list[Any] = []
        self._entered: dict[int, Any] = {}  # held, so that no other object gets the same id
        self._ways_in: dict[type, tuple[_WayIn | None, list[Any] | None]] = {}
        self._room = _MOST_OBJECTS

    def enter(self, starts: Iterable[Any]) -> None:
        """Visit the starts and what they hold, up to a part of the objects that may be visited in all."""
        queue = deque(starts)
        room = min(self._room, _MOST_AT_ONCE)
        self._room -= room
        while queue:
            thing = queue.popleft()
            kind = type(thing)
            if kind not in self._ways_in:
                self._ways_in[kind] = _find_way_into(kind), self._find_list_of(kind)
            enter, found = self._ways_in[kind]
            if enter is not None and id(thing) not in self._entered:
                self._entered[id(thing)] = thing
                if found is not None:
                    found.append(thing)
                before = len(queue)
                queue.extend(islice(enter(thing), min(room, _MOST_MEMBERS)))
                room -= len(queue) - before
        self._room += room

    def _find_list_of(self, kind: type) -> list[Any] | None:
        if issubclass(kind, torch.Tensor):
            return self.tensors
        return self.modules if issubclass(kind, nn.Module) else None


def _find_way_into(kind: type) -> _WayIn | None:
    """What lists what an object of a class holds, by the methods of the builtin classes: no code of the user's runs."""
    way = next((way for base, way in _WAYS_IN if issubclass(kind, base)), None)
    has_attributes = kind.__dictoffset__ != 0 and not issubclass(kind, (type, ModuleType))
    return way or (_attributes_of if has_attributes else None)


def _list_saved(nodes: Iterable[AutogradNode]) -> Iterator[torch.Tensor]:
    """The arguments that nodes have saved. A saved result is another object than the tensor that the program has.

    Unpacking one may run a hook of the user's; then it is left alone (torch/csrc/autograd/saved_variable.cpp).
    """
    names: dict[type, list[tuple[str, str]]] = {}
    for node in nodes:
        kind = type(node)
        if kind not in names:
            raw_names = [name for name in dir(kind) if name.startswith("_raw_saved_")]
            names[kind] = [(raw, raw[5:] if raw == "_raw_saved_tensors" else raw[4:]) for raw in raw_names]
        for raw_name, name in names[kind]:
            try:
                raw = getattr(node, raw_name)
                if not may_run_unpack_hook(raw):
                    saved = getattr(node, name)
                    yield from [one for one in (saved if type(saved) is tuple else (saved,)) if is_a(one, torch.Tensor)]
            except RuntimeError:  # freed by an earlier backward, or changed in place since
                continue


def _list_variables() -> Iterator[list[Any]]:
    """The local variables of each function that is running, the innermost first, then the global ones that they use."""
    frames: list[tuple[FrameType, FrameType]] = []
    callee, frame = sys._getframe(0), sys._getframe(0).f_back
    while frame is not None:
        if not str(frame.f_globals.get("__name__")).startswith("fxgrad."):
            frames.append((frame, callee))
        callee, frame = frame, frame.f_back
    for frame, callee in frames:
        if not _is_debugged(frame):
            yield _read_locals(frame, callee)
    for table in {id(frame.f_globals): frame.f_globals for frame, _ in frames}.values():
        yield list(table.values())


def _read_locals(frame: FrameType, callee: FrameType) -> list[Any]:
    """The values of a function's local variables, as they are now; `callee` is what it has called.

    Before Python 3.13 reading ``f_locals`` leaves a copy of them in the frame, which keeps each of them alive until the
    function returns (Objects/frameobject.c: PyFrame_FastToLocalsWithError). The copy is emptied, but where somebody else
    holds it, as ``locals()`` returns the same dict, and where the function's own trace function is running: what that
    leaves in the copy becomes the variables again (Python/sysmodule.c: call_trampoline).
    """
    variables = frame.f_locals
    values = list(variables.values())
    is_copy = sys.version_info < (3, 13) and bool(frame.f_code.co_flags & CO_OPTIMIZED)
    trace = getattr(frame.f_trace, "__func__", frame.f_trace)
    is_traced_now = getattr(trace, "__code__", None) is callee.f_code
    if is_copy and not is_traced_now and sys.getrefcount(variables) == _HELD_BY_ITS_FRAME:
        variables.clear()
    return values


_HELD_BY_ITS_FRAME = 3
"""What refers to the copy if nobody else does: the frame, the variable, and the argument of getrefcount."""


def _is_debugged(frame: FrameType) -> bool:
    """Whether pdb has stopped there. What is typed at its prompt runs in a frame of its own, with the same variables;
    before Python 3.13 reading those of the function itself takes back what was assigned at the prompt (Lib/pdb.py)."""
    bdb = sys.modules.get("bdb")
    return bdb is not None and is_a(getattr(frame.f_trace, "__self__", None), bdb.Bdb)


def _in_closure(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # nothing is in it
            yield cell.cell_contents


def _attributes_of(thing: Any) -> Iterable[Any]:
    try:
        attributes: dict[str, Any] = object.__getattribute__(thing, "__dict__")
    except AttributeError:
        return ()
    return dict.values(attributes)


_WAYS_IN: list[tuple[type, _WayIn]] = [
    (torch.Tensor, lambda _: ()),
    (OrderedDict, OrderedDict.values),
    (dict, dict.values),
    *[(base, base.__iter__) for base in (list, tuple, set, frozenset, deque)],
    (FunctionType, _in_closure),
    (MethodType, lambda method: (method.__self__, method.__func__)),
    (functools.partial, lambda partial: (partial.func, partial.args, partial.keywords)),
]
