"""Names what the gradients of a Python autograd Function's node stand for: the parameters of its ``forward``.

torch/csrc/autograd/python_function.cpp (``THPFunction_apply``, ``unpack_input``) makes an entry of ``needs_input_grad``
for each positional argument of ``apply`` and an edge for each that is a tensor, but does not show which ones are. The
edges that lead somewhere match the True entries one by one; the null edges between two of these have names where the
arguments in between leave no choice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch.autograd.function import _SingleLevelFunction
from torch.utils._pytree import tree_unflatten

from fxgrad.observe.derivatives import UNNAMED, EdgeName, result_names

_TENSOR_TYPES = {"Tensor": True, "Optional[Tensor]": None}
"""Whether an argument of a type is a tensor; None: it may be."""

Places = Mapping[str, int | Sequence[int]]
"""Where the value of each name is in a flat sequence: its index, or the indices of its members."""


@dataclass(frozen=True, slots=True)
class CustomSignature:
    """What is known of the node of a Python Function.

    ``schema``            that of the operator, where the Function is the backward of one registered from Python
    ``arguments``         for each edge the parameter of ``forward``, ``rest[0]`` for the first of ``*rest``; None where
                          it is not known
    ``groups``            for each edge the parameter that it is a member of, ``rest``
    ``outputs``           for each grad_output slot, that is for each value that ``forward`` returned, a name
    ``needs_input_grad``  a bool for each positional argument; None where the user's code has overwritten it
    """

    schema: str | None
    arguments: tuple[str | None, ...]
    groups: tuple[str | None, ...]
    outputs: tuple[str, ...]
    needs_input_grad: tuple[bool, ...] | None


class _Parameter(NamedTuple):
    """What a positional argument of ``apply`` is; ``is_tensor`` is None for one that may be a tensor or not."""

    name: EdgeName = UNNAMED
    is_tensor: bool | None = None


def custom_signature(node: torch._C._FunctionBase) -> CustomSignature:
    """Name the edges and the grad_output slots of a node whose backward is Python code.

    There are no names for Functions that PyTorch makes on the fly, like AOTAutograd's ``CompiledFunction``.
    """
    forward_class = getattr(type(node), "_forward_cls", None)
    operator = _registered_operator(forward_class)
    connected = [next_node is not None for next_node, _ in node.next_functions]
    needs_input_grad = _needs_input_grad(node, sum(connected))
    names = [UNNAMED] * len(connected)
    if needs_input_grad is not None:
        parameters = (
            _forward_parameters(forward_class, len(needs_input_grad))
            if operator is None
            else _operator_parameters(operator, node, len(needs_input_grad))
        )
        names = _edge_names(parameters, needs_input_grad, connected)
    return CustomSignature(
        None if operator is None else str(operator._schema),
        tuple([argument for argument, _ in names]),
        tuple([group for _, group in names]),
        _output_names(operator, node),
        needs_input_grad,
    )


def _needs_input_grad(node: torch._C._FunctionBase, n_connected: int) -> tuple[bool, ...] | None:
    """The attribute can be written; a value that does not fit the edges is not PyTorch's."""
    value: object = node.needs_input_grad
    if not isinstance(value, tuple) or not all(isinstance(entry, bool) for entry in value):
        return None
    return value if sum(value) == n_connected else None


def _edge_names(
    parameters: Sequence[_Parameter], needs_input_grad: Sequence[bool], connected: Sequence[bool]
) -> list[EdgeName]:
    wanted = [-1, *(index for index, need in enumerate(needs_input_grad) if need), len(needs_input_grad)]
    edges = [-1, *(index for index, leads in enumerate(connected) if leads), len(connected)]
    names: list[EdgeName] = []
    for (before, after), (edge, next_edge) in zip(pairwise(wanted), pairwise(edges), strict=True):
        names += _null_edge_names(parameters[before + 1 : after], next_edge - edge - 1)
        names += [parameter.name for parameter in parameters[after : after + 1]]
    return names


def _null_edge_names(candidates: Sequence[_Parameter], n_edges: int) -> list[EdgeName]:
    possible = [parameter.name for parameter in candidates if parameter.is_tensor is not False]
    certain = [parameter.name for parameter in candidates if parameter.is_tensor]
    if n_edges == len(possible):
        return possible
    return certain if n_edges == len(certain) else [UNNAMED] * n_edges


def _forward_parameters(forward_class: type[_SingleLevelFunction] | None, n_arguments: int) -> list[_Parameter]:
    places: Places = {}
    if forward_class is not None and not _is_made_by_torch(forward_class.forward):
        # torch/autograd/function.py: forward gets the context first, unless there is a setup_context
        context = forward_class.setup_context is _SingleLevelFunction.setup_context
        places = _parameter_places(forward_class.forward, range(-1 if context else 0, n_arguments))
    names = _names_by_place(places)
    return [_Parameter(names.get(index, UNNAMED)) for index in range(n_arguments)]


def _is_made_by_torch(forward: Callable[..., object]) -> bool:
    """Whether a function of PyTorch defines it: torch.func, AOTAutograd and others make Functions on the fly."""
    module, name = getattr(forward, "__module__", None) or "", getattr(forward, "__qualname__", "")
    return module.partition(".")[0] == "torch" and "<locals>" in name


def _parameter_places(forward: Callable[..., object], arguments: Sequence[int]) -> Places:
    """Which parameter each of the positional `arguments` is bound to; nothing where they do not fit.

    >>> _parameter_places(lambda x, k=2, *rest: x, range(4))
    {'x': 0, 'k': 1, 'rest': (2, 3)}
    >>> _parameter_places(lambda x, y: x, range(1))
    {}
    """
    try:
        return inspect.signature(forward).bind(*arguments).arguments
    except (TypeError, ValueError):  # no signature, or one that a decorator does not keep to
        return {}


def _names_by_place(places: Places) -> dict[int, EdgeName]:
    """Turn it around, naming members.

    >>> _names_by_place({"x": 0, "rest": (1, 2)})
    {0: ('x', None), 1: ('rest[0]', 'rest'), 2: ('rest[1]', 'rest')}
    """
    names: dict[int, EdgeName] = {}
    for name, place in places.items():
        if isinstance(place, int):
            names[place] = (name, None)
        else:
            names |= {member: (f"{name}[{index}]", name) for index, member in enumerate(place)}
    return names


def _registered_operator(forward_class: type[_SingleLevelFunction] | None) -> torch._ops.OpOverload | None:
    """The operator whose backward ``torch.library.register_autograd`` gave, out of the Function made for it.

    torch/_library/autograd.py: ``make_autograd_impl`` makes it, ``supports_tensorlist`` wraps it.
    """
    forward = getattr(forward_class, "forward", None)
    if getattr(forward, "__module__", None) != "torch._library.autograd":
        return None
    operator = _enclosed(_enclosed(forward, "orig_forward") or forward, "op")
    return operator if isinstance(operator, torch._ops.OpOverload) else None


def _enclosed(function: Any, name: str) -> object:
    return inspect.getclosurevars(function).nonlocals.get(name)


def _operator_parameters(
    operator: torch._ops.OpOverload, node: torch._C._FunctionBase, n_arguments: int
) -> list[_Parameter]:
    """The positional arguments of an operator: lists of tensors are passed flat, and metadata follow the arguments."""
    metadata = getattr(node, "_pt_metadata", None)
    flat = range(n_arguments - 1)
    places = flat if metadata is None else tree_unflatten(flat, metadata.input_spec)[:-1]
    arguments = [argument for argument in operator._schema.arguments if not argument.kwarg_only]
    parameters = [_Parameter(is_tensor=False)] * n_arguments
    for argument, place in zip(arguments, places, strict=False):  # the dispatcher leaves out trailing defaults
        for member, name in _names_by_place({argument.name: place}).items():
            is_tensor = _TENSOR_TYPES.get(str(argument.type), False) if isinstance(place, int) else True
            parameters[member] = _Parameter(name, is_tensor)
    return parameters


def _output_names(operator: torch._ops.OpOverload | None, node: torch._C._FunctionBase) -> tuple[str, ...]:
    slots = range(len(node._input_metadata))  # type: ignore[attr-defined]
    numbered = result_names(len(slots))
    if operator is None:
        return numbered
    metadata = getattr(node, "_pt_metadata", None)
    places = slots if metadata is None else tree_unflatten(slots, metadata.output_spec)
    results = operator._schema.returns
    names = [result.name or number for result, number in zip(results, result_names(len(results)), strict=True)]
    by_place = _names_by_place(dict(zip(names, places, strict=False)))
    return tuple(by_place.get(slot, UNNAMED)[0] or numbered[slot] for slot in slots)
