"""What torch's own functions and methods return, by the schemas of their operators: a Tensor, several, or neither."""

from __future__ import annotations

import re
from functools import cache
from types import ModuleType
from typing import Any

import torch

from fxgrad.observe.backward_code.values import (
    ANYTHING,
    MAYBE_TENSOR,
    NOT_NONE,
    OTHER,
    TENSOR,
    Exactly,
    Items,
    Value,
    join_all,
)
from fxgrad.observe.real_types import is_a

_TENSOR_ATTRIBUTES = frozenset({"T", "mT", "H", "mH", "real", "imag", "data"})
_OTHER_ATTRIBUTES = frozenset(
    [
        "shape",
        "dtype",
        "device",
        "layout",
        "ndim",
        "is_cuda",
        "is_cpu",
        "is_meta",
        "is_sparse",
        "is_quantized",
        "is_complex",
        "is_leaf",
        "requires_grad",
        "itemsize",
        "nbytes",
        "names",
        "output_nr",
        "retains_grad",
    ]
)
_WITHOUT_OPERATOR = frozenset(
    [
        "tensor",
        "as_tensor",
        "from_numpy",
        "asarray",
        "new_tensor",
        "double",
        "float",
        "half",
        "bfloat16",
        "long",
        "int",
        "short",
        "char",
        "byte",
        "bool",
        "cfloat",
        "cdouble",
        "chalf",
        "cpu",
        "cuda",
        "xpu",
    ]
)
"""Functions and methods that return a tensor and are no operators of their own (torch/csrc/autograd: python_variable)."""
_OVERRIDES = frozenset({"has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"})
"""Whether a tensor's class wants to answer itself (torch/overrides.py): what it answers stands for the same."""
_PLAIN = frozenset({"int", "float", "bool", "number", "str", "List[int]", "List[bool]"})


def tensor_attribute(name: str) -> Value | None:
    """What an attribute of a tensor is; None where it is a method or not known."""
    if name in _TENSOR_ATTRIBUTES:
        return TENSOR
    return OTHER if name in _OTHER_ATTRIBUTES else None


def result_of(function: Any) -> Value | None:
    """What a call of a function of torch's C++ returns, whatever it is given; None where that is not known."""
    if isinstance(function, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return _result_of_overload(function)
    name = function.__name__.removeprefix("_")
    if name in _OVERRIDES:
        return Exactly(False)
    return result_of_operator(function.__name__)


def _result_of_overload(function: torch._ops.OpOverload | torch._ops.OpOverloadPacket) -> Value | None:
    """Operators of others may return None for a Tensor; and lists, which the functions of ``torch`` turn into tuples."""
    if isinstance(function, torch._ops.OpOverload):
        found = _returned_by([function._schema]) if function.namespace == "aten" else None
    else:
        found = result_of_operator(function.__name__) if function._qualified_op_name.startswith("aten::") else None
    return OTHER if isinstance(found, Items) and not found.members else found


def is_of_torch(function: Any) -> bool:
    """Whether a builtin function or method is one of torch's operators as Python sees them."""
    module = getattr(function, "__module__", None)
    owner = getattr(function, "__objclass__", None) or getattr(function, "__self__", None)
    if owner is None:
        return isinstance(module, str) and module.partition(".")[0] == "torch"
    if is_a(owner, ModuleType):
        return str(vars(owner).get("__name__")).startswith("torch._C")
    return any(owner is each for each in _OWNERS)


_OWNERS = (torch._C.TensorBase, torch._C._VariableFunctions)


@cache
def result_of_operator(name: str) -> Value | None:
    """What the aten operator of that name returns, in all of its overloads.

    >>> result_of_operator("mm") == TENSOR, result_of_operator("size") == OTHER, result_of_operator("no_such") is None
    (True, True, True)
    """
    if name in _WITHOUT_OPERATOR:
        return TENSOR
    schemas = [schema for schema in torch._C._jit_get_schemas_for_operator(f"aten::{name}") if _is_dispatched(schema)]
    return _returned_by(schemas) if schemas else None


def _is_dispatched(schema: Any) -> bool:
    """Whether it is an operator on tensors: TorchScript has others of the same names for numbers, texts and lists."""
    overload = f".{schema.overload_name}" if schema.overload_name else ""
    return torch._C._dispatch_has_kernel(f"{schema.name}{overload}")


def _returned_by(schemas: list[Any]) -> Value | None:
    """None is left out of Python's sight nowhere but in backward functions, which return undefined tensors."""
    results = [_of_schema(schema) for schema in schemas]
    return None if ANYTHING in results else join_all(results)


def _of_schema(schema: Any) -> Value:
    undefined = re.search("backward", schema.name) is not None
    tensor = MAYBE_TENSOR if undefined else TENSOR
    kinds = [str(result.type) for result in schema.returns]
    if kinds == ["Tensor"]:
        return tensor
    if kinds == ["List[Tensor]"]:
        return Items((), tensor)
    if len(kinds) > 1 and set(kinds) == {"Tensor"}:
        return Items((tensor,) * len(kinds))
    if len(kinds) == 1 and kinds[0] in _PLAIN:
        return OTHER
    return NOT_NONE if kinds and set(kinds) <= {"Tensor", "List[Tensor]", *_PLAIN} else ANYTHING
