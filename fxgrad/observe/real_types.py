"""What an object really is. ``isinstance`` asks its ``__class__`` too, which the user's class may say anything by."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch._dynamo.eval_frame import OptimizedModule
    from typing_extensions import TypeIs

Kind = TypeVar("Kind")


def is_a(value: object, kind: type[Kind] | tuple[type[Kind], ...]) -> TypeIs[Kind]:
    """Whether the object's own type is `kind`, or one of them, or derived from it.

    >>> class Liar:
    ...     __class__ = property(lambda self: dict)
    >>> isinstance(Liar(), dict), is_a(Liar(), dict), is_a({}, (list, dict))
    (True, False, True)
    """
    return issubclass(type(value), kind)


def is_optimized(module: object) -> TypeIs[OptimizedModule]:
    """Whether a module is what ``torch.compile(model)`` returns. Imports no compiler: without it nothing is."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and is_a(module, compiler.OptimizedModule)
