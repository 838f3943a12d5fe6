"""Reads the few non-tensor arguments that decide whether a gradient exists at all: the order of a norm.

A generated node shows what it saved as ``_saved_<argument>`` (torchgen/packaged/autograd/gen_autograd_functions.py).
Numbers only: unpacking a saved tensor would run the user's ``saved_tensors_hooks``.
"""

from __future__ import annotations

import re

from torch.autograd.graph import Node as AutogradNode

_DECISIVE = {"Norm": "p", "Dist": "p", "LinalgVectorNorm": "ord", "ForeachNorm": "ord"}
"""By the family of nodes. What the arguments mean is `fxgrad.predict.formulas`' business."""
_FAMILY = re.compile(r"(\w+?)Backward\d+")


def decisive_argument(short_name: str) -> str | None:
    """The argument to read from nodes of this name; None for nearly all nodes.

    >>> decisive_argument("LinalgVectorNormBackward0"), decisive_argument("AddmmBackward0")
    ('ord', None)
    """
    match = _FAMILY.match(short_name)
    return None if match is None else _DECISIVE.get(match[1])


def decisive_settings(node: AutogradNode, short_name: str) -> tuple[tuple[str, str], ...]:
    """What `Node.settings` holds: (argument, value as text)."""
    argument = decisive_argument(short_name)
    value = None if argument is None else getattr(node, f"_saved_{argument}", None)
    return () if argument is None or value is None else ((argument, str(value)),)
