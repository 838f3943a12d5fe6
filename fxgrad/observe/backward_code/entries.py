"""What a node's ``backward`` returns, by its edges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch

from fxgrad.graph import Returned
from fxgrad.observe.backward_code.reader import Reader
from fxgrad.observe.backward_code.state import GivenUp
from fxgrad.observe.backward_code.values import (
    ANYTHING,
    MAYBE_TENSOR,
    NONE,
    OTHER,
    TENSOR,
    Exactly,
    Items,
    Kind,
    Value,
    constant,
    kinds_of,
)
from fxgrad.observe.plain_functions import backward_of
from fxgrad.observe.real_types import is_a

TENSOR_ENTRY, UNKNOWN = "tensor", "unknown"
_MOST_KEPT = 32
"""Answers of one function, for different contexts."""
_KNOWN: WeakKeyDictionary[FunctionType, list[tuple[tuple[Value, ...], dict[str, Value], Value]]] = WeakKeyDictionary()


def returned_for_edges(node: torch._C._FunctionBase, places: Sequence[Sequence[int]]) -> Returned | None:
    """What a node returns for each edge; `places` are the arguments of forward that each may belong to."""
    metas = node._input_metadata  # type: ignore[attr-defined]
    # results that are no differentiable tensors have gradients too, of shape (): they never arrive
    slots = tuple([slot for slot, meta in enumerate(metas) if len(metas) == 1 or tuple(meta.shape) != ()])
    gradients = [MAYBE_TENSOR] * len(metas)
    held = _Attributes(node)
    whenever = _returned_entries(node, held, gradients)
    arrived = [TENSOR if slot in slots else gradient for slot, gradient in enumerate(gradients)]
    if_arrived = _returned_entries(node, held, arrived)
    found = Returned(_of_edges(whenever, places), _of_edges(if_arrived, places), slots)
    return None if set(found.whenever + found.if_arrived) <= {UNKNOWN} else found


def _of_edges(entries: Sequence[str], places: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Where it is not known which of several arguments are tensors: those for which a Tensor is returned must be."""
    alike = Counter(map(tuple, places))
    return tuple([_of_edge([entries[place] for place in each], alike[tuple(each)]) for each in places])


def _of_edge(possible: list[str], n_edges: int) -> str:
    """One of `n_edges` whose arguments are among those of the `possible` entries."""
    if possible.count(TENSOR_ENTRY) == n_edges:
        return TENSOR_ENTRY
    return possible[0] if len(set(possible)) == 1 else UNKNOWN


def _returned_entries(node: torch._C._FunctionBase, held: _Attributes, gradients: Sequence[Value]) -> list[str]:
    """What is returned for each argument of forward, where backward receives these gradients, and ``ctx`` is `held`."""
    function_class = getattr(type(node), "_forward_cls", None)
    function = None if function_class is None else _called_with_context(backward_of(function_class))
    needed: object = node.needs_input_grad
    n_arguments = len(needed) if is_a(needed, tuple) else 0
    if function is None:
        return [UNKNOWN] * n_arguments
    entries = _entries(_returned(function, held.widened, tuple(gradients)), n_arguments)
    if held.were_widened and UNKNOWN in entries:
        entries = _entries(_returned(function, held.exactly, tuple(gradients)), n_arguments)
    return entries


class _Attributes:
    """What ``ctx`` holds. Of numbers and texts first only that they are some: few of them decide what is returned, and the
    answer then holds for every node of a Function."""

    def __init__(self, node: torch._C._FunctionBase) -> None:
        self._node = node
        self._known: dict[str, Value] = {}
        self.were_widened = False

    def exactly(self, name: str) -> Value:
        """What ``ctx.name`` is."""
        if name not in self._known:
            self._known[name] = context_attribute(self._node, name)
        return self._known[name]

    def widened(self, name: str) -> Value:
        """The same, of a number or a text only that it is something."""
        value = self.exactly(name)
        if isinstance(value, Exactly) and type(value.object) in _MANY_VALUED:
            self.were_widened = True
            return OTHER
        return value


_MANY_VALUED = (int, float, complex, str)


def _entries(value: Value, n_arguments: int) -> list[str]:
    if not isinstance(value, Items):
        value = Items((value,)) if Kind.OTHER not in kinds_of(value) and n_arguments == 1 else Items((), ANYTHING)
    elif value.is_list:
        value = Items((), ANYTHING)
    return [_STATUSES.get(kinds_of(value.item(place)) & ~Kind.OTHER, UNKNOWN) for place in range(n_arguments)]


_STATUSES = {Kind.NONE: "none", Kind.TENSOR: TENSOR_ENTRY}
"""Anything but None and a Tensor raises (torch/csrc/autograd/python_function.cpp, ``to_variable_list``)."""


def _called_with_context(backward: Any) -> FunctionType | None:
    """The function that gets ``ctx`` and the gradients, and nothing before them."""
    function = backward.__func__ if type(backward) is staticmethod else backward
    return function if is_a(function, FunctionType) else None


def _returned(function: FunctionType, context: Callable[[str], Value], gradients: tuple[Value, ...]) -> Value:
    known = _KNOWN.setdefault(function, [])
    for received, asked, value in known:
        if received == gradients and all(context(name) == asked[name] for name in asked):
            return value
    reader = Reader(context)
    try:
        value = reader.returned(function, gradients)
    except (GivenUp, RecursionError):
        value = ANYTHING
    if len(known) < _MOST_KEPT and all(map(_is_plain, reader.asked.values())):
        known.append((gradients, reader.asked, value))
    return value


def _is_plain(value: Value) -> bool:
    """Whether it may be kept: functions hold what they close over."""
    if isinstance(value, Items):
        return all(map(_is_plain, value.members))
    return not isinstance(value, Exactly) or value.is_constant


def context_attribute(node: torch._C._FunctionBase, name: str) -> Value:
    """What ``ctx.name`` is when backward begins, as forward left it."""
    if name in ("saved_tensors", "saved_variables"):
        return _saved_tensors(node)
    if name == "needs_input_grad":
        return constant(node.needs_input_grad)
    attributes = vars(node)
    return constant(attributes[name]) if name in attributes else ANYTHING


def _saved_tensors(node: torch._C._FunctionBase) -> Value:
    """Each is a Tensor or None. To look which is to unpack it, which runs a hook of the user's where there is one."""
    raw: Any = node._raw_saved_tensors
    if raw is None or not all(hasattr(each, "unpack_hook") for each in raw):
        return Items((), MAYBE_TENSOR)
    return Items(tuple([_saved(each) for each in raw]))


def _saved(raw: Any) -> Value:
    if raw.unpack_hook is not None:
        return MAYBE_TENSOR
    return NONE if raw.data is None else TENSOR
