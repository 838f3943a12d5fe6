"""Names what the gradients of a C++ autograd node stand for: its aten function, its arguments, its results.

The name of a generated node leads to its entry in derivatives.yaml (`fxgrad.observe.derivatives`). Its
``next_functions`` are the arguments that have a derivative, in the order of the schema and lists member by member
(``collect_next_edges`` in torchgen/packaged/autograd/gen_variable_type.py), its grad_output slots the differentiable
results (``set_history``). The in-place variant of a function makes the same node (``AddBackward0`` for ``add_``), so a
node tells the function and not the variant.

Nodes of Python Functions are named by `fxgrad.observe.autograd.python_functions`.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import torch
from torch.autograd.graph import Node as AutogradNode

from fxgrad.observe.autograd.python_functions import custom_signature
from fxgrad.observe.derivatives import (
    UNNAMED,
    Argument,
    Derivation,
    EdgeName,
    node_classes,
    parse_schema,
    result_names,
)

_HAND_WRITTEN = {
    # torch/csrc/autograd/VariableTypeManual.cpp: copy_
    "torch::autograd::CopyBackwards": Derivation(
        "copy_(Tensor(a!) self, Tensor src, bool non_blocking=False) -> Tensor(a!)",
        frozenset({"self", "src"}),
        single_grad=True,
        differentiable_results=None,
    ),
}
_FOREACH = re.compile(r"Foreach(?P<reference>\w+Backward\d+)(?P<overload>\w*)")
_NUMBER = re.compile(r"\d+$")


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """The function that a node differentiates. There is one object per node class, so identity is equality.

    ``schema``        its full text, ``aten::mm(Tensor self, Tensor mat2) -> Tensor``
    ``function``      its base name: no overload, no underscore of an in-place variant
    ``arguments``     those that have a derivative, in the order of the schema
    ``outputs``       names of the results that have a grad_output slot: the schema's where it names them, ``result``
                      for an only one, ``result 0`` for the first of several
    ``view``          whether a result is a view of an argument
    ``output_lists``  those of ``outputs`` that are lists of tensors
    """

    schema: str
    function: str
    arguments: tuple[Argument, ...]
    outputs: tuple[str, ...]
    view: bool
    output_lists: frozenset[str] = frozenset()


@cache
def signature_of(name: str) -> Signature | None:
    """The signature behind ``node.name()`` of a C++ node; None for a node that belongs to no one function.

    Answers None for every generated node where the installation of torch lacks its derivatives.yaml.

    >>> signature_of("MmBackward0").schema
    'aten::mm(Tensor self, Tensor mat2) -> Tensor'
    >>> signature_of("torch::autograd::AccumulateGrad") is None
    True
    """
    derivations = _derivations()
    if name in derivations:
        return _signature(f"aten::{derivations[name].schema}", derivations[name])
    if name.endswith("_copy"):
        return _derived_signature(derivations.get(name.removesuffix("_copy")), "{}_copy", None)
    if foreach := _FOREACH.fullmatch(name):
        return _derived_signature(derivations.get(foreach["reference"]), "_foreach_{}", foreach["overload"])
    return None


@lru_cache(maxsize=4096)
def edge_arguments(signature: Signature | None, n_edges: int) -> tuple[EdgeName, ...]:
    """The argument's name and group of each of a node's `n_edges` ``next_functions``, (None, None) where not known.

    Lists are told apart by their lengths, which only one list, or lists of equal length, reveal.

    >>> edge_arguments(signature_of("MmBackward0"), 2)
    (('self', None), ('mat2', None))
    >>> edge_arguments(signature_of("CatBackward0"), 2)
    (('tensors[0]', 'tensors'), ('tensors[1]', 'tensors'))
    """
    if signature is None:
        return (UNNAMED,) * n_edges
    # ATen/native/ForeachUtils.h: check_foreach_api_restrictions
    return _expand(signature.arguments, n_edges, equal_lists=signature.function.startswith("_foreach_"))


@lru_cache(maxsize=4096)
def output_names(signature: Signature | None, n_outputs: int) -> tuple[str, ...]:
    """What each of a node's `n_outputs` grad_output slots is the gradient of; numbers where there are no names.

    >>> output_names(signature_of("LinalgQrBackward0"), 2), output_names(signature_of("UnbindBackward0"), 2)
    (('Q', 'R'), ('result[0]', 'result[1]'))
    >>> output_names(None, 1), output_names(None, 2)
    (('result',), ('result 0', 'result 1'))
    """
    unnamed = result_names(n_outputs)
    if signature is None:
        return unnamed
    outputs = tuple(Argument(name, name in signature.output_lists) for name in signature.outputs)
    expanded = _expand(outputs, n_outputs, equal_lists=False)
    return tuple(name or number for (name, _), number in zip(expanded, unnamed, strict=True))


def copy_slices_arguments(node: AutogradNode, n_edges: int) -> tuple[EdgeName, ...]:
    """The names of the edges of a ``CopySlices``, an in-place operation on a view as its base sees it.

    Edge 0 goes to the base, the others are those of the operation's own node, which Python can reach from torch 2.14 on
    (torch/csrc/autograd/functions/tensor.cpp).
    """
    wrapped = getattr(node, "_wrapped_node", None)
    operation = (UNNAMED,) * n_edges if wrapped is None else _operation_arguments(wrapped, n_edges)
    return (("base", None), *operation[1:])


def _operation_arguments(node: AutogradNode, n_edges: int) -> tuple[EdgeName, ...]:
    if isinstance(node, torch._C._FunctionBase):
        custom = custom_signature(node)
        return tuple(zip(custom.arguments, custom.groups, strict=True))
    return edge_arguments(signature_of(node.name()), n_edges)


def _signature(schema_text: str, derivation: Derivation) -> Signature | None:
    """`schema_text` is the derivation's own schema, or that of a function derived from it with other names."""
    schema, reference = parse_schema(schema_text), parse_schema(derivation.schema)
    if len(schema.arguments) != len(reference.arguments):
        return None
    arguments = zip(schema.arguments, reference.arguments, strict=True)
    outputs = derivation.with_gradient(schema.results)
    return Signature(
        schema_text,
        _without_inplace_underscore(schema.function),
        tuple(argument for argument, original in arguments if original.name in derivation.arguments),
        tuple(output.name for output in outputs),
        schema.view,
        frozenset(output.name for output in outputs if output.is_list),
    )


def _derived_signature(derivation: Derivation | None, pattern: str, overload: str | None) -> Signature | None:
    """That of a function whose derivative the code generator made from another's, ``split_copy`` from ``split``.

    torchgen/packaged/autograd/load_derivatives.py (add_view_copy_derivatives: same overload) and
    torchgen/api/autograd.py (gen_foreach_derivativeinfo: arguments correspond by position).
    """
    if derivation is None:
        return None
    original = parse_schema(derivation.schema)
    wanted = original.overload if overload is None else overload
    for schema in torch._C._jit_get_schemas_for_operator(f"aten::{pattern.format(original.function)}"):
        if schema.overload_name == wanted:
            return _signature(str(schema), derivation)
    return None


def _without_inplace_underscore(function: str) -> str:
    """The name of the function without the underscore of its in-place variant.

    >>> _without_inplace_underscore("normal_"), _without_inplace_underscore("__ilshift__")
    ('normal', '__ilshift__')
    """
    return function if function.endswith("__") else function.removesuffix("_")


@cache
def _derivations() -> dict[str, Derivation]:
    """Every node class of the running torch by name.

    A family of classes (``AddBackward0``, ``AddBackward1``) that is numbered otherwise than in the running torch is
    left out: then an entry of the file was not understood, and the names after it would be wrong.
    """
    classes = node_classes(_derivatives_yaml())
    found, running = _families(classes), _families(dir(torch._C._functions))
    agreed = {
        name: derivation for name, derivation in classes.items() if found[_family(name)] == running[_family(name)]
    }
    return agreed | _HAND_WRITTEN


def _derivatives_yaml() -> str:
    """The text of the file in the torch wheel, "" where it was left out."""
    spec = importlib.util.find_spec("torchgen")
    for directory in (spec and spec.submodule_search_locations) or ():
        path = Path(directory, "packaged", "autograd", "derivatives.yaml")
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return ""


def _family(name: str) -> str:
    return _NUMBER.sub("", name)


def _families(names: Iterable[str]) -> Counter[str]:
    return Counter(map(_family, names))


def _expand(arguments: Sequence[Argument], n_entries: int, *, equal_lists: bool) -> tuple[EdgeName, ...]:
    """Lay `arguments` out over `n_entries`. From the first list to the last all is unnamed if lengths are not known."""
    lists = [index for index, argument in enumerate(arguments) if argument.is_list]
    start, stop = (lists[0], lists[-1] + 1) if lists else (len(arguments), len(arguments))
    head, middle, tail = arguments[:start], arguments[start:stop], arguments[stop:]
    n_middle = n_entries - len(head) - len(tail)
    if n_middle < 0 or (n_middle and not middle):
        return (UNNAMED,) * n_entries
    return (*_plain(head), *_members(middle, n_middle, equal_lists=equal_lists), *_plain(tail))


def _plain(arguments: Sequence[Argument]) -> list[EdgeName]:
    return [(argument.name, None) for argument in arguments]


def _members(lists: Sequence[Argument], n_entries: int, *, equal_lists: bool) -> Sequence[EdgeName]:
    all_lists = all(argument.is_list for argument in lists)
    if len(lists) > 1 and not (equal_lists and all_lists and n_entries % len(lists) == 0):
        return (UNNAMED,) * n_entries
    return [
        (f"{argument.name}[{index}]", argument.name) for argument in lists for index in range(n_entries // len(lists))
    ]
