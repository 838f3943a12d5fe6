"""Kinds of hooks by what a user calls them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from fxgrad.errors import UsageError
from fxgrad.graph.kinds import HookKind


def hook_kind_named(text: HookKind | str) -> HookKind:
    """The kind whose registering function is, or as the only one ends with, this text; a kind stands for itself.

    Raises UsageError that lists the candidates.

    >>> hook_kind_named("register_full_backward_hook")
    <HookKind.MODULE_FULL_BACKWARD: 'Module.register_full_backward_hook'>
    """
    if isinstance(text, HookKind):
        return text
    exact = [kind for kind in HookKind if kind.value == text]
    ending = exact or [kind for kind in HookKind if kind.value.endswith(text)]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise UsageError(f"{text!r} can mean {len(ending)} kinds of hook", _values(ending), ending[0].value)
    raise UsageError(f"no kind of hook is called {text!r}", _values(HookKind), _nearest(text))


def _values(kinds: Iterable[HookKind]) -> str:
    return ", ".join(kind.value for kind in kinds)


def _nearest(text: str) -> str:
    """The nearest by the function's name, with or without what it is a method of."""
    names = {name: kind.value for kind in HookKind for name in (kind.value, kind.value.rpartition(".")[2])}
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.0)
    return names[near[0]]
