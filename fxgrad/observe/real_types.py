"""What an object really is. ``isinstance`` asks its ``__class__`` too, which the user's class may say anything by."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
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
