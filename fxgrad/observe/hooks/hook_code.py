"""Reads a hook before it runs: its code, and the tensors that it holds. Nothing is called.

Bytecode is read with ``dis``, as may be done on every version of Python: only the names of a few instructions are relied
on, and nothing is concluded from what is not recognized.
"""

from __future__ import annotations

import dis
import functools
import itertools
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch

from fxgrad.observe.autograd.python_code import KEEPS_VALUE, LOADS_ATTRIBUTE, closure_of, find_function
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.frames import is_torch_code, is_user_code
from fxgrad.observe.record.tensors import may_have_history

_TO_EACH = ("CALL", "CALL_FUNCTION", "CALL_METHOD", "FOR_ITER", "GET_ITER")
"""What leads from ``module.parameters`` to the variable of a for loop."""
_ITERATES = {"parameters": (), "named_parameters": ("UNPACK_SEQUENCE",)}

_DEEPEST = 3
_MOST_MEMBERS = 100
"""Of each container that a hook holds."""

Way = tuple[str, ...]
"""Attributes, from the module that a hook is given."""


def find_grad_reads(function: Any) -> tuple[str, ...]:
    """Where the code of a module hook reads ``.grad``, as a path from the module that the hook is given.

    >>> find_grad_reads(lambda module, grad_input, grad_output: print(module.linear.weight.grad))
    ('linear.weight',)
    >>> find_grad_reads(lambda module, grad_input, grad_output: print(grad_output[0].grad))
    ()
    """
    found = find_function(function)
    module = None if found is None else _module_argument(function, found.__code__)
    if found is None or module is None:
        return ()
    return tuple(dict.fromkeys(".".join(way) for way in _Reader(module).read(found.__code__)))


def _module_argument(function: Any, code: CodeType) -> str | None:
    """The name of the first argument that PyTorch passes: it comes after those of a partial and ``self``."""
    bound = 0
    while is_a(function, functools.partial):
        bound += len(function.args)
        function = function.func
    bound += not is_a(function, FunctionType)
    return code.co_varnames[bound] if bound < code.co_argcount else None


class _Reader:
    """Follows the module, and what is read from it, through local variables."""

    def __init__(self, module: str) -> None:
        self._variables: dict[str, Way] = {module: ()}
        self._value: Way | None = None

    def read(self, code: CodeType) -> Iterator[Way]:
        """Each read of ``.grad`` of an attribute of the module."""
        for instruction in dis.get_instructions(code):
            name, argument = instruction.opname, instruction.argval
            if name in LOADS_ATTRIBUTE and argument == "grad" and self._value:
                yield self._value
            self._value = self._after(name, argument)

    def _after(self, name: str, argument: Any) -> Way | None:
        """What is known of the value on top of the stack after an instruction."""
        value = self._value
        if name.startswith(("LOAD_FAST", "LOAD_DEREF")):
            return self._variables.get(argument[-1] if isinstance(argument, tuple) else argument)
        if name.startswith("STORE_FAST") and not isinstance(argument, tuple):
            self._store(argument)
            return value if self._is_pair() else None
        if name == "STORE_FAST_STORE_FAST":
            self._store(argument[-1])
            return None
        if name in LOADS_ATTRIBUTE and value is not None:
            return (*value, argument)
        return value if name in KEEPS_VALUE or self._goes_to_each(name) else None

    def _store(self, name: str) -> None:
        self._variables.pop(name, None)
        if self._value is not None:
            self._variables[name] = (*self._value[:-1], "parameters()") if self._is_iterated() else self._value

    def _is_iterated(self) -> bool:
        return bool(self._value) and self._value is not None and self._value[-1] in _ITERATES

    def _is_pair(self) -> bool:
        """Whether a name was stored, whose parameter comes next."""
        return self._is_iterated() and self._value is not None and self._value[-1] == "named_parameters"

    def _goes_to_each(self, name: str) -> bool:
        if not self._is_iterated() or self._value is None:
            return False
        return name in _TO_EACH or name in _ITERATES[self._value[-1]]


def is_made_by_torch(function: Any) -> bool:
    """Whether a hook is PyTorch's own: a function of torch's files that is no public one, and holds none of the program's.

    A function of torch that a program registers itself is public, so it is neither written inside another nor private. The
    same holds where it is bound to an object or to arguments; the object must be of a class of torch's.

    >>> is_made_by_torch(torch.nn.functional.relu), is_made_by_torch(lambda grad: grad)
    (False, False)
    """
    held: list[Any] = []
    while is_a(function, functools.partial):
        held += [*function.args, *function.keywords.values()]
        function = function.func
    if is_a(function, MethodType):
        if type(function.__self__).__module__.partition(".")[0] != "torch":
            return False
        function = function.__func__
    if not is_a(function, FunctionType) or not is_torch_code(function.__code__) or not _is_private(function):
        return False
    inside = map(find_function, [*held, *closure_of(function).values()])
    return not any(found is not None and is_user_code(found.__code__) for found in inside)


def _is_private(function: FunctionType) -> bool:
    """Whether no program gets at a function by its documented name."""
    name = function.__name__
    return "<locals>" in function.__qualname__ or (name.startswith("_") and not name.endswith("__"))


def find_held_tensors(function: Any) -> tuple[tuple[str, torch.Tensor, bool], ...]:
    """The tensors with a graph behind them that a function holds: by which name, and whether inside a container.

    >>> import torch
    >>> loss = torch.ones(3, requires_grad=True).sum()
    >>> def hook(grad, *, of=loss): ...
    >>> find_held_tensors(hook)
    (('of', tensor(3., grad_fn=<SumBackward0>), False),)
    """
    return tuple(
        [
            (name, tensor, tensor is not value)
            for name, value in _held(function)
            for tensor in _tensors_of(value)
            if may_have_history(tensor)
        ]
    )


def _tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """The value, or the tensors in one of Python's containers. The search is short: a hook may hold anything."""
    values = [value]
    for _ in range(_DEEPEST):
        yield from (each for each in values if is_a(each, torch.Tensor))
        values = [member for each in values for member in _members(each)]


def _members(value: Any) -> Iterator[Any]:
    members = value.values() if type(value) is dict else value if type(value) in (list, tuple, set) else ()
    return itertools.islice(members, _MOST_MEMBERS)


def _held(function: Any) -> Iterator[tuple[str, Any]]:
    while is_a(function, functools.partial):
        yield from ((f"argument {position} of partial", value) for position, value in enumerate(function.args))
        yield from function.keywords.items()
        function = function.func
    if is_a(function, MethodType):
        function = function.__func__
    if is_a(function, FunctionType):
        yield from _defaults(function)
        yield from closure_of(function).items()


def _defaults(function: FunctionType) -> Iterator[tuple[str, Any]]:
    values = function.__defaults__ or ()
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    yield from zip(names[len(names) - len(values) :], values, strict=True)
    yield from (function.__kwdefaults__ or {}).items()
