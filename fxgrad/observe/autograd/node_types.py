"""Which kind of node an autograd Node is, and the schema that names its arguments.

Also the few arguments other than tensors that decide whether a gradient exists at all: the order of a norm.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch.autograd.graph import Node as AutogradNode
from torch.nn.modules._functions import BackwardHookFunction
from torch.utils.checkpoint import CheckpointFunction

from fxgrad.graph import NodeKind
from fxgrad.observe.autograd.argument_names import Signature, find_signature

_BY_NAME = {
    "torch::autograd::AccumulateGrad": NodeKind.ACCUMULATE_GRAD,
    "torch::autograd::CopySlices": NodeKind.COPY_SLICES,
    "torch::autograd::CopyBackwards": NodeKind.FUNCTION,
    "torch::autograd::UndefinedGrad": NodeKind.FUNCTION,
    "torch::autograd::UndefinedGradBackward": NodeKind.FUNCTION,
    # torch/csrc/autograd/functions/basic_ops.h and torch/csrc/autograd/FunctionsManual.h: they raise when run
    "torch::autograd::Error": NodeKind.ERROR,
    "torch::autograd::DelayedError": NodeKind.ERROR,
    "torch::autograd::NotImplemented": NodeKind.ERROR,
}
_BY_FORWARD_CLASS = {
    BackwardHookFunction: NodeKind.BACKWARD_HOOK,
    CheckpointFunction: NodeKind.CHECKPOINT,
}


DIFFERENTIABLE_GRAPH = "DifferentiableGraphBackward"
"""The end of the name of TorchScript's node (torch/csrc/jit/runtime/graph_executor.cpp, in an anonymous namespace)."""


class NodeType(NamedTuple):
    """What all nodes of one name have in common."""

    kind: NodeKind
    signature: Signature | None
    decisive: str | None = None
    """The argument that decides whether a gradient exists."""


def classify_node(node: AutogradNode, name: str) -> NodeType:
    """Classify a node by the class of its Function (Python nodes) or by its name (C++ nodes)."""
    if isinstance(node, torch._C._FunctionBase):
        return NodeType(_classify_python(node), None)
    signature = find_signature(name)
    kind = _classify_cpp(name, known=signature is not None)
    return NodeType(kind, signature, find_decisive_argument(name.rpartition("::")[2]))


def _classify_python(node: torch._C._FunctionBase) -> NodeKind:
    forward_class = getattr(node, "_forward_cls", None)
    for known, kind in _BY_FORWARD_CLASS.items():
        if forward_class is known:  # the user's metaclass is not asked what the class equals
            return kind
    # torch/_functorch/_aot_autograd/runtime_wrappers.py defines CompiledFunction inside a function
    if forward_class is not None and forward_class.__module__.startswith("torch._functorch._aot_autograd"):
        return NodeKind.COMPILED
    return NodeKind.CUSTOM_FUNCTION


def _classify_cpp(name: str, *, known: bool) -> NodeKind:
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name.endswith(DIFFERENTIABLE_GRAPH):
        return NodeKind.SCRIPTED
    return NodeKind.FUNCTION if known else NodeKind.OPAQUE


# Settings

_DECISIVE = {"Norm": "p", "Dist": "p", "LinalgVectorNorm": "ord", "ForeachNorm": "ord", "Div": "rounding_mode"}
"""By the family of nodes. What the arguments mean is `fxgrad.predict.formulas`' business."""
_FAMILY = re.compile(r"(\w+?)Backward\d+")


def find_decisive_argument(short_name: str) -> str | None:
    """The argument to read from nodes of this name; None for nearly all nodes.

    >>> find_decisive_argument("LinalgVectorNormBackward0"), find_decisive_argument("AddmmBackward0")
    ('ord', None)
    """
    match = _FAMILY.match(short_name)
    return None if match is None else _DECISIVE.get(match[1])


def read_settings(node: AutogradNode, argument: str) -> tuple[tuple[str, str], ...]:
    """What `Node.settings` holds: (argument, value as text).

    A generated node shows what it saved as ``_saved_<argument>`` (torchgen/packaged/autograd/gen_autograd_functions.py).
    Numbers and strings only: unpacking a saved tensor would run the user's ``saved_tensors_hooks``.
    """
    value = getattr(node, f"_saved_{argument}", None)
    return () if value is None else ((argument, str(value)),)
