"""Finds the module that somebody means."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from fxgrad.errors import UsageError
from fxgrad.graph.notation import escaped

if TYPE_CHECKING:
    from fxgrad.graph.backward_graph import BackwardGraph

_SUBSCRIPT = re.compile(r"\[(?:'([^']*)'|\"([^\"]*)\"|([^\]]*))\]")


def find_module_path(graph: BackwardGraph, text: str) -> str:
    """The path of the module that `text` names: its path, one of its aliases, or ``layers[3]``.

    Raises UsageError with the nearest paths where there is none.
    """
    for path in (text, dotted(text)):
        if path in graph.modules_by_path:
            return graph.modules_by_path[path].path
    known = list(graph.modules_by_path)
    near = difflib.get_close_matches(dotted(text), known, n=3, cutoff=0.4) or known[:5]
    raise UsageError(
        f"no module {escaped(text)!r}",
        f"the path of one of the {len(known)} modules" if known else "a module of the model: this trace names none",
        _one_of(near) if near else "leave it out",
    )


def _one_of(paths: list[str]) -> str:
    shown = [escaped(path) or '"" (the model itself)' for path in paths]
    return f"one of {', '.join(shown)}" if len(shown) > 1 else shown[0]


def dotted(text: str) -> str:
    """A path written with subscripts, with dots.

    >>> dotted("encoder.layers[3]['attention']"), dotted("[0].weight")
    ('encoder.layers.3.attention', '0.weight')
    """
    with_dots = _SUBSCRIPT.sub(lambda match: "." + next(part for part in match.groups() if part is not None), text)
    return with_dots.removeprefix(".")
