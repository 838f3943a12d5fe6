"""Calls what a composite operator does where no backend does something else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch


def composite(operator: Any) -> Callable[..., Any]:
    """The C++ implementation of a composite `operator`, which calls other operators and lets them make the nodes.

    Not ``operator.decompose``: that prefers decompositions in Python, which are for tracing and differ (torch/_ops.py).
    """
    return partial(operator._op_dk, torch._C.DispatchKey.CompositeImplicitAutograd)
